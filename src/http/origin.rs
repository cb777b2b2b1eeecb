//! Requests that a web page may have made. A browser sends the name that the page was loaded from
//! as `Host`, whatever address that name has by now (DNS rebinding), and says where the page is
//! from as `Origin`. Other clients send no `Origin`, and the name or address of this machine.

use std::net::{IpAddr, SocketAddr};

use ::http::{HeaderMap, StatusCode, Uri, header};

use super::answer::{Answer, text};

/// How a request reached this process, as far as `Host` depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reached {
    /// Without TLS, at this address of this machine.
    Tcp(SocketAddr),
    /// Over a Unix socket: no browser does, but what forwards to one may.
    Unix,
    /// Over TLS: a browser has checked the certificate against the name.
    Tls,
}

/// Whether readers, who change nothing, must call this machine by a name of its own too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readers {
    /// What is read is for operators alone.
    ByOwnName,
    /// Where only this machine is served (plain HTTP on a loopback address).
    ByOwnNameOnLoopback,
    /// What is read is for whoever reaches it, by whatever name.
    Anyone,
}

impl Readers {
    pub(super) fn are_checked(self, reached: Reached) -> bool {
        match (self, reached) {
            (Self::ByOwnName, _) => true,
            (Self::ByOwnNameOnLoopback, Reached::Tcp(at)) => at.ip().to_canonical().is_loopback(),
            (Self::ByOwnNameOnLoopback, _) | (Self::Anyone, _) => false,
        }
    }
}

/// The refusal of a request that a web page may have made. `further` are names that this machine
/// has beside `localhost` and its addresses.
pub(super) fn refuse_foreign(
    uri: &Uri,
    headers: &HeaderMap,
    reached: Reached,
    further: &[String],
) -> Option<Answer> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = |host: &str| is_own(host, reached, further);
    if uri.host().is_some_and(|host| !named(host))
        || hosts.any(|host| !host.to_str().is_ok_and(|host| says_own(host, reached, further)))
    {
        let why = "the Host header is not a name of this machine: use localhost or the address\n";
        return Some(text(StatusCode::FORBIDDEN, why));
    }
    let page = headers.contains_key(header::ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none");
    page.then(|| {
        text(
            StatusCode::FORBIDDEN,
            "this request is not allowed from a web page of another origin\n",
        )
    })
}

/// Of a `Host` header: a name or an address, with or without a port.
fn says_own(header: &str, reached: Reached, further: &[String]) -> bool {
    let uri = header.trim().parse::<Uri>();
    match uri.as_ref().ok().and_then(Uri::host) {
        Some(host) => is_own(host, reached, further),
        // Clients of Unix sockets put their path there, or nothing.
        None => matches!(reached, Reached::Unix | Reached::Tls),
    }
}

fn is_own(host: &str, reached: Reached, further: &[String]) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match (host.parse::<IpAddr>(), reached) {
        (_, Reached::Tls) => true,
        // Nobody leads an address elsewhere, as one does a name; a loopback address is not even
        // reached by another address of this machine.
        (Ok(ip), Reached::Tcp(at)) => {
            !at.ip().to_canonical().is_loopback() || ip.to_canonical().is_loopback()
        }
        (Ok(_), Reached::Unix) => true,
        (Err(_), _) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost"
                || host.ends_with(".localhost")
                || further.iter().any(|name| name.eq_ignore_ascii_case(&host))
                || matches!(reached, Reached::Unix) && !host.contains('.')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(name: &str, value: &str, reached: Reached) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        refuse_foreign(&Uri::from_static("/"), &headers, reached, &["node7".into()]).is_none()
    }

    fn at(bound: &str) -> Reached {
        Reached::Tcp(bound.parse().unwrap())
    }

    #[test]
    fn names_of_this_machine_and_no_others() {
        for (host, own) in [
            ("localhost:15000", true),
            ("LOCALHOST", true),
            ("a.localhost:1", true),
            ("127.0.0.1:15000", true),
            ("127.9.9.9", true),
            ("[::1]:15000", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("Node7.:15000", true),
            ("10.1.2.3:15000", false),
            ("evil.example", false),
            ("node7.evil.example", false),
            ("localhost.evil.example:15000", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example@127.0.0.1", true),
            ("127.0.0.1@evil.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(taken("host", host, at("127.0.0.1:15000")), own, "{host}");
        }
        for bound in ["10.1.2.3:15000", "0.0.0.0:1", "[2001:db8::1]:1"] {
            assert!(taken("host", "10.1.2.3:15000", at(bound)), "{bound}");
            assert!(taken("host", "192.0.2.1", at(bound)), "a translated address: {bound}");
            assert!(!taken("host", "evil.example", at(bound)), "{bound}");
        }
    }

    #[test]
    fn unix_sockets_and_tls_need_no_name_and_neither_takes_a_page() {
        for (host, over_unix) in
            [("status", true), ("", true), ("%2Frun%2Fx.sock", true), ("evil.example", false)]
        {
            assert_eq!(taken("host", host, Reached::Unix), over_unix, "{host}");
            assert!(taken("host", host, Reached::Tls), "{host}");
        }
        for reached in [at("127.0.0.1:1"), at("192.0.2.1:1"), Reached::Unix, Reached::Tls] {
            for (name, value, passes) in [
                ("origin", "http://evil.example", false),
                ("origin", "null", false),
                ("sec-fetch-site", "cross-site", false),
                ("sec-fetch-site", "none", true),
            ] {
                assert_eq!(taken(name, value, reached), passes, "{name}: {value} {reached:?}");
            }
        }
    }

    #[test]
    fn a_whole_url_is_looked_at_like_a_host() {
        let none = HeaderMap::new();
        let evil = Uri::from_static("http://evil.example/");
        let bound = at("127.0.0.1:1");
        assert!(refuse_foreign(&evil, &none, bound, &[]).is_some());
        assert!(refuse_foreign(&Uri::from_static("/"), &none, bound, &[]).is_none());
    }

    #[test]
    fn readers_are_looked_at_where_it_is_said() {
        let (loopback, other) = (at("[::ffff:127.0.0.1]:1"), at("192.0.2.1:1"));
        for (readers, reached, checked) in [
            (Readers::ByOwnName, other, true),
            (Readers::ByOwnName, Reached::Unix, true),
            (Readers::ByOwnNameOnLoopback, loopback, true),
            (Readers::ByOwnNameOnLoopback, other, false),
            (Readers::ByOwnNameOnLoopback, Reached::Unix, false),
            (Readers::ByOwnNameOnLoopback, Reached::Tls, false),
            (Readers::Anyone, loopback, false),
        ] {
            assert_eq!(readers.are_checked(reached), checked, "{readers:?} {reached:?}");
        }
    }
}
