//! Keeps a stream to the control plane: connects, waits, connects again, for ever. What a response
//! changes is decided in [`super::delta_ads`] (pure); what it means to the mesh, by the owner of the
//! store, who is handed one [`Push`] at a time.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tonic::{Code, Status};

use super::{
    absent::Absent,
    config::XdsConfig,
    connection::{Stream, connect, open},
    delta_ads::{DeltaAds, Received},
    ended::{Ended, silent, termination},
    message::{Answer, Delta, LeftOut},
    nack::{RejectedResource, short},
    status::XdsStatus,
    type_url::TypeUrl,
    waiting::{Demand, Waiting},
};
use crate::{
    credentials::grpc_status::said,
    lifecycle::Tasks,
    observe::metrics::{Metrics, Termination},
    rpc::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};

/// How long a new stream may take until it has answered for each type.
const FIRST_RESPONSES: Duration = Duration::from_secs(30);
/// How long a request may wait to be sent.
const SEND: Duration = Duration::from_secs(30);
/// A stream that lasted this long was a good one: the next attempt is made at once.
const LIVED: Duration = Duration::from_secs(10);
/// The first wait, and the longest before its jitter, which doubles it at most.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(7500);
/// How long a connection waits for a key that it asks for.
const DEMAND: Duration = Duration::from_secs(5);
/// How many connections may wait to ask.
const DEMANDS: usize = 1024;
/// A response of so many bytes has a buffer that is worth giving back.
const LARGE: u64 = 1 << 20;
/// How many resources of one response the log names.
const MOST_LOGGED: usize = 20;
/// After how long the same trouble is told again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A control plane that is followed.
#[derive(Clone, Debug)]
pub struct Xds {
    demands: Option<mpsc::Sender<Demand>>,
    status: watch::Receiver<XdsStatus>,
    absent: Arc<Absent>,
}

/// What the owner of the store is to apply, and to answer when it has. Nothing else comes before.
#[derive(Debug)]
pub struct Push {
    /// What changes.
    pub delta: Delta,
    /// Hears of each resource that cannot be taken; the last good version of it stays in force.
    pub applied: oneshot::Sender<Vec<RejectedResource>>,
}

impl Xds {
    /// Follows it until `tasks` are cut, or the receiver of pushes is dropped. Needs a running
    /// runtime, the one of the control thread.
    #[must_use]
    pub fn follow(
        config: XdsConfig,
        metrics: Arc<Metrics>,
        tasks: &Tasks,
    ) -> (Self, mpsc::Receiver<Push>) {
        let (pushes, to_apply) = mpsc::channel(1);
        let (demands, asked) = mpsc::channel(DEMANDS);
        let (say, status) = watch::channel(XdsStatus::default());
        let ads = DeltaAds::new(&config.node, config.on_demand);
        let demands = config.on_demand.then_some(demands);
        let absent = Arc::<Absent>::default();
        let driver = Driver {
            config,
            metrics,
            ads,
            pushes,
            demands: asked,
            waiting: Waiting::default(),
            absent: Arc::clone(&absent),
            status: say,
            told: None,
            part: None,
        };
        tasks.spawn(driver.run());
        (Self { demands, status, absent }, to_apply)
    }

    /// How it is followed, from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<XdsStatus> {
        self.status.clone()
    }

    /// Asks for a workload or service by `network/ip`, uid or `namespace/hostname`, and waits until
    /// what came of it is applied, for at most 5 s; `None` if nothing came of it. It was not known
    /// at `looked` or later: what came meanwhile is not asked for again. Where the whole mesh is
    /// followed, what is not known does not exist.
    ///
    /// # Cancel safety
    /// Dropping the future forgets who waits; others that wait for the key go on.
    pub async fn demand(&self, key: &str, looked: Instant) -> Option<Answer> {
        let Some(demands) = &self.demands else { return Some(Answer::Absent) };
        let (answer, answered) = oneshot::channel();
        let demand = Demand { key: key.into(), looked, answer };
        let asked = async {
            demands.send(demand).await.ok()?;
            answered.await.ok()
        };
        timeout(DEMAND, asked).await.ok().flatten()
    }

    /// Whether the control plane has said a moment ago that the key names nothing.
    #[must_use]
    pub fn is_absent(&self, key: &str) -> bool {
        self.absent.has(key, Instant::now().into_std())
    }

    /// What came of a key is no help to whoever looks: it is not asked for again for a while.
    pub fn no_help(&self, key: &str) {
        self.absent.insert(&key.into(), Instant::now().into_std());
    }

    /// Asks for a key, and does not wait: who looks later finds what came of it.
    pub fn wonder(&self, key: &str) {
        let Some(demands) = self.demands.as_ref().filter(|_| !self.is_absent(key)) else { return };
        let (answer, _) = oneshot::channel();
        // Where many ask, another connection will.
        let _ = demands.try_send(Demand { key: key.into(), looked: Instant::now(), answer });
    }
}

/// The task.
struct Driver {
    config: XdsConfig,
    metrics: Arc<Metrics>,
    ads: DeltaAds,
    pushes: mpsc::Sender<Push>,
    demands: mpsc::Receiver<Demand>,
    waiting: Waiting,
    absent: Arc<Absent>,
    status: watch::Sender<XdsStatus>,
    /// What the log was told last, and when.
    told: Option<(String, Instant)>,
    /// A part of the last large response: the stream keeps no buffer of which somebody has a part.
    part: Option<Bytes>,
}

impl Driver {
    async fn run(mut self) {
        let mut waits = waits();
        loop {
            let ended = self.attempt().await;
            let refused = matches!(&ended, Ended::Stream { status: Some(status), .. }
                if status.code() == Code::ResourceExhausted);
            self.ads.disconnected(refused);
            self.absent.end();
            let mut at_once = false;
            let why = match ended {
                Ended::Unwanted => return,
                Ended::NotConnected(status) => {
                    self.metrics.xds.terminated(Termination::ConnectionError);
                    said(&status)
                }
                Ended::Stream { lasted, status } => {
                    self.metrics.xds.terminated(termination(status.as_ref()));
                    if lasted >= LIVED {
                        waits = self::waits();
                        at_once = status.is_none();
                    }
                    status.map_or_else(|| "it ended the stream".to_owned(), |s| said(&s))
                }
            };
            self.tell(&why, at_once);
            self.status.send_modify(|status| {
                (status.connected, status.error) = (None, Some(why));
            });
            if !at_once {
                self.wait(waits.next().unwrap_or(LONGEST_WAIT)).await;
            }
        }
    }

    /// The same trouble is told once a minute.
    fn tell(&mut self, why: &str, expected: bool) {
        if expected {
            tracing::debug!(target: "xds", server = self.config.server.address, why, "stream ended");
            return;
        }
        let told = self.told.as_ref().filter(|(before, _)| before == why);
        if told.is_some_and(|(_, when)| when.elapsed() < TELL_EVERY) {
            return;
        }
        let meanwhile = match self.status.borrow().is_synced {
            true => "keeping the last known mesh",
            false => "no mesh is known yet, so no pod is attached",
        };
        tracing::warn!(
            target: "xds", server = self.config.server.address, error = why,
            "control plane not reachable; {meanwhile}"
        );
        self.told = Some((why.to_owned(), Instant::now()));
    }

    /// Who asks for something meanwhile waits for the next stream.
    async fn wait(&mut self, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(end) => return,
                Some(demand) = self.demands.recv() => {
                    // Nothing is to be sent while there is no stream.
                    let _ = self.demanded(demand);
                }
            }
        }
    }

    async fn attempt(&mut self) -> Ended {
        let channel = match connect(&self.config).await {
            Ok(channel) => channel,
            Err(status) => return Ended::NotConnected(status),
        };
        let opening = self.ads.connected();
        self.absent.begin();
        self.say_left_out(opening.left_out);
        let (begun, deadline) = (Instant::now(), Instant::now() + FIRST_RESPONSES);
        let opened = timeout_at(deadline, open(&self.config, channel, opening.requests));
        let end = match opened.await {
            Ok(Ok(stream)) => self.follow(stream, deadline).await,
            Ok(Err(status)) => Err(Some(status)),
            Err(_) => Err(Some(silent())),
        };
        match end {
            Ok(never) => match never {},
            Err(None) if self.pushes.is_closed() => Ended::Unwanted,
            Err(status) => Ended::Stream { lasted: begun.elapsed(), status },
        }
    }

    fn say_left_out(&self, left_out: Option<LeftOut>) {
        let why = match left_out {
            Some(LeftOut::TooLong { resources, bytes }) => {
                format!("the list of {resources} versions has {bytes} bytes")
            }
            Some(LeftOut::Refused) => "the control plane refused the list of versions".into(),
            None => String::new(),
        };
        if !why.is_empty() {
            tracing::warn!(target: "xds", why, "requesting all resources again");
        }
        self.status.send_modify(|status| status.left_out = left_out);
    }

    /// Until it ends: `None` if as one does.
    async fn follow(
        &mut self,
        mut stream: Stream,
        deadline: Instant,
    ) -> Result<std::convert::Infallible, Option<Status>> {
        self.status.send_modify(|status| {
            (status.connected, status.error) = (Some(Instant::now().into_std()), None);
        });
        loop {
            let request = tokio::select! {
                response = stream.responses.message() => {
                    let response = response.map_err(Some)?.ok_or(None)?;
                    Some(self.response(response).await?)
                }
                Some(demand) = self.demands.recv() => self.demanded(demand),
                () = sleep_until(deadline), if !self.ads.is_answered() => return Err(Some(silent())),
            };
            if let Some(request) = request {
                let sent = timeout(SEND, stream.requests.send(request)).await;
                let late = || Status::deadline_exceeded("it does not read requests");
                sent.map_err(|_| Some(late()))?.map_err(|_| None)?;
            }
        }
    }

    fn demanded(&mut self, demand: Demand) -> Option<DeltaDiscoveryRequest> {
        let demand = self.waiting.unanswered(demand)?;
        let key = Arc::clone(&demand.key);
        for abandoned in self.waiting.add(demand) {
            self.ads.forget(&abandoned);
        }
        self.ads.demand(&key).unwrap_or_else(|_| {
            self.waiting.refuse(&key);
            None
        })
    }

    /// Has it applied. Returns what acknowledges it.
    async fn response(
        &mut self,
        response: DeltaDiscoveryResponse,
    ) -> Result<DeltaDiscoveryRequest, Option<Status>> {
        let contents = || response.resources.iter().filter_map(|r| r.resource.as_ref());
        let bytes = contents().map(|content| content.value.len() as u64).sum();
        let mut parts = contents().map(|content| content.value.clone()).filter(|v| !v.is_empty());
        self.part = parts.next().filter(|_| bytes >= LARGE);
        let type_url = TypeUrl::of(&response.type_url);
        self.metrics.xds.received(type_url.map_or("unknown", TypeUrl::as_str), bytes);
        let named = short(&response.type_url);
        let received = self.ads.received(response);
        let (delta, pending) = match received.map_err(|e| Some(Status::internal(e.to_string())))? {
            Received::Delta(delta, pending) => (delta, pending),
            Received::Unknown(ack) => {
                tracing::warn!(
                    target: "xds", type_url = named,
                    "ignored resources of a type that was not requested"
                );
                return Ok(ack);
            }
        };
        let type_url = delta.type_url;
        let (upserted, removed) = (delta.upserted.len(), delta.removed.len());
        let faults = if delta.is_empty() { Vec::new() } else { self.push(delta).await? };
        let applied = self.ads.applied(pending, faults, Instant::now().into_std());
        tracing::debug!(
            target: "xds", kind = type_url.name(), upserted, removed, "applied a response"
        );
        for RejectedResource { name, reason } in applied.faults.iter().take(MOST_LOGGED) {
            let resource = short(name);
            tracing::warn!(
                target: "xds", kind = type_url.name(), resource, error = reason,
                "resource rejected; keeping the previous version"
            );
        }
        for (key, answer) in applied.answered {
            if answer == Answer::Absent {
                self.absent.insert(&key, Instant::now().into_std());
            }
            self.waiting.answer(&key, answer, Instant::now());
        }
        let known = self.ads.status(type_url);
        let is_answered = self.ads.is_answered();
        self.status.send_modify(|status| {
            *status.of_mut(type_url) = known;
            status.is_synced |= is_answered;
        });
        if is_answered && self.told.is_some() {
            tracing::info!(
                target: "xds", server = self.config.server.address,
                "control plane reachable again"
            );
            self.told = None;
        }
        Ok(applied.request)
    }

    /// `None` if its owner is no more.
    async fn push(&self, delta: Delta) -> Result<Vec<RejectedResource>, Option<Status>> {
        let (applied, done) = oneshot::channel();
        self.pushes.send(Push { delta, applied }).await.map_err(|_| None)?;
        done.await.map_err(|_| Some(Status::internal("the response was not applied")))
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}
