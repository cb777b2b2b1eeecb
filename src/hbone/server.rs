//! The server end of a tunnel: takes CONNECT streams and hands each to a handler.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::StatusCode;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, TunnelConfig,
    connect::{Authority, forwarded_host},
    core::TunnelError,
    driver::{DriverGuard, Tunnel},
    http2::{Code, Failure, Request, Role},
    stream::TunnelStream,
};
use crate::{
    lifecycle::Tasks,
    tls::{Session, record::RecordError},
};

/// One request that came through a tunnel, not answered yet. Dropping it resets the stream.
pub struct Incoming {
    request: Request,
    stream: TunnelStream,
    too_much: Option<&'static str>,
}

impl Incoming {
    /// Why it is to be turned away, if its caller has as much as it may.
    #[must_use]
    pub fn is_too_much(&self) -> Option<&'static str> {
        self.too_much
    }

    /// Whether the method is CONNECT.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.request.is_connect
    }

    /// The `:authority`, if it is one.
    #[must_use]
    pub fn authority(&self) -> Option<Authority> {
        self.request.authority.parse().ok()
    }

    /// The `:authority` as sent, for the record only; at most 300 printable characters.
    #[must_use]
    pub fn authority_text(&self) -> String {
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        self.request.authority.chars().take(300).map(shown).collect()
    }

    /// The service that the caller says it meant (telemetry only).
    #[must_use]
    pub fn forwarded_host(&self) -> Option<&str> {
        forwarded_host(self.request.forwarded.as_deref()?)
    }

    /// Answers 200: bytes flow from here on. `None` if the stream is already over.
    #[must_use]
    pub fn accept(mut self, baggage: Option<&str>) -> Option<TunnelStream> {
        let said = baggage.map(|baggage| ("baggage", baggage));
        self.stream.respond(200, said.as_slice(), false).then_some(self.stream)
    }

    /// Answers with an error status: headers only, END_STREAM.
    pub fn refuse(mut self, status: StatusCode) {
        // The stream may be gone already; there is nobody to tell then.
        let _ = self.stream.respond(status.as_u16(), &[], true);
    }

    /// Says that it was not looked at: the caller may ask another tunnel (RFC 9113 §8.7).
    pub fn turn_away(self) {
        self.stream.turn_away();
    }

    /// Waits until the caller gives up. Cancel safe.
    pub async fn abandoned(&mut self) {
        self.stream.abandoned().await;
    }
}

/// A tunnel without streams is told to go after this, looked at as often: twice what a client
/// of ours keeps one.
const IDLE: Duration = Duration::from_secs(600);

/// How many requests are taken up before others get their turn.
const IN_A_ROW: usize = 8;

/// A tunnel that did not end in order.
#[derive(Debug)]
pub struct Broken {
    /// What broke it.
    pub why: String,
    /// How many streams it had carried; each has its own record.
    pub streams: usize,
}

/// What a tunnel is served with.
pub struct TunnelParams<'a> {
    /// Where its caller is.
    pub peer: SocketAddr,
    /// Limits and deadlines.
    pub config: &'a TunnelConfig,
    /// Whose it is.
    pub caller: &'a Caller,
    /// Own the streams.
    pub tasks: &'a Tasks,
    /// Fires when no more streams are to be taken.
    pub draining: CancellationToken,
}

impl TunnelParams<'_> {
    fn broken(&self, why: impl std::fmt::Display, streams: usize) -> Broken {
        Broken { why: format!("{}: {why}", self.peer), streams }
    }

    /// How the tunnel ended, after so many streams; one that floods is cut off for a while.
    fn ended(&self, over: &TunnelError, streams: usize) -> Result<(), Broken> {
        if matches!(over, TunnelError::Http2(failure) if failure.code == Code::ENHANCE_YOUR_CALM) {
            self.caller.cut_off(std::time::Instant::now());
        }
        if is_orderly(over) { Ok(()) } else { Err(self.broken(over, streams)) }
    }

    /// With its place among those of its caller, if there is one.
    fn incoming(&self, stream: TunnelStream, request: Request) -> Box<Incoming> {
        let (stream, too_much) = match self.caller.stream() {
            Ok(place) => (stream.of(place), None),
            Err(why) => (stream, Some(why)),
        };
        Box::new(Incoming { request, stream, too_much })
    }
}

/// Serves one tunnel until the peer ends it, falls silent, or `draining` fires and its
/// streams have ended (GOAWAY first, RFC 9113 §6.8). A caller whose SVID expires soon gets GOAWAY
/// while it has time to open a new tunnel; its open streams continue. A caller that floods is cut
/// off for a while.
///
/// # Errors
/// What broke the tunnel; streams in flight have then been reset.
pub async fn serve<H, F>(session: Session, with: TunnelParams<'_>, handle: H) -> Result<(), Broken>
where
    H: Fn(Box<Incoming>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut farewell = Farewell::new(Until::new(SystemTime::now(), session.peer.end()));
    let config = with.config;
    let share = Some(with.caller.share());
    let tunnel = match Tunnel::new(Role::Server, config.limits, session, share) {
        Ok(tunnel) => tunnel,
        Err(over) => return with.ended(&over, 0),
    };
    let _ends = DriverGuard(Arc::clone(&tunnel));
    match timeout(config.http2, tunnel.settings()).await {
        Ok(Ok(())) => {}
        Ok(Err(over)) => return with.ended(&over, 0),
        Err(_) => {
            let why = format!("no HTTP/2 preface within {:?}", config.http2);
            tunnel.end(TunnelError::Silent(why.clone()));
            return Err(with.broken(why, 0));
        }
    }
    let mut streams = 0;
    let mut silence = std::pin::pin!(tunnel.silence());
    let mut look = std::pin::pin!(sleep(farewell.until.next_look(SystemTime::now())));
    loop {
        let now = tokio::select! {
            // It moves the tunnel's bytes too: there is no other driver here.
            request = tunnel.next_request() => match request {
                Err(over) => return with.ended(&over, streams),
                Ok((id, request)) => {
                    streams += 1;
                    let stream = TunnelStream::new(Arc::clone(&tunnel), id);
                    let incoming = with.incoming(stream, request);
                    match with.tasks.are_cut() {
                        // Nobody will look at it: another tunnel may.
                        true => incoming.turn_away(),
                        false => with.tasks.spawn(handle(incoming)),
                    }
                    if streams % IN_A_ROW == 0 {
                        tokio::task::yield_now().await;
                    }
                    farewell.is_overdue()
                }
            },
            () = with.draining.cancelled(), if !farewell.drained => {
                farewell.drain();
                true
            }
            () = &mut look => true,
            over = &mut silence => {
                let broken = with.broken(&over, streams);
                tunnel.end(over);
                return Err(broken);
            }
        };
        if !now {
            continue;
        }
        let Some(again) = farewell.step(&tunnel) else {
            tunnel.close(FLUSH).await;
            return Ok(());
        };
        look.as_mut().reset(Instant::now() + again);
    }
}

/// Closes a tunnel that is not served, with a word to its caller.
pub fn turn_away(session: Session, config: &TunnelConfig) {
    if let Ok(tunnel) = Tunnel::new(Role::Server, config.limits, session, None) {
        tunnel.end(TunnelError::Http2(Failure::new(
            Code::ENHANCE_YOUR_CALM,
            "this caller has reached its limit",
        )));
    }
}

/// How long a tunnel takes new streams, by its caller's SVID.
#[derive(Clone, Copy, Debug)]
struct Until(SystemTime);

impl Until {
    /// Ahead of `end`, but a caller that has nothing newer to show yet is not sent round and
    /// round: each of its tunnels serves most of the time that is left when it begins.
    fn new(now: SystemTime, end: SystemTime) -> Self {
        let left = end.duration_since(now).unwrap_or_default();
        Self(end.checked_sub((left / 4).min(AHEAD)).unwrap_or(end))
    }

    fn is_over(self, now: SystemTime) -> bool {
        now >= self.0
    }

    /// When to look again: the clock may be set meanwhile.
    fn next_look(self, now: SystemTime) -> Duration {
        self.0.duration_since(now).unwrap_or_default().min(LOOK)
    }
}

/// How far the farewell is (RFC 9113 §6.8): announced, so that requests on their way still
/// make it; then the last stream is named; then the connection ends with it.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Leaving {
    No,
    Announced(Instant),
    Last,
}

/// When a tunnel takes its leave, and how.
struct Farewell {
    until: Until,
    leaving: Leaving,
    /// Whether it goes whatever its caller's SVID says.
    drained: bool,
    pause: Duration,
    /// When a stream was seen last.
    used: Instant,
}

impl Farewell {
    fn new(until: Until) -> Self {
        let (leaving, used) = (Leaving::No, Instant::now());
        Self { until, leaving, drained: false, pause: LAST_CALL, used }
    }

    fn drain(&mut self) {
        self.drained = true;
        self.pause = LAST_CALL;
    }

    /// The clock may have been set, and the look be late.
    fn is_overdue(&self) -> bool {
        self.leaving == Leaving::No && self.until.is_over(SystemTime::now())
    }

    /// Goes a step further if it is time: when to look again, or `None` if the tunnel is to be
    /// closed.
    fn step(&mut self, tunnel: &Tunnel) -> Option<Duration> {
        let empty = tunnel.core().http2.open_streams() == 0;
        let goes = self.drained || self.until.is_over(SystemTime::now());
        match self.leaving {
            Leaving::No if !(goes || empty && self.used.elapsed() >= IDLE) => {
                if !empty {
                    self.used = Instant::now();
                }
                return Some(self.until.next_look(SystemTime::now()));
            }
            Leaving::No => {
                self.leaving = Leaving::Announced(Instant::now());
                tunnel.leave(true);
            }
            Leaving::Announced(at) if at.elapsed() >= LAST_CALL => {
                self.leaving = Leaving::Last;
                tunnel.leave(false);
            }
            Leaving::Last if empty => return None,
            Leaving::Announced(_) | Leaving::Last => {}
        }
        let pause = self.pause;
        if self.leaving == Leaving::Last {
            self.pause = (pause * 2).min(LONGEST_PAUSE); // its last stream may live for weeks
        }
        Some(pause)
    }
}

/// How long before its caller's SVID runs out a tunnel is told to go: a renewed one has been
/// there since half of its time.
const AHEAD: Duration = Duration::from_secs(60);
/// How often a tunnel that goes is looked at in the end.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often an idle tunnel is noticed.
const LOOK: Duration = Duration::from_secs(30);
/// How long requests on their way have: more than a round trip.
const LAST_CALL: Duration = Duration::from_millis(50);
/// How long the last bytes may take.
const FLUSH: Duration = Duration::from_secs(5);

/// Whether a tunnel ended as tunnels do: the peer left, in order or not.
fn is_orderly(over: &TunnelError) -> bool {
    matches!(
        over,
        TunnelError::Closed
            | TunnelError::GoAway(_)
            | TunnelError::Io(_)
            | TunnelError::Record(RecordError::Truncated)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_told_to_go_ahead_of_the_end_and_not_at_its_beginning() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (left, serves) in [(3600, 3540), (240, 180), (8, 6), (0, 0)]
            .map(|(left, serves)| (Duration::from_secs(left), Duration::from_secs(serves)))
        {
            let until = Until::new(now, now + left);
            assert_eq!(until.0, now + serves, "{left:?}");
            assert_eq!(until.next_look(now), serves.min(LOOK));
            assert!(until.is_over(now + serves) && until.is_over(now + 2 * left));
        }
        assert!(Until::new(now, now - LOOK).is_over(now), "it has run out");
    }
}
