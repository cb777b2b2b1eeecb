//! Why a connection has no way out yet, and whether another endpoint may be tried.

use std::{io, net::SocketAddr};

use crate::{
    hbone::ConnectError,
    net::{CloseReason, Outcome, connect_failed, is_unreached},
};

/// What a failure says of the endpoint that was tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It was not reached, so nothing of the application came to it.
    Unreached,
    /// It answered that it does not take the connection at present: what it had been sent went no
    /// further.
    Unavailable,
    /// Nothing came of it, and that says nothing of the endpoint: another one may be tried.
    Unclear,
    /// Nothing that lets another one be tried: a denial, a fault of ours, or an end of which nobody
    /// knows how much was carried before it.
    Final,
}

/// An attempt that came to nothing.
#[derive(Clone, Debug)]
pub struct Failed {
    /// How the connection ends, if this was the last attempt.
    pub outcome: Outcome,
    /// Whether it was.
    pub verdict: Verdict,
}

impl Failed {
    /// TCP to `addr` was not established.
    #[must_use]
    pub fn tcp(addr: SocketAddr, error: &io::Error) -> Self {
        Self { outcome: connect_failed(addr, error), verdict: of_tcp(error) }
    }

    /// Nobody is known to be tried under this name, which may be the resolver's fault.
    #[must_use]
    pub fn nowhere(why: String) -> Self {
        let outcome = (CloseReason::NoHealthyUpstream, Some(why));
        Self { outcome, verdict: Verdict::Unclear }
    }
}

impl From<&ConnectError> for Failed {
    fn from(error: &ConnectError) -> Self {
        let outcome = (error.close_reason(), Some(error.to_string()));
        Self { outcome, verdict: verdict(error) }
    }
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, verdict: Verdict::Final }
    }
}

impl From<Failed> for Outcome {
    fn from(failed: Failed) -> Self {
        failed.outcome
    }
}

fn of_tcp(error: &io::Error) -> Verdict {
    match error.kind() {
        // The pod has no route there, and may have one to another endpoint.
        io::ErrorKind::NetworkUnreachable => Verdict::Unclear,
        _ if is_unreached(error) => Verdict::Unreached,
        _ => Verdict::Final,
    }
}

fn verdict(error: &ConnectError) -> Verdict {
    match error {
        ConnectError::Tcp { source, .. } => of_tcp(source),
        // Either the peer's judgement of us, or nothing that it has a part in.
        ConnectError::Tls { source, .. } | ConnectError::TlsThrough { source, .. }
            if source.is_about_us() =>
        {
            Verdict::Final
        }
        ConnectError::TcpTimeout { .. } | ConnectError::Tls { .. } => Verdict::Unreached,
        // It has ended a tunnel in order, or has no room for so many streams at once; or it is not
        // the gateway that failed.
        ConnectError::Http2 { retry: true, .. } | ConnectError::TlsThrough { .. } => {
            Verdict::Unclear
        }
        ConnectError::Refused { status: 503, .. } => Verdict::Unavailable,
        ConnectError::Terminated { .. }
        | ConnectError::Http2 { .. }
        | ConnectError::Refused { .. } => Verdict::Final,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        identity::SvidError,
        tls::{TlsError, TunnelPort},
    };

    fn addr() -> SocketAddr {
        "10.0.0.1:15008".parse().unwrap()
    }

    fn tcp(kind: io::ErrorKind) -> ConnectError {
        ConnectError::Tcp { addr: addr(), source: Arc::new(kind.into()) }
    }

    fn tls(source: TlsError) -> ConnectError {
        ConnectError::Tls { addr: addr(), port: TunnelPort::Hbone, source }
    }

    fn through(source: TlsError) -> ConnectError {
        ConnectError::TlsThrough { addr: addr(), source }
    }

    fn http2(retry: bool) -> ConnectError {
        ConnectError::Http2 { addr: addr(), why: String::new(), retry }
    }

    fn status(status: u16) -> ConnectError {
        ConnectError::Refused { addr: addr(), status }
    }

    #[test]
    fn another_endpoint_is_tried_only_if_nothing_was_carried_and_nobody_was_denied() {
        let within = Duration::from_secs(1);
        let shown =
            |error| TlsError::Shown { error: Box::new(error), peer: "spiffe://td/x".into() };
        let withheld = SvidError::Withheld("the CRLs are not known".into());
        let unknown = SvidError::UnknownTrustDomain("td".parse().unwrap());
        for (error, expected) in [
            (tcp(io::ErrorKind::ConnectionRefused), Verdict::Unreached),
            (tcp(io::ErrorKind::HostUnreachable), Verdict::Unreached),
            (tcp(io::ErrorKind::NetworkUnreachable), Verdict::Unclear),
            (tcp(io::ErrorKind::AddrNotAvailable), Verdict::Final),
            (tcp(io::ErrorKind::PermissionDenied), Verdict::Final),
            (ConnectError::TcpTimeout { addr: addr(), within }, Verdict::Unreached),
            (tls(TlsError::Timeout(within)), Verdict::Unreached),
            (tls(TlsError::Closed), Verdict::Unreached),
            (tls(shown(TlsError::Other("bad record".into()))), Verdict::Unreached),
            (tls(TlsError::Alert("access denied".into())), Verdict::Final),
            (tls(shown(TlsError::Alert("access denied".into()))), Verdict::Final),
            (tls(TlsError::OwnSvid("no key".into())), Verdict::Final),
            (tls(TlsError::Svid(SvidError::CaAsLeaf)), Verdict::Unreached),
            (tls(shown(TlsError::Svid(withheld))), Verdict::Final),
            (tls(shown(TlsError::Svid(unknown))), Verdict::Final),
            (through(TlsError::Closed), Verdict::Unclear),
            (through(shown(TlsError::Svid(SvidError::CaAsLeaf))), Verdict::Unclear),
            (through(TlsError::Alert("access denied".into())), Verdict::Final),
            (http2(true), Verdict::Unclear),
            (http2(false), Verdict::Final),
            (status(503), Verdict::Unavailable),
            (status(401), Verdict::Final),
            (status(403), Verdict::Final),
            (status(400), Verdict::Final),
            (status(500), Verdict::Final),
        ] {
            assert_eq!(Failed::from(&error).verdict, expected, "{error}");
        }
    }

    /// A resolver that is down, and a pod without a route, know nothing of any endpoint.
    #[test]
    fn what_is_wrong_on_our_side_lets_another_endpoint_be_tried_and_counts_for_nobody() {
        assert_eq!(Failed::nowhere("no answer".into()).verdict, Verdict::Unclear);
        for (kind, expected) in [
            (io::ErrorKind::NetworkUnreachable, Verdict::Unclear),
            (io::ErrorKind::ConnectionRefused, Verdict::Unreached),
        ] {
            assert_eq!(Failed::tcp(addr(), &kind.into()).verdict, expected, "{kind}");
        }
    }
}
