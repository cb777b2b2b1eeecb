//! An ambient node in the loop that all processes have: see [`Role`].

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::own::OwnPod;
use crate::{
    admin::{PodView, StartTask, State},
    app::{
        begun::Stop,
        frame::{Draining, Next, Reloaded, Role, looks_in},
    },
    config::environment::Environment,
    credentials::CrlFileStatus,
    lifecycle::{ServiceManager, Tasks, WatchedFile, next_change_if_any},
    mesh::source::xds::XdsStatus,
    observe::{Telemetry, metrics::KEPT},
    pods::{
        TRY_AGAIN_EVERY,
        capture::Capture,
        controller::PodController,
        manager::{Changed, Leave},
        source::{Announcement, Member, PodFacts, zds::ZdsState},
    },
    roles::node::Node,
};

/// How long what is left of a stopped pod may take after its connections.
const RELEASE_WITHIN: std::time::Duration = std::time::Duration::from_secs(3);

/// When pods that could not be attached are tried again.
const LOOKS_UNTIL_RETRY: u32 = looks_in(TRY_AGAIN_EVERY);

/// An ambient node that runs.
pub(super) struct Ambient {
    pub(super) environment: Arc<Environment>,
    pub(super) node: Arc<Node>,
    pub(super) state: Arc<State>,
    /// How the mesh is followed.
    pub(super) control_plane: watch::Receiver<XdsStatus>,
    /// How the file of CRLs is, where there is one.
    pub(super) crls: Option<watch::Receiver<CrlFileStatus>>,
    /// How the CNI agent is.
    pub(super) agent: watch::Receiver<ZdsState>,
    /// What it says.
    pub(super) announced: mpsc::Receiver<Announcement>,
    /// What asks it.
    pub(super) cni: Tasks,
    pub(super) pods: PodController,
    /// This process as a pod.
    pub(super) own: Option<Arc<OwnPod>>,
    /// What runs beside the pods.
    pub(super) tasks: Tasks,
}

/// What a node waits for.
pub(super) enum News {
    Announced(Announcement),
    /// A pod has been changed, or could not be.
    Changed(Changed),
    /// A pod is to begin anew.
    Moved,
    /// The control plane or the CNI agent has come or gone.
    State,
    /// Somebody has asked the process to end.
    Quit,
}

impl Ambient {
    /// Begins to attach what is announced, and to detach what is not.
    fn reconcile(&mut self) {
        self.pods.reconcile(Capture::None, self.environment.drain);
        self.tell_state();
    }

    /// A pod as the dump has it.
    fn view(&self, facts: &PodFacts) -> Option<PodView> {
        let Member::Sought { service_account } = &facts.member else { return None };
        Some(PodView {
            uid: facts.pod_uid.as_deref().unwrap_or(&facts.uid).to_owned(),
            key: Arc::clone(&facts.uid),
            name: facts.name.to_string(),
            namespace: facts.namespace.to_string(),
            service_account: service_account.to_string(),
            up: self.pods.manager.has_attached(facts, None),
        })
    }

    /// Tells readiness what is waited for: pods that could not be attached, too.
    fn tell_state(&mut self) {
        let failed = self.pods.failed();
        let count = i64::try_from(failed.len()).unwrap_or(i64::MAX);
        self.node.telemetry.metrics.pods.pending.set(count);
        let pending: Vec<_> = failed.map(|failed| failed.why.clone()).collect();
        self.state.set_pods(self.pods.pods().values().filter_map(|pod| self.view(pod)).collect());
        match self.waits_for_crls() {
            Some(why) => self.state.set_waiting(StartTask::Proxy, &why),
            None => self.state.set_done(StartTask::Proxy),
        }
        let mesh = self.control_plane.borrow_and_update();
        match (mesh.is_synced, &mesh.error) {
            (true, _) => self.state.set_done(StartTask::StateManager),
            (false, error) => {
                let server = self.environment.xds.as_ref().map_or("", |xds| &xds.address);
                let why = error.as_deref().unwrap_or("the mesh is not known yet");
                self.state.set_waiting(StartTask::StateManager, &format!("{server}: {why}"));
            }
        }
        let why = match (mesh.is_synced, self.agent.borrow_and_update().waits_for()) {
            (false, _) => {
                Some("adit asks istio-cni for the pods once the mesh is known".to_owned())
            }
            (true, Some(why)) => Some(why),
            (true, None) => (!pending.is_empty()).then(|| pending.join("; ")),
        };
        match why {
            Some(why) => self.state.set_waiting(StartTask::WorkloadProxyManager, &why),
            None => self.state.set_done(StartTask::WorkloadProxyManager),
        }
    }

    /// Why pods are not attached yet: `CRL_PATH` has not been read, and without its CRLs no peer is
    /// trusted. Later errors in it only set the metric `adit_crl_file_faults`.
    fn waits_for_crls(&mut self) -> Option<String> {
        let crls = self.crls.as_mut()?.borrow_and_update();
        let faults = i64::from(crls.error.is_some());
        self.node.telemetry.metrics.trust.crl_file_faults.set(faults);
        let unread = || "CRL_PATH has not been read yet".to_owned();
        crls.in_force.is_none().then(|| crls.error.clone().unwrap_or_else(unread))
    }
}

impl Role for Ambient {
    type News = News;

    fn watched(&mut self) -> Option<&mut WatchedFile> {
        None
    }

    async fn reload(&mut self, _asked: bool) -> Reloaded {
        Reloaded::Unchanged
    }

    async fn news(&mut self) -> News {
        let Self { pods, announced, control_plane, agent, crls, state, .. } = self;
        let manager = Arc::clone(&pods.manager);
        tokio::select! {
            Some(announcement) = announced.recv() => News::Announced(announcement),
            changed = pods.next() => News::Changed(changed),
            () = manager.any_moved() => News::Moved,
            Ok(()) = control_plane.changed() => News::State,
            Ok(()) = agent.changed() => News::State,
            () = next_change_if_any(crls.as_mut()) => News::State,
            () = state.asked_to_stop() => News::Quit,
        }
    }

    async fn heed(&mut self, news: News, _manager: &ServiceManager) -> anyhow::Result<Next> {
        match news {
            News::Announced(announcement) => {
                self.pods.hear(announcement);
                self.reconcile();
            }
            News::Changed(changed) => match self.pods.changed(changed) {
                true => self.reconcile(),
                false => self.tell_state(),
            },
            News::Moved => self.reconcile(),
            News::State => self.tell_state(),
            News::Quit => return Ok(Next::Stop(Stop::Quit)),
        }
        Ok(Next::Continue)
    }

    async fn prepare(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn look(&mut self, looks: u32) {
        let unprotected = [self.pods.manager.unprotected(), self.pods.manager.refuted()].concat();
        self.state.set_unprotected(unprotected);
        if looks.is_multiple_of(LOOKS_UNTIL_RETRY) && self.pods.failed().len() > 0 {
            self.pods.try_again(Capture::None, self.environment.drain);
            self.tell_state();
        }
    }

    fn forget_unused(&self) {
        let mesh = self.node.mesh.load();
        let there: std::collections::HashSet<(&str, &str)> =
            mesh.workloads().map(|w| (w.name(), &**w.namespace())).collect();
        let connections = &self.node.telemetry.metrics.connections;
        connections.forget_unused(KEPT, |name, namespace| there.contains(&(name, namespace)));
    }

    fn telemetry(&self) -> Option<&Telemetry> {
        Some(&self.node.telemetry)
    }

    fn start_successor(&mut self) {
        tracing::warn!("SIGUSR2 ignored: a DaemonSet starts the next process itself");
    }

    fn now(&self) -> (String, Option<String>) {
        let pods = self.pods.pods().len();
        let pods = crate::identity::counted(pods, "pod");
        (format!("proxying {pods} of this node"), self.state.waits_for())
    }

    fn is_settled(&self) -> bool {
        self.pods.is_settled()
    }

    fn fault(&self) -> impl Fn() -> Option<String> + use<> {
        || None
    }

    async fn stop(self, _stop: Stop) -> Draining {
        self.state.set_draining();
        // Pods that come or leave from here on are the next process's.
        self.pods.manager.close();
        self.cni.cut();
        let (node, grace) = (Arc::clone(&self.node), self.environment.drain);
        let hurry = self.pods.manager.hurry.clone();
        Draining {
            open: Some((node.telemetry.live.len(), grace)),
            limit: grace + RELEASE_WITHIN,
            status: Box::new(move || {
                let open = crate::identity::counted(node.telemetry.live.len(), "connection");
                format!("draining: {open}")
            }),
            cut: Box::new(move || {
                tracing::warn!("SIGINT while draining: closing connections now");
                hurry.cancel();
            }),
            ended: Box::pin(async move {
                let mut ambient = self;
                ambient.pods.finish().await;
                ambient.pods.manager.stop_all(grace, &Leave::All).await;
                if let Some(own) = &ambient.own {
                    own.stop().await;
                }
                ambient.tasks.cut();
                ambient.tasks.ended().await;
                0
            }),
        }
    }
}
