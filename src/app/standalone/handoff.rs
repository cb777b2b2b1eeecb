//! The process after this one (`--takeover`): it gets the listening sockets, and says when it
//! accepts.

use std::{io, path::Path, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    lifecycle::{HandoffServer, InheritedSockets, Successor, Tasks},
    net::Listening,
};

/// Where a successor finds us, once we accept.
#[derive(Default)]
pub(super) struct Handoff {
    open: Option<(Arc<HandoffServer>, mpsc::Receiver<Successor>)>,
    tasks: Tasks,
}

impl Handoff {
    /// Waits at this path for whoever comes. One wait throughout: nothing that this process does
    /// beside it disturbs a process that takes over.
    ///
    /// # Errors
    /// The path cannot be listened on.
    pub(super) fn open(&mut self, path: &Path) -> io::Result<()> {
        let server = Arc::new(HandoffServer::open(path)?);
        let (accepts, successor) = mpsc::channel(1);
        let waits = Arc::clone(&server);
        self.tasks.spawn(async move {
            let successor = waits.wait().await;
            let _ = accepts.send(successor).await;
        });
        self.open = Some((server, successor));
        Ok(())
    }

    /// Whether a successor would find us.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Lets a successor have these sockets.
    pub(super) fn offer(&self, all: impl Iterator<Item = io::Result<InheritedSockets>>) {
        let Some((server, _)) = &self.open else { return };
        match all.collect::<io::Result<Vec<_>>>() {
            Ok(all) => server.offer(all.into_iter().flatten().collect()),
            Err(error) => tracing::error!(%error, "cannot offer the listeners to a successor"),
        }
    }

    /// Waits until another process has taken over. Cancel safe.
    pub(super) async fn succeeded(&mut self) -> Successor {
        if let Some((_, successor)) = &mut self.open
            && let Some(successor) = successor.recv().await
        {
            return successor;
        }
        std::future::pending().await
    }

    /// Gives nothing to anybody from here on: whether somebody has our sockets by now, and so takes
    /// over, whether it has said so or not.
    pub(super) async fn close(&self) -> bool {
        self.tasks.cut();
        self.tasks.ended().await;
        self.open.as_ref().is_some_and(|(server, _)| server.is_under_way())
    }
}

/// The sockets that listen on an address, once more.
pub(super) fn copied(address: &str, listening: &Listening) -> io::Result<InheritedSockets> {
    let copies = listening.duplicates()?.into_iter();
    Ok(copies.map(|copy| (address.to_owned(), copy)).collect())
}
