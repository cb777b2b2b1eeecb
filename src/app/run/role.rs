//! A node in the loop that all processes have: see [`Role`].

use std::{sync::Arc, time::Duration};

use super::live::Live;
use crate::{
    app::{
        begun::Stop,
        frame::{Draining, Next, Other, Reloaded, Role, looks_in},
    },
    lifecycle::{ServiceManager, WatchedFile},
    observe::Telemetry,
    pods::{TRY_AGAIN_EVERY, manager::Changed},
    roles::node::Node,
};

/// How long capture rules and what is left may take after the connections.
const RELEASE_WITHIN: Duration = Duration::from_secs(15);

/// When pods that could not be attached are tried again.
const LOOKS_UNTIL_RETRY: u32 = looks_in(TRY_AGAIN_EVERY);

/// What a node waits for.
pub(super) enum News {
    /// The process before this one, or the one after it.
    Other(Other),
    /// A pod has been changed, or could not be.
    Changed(Changed),
    /// A pod has another namespace, or has lost it.
    Moved,
}

impl Role for Live {
    type News = News;

    fn watched(&mut self) -> Option<&mut WatchedFile> {
        Some(&mut self.watched)
    }

    async fn reload(&mut self, _asked: bool) -> Reloaded {
        Self::reload(self).await
    }

    async fn news(&mut self) -> News {
        let Self { takeover, pods, .. } = self;
        let manager = Arc::clone(&pods.manager);
        tokio::select! {
            other = takeover.next() => News::Other(other),
            changed = pods.next() => News::Changed(changed),
            () = manager.any_moved() => News::Moved,
        }
    }

    async fn heed(&mut self, news: News, manager: &ServiceManager) -> anyhow::Result<Next> {
        match news {
            News::Other(Other::Gone) => self.take_over().await?,
            News::Other(Other::Accepts(successor)) => {
                let pid = successor.pid;
                self.left = Some(self.hand_over(successor, manager).await);
                return Ok(Next::Stop(Stop::Succeeded(pid)));
            }
            News::Changed(changed) => self.changed(changed),
            News::Moved => self.start_pods(),
        }
        Ok(Next::Continue)
    }

    async fn prepare(&mut self) -> anyhow::Result<()> {
        match self.can_take_over()? {
            true => self.take_over().await,
            false => Ok(()),
        }
    }

    fn look(&mut self, looks: u32) {
        self.state.set_unprotected(self.pods.manager.unprotected());
        if looks.is_multiple_of(LOOKS_UNTIL_RETRY) && self.pods.failed().len() > 0 {
            self.try_pods_again();
        }
    }

    fn forget_unused(&self) {
        Self::forget_unused(self);
    }

    fn telemetry(&self) -> Option<&Telemetry> {
        Some(&self.node.telemetry)
    }

    fn start_successor(&mut self) {
        self.takeover.start_successor();
    }

    fn tells(&self) -> bool {
        !self.takeover.waits()
    }

    fn now(&self) -> (String, Option<String>) {
        let pods = self.pods.pods().len();
        (
            format!("proxying {} of {}", crate::identity::counted(pods, "pod"), self.trust_domain),
            self.state.waits_for(),
        )
    }

    fn is_settled(&self) -> bool {
        self.pods.is_settled()
    }

    fn fault(&self) -> impl Fn() -> Option<String> + use<> {
        || None
    }

    async fn stop(mut self, _stop: Stop) -> Draining {
        self.state.set_draining();
        let waits = self.takeover.waits();
        let handed_over = self.takeover.close().await;
        if handed_over {
            // Also where what the next process says and SIGTERM meet.
            self.node.listeners.hand_over(None);
        }
        let leave = self.left.take().unwrap_or_else(|| self.leaves(waits || handed_over));
        self.pods.manager.close();
        let (node, grace) = (Arc::clone(&self.node), self.grace);
        let hurry = self.pods.manager.hurry.clone();
        Draining {
            open: Some((node.telemetry.live.len(), grace)),
            limit: grace + RELEASE_WITHIN,
            status: Box::new(move || draining(&node)),
            cut: Box::new(move || {
                tracing::warn!("SIGINT while draining: closing connections now");
                hurry.cancel();
            }),
            ended: Box::pin(async move {
                // All of it: what a node has, its log among it, it has to the end.
                let mut node = self;
                // What is being started ends at once, and is stopped with the rest.
                node.pods.finish().await;
                node.pods.manager.stop_all(node.grace, &leave).await;
                node.tasks.cut();
                node.tasks.ended().await;
                0
            }),
        }
    }
}

/// What a node that stops still does, for people.
fn draining(node: &Node) -> String {
    format!("draining: {}", crate::identity::counted(node.telemetry.live.len(), "connection"))
}
