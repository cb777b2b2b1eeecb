//! The process before this one and the one after it (`--takeover`).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    app::process::self_exec::SelfExec,
    identity::shown,
    lifecycle::{AwaitedHandoff, HandoffClient, HandoffServer, Listeners, Successor, Tasks},
};

/// How long it may take until this process can take over: the one before it waits 15 minutes.
const READY_WITHIN: Duration = Duration::from_secs(14 * 60);

/// From whom the listening sockets come, and to whom they go.
pub(super) struct Takeover {
    path: Option<PathBuf>,
    self_exec: SelfExec,
    client: Option<HandoffClient>,
    state: State,
    tasks: Tasks,
}

enum State {
    /// Nobody comes before this process or after it.
    Alone,
    /// The process before this one goes on until this one is ready.
    Waits { before: AwaitedHandoff, until: Instant },
    /// The process after this one can come.
    Serves { server: Arc<HandoffServer>, successor: mpsc::Receiver<Successor> },
}

/// What has become of the other process.
pub(super) enum Other {
    /// The one before this one has ended.
    Gone,
    /// The one after this one accepts.
    Accepts(Successor),
}

impl Takeover {
    /// Asks the process at `path` for its sockets, if there is one. Blocks, at most some seconds.
    ///
    /// # Errors
    /// If it does not give them.
    pub(super) fn find(
        path: Option<&Path>,
        self_exec: SelfExec,
    ) -> anyhow::Result<(Self, Arc<Listeners>)> {
        let from = |path: &Path| format!("take over from {}", shown(path));
        let find = |path| HandoffClient::find(path).with_context(|| from(path));
        let found = path.map(find).transpose()?.flatten();
        let (client, listeners) = match found {
            Some((client, sockets)) => (Some(client), Listeners::inheriting(sockets)),
            None => (None, Listeners::default()),
        };
        let (path, state) = (path.map(Path::to_owned), State::Alone);
        let tasks = Tasks::default();
        Ok((Self { path, self_exec, client, state, tasks }, Arc::new(listeners)))
    }

    /// From here on either process is waited for. Needs the runtime.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub(super) fn begin(&mut self, listeners: &Arc<Listeners>) -> anyhow::Result<()> {
        self.state = match self.client.take() {
            Some(client) => {
                let until = Instant::now() + READY_WITHIN;
                State::Waits { before: client.awaited()?, until }
            }
            None => self.serve(listeners)?,
        };
        Ok(())
    }

    fn serve(&self, listeners: &Arc<Listeners>) -> anyhow::Result<State> {
        let Some(path) = &self.path else { return Ok(State::Alone) };
        let server = HandoffServer::open(path);
        let server = server.with_context(|| format!("--takeover {}", shown(path)))?;
        server.offer_all_of(Arc::clone(listeners));
        let (server, (accepts, successor)) = (Arc::new(server), mpsc::channel(1));
        let waits = Arc::clone(&server);
        self.tasks.spawn(async move {
            let successor = waits.wait().await;
            let _ = accepts.send(successor).await;
        });
        Ok(State::Serves { server, successor })
    }

    /// Whether the process before this one still does all.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, State::Waits { .. })
    }

    /// Whether this process has become ready too late to take over.
    pub(super) fn is_late(&self) -> bool {
        matches!(self.state, State::Waits { until, .. } if Instant::now() > until)
    }

    /// Waits for news of the other process. Cancel safe.
    pub(super) async fn next(&mut self) -> Other {
        match &mut self.state {
            State::Waits { before, .. } => {
                before.gone().await;
                return Other::Gone;
            }
            State::Serves { successor, .. } => {
                if let Some(successor) = successor.recv().await {
                    return Other::Accepts(successor);
                }
            }
            State::Alone => {}
        }
        std::future::pending().await
    }

    /// Accepts in the place of the process before this one, which is told what this one `keeps`
    /// and has let go of the capture rules when this returns.
    ///
    /// # Errors
    /// The path cannot be listened on; the process before this one goes on then.
    pub(super) async fn take_over(
        &mut self,
        listeners: &Arc<Listeners>,
        keeps: &[String],
    ) -> anyhow::Result<()> {
        let serves = self.serve(listeners)?;
        listeners.accept();
        if let State::Waits { before, .. } = std::mem::replace(&mut self.state, serves) {
            before.take_over(keeps).await;
            tracing::info!("took over from the previous process, which is draining");
        }
        Ok(())
    }

    /// SIGUSR2: starts the process after this one.
    pub(super) fn start_successor(&self) {
        self.self_exec.start_again(self.path.is_some(), &self.tasks);
    }

    /// Waits for nobody any longer: a process that has this one's sockets takes over at once.
    /// Whether there is one.
    pub(super) async fn close(&mut self) -> bool {
        self.tasks.cut();
        self.tasks.ended().await;
        let state = std::mem::replace(&mut self.state, State::Alone);
        matches!(state, State::Serves { server, .. } if server.is_under_way())
    }
}
