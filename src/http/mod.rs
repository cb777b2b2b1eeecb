//! HTTP/1.1 for operators: callers that are slow, silent or many, and web pages that speak to an
//! address of this machine in a browser's name.

mod places;

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

pub use places::{EndpointPlace, EndpointPlaces};

/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(2);

/// What is answered.
pub type Answer = Response<Full<Bytes>>;

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
        return Some(text(StatusCode::FORBIDDEN, why.into()));
    }
    let page = headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    page.then(|| text(StatusCode::FORBIDDEN, "not from a web page\n".into()))
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

/// Plain text.
#[must_use]
pub fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// An answer of some kind.
#[must_use]
pub fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_and_no_others() {
        let at = |host: &str, bound: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            refuse_foreign(&"/".parse().unwrap(), &headers, bound.parse().unwrap()).is_none()
        };
        for (host, own) in [
            ("localhost:15000", true),
            ("LOCALHOST", true),
            ("a.localhost:1", true),
            ("127.0.0.1:15000", true),
            ("127.9.9.9", true),
            ("[::1]:15000", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.1.2.3:15000", false),
            ("evil.example", false),
            ("localhost.evil.example:15000", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example@127.0.0.1", true),
            ("127.0.0.1@evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(at(host, "127.0.0.1:15000"), own, "{host}");
        }
        assert!(at("10.1.2.3:15000", "10.1.2.3:15000") && at("10.1.2.3", "0.0.0.0:1"));
        assert!(!at("evil.example", "0.0.0.0:15000"));
        let bound = "127.0.0.1:1".parse().unwrap();
        let evil = "http://evil.example/".parse().unwrap();
        assert!(refuse_foreign(&evil, &HeaderMap::new(), bound).is_some());
        assert!(refuse_foreign(&"/".parse().unwrap(), &HeaderMap::new(), bound).is_none());
        for (name, value, taken) in [
            ("origin", "http://evil.example", false),
            ("origin", "null", false),
            ("sec-fetch-site", "cross-site", false),
            ("sec-fetch-site", "none", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let refused = refuse_foreign(&"/".parse().unwrap(), &headers, bound).is_some();
            assert_eq!(refused, !taken, "{name}: {value}");
        }
    }
}
