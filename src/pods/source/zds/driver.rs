//! Connects to istio-cni for as long as the process runs, reads what it says, and acknowledges each
//! message once its answer is there, or in time with why it is not.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::{
    sync::{
        mpsc::{self, error::SendTimeoutError},
        oneshot, watch,
    },
    time::{Instant, timeout, timeout_at},
};

use super::session::{self, LONGEST, Session};
use crate::{
    identity::shown,
    mesh::NonTcp,
    pods::source::{Announcement, Answer, PodEvent, Refused},
    sys::seqpacket::{ReceiveError, SeqPacket},
};

/// istio-cni waits for an acknowledgement for 5 s.
const ANSWER_WITHIN: Duration = Duration::from_millis(4500);
/// How long it may take to read what is said to it.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long it may say nothing before it has named all pods.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// The first wait before it is tried again …
const FIRST: Duration = Duration::from_millis(20);
/// … and the longest.
const LAST: Duration = Duration::from_secs(15);

/// Who asks istio-cni.
#[derive(Debug)]
pub struct ZdsSource {
    path: PathBuf,
    non_tcp: NonTcp,
    state: watch::Sender<ZdsState>,
}

/// How far the source has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ZdsState {
    path: Arc<str>,
    phase: Phase,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Phase {
    /// There is no connection, and why.
    Away(String),
    /// istio-cni is naming its pods.
    Naming,
    /// It has named all of them.
    Named,
}

impl ZdsState {
    /// What is waited for before the pods of this node are known, in words.
    pub fn waits_for(&self) -> Option<String> {
        let path = &self.path;
        match &self.phase {
            Phase::Away(why) => Some(format!("waiting for istio-cni at {path}: {why}")),
            Phase::Naming => Some(format!("istio-cni at {path} has not named all pods yet")),
            Phase::Named => None,
        }
    }
}

/// Why a connection is over.
enum End {
    /// It can be tried again.
    Lost(String),
    /// Nobody hears of pods any more.
    Unheard,
}

impl ZdsSource {
    /// One that asks at this path, and where its state is seen.
    pub fn new(path: &Path) -> (Self, watch::Receiver<ZdsState>) {
        let phase = Phase::Away("not tried yet".to_owned());
        let (state, seen) = watch::channel(ZdsState { path: shown(path).into(), phase });
        (Self { path: path.to_owned(), non_tcp: NonTcp::Pass, state }, seen)
    }

    /// Sets what happens to the pods' non-TCP traffic, which istio-cni does not announce.
    #[must_use]
    pub fn judging(self, non_tcp: NonTcp) -> Self {
        Self { non_tcp, ..self }
    }

    /// Tells `to` of pods until nobody hears of them or it is dropped, which closes the connection.
    pub async fn run(self, to: mpsc::Sender<Announcement>) {
        let mut waits = waits();
        loop {
            let End::Lost(why) = self.connection(&to).await else { return };
            if self.state.borrow().phase == Phase::Named {
                waits = self::waits();
            }
            self.lost(why);
            tokio::time::sleep(waits.next().unwrap_or(LAST)).await;
        }
    }

    /// One connection, from its first words to its end.
    async fn connection(&self, to: &mpsc::Sender<Announcement>) -> End {
        let begun = match SeqPacket::connect(&self.path) {
            Ok(socket) => say(&socket, &session::hello()).await.map(|()| socket),
            Err(error) => Err(End::Lost(unconnected(&error))),
        };
        let socket = match begun {
            Ok(socket) => socket,
            Err(end) => return end,
        };
        if let Err(end) = announce(to, PodEvent::SnapshotBegins).await {
            return end;
        }
        self.enter(Phase::Naming);
        let mut session = Session::new(self.non_tcp);
        loop {
            if let Err(end) = exchange(&socket, &mut session, to).await {
                return end;
            }
            if session.has_snapshot() {
                self.enter(Phase::Named);
            }
        }
    }

    fn enter(&self, phase: Phase) {
        let entered = self.state.send_if_modified(|state| {
            let is_other = state.phase != phase;
            state.phase = phase.clone();
            is_other
        });
        match phase {
            Phase::Naming if entered => {
                tracing::info!(socket = %shown(&self.path), "connected to istio-cni");
            }
            Phase::Named if entered => tracing::info!("istio-cni has named all pods of this node"),
            _ => {}
        }
    }

    /// Says why there is no connection, once for each reason.
    fn lost(&self, why: String) {
        let socket = shown(&self.path);
        let phase = Phase::Away(why.clone());
        if self.state.borrow().phase != phase {
            tracing::warn!(%socket, why, "no connection to istio-cni; trying again");
        }
        self.enter(phase);
    }
}

/// One message and its acknowledgement.
async fn exchange(
    socket: &SeqPacket,
    session: &mut Session,
    to: &mpsc::Sender<Announcement>,
) -> Result<(), End> {
    let mut room = [0; LONGEST];
    let received = socket.receive(&mut room);
    let received = match session.has_snapshot() {
        true => received.await, // there may be nothing to say for days
        false => timeout(SILENT_FOR, received)
            .await
            .map_err(|_| End::Lost(format!("it sent nothing for {} s", SILENT_FOR.as_secs())))?,
    };
    let (answer, ends) = match received {
        Ok((bytes, fd)) => match session.read(&room[..bytes], fd) {
            Ok(event) => (announce(to, event).await?, false),
            Err(fault) => (Err(Refused(fault.to_string())), fault.ends_session()),
        },
        Err(error @ (ReceiveError::Closed | ReceiveError::Io(_))) => {
            return Err(End::Lost(error.to_string()));
        }
        Err(error) => (Err(Refused(error.to_string())), true),
    };
    let told = answer.as_ref().copied().map_err(|Refused(why)| why.as_str());
    say(socket, &session::acknowledgement(told)).await?;
    match answer {
        Err(Refused(why)) if ends => return Err(End::Lost(why)),
        Err(Refused(why)) => tracing::warn!(why, "a request of istio-cni was refused"),
        Ok(()) => {}
    }
    Ok(())
}

/// Sends an event, and waits for its answer for as long as istio-cni waits.
///
/// # Errors
/// If the event was not taken: the known pods are then no longer those that istio-cni has named.
async fn announce(to: &mpsc::Sender<Announcement>, event: PodEvent) -> Result<Answer, End> {
    let until = Instant::now() + ANSWER_WITHIN;
    let (answer, answered) = oneshot::channel();
    match to.send_timeout(Announcement { event, answer }, ANSWER_WITHIN).await {
        Ok(()) => {}
        Err(SendTimeoutError::Closed(_)) => return Err(End::Unheard),
        Err(SendTimeoutError::Timeout(_)) => {
            return Err(End::Lost("adit is too busy to take announcements of pods".to_owned()));
        }
    }
    Ok(match timeout_at(until, answered).await {
        Ok(answer) => answer.unwrap_or_else(|_| Err(Refused("adit is shutting down".to_owned()))),
        Err(_) => Err(Refused(format!(
            "this takes longer than {} s; adit continues with it",
            ANSWER_WITHIN.as_secs_f32()
        ))),
    })
}

async fn say(socket: &SeqPacket, words: &[u8]) -> Result<(), End> {
    match timeout(READ_WITHIN, socket.send(words)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::Lost(error.to_string())),
        Err(_) => Err(End::Lost(format!("it read nothing for {} s", READ_WITHIN.as_secs()))),
    }
}

/// Why there is no connection, in the words of who can change that.
fn unconnected(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::ConnectionRefused => "no process is listening there".to_owned(),
        io::ErrorKind::WouldBlock => "it accepts no more connections now".to_owned(),
        _ => error.to_string(),
    }
}

/// The waits between connections, for ever.
fn waits() -> ExponentialBackoff {
    let plan = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LAST);
    plan.with_factor(2.0).without_max_times().build()
}

#[cfg(test)]
mod tests;
