//! The services of one process, exchanged while they run: what stays the same is not touched, what
//! is new is opened before anything old stops, and what cannot be opened changes nothing.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Mutex};

use super::{
    access_files::AccessFiles,
    frame::{HandedOver, LOOK_EVERY},
};
use crate::{
    config::{load_bans, load_policies},
    credentials::store::{CredentialStore, CredentialsConfig},
    identity::shown_all,
    lifecycle::{Tasks, WatchedFile},
    net::{Listening, Sockets},
    observe::{Telemetry, metrics::KEPT},
    policy::AccessControl,
    roles::standalone::{Service, ServiceConfig, answer_challenges, first_acme_certificate},
};

/// A service that takes connections.
pub(super) struct Running {
    pub(super) service: Arc<Service>,
    listening: Arc<Listening>,
    /// Renews its credentials, and takes its policies and bans when they change.
    following: Following,
    access: Arc<Mutex<AccessFiles>>,
}

/// What a service goes by, kept up to date until this is dropped.
struct Following(Tasks);

impl Following {
    fn of(store: Arc<CredentialStore>) -> Self {
        let tasks = Tasks::default();
        tasks.spawn(async move { store.follow(answer_challenges).await });
        Self(tasks)
    }

    /// Looks at these files too.
    fn look_at(&self, access: Arc<Mutex<AccessFiles>>) {
        self.0.spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                access.lock().await.look().await;
            }
        });
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// All services.
pub(super) struct ServiceRegistry {
    telemetry: Telemetry,
    workers: Vec<Handle>,
    sockets: Sockets,
    running: Vec<Running>,
    /// Services that take no more connections and still have some.
    leaving: Vec<Arc<Service>>,
    draining: Tasks,
    /// How many connections of those did not finish in time.
    cut: Arc<AtomicUsize>,
}

/// Why services cannot be opened.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) why: String,
    /// What a configuration names is at fault, as `adit check` would find it.
    pub(super) files: bool,
}

impl NotOpened {
    fn of(config: &ServiceConfig, why: &str, files: bool) -> Self {
        Self { why: format!("service {}: {why}", config.name), files }
    }
}

/// What an exchange has done, by name.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl ServiceRegistry {
    pub(super) fn new(telemetry: Telemetry, workers: Vec<Handle>, sockets: Sockets) -> Self {
        Self {
            telemetry,
            workers,
            sockets,
            running: Vec::new(),
            leaving: Vec::new(),
            draining: Tasks::default(),
            cut: Arc::default(),
        }
    }

    /// Exchanges the services for these. Who goes has `grace` to end its connections.
    ///
    /// # Errors
    /// If one of them cannot be opened: then nothing has changed.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it has changed nothing.
    pub(super) async fn apply(
        &mut self,
        configs: Vec<ServiceConfig>,
        grace: Duration,
    ) -> Result<Changes, NotOpened> {
        let mut opened: Vec<Running> = Vec::new();
        let mut same: Vec<ServiceConfig> = Vec::new();
        for config in configs {
            match self.running.iter().any(|running| running.service.config == config) {
                true => same.push(config),
                false => opened.push(self.open(config).await?),
            }
        }
        let mut failed = None;
        for (n, new) in opened.iter().enumerate() {
            // Old and new take from the same queue until the old stops.
            if let Err(error) = new.service.start(&new.listening, &self.workers).await {
                let why = NotOpened::of(&new.service.config, &error.to_string(), false);
                failed = Some((n, why));
                break;
            }
        }
        if let Some((n, why)) = failed {
            // Some may have taken connections by now.
            opened.truncate(n + 1);
            opened.into_iter().for_each(|begun| self.let_go(begun, grace));
            return Err(why);
        }
        Ok(self.exchange(opened, &same, grace))
    }

    /// From here on nothing can fail.
    fn exchange(
        &mut self,
        opened: Vec<Running>,
        same: &[ServiceConfig],
        grace: Duration,
    ) -> Changes {
        let mut changes = Changes::default();
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.running)
            .into_iter()
            .partition(|old| same.contains(&old.service.config));
        for new in &opened {
            new.announce();
            let name = new.service.config.name.clone();
            let before = gone.iter().any(|old| old.service.config.name == name);
            if before { changes.changed.push(name) } else { changes.added.push(name) }
        }
        self.running = kept;
        self.running.extend(opened);
        let wanted: HashSet<(String, String)> =
            self.running.iter().flat_map(Running::targets).collect();
        for old in gone {
            let name = old.service.config.name.clone();
            if !changes.changed.contains(&name) {
                changes.removed.push(name);
            }
            for (service, target) in old.targets().filter(|target| !wanted.contains(target)) {
                self.telemetry.metrics.targets.forget(&service, &target);
            }
            old.service.replaced_by_one_of(self.running.iter().map(|new| &new.service));
            self.let_go(old, grace);
        }
        self.leaving.retain(|service| service.open() > 0);
        changes
    }

    /// Takes no more connections of a service, and drains it. Changes of its roots and access rules
    /// apply until its last connection has ended.
    fn let_go(&mut self, old: Running, grace: Duration) {
        // Its listener is closed now, if no other service has taken it over.
        let Running { service: old, following, .. } = old;
        old.stop_accepting();
        following.0.spawn(Arc::clone(&old).follow_successor());
        self.leaving.push(Arc::clone(&old));
        let counted = Arc::clone(&self.cut);
        self.draining.spawn(async move {
            let _following = following;
            let cut = old.drain(grace).await;
            counted.fetch_add(cut, Relaxed);
            if cut > 0 {
                let service = old.config.name.as_str();
                let closed = crate::identity::counted(cut, "connection");
                tracing::warn!(
                    service,
                    connections = cut,
                    "closed {closed} that did not finish in time"
                );
            }
        });
    }

    async fn open(&mut self, config: ServiceConfig) -> Result<Running, NotOpened> {
        let named = |error: String| NotOpened::of(&config, &error, false);
        let files = matches!(&config.credentials, CredentialsConfig::Files { .. });
        let of_files = |error: String| NotOpened::of(&config, &error, files);
        let held = self.running.iter().find(|old| old.service.config.listen == config.listen);
        let listening = match held {
            Some(old) => Arc::clone(&old.listening),
            None => {
                Arc::new(self.sockets.open(&config.listen, "`listen` or --listen").map_err(named)?)
            }
        };
        if let Some(acme) = config.credentials.acme() {
            first_acme_certificate(acme, &listening, config.proxy_in).await.map_err(named)?;
        }
        let store = CredentialStore::open(config.credentials.clone()).await.map_err(of_files)?;
        // Before they are read: an edit in between is then seen as one.
        let policies = WatchedFile::of_all(config.access.files().cloned().collect());
        let access = AccessControl::open(config.admits(), load_policies, load_bans);
        let access = access.map_err(|e| NotOpened::of(&config, &e, true))?;
        let telemetry = self.telemetry.clone();
        let service = Service::new(config.clone(), access, Arc::clone(&store), telemetry);
        let service = service.map_err(of_files)?;
        let (following, has_files) = (Following::of(store), !policies.paths().is_empty());
        let access = AccessFiles { service: Arc::clone(&service), files: policies };
        let access = Arc::new(Mutex::new(access));
        if has_files {
            following.look_at(Arc::clone(&access));
        }
        Ok(Running { service, listening, following, access })
    }

    /// Reads certificates, keys, roots and policies again; what is wrong changes nothing.
    pub(super) async fn reload(&mut self) {
        for running in &self.running {
            let policies = running.access.lock().await.reread().await;
            let policies =
                policies.unwrap_or_else(|| Err("the file was written while it was read".into()));
            let name = running.service.config.name.as_str();
            match running.service.store.reload().await.and(policies) {
                Ok(()) => tracing::info!(service = name, files = running.files(), "reloaded"),
                Err(error) => tracing::error!(
                    service = name,
                    error,
                    "reload rejected; keeping the previous files"
                ),
            }
        }
    }

    /// How many connections are open.
    pub(super) fn connections(&self) -> usize {
        let running = self.running.iter().map(|running| running.service.open());
        running.chain(self.leaving.iter().map(|service| service.open())).sum()
    }

    /// Series of services that are gone, and of their targets.
    pub(super) fn forget_unused(&self) {
        let metrics = &self.telemetry.metrics;
        let there =
            |name: &str| self.running.iter().any(|running| running.service.config.name == name);
        metrics.connections.forget_unused(KEPT, |name, _| there(name));
        metrics.listeners.retain(there);
        let targets: HashSet<(String, String)> =
            self.running.iter().flat_map(Running::targets).collect();
        metrics
            .targets
            .retain(|service, target| targets.contains(&(service.to_owned(), target.to_owned())));
    }

    /// The services that take connections.
    pub(super) fn services(&self) -> Vec<Arc<Service>> {
        self.running.iter().map(|running| Arc::clone(&running.service)).collect()
    }

    /// Where they listen.
    pub(super) fn listeners(&self) -> impl Iterator<Item = (String, &Listening)> {
        self.running.iter().map(|r| (r.service.config.listen.to_string(), &*r.listening))
    }

    /// Closes the sockets that were passed to this process and that no service has asked for.
    pub(super) fn drop_unused_sockets(&mut self) {
        for name in std::mem::take(&mut self.sockets).unused() {
            tracing::warn!(
                socket = name,
                "socket closed: systemd or the previous process passed it, and no service listens \
                 on it"
            );
        }
    }

    /// Takes no more connections, and closes the listeners: who calls now is refused, or comes to
    /// a successor, whose the paths of Unix sockets are that were `handed_over`. The services are
    /// returned, with those that an edit had taken away and that have connections left.
    pub(super) fn stop_accepting(mut self, handed_over: &HandedOver) -> Draining {
        let mut services = std::mem::take(&mut self.leaving);
        let mut following = Vec::new();
        for running in std::mem::take(&mut self.running) {
            running.service.stop_accepting();
            if handed_over.has(&running.service.config.listen.to_string()) {
                running.listening.keep_path();
            }
            running.following.0.spawn(Arc::clone(&running.service).follow_successor());
            following.push(running.following);
            services.push(running.service);
        }
        // Those that were cut before are not of this end.
        self.cut.store(0, Relaxed);
        let (leaving, cut) = (std::mem::take(&mut self.draining), Arc::clone(&self.cut));
        Draining { services, _following: following, leaving, cut }
    }
}

/// Services that take no more connections, at the end of the process. Changes of their roots and
/// access rules still apply.
pub(super) struct Draining {
    /// With those that an edit has taken away before.
    pub(super) services: Vec<Arc<Service>>,
    _following: Vec<Following>,
    leaving: Tasks,
    cut: Arc<AtomicUsize>,
}

impl Draining {
    /// How many connections were cut since because an edit had left their service no more time, once
    /// all such services have ended.
    pub(super) async fn cut_of_leaving(&self) -> usize {
        self.leaving.ended().await;
        self.cut.load(Relaxed)
    }
}

impl Running {
    /// The files that a reload reads, as a log shows them.
    fn files(&self) -> String {
        let config = &self.service.config;
        let mut files = config.credentials.files();
        files.extend(config.access.files().cloned());
        shown_all(&files)
    }

    fn targets(&self) -> impl Iterator<Item = (String, String)> + use<'_> {
        let config = &self.service.config;
        config.targets.iter().map(|target| (config.name.clone(), target.to_string()))
    }

    fn announce(&self) {
        let config = &self.service.config;
        let targets: Vec<String> = config.targets.iter().map(ToString::to_string).collect();
        // Port 0 is whichever was free.
        let bound = self.listening.local_addrs();
        let bound: Vec<String> = bound.iter().map(ToString::to_string).collect();
        tracing::info!(
            service = config.name,
            role = config.role.as_str(),
            listen = if bound.is_empty() { config.listen.to_string() } else { bound.join(", ") },
            targets = targets.join(", "),
            certificate = self.service.store.current().source,
            "listening"
        );
        if let Some(warning) = config.warning() {
            tracing::warn!(service = config.name, "{warning}");
        }
    }
}
