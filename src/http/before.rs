//! For endpoints that do not use the server yet: callers that are slow, silent or many, and web pages that speak to an
//! address of this machine in a browser's name.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use super::{Answer, text};
use crate::{
    lifecycle::{Place, Places},
    sys::descriptors::is_reserved,
};
use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(2);

/// Answers on one connection until the caller is done, `whole` has passed (whoever does not read
/// is closed then at the latest), or its place is given up for somebody else.
pub async fn serve<S, F, A>(
    stream: S,
    whole: Duration,
    given_up: impl Future<Output = ()>,
    answer: F,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(8192);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away in the middle concerns nobody.
        _ = timeout(whole, served) => {}
        () = given_up => {}
    }
}

/// What is refused of methods, where pages are read with GET and HEAD and `acts` takes POST.
#[must_use]
pub fn refuse_method(method: &Method, acts: bool, reads: bool) -> Option<Answer> {
    let (right, allow) = match (acts, reads) {
        (true, true) => (&[Method::GET, Method::HEAD, Method::POST][..], "GET, HEAD, POST"),
        (true, false) => (&[Method::POST][..], "POST"),
        (false, _) => (&[Method::GET, Method::HEAD][..], "GET, HEAD"),
    };
    (!right.contains(method)).then(|| {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allow}\n"));
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        refused
    })
}

/// What is refused of requests that a web page may have made: a browser sends the name that the
/// page was loaded from as `Host`, whatever address that name has by now, and says where the page
/// is from as `Origin`. Taken are this machine's own names and the address that is `bound`.
#[must_use]
pub fn refuse_foreign(uri: &Uri, headers: &HeaderMap, bound: SocketAddr) -> Option<Answer> {
    let says = |text: &str| text.parse::<Uri>().ok()?.host().map(|host| is_own(host, bound.ip()));
    let named = headers.get_all(header::HOST).iter();
    let mut hosts = named.map(|host| host.to_str().ok().and_then(|h| says(h.trim())));
    if uri.host().is_some_and(|host| !is_own(host, bound.ip()))
        || hosts.any(|own| own != Some(true))
    {
        let why = "Host is none of this machine's names: use localhost or the address\n";
        return Some(text(StatusCode::FORBIDDEN, why));
    }
    let page = headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    page.then(|| text(StatusCode::FORBIDDEN, "not from a web page\n"))
}

fn is_own(host: &str, bound: IpAddr) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => {
            let ip = ip.to_canonical();
            // A name that was led here is no address: any will do where all are bound.
            ip.is_loopback() || ip == bound.to_canonical() || bound.to_canonical().is_unspecified()
        }
        Err(_) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// How many connections each endpoint has of descriptors that are kept for other things.
const FEW: usize = 8;

/// The places of one endpoint for operators: where traffic has all descriptors it may have, a few
/// of those that are kept, and no more.
#[derive(Debug)]
pub struct EndpointPlaces {
    all: Places<IpAddr>,
    last: Places<IpAddr>,
}

/// A place at such an endpoint, until dropped or given up for somebody else.
#[derive(Debug)]
pub struct EndpointPlace {
    place: Place<IpAddr>,
    last: Option<Place<IpAddr>>,
}

impl EndpointPlaces {
    /// At most `most`, and at most `of_one` for each source.
    #[must_use]
    pub fn new(most: usize, of_one: usize) -> Self {
        Self { all: Places::new(most, of_one), last: Places::new(FEW, FEW) }
    }

    /// A place for `socket`, which `from` has connected; `None` where nobody can be asked to go.
    #[must_use]
    pub fn take(&self, socket: &impl AsFd, from: IpAddr) -> Option<EndpointPlace> {
        let place = self.all.take(from)?;
        let last = match is_reserved(socket.as_fd()) {
            true => Some(self.last.take(from)?),
            false => None,
        };
        Some(EndpointPlace { place, last })
    }
}

impl EndpointPlace {
    /// Waits until somebody else needs the place: the connection is to be closed. Cancel safe.
    pub async fn given_up(&self) {
        match &self.last {
            None => self.place.given_up().await,
            Some(last) => tokio::select! {
                () = self.place.given_up() => {}
                () = last.given_up() => {}
            },
        }
    }
}
