//! What a node carries, as its file says now: a reload changes it.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    admin::State,
    app::{
        frame::{Reloaded, Takeover},
        needs::is_of_process,
        workload_api::Served,
    },
    config::{self, CaConfig, Checked, Fault},
    lifecycle::{ServiceManager, Successor, Tasks, WatchedFile},
    mesh::{AppHop, Store, Workload},
    observe::metrics::KEPT,
    pods::{
        capture::Capture,
        controller::PodController,
        manager::{Changed, Failed, Leave},
        source::file::FileSource,
    },
    roles::node::{Node, recheck},
    spiffe_api::federation::Federation,
};

/// As many workloads as one message each is spent on.
const MOST_NAMED: usize = 8;

/// What a reload changes.
pub(super) struct Live {
    pub(super) file: PathBuf,
    pub(super) watched: WatchedFile,
    pub(super) trust_domain: crate::identity::TrustDomain,
    pub(super) ca: CaConfig,
    /// What was said of the file when it was last read.
    pub(super) warnings: Vec<Fault>,
    /// Turns the file's pods into events …
    pub(super) source: FileSource,
    /// … for this.
    pub(super) pods: PodController,
    pub(super) capture: Capture,
    pub(super) grace: Duration,
    /// As they were at the start.
    pub(super) settings: config::Settings,
    pub(super) federation: config::FederationConfig,
    pub(super) federated: Arc<Federation>,
    pub(super) workload_api: Served,
    /// Whether the sandbox keeps `/proc` of other processes from this one.
    pub(super) alone: bool,
    /// What the file says of the mesh; [`Node::mesh`] is a view of it.
    pub(super) store: Store,
    pub(super) node: Arc<Node>,
    pub(super) state: Arc<State>,
    /// Those that accept callers of endpoints.
    pub(super) endpoints: Tasks,
    pub(super) takeover: Takeover,
    /// What a stop leaves to the process after this one, once that has taken over.
    pub(super) left: Option<Leave>,
    /// What runs beside the pods.
    pub(super) tasks: Tasks,
}

impl Live {
    /// Takes the pods of this node that a file names.
    pub(super) fn take_pods(&mut self, local: &[Arc<Workload>]) {
        for event in self.source.read(local) {
            // A file needs no answer: what fails is logged, and readiness names it.
            self.pods.apply(event);
        }
    }

    /// Begins to attach what is announced.
    pub(super) fn start_pods(&mut self) {
        self.pods.reconcile(self.capture, self.grace);
        self.tell_state();
    }

    pub(super) fn try_pods_again(&mut self) {
        self.pods.try_again(self.capture, self.grace);
        self.tell_state();
    }

    pub(super) fn changed(&mut self, changed: Changed) {
        match self.pods.changed(changed) {
            true => self.start_pods(),
            false => self.tell_state(),
        }
    }

    /// Tells others which pods are carried, and which are not.
    fn tell_state(&self) {
        let (absent, pending): (Vec<_>, Vec<_>) = self.pods.failed().partition(|f| f.absent);
        self.state.set_pending(pending.into_iter().map(|failed| failed.why.clone()).collect());
        self.state.set_absent(absent.into_iter().map(Failed::with_meant).collect());
        if self.pods.is_settled() {
            self.state.set_loaded();
            if !self.takeover.waits() {
                self.node.listeners.close_unused();
            }
        }
        self.workload_api.register(&self.pods.manager);
    }

    /// Whether this process is ready to take the place of the one before it.
    ///
    /// # Errors
    /// Names what it has waited for too long.
    pub(super) fn can_take_over(&self) -> anyhow::Result<bool> {
        if !self.takeover.waits() {
            return Ok(false);
        }
        match self.state.waits_for() {
            None => Ok(self.pods.is_settled()),
            Some(why) if self.takeover.is_late() => {
                anyhow::bail!("not ready in time, so the previous process continues: {why}")
            }
            Some(_) => Ok(false),
        }
    }

    /// Takes the place of the process before this one, and carries what that one did not.
    ///
    /// # Errors
    /// As [`Takeover::serve`].
    pub(super) async fn take_over(&mut self) -> anyhow::Result<()> {
        let mut keeps = self.node.listeners.endpoints();
        if self.capture != Capture::None {
            keeps.extend(self.pods.names());
        }
        self.takeover.serve(&self.node.listeners)?;
        self.node.listeners.accept();
        if let Some(previous) = self.takeover.tell(&keeps).await {
            previous.let_go().await;
        }
        self.start_pods();
        Ok(())
    }

    /// What a stop leaves of the capture rules; `another` if they are the process's before this
    /// one, or the one's after it.
    pub(super) fn leaves(&self, another: bool) -> Leave {
        match self.capture {
            Capture::Nft { remove_on_stop: true, .. } if !another => Leave::None,
            _ => Leave::All,
        }
    }

    /// Lets the process after this one do all from here on; what this one leaves to it.
    pub(super) async fn hand_over(
        &mut self,
        successor: Successor,
        manager: &ServiceManager,
    ) -> Leave {
        self.node.listeners.hand_over(successor.keeps.as_deref());
        self.endpoints.cut();
        let leave = successor.keeps.map_or(Leave::All, Leave::Of);
        self.pods.hand_over(&leave).await;
        self.endpoints.ended().await;
        successor.pid.into_iter().for_each(|pid| manager.succeeded_by(pid));
        leave
    }

    /// Takes the file if it is whole and right, else keeps what was.
    pub(super) async fn reload(&mut self) -> Reloaded {
        let file = self.file.clone();
        let checked = match self.watched.read_beside(move || config::load(&file)).await {
            Ok(Some(Ok(checked))) => checked,
            Ok(Some(Err(error))) => return self.rejected(error.to_string()),
            Ok(None) => return Reloaded::Changing,
            Err(late) => return self.rejected(late.to_string()),
        };
        if checked.mesh.trust_domain != self.trust_domain || checked.ca != self.ca {
            let key = if checked.ca == self.ca { "trustDomain" } else { "ca" };
            let place = checked.lines.place(&crate::identity::shown(&self.file), key);
            return self.rejected(format!("{place} cannot change while adit runs; restart adit"));
        }
        let after_restart = self.after_restart(&checked);
        self.take_pods(&checked.local_workloads());
        self.capture = checked.capture;
        self.workload_api.take(checked.workload_api);
        self.grace = checked.settings.drain;
        self.federated.apply(&checked.federation.trust_domains);
        checked.mesh.apply(&mut self.store);
        let changes = self.store.take_changes();
        self.node.mesh.store(Arc::new(self.store.view()));
        let closed = recheck(&self.node, &changes.rules());
        self.start_pods();
        tracing::info!(
            file = %crate::identity::shown(&self.file), connections_closed = closed,
            "configuration reloaded"
        );
        self.warn_of(checked.warnings);
        self.accepted();
        Reloaded::Applied { after_restart }
    }

    /// Says what is legal in the file and probably not meant, if it has not been said already.
    pub(super) fn warn_of(&mut self, warnings: Vec<Fault>) {
        let file = crate::identity::shown(&self.file);
        let is_same = |a: &Fault, b: &Fault| (&a.key, &a.message) == (&b.key, &b.message);
        let is_new = |w: &&Fault| !self.warnings.iter().any(|before| is_same(before, w));
        warnings.iter().filter(is_new).for_each(|w| tracing::warn!(%file, "{w}"));
        self.warnings = warnings;
    }

    /// The settings that differ in `now` and take effect only after a restart, in the words of the
    /// log.
    fn after_restart(&self, now: &Checked) -> Vec<String> {
        let file = crate::identity::shown(&self.file);
        let settings = self.settings.restart_keys(&now.settings);
        let federation = self.federation.restart_keys(&now.federation);
        let workload_api = self.workload_api.restart_keys(now.workload_api.as_ref());
        let keys = settings.into_iter().chain(federation).chain(workload_api);
        let mut all: Vec<String> = keys.map(|key| now.lines.after_restart(&file, key)).collect();
        let local = now.local_workloads();
        let out_of_reach =
            |pod: &&Arc<Workload>| self.alone && pod.netns().is_some_and(is_of_process);
        if let Some(pod) = local.iter().find(out_of_reach) {
            tracing::warn!(
                workload = %pod.uid,
                "a pod is named by a process ID: that takes effect after a restart, as the sandbox \
                 hides /proc of other processes"
            );
        }
        let mut hops = local.iter().filter(|now| self.keeps_its_hop(now));
        for workload in hops.by_ref().take(MOST_NAMED) {
            let place = now.places.iter().find(|(uid, _)| *uid == workload.uid);
            let Some((_, Fault { key, line, .. })) = place else { continue };
            all.push(format!("{key}.appHop ({file}:{line}): takes effect after a restart"));
        }
        match hops.count() {
            0 => {}
            more => all.push(format!("appHop of {more} more: takes effect after a restart")),
        }
        all
    }

    /// A pod's way to its application stays as it was started.
    fn keeps_its_hop(&self, now: &Workload) -> bool {
        match self.pods.pods().get(&now.uid) {
            Some(then) => then.app_hop != now.app_hop(),
            None => now.app_hop() == AppHop::Sockmap && self.node.sockmap.is_none(),
        }
    }

    /// Traffic series of workloads that have left the mesh.
    pub(super) fn forget_unused(&self) {
        let mesh = self.node.mesh.load();
        let names = mesh.workloads().map(|w| (w.name(), &**w.namespace()));
        let there: HashSet<(&str, &str)> = names.collect();
        let metrics = &self.node.telemetry.metrics;
        metrics
            .connections
            .forget_unused(KEPT, |name, namespace| there.contains(&(name, namespace)));
    }

    pub(super) fn accepted(&self) {
        let metrics = &self.node.telemetry.metrics;
        metrics.config.loads.with_label_values(&["accepted"]).inc();
        self.state.file.taken();
        metrics.config.loaded_now();
    }

    fn rejected(&self, error: String) -> Reloaded {
        self.node.telemetry.metrics.config.loads.with_label_values(&["rejected"]).inc();
        self.state.file.refused(&error);
        Reloaded::Refused { file: crate::identity::shown(&self.file), error }
    }
}
