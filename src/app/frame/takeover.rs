//! Hot restart (`--takeover`): the process before this one, and the one after it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::{
    app::process::self_exec::SelfExec,
    identity::shown,
    lifecycle::{
        AwaitedHandoff, HandoffClient, HandoffServer, InheritedSockets, Offered, Successor, Tasks,
    },
};

/// How long it may take until this process can take over: the one before it waits 15 minutes.
const READY_WITHIN: Duration = Duration::from_secs(14 * 60);

/// The handoff of the listening sockets: from the previous process, and to the next one.
pub(in crate::app) struct Takeover {
    path: Option<PathBuf>,
    self_exec: SelfExec,
    /// The process before this one, until it is waited for.
    found: Option<HandoffClient>,
    /// The process before this one, which continues until this one is ready; and until when it
    /// waits for that.
    previous: Option<(AwaitedHandoff, Instant)>,
    /// Where the process after this one finds this one.
    server: Option<Server>,
    tasks: Tasks,
}

struct Server {
    handoff: Arc<HandoffServer>,
    successor: mpsc::Receiver<Successor>,
}

/// Which listeners another process has, that it took over.
#[derive(Debug)]
pub(in crate::app) enum HandedOver {
    /// None: there is no such process.
    Nothing,
    /// All, as far as is known.
    All,
    /// Those at these addresses, as it says.
    These(Vec<String>),
}

impl HandedOver {
    /// What a process has that accepts by now, if there is one, or that has the sockets and is
    /// about to (`under_way`).
    pub(in crate::app) fn of(successor: Option<Option<Vec<String>>>, under_way: bool) -> Self {
        match successor {
            Some(Some(keeps)) => Self::These(keeps),
            Some(None) => Self::All,
            None if under_way => Self::All,
            None => Self::Nothing,
        }
    }

    /// Whether the one at this address is among them.
    pub(in crate::app) fn has(&self, address: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::These(all) => all.iter().any(|one| one == address),
        }
    }
}

/// What has become of the other process.
pub(in crate::app) enum Other {
    /// The one before this one has ended.
    Gone,
    /// The one after this one accepts.
    Accepts(Successor),
}

impl Takeover {
    /// Asks the process at `path` for its sockets; they are none if there is no such process.
    /// Blocks, at most some seconds.
    ///
    /// # Errors
    /// If it does not give them.
    pub(in crate::app) fn find(
        path: Option<&Path>,
        self_exec: SelfExec,
    ) -> anyhow::Result<(Self, Option<InheritedSockets>)> {
        let from = |path: &Path| format!("take over from {}", shown(path));
        let find = |path| HandoffClient::find(path).with_context(|| from(path));
        let (found, sockets) = path.map(find).transpose()?.flatten().unzip();
        let (path, tasks) = (path.map(Path::to_owned), Tasks::default());
        Ok((Self { path, self_exec, found, previous: None, server: None, tasks }, sockets))
    }

    /// From here on the process before this one is waited for, if there is one. Needs the runtime.
    ///
    /// # Errors
    /// The runtime cannot poll its socket.
    pub(in crate::app) fn begin(&mut self) -> anyhow::Result<()> {
        if let Some(found) = self.found.take() {
            self.previous = Some((found.awaited()?, Instant::now() + READY_WITHIN));
        }
        Ok(())
    }

    /// Lets the process after this one come, and have what is offered. One wait throughout:
    /// nothing that this process does beside it disturbs a process that takes over.
    ///
    /// # Errors
    /// The path cannot be listened on; the process before this one continues then.
    pub(in crate::app) fn serve(&mut self, offered: impl Into<Offered>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let handoff = HandoffServer::open(path, offered.into());
        let handoff = handoff.with_context(|| format!("--takeover {}", shown(path)))?;
        let (handoff, (accepts, successor)) = (Arc::new(handoff), mpsc::channel(1));
        let waits = Arc::clone(&handoff);
        self.tasks.spawn(async move {
            let successor = waits.wait().await;
            let _ = accepts.send(successor).await;
        });
        self.server = Some(Server { handoff, successor });
        Ok(())
    }

    /// Lets the process after this one have these sockets, in place of those before.
    pub(in crate::app) fn offer(&self, sockets: InheritedSockets) {
        if let Some(server) = &self.server {
            server.handoff.offer(sockets.into());
        }
    }

    /// Whether the process before this one still does all.
    pub(in crate::app) fn waits(&self) -> bool {
        self.previous.is_some()
    }

    /// Whether this process has become ready too late to take over.
    pub(in crate::app) fn is_late(&self) -> bool {
        self.previous.as_ref().is_some_and(|(_, until)| Instant::now() > *until)
    }

    /// Returns once it is too late to take over. Without a previous process it never returns. Cancel
    /// safe.
    pub(in crate::app) async fn late(&self) {
        match &self.previous {
            Some((_, until)) => sleep_until(*until).await,
            None => std::future::pending().await,
        }
    }

    /// Waits for news of the other process. Cancel safe.
    pub(in crate::app) async fn next(&mut self) -> Other {
        if let Some((previous, _)) = &self.previous {
            previous.gone().await;
            return Other::Gone;
        }
        if let Some(server) = &mut self.server
            && let Some(successor) = server.successor.recv().await
        {
            return Other::Accepts(successor);
        }
        std::future::pending().await
    }

    /// Tells the process before this one, if there is one, that this one accepts, and what it
    /// `keeps` of what that one would leave behind; returns that process, which may be waited for
    /// until it has let go of the rest. [`Takeover::serve`] comes before.
    pub(in crate::app) async fn tell(&mut self, keeps: &[String]) -> Option<AwaitedHandoff> {
        let (mut previous, _) = self.previous.take()?;
        previous.tell(keeps).await;
        tracing::info!("took over from the previous process, which is draining");
        Some(previous)
    }

    /// SIGUSR2: starts the process after this one.
    pub(in crate::app) fn start_successor(&self) {
        self.self_exec.start_again(self.path.is_some(), &self.tasks);
    }

    /// Stops waiting for a successor. Returns whether a process has this one's sockets: it takes over
    /// then, whether it has said so or not.
    pub(in crate::app) async fn close(&mut self) -> bool {
        self.tasks.cut();
        self.tasks.ended().await;
        self.previous = None;
        self.server.take().is_some_and(|server| server.handoff.is_under_way())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_previous_process_is_told_once_and_is_not_waited_for_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("takeover.sock");
        let find = |path: PathBuf| {
            tokio::task::spawn_blocking(move || {
                Takeover::find(Some(&path), SelfExec::now()).unwrap().0
            })
        };
        let mut first = find(path.clone()).await.unwrap();
        first.begin().unwrap();
        assert!(!first.waits() && !first.is_late());
        first.serve(InheritedSockets::new()).unwrap();
        let mut second = find(path.clone()).await.unwrap();
        second.begin().unwrap();
        assert!(second.waits() && !second.is_late());
        tokio::time::pause();
        let begun = Instant::now();
        second.late().await;
        assert!(begun.elapsed() >= READY_WITHIN - Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(second.is_late());
        tokio::time::resume();
        second.serve(InheritedSockets::new()).unwrap();
        let previous = second.tell(&["kept".to_owned()]).await.unwrap();
        assert!(!second.waits() && second.tell(&[]).await.is_none());
        let Other::Accepts(successor) = first.next().await else { panic!("it is not gone") };
        assert_eq!(successor.keeps, Some(vec!["kept".to_owned()]));
        drop(successor);
        previous.let_go().await;
        assert!(first.close().await, "it has our sockets");
        assert!(!second.close().await, "nobody came");
    }
}
