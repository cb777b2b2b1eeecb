//! The queries of one pod: the loops that take them, and what bounds them.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    allowance::Allowance,
    answer,
    forward::{self, framed, read_framed},
    message::{self, Question, Received},
    shared::Shared,
};
use crate::{
    lifecycle::{AcceptBackoff, Tasks},
    mesh::Workload,
    net::PodName,
    observe::metrics::DnsLabels,
    sys::{datagrams, netns::Netns},
};

/// What a pod asks in a second: some 5 % of a worker. What is beyond it is read later; of datagrams
/// the kernel drops what does not fit meanwhile.
pub(super) const QUERIES: u32 = 10_000;
/// So much is looked at for what one query is meant to cost: names with search domains and a few
/// wildcards.
const LOOKED_AT: usize = 16;
/// What of it is forwarded; what is beyond it gets SERVFAIL.
const FORWARDED: u32 = 2_000;
/// How long a pod that asks too much is not heard, at least.
const PAUSE: Duration = Duration::from_millis(1);
/// A pod is named in the log once in this time.
const NAMED_EVERY: Duration = Duration::from_secs(60);
/// Forwarded questions without an answer yet.
const IN_FLIGHT: usize = 256;
/// Open connections.
const CONNECTIONS: usize = 64;
/// Questions of one connection that are worked on at once.
const PIPELINED: usize = 32;
/// How long a connection may say nothing (RFC 7766 §6.2.3), or not take what is written.
const IDLE: Duration = Duration::from_secs(5);
/// Longer datagrams are nobody's query.
const DATAGRAM: usize = 4096;
const MESSAGE: usize = 65_535;

/// One pod.
pub(super) struct PodDns {
    shared: Arc<Shared>,
    netns: Arc<Netns>,
    name: Arc<PodName>,
    /// Answers on their way, which may outlive what listens.
    answers: Tasks,
    /// Fires when nothing listens any more.
    closing: CancellationToken,
    queries: Allowance,
    forwarded: Allowance,
    /// When it was last named as one that asks too much.
    named: Mutex<Option<Instant>>,
    in_flight: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What came of a query.
enum Step {
    /// Answered, or not to be answered.
    Done(Option<Vec<u8>>),
    /// To be asked of the name servers.
    Forward(Box<Pending>),
}

/// A question that is to be forwarded.
struct Pending {
    question: Box<Question>,
    labels: DnsLabels,
    by_tcp: bool,
    limit: usize,
}

impl PodDns {
    pub(super) fn new(
        shared: Arc<Shared>,
        netns: Arc<Netns>,
        name: Arc<PodName>,
        answers: Tasks,
    ) -> Arc<Self> {
        let queries = Allowance::new(shared.queries);
        Arc::new(Self {
            shared,
            netns,
            name,
            answers,
            closing: CancellationToken::new(),
            queries,
            forwarded: Allowance::new(FORWARDED),
            named: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// Answers what comes in datagrams, for ever. What is asked of others meanwhile is answered also
    /// when this has ended.
    pub(super) async fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let Ok(from) = socket.local_addr() else { return };
        let socket = Arc::new(socket);
        let mut failures = AcceptBackoff::new(format!("DNS of {}", self.name));
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // As of an answer to somebody who has gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    failures.failed(&error).await;
                    continue;
                }
            };
            failures.succeeded();
            self.turn().await;
            match self.look(&buffer[..length], false) {
                Step::Done(Some(reply)) => send(&socket, &reply, client).await,
                Step::Done(None) => {}
                Step::Forward(pending) => {
                    // Held, it would take queries that nobody reads.
                    let (pod, socket) = (Arc::clone(&self), Arc::downgrade(&socket));
                    self.answers.spawn(async move {
                        let reply = pod.forward(*pending).await;
                        pod.send_late(&socket, &reply, (from, client)).await;
                    });
                }
            }
        }
    }

    /// From the same address, whether or not what has taken the query listens still.
    async fn send_late(
        &self,
        socket: &Weak<UdpSocket>,
        reply: &[u8],
        (from, to): (SocketAddr, SocketAddr),
    ) {
        if let Some(socket) = socket.upgrade() {
            return send(&socket, reply, to).await;
        }
        match datagrams::answering(&self.netns, from, to) {
            Ok(socket) => send(&socket, reply, to).await,
            Err(error) => tracing::debug!(target: "dns", pod = %self.name, %error, "no answer"),
        }
    }

    /// Answers what comes in connections, for ever. Those that are open end with what they have
    /// asked when this has ended.
    pub(super) async fn connections(self: Arc<Self>, listener: TcpListener) {
        let _closing = self.closing.clone().drop_guard();
        let mut failures = AcceptBackoff::new(format!("DNS of {} (TCP)", self.name));
        loop {
            let Ok(place) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    failures.succeeded();
                    let pod = Arc::clone(&self);
                    self.answers.spawn(async move {
                        pod.connection(stream).await;
                        drop(place);
                    });
                }
                Err(error) => failures.failed(&error).await,
            }
        }
    }

    /// Its questions in any order, until it is silent.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let (reader, mut writer) = stream.into_split();
        let questions = stream::unfold(reader, |mut reader| async {
            let question = timeout(IDLE, read_framed(&mut reader)).await.ok()?.ok()?;
            Some((question, reader))
        });
        let questions = questions.take_until(self.closing.clone().cancelled_owned());
        let replies = questions.map(|question| Arc::clone(&self).reply(question));
        let mut replies = std::pin::pin!(replies.buffer_unordered(PIPELINED));
        while let Some(reply) = replies.next().await {
            // Nothing that can be answered: it does not speak DNS.
            let Some(reply) = reply else { return };
            let Ok(reply) = framed(&reply) else { return };
            if !matches!(timeout(IDLE, writer.write_all(&reply)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    /// Waits until the pod may ask again. What it sends meanwhile nobody reads.
    async fn turn(&self) {
        let mut is_first = true;
        while let Err(wait) = self.queries.take(Instant::now()) {
            if std::mem::take(&mut is_first) {
                self.shared.metrics.dns.throttled();
                self.name_as_throttled();
            }
            tokio::time::sleep(wait.max(PAUSE)).await;
        }
    }

    fn name_as_throttled(&self) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.is_none_or(|at| at.elapsed() > NAMED_EVERY) {
            *named = Some(Instant::now());
            tracing::warn!(
                target: "dns", pod = %self.name,
                "the pod exceeds its budget of {} DNS queries a second (costly ones count more): \
                 queries are delayed, and some over UDP are lost",
                self.shared.queries
            );
        }
    }

    /// What is said to one query in a connection, if anything is.
    pub(super) async fn reply(self: Arc<Self>, question: Vec<u8>) -> Option<Vec<u8>> {
        self.turn().await;
        match self.look(&question, true) {
            Step::Done(reply) => reply,
            Step::Forward(pending) => Some(self.forward(*pending).await),
        }
    }

    /// What can be said of a query without asking anybody.
    fn look(&self, query: &[u8], by_tcp: bool) -> Step {
        let question = match message::read(query) {
            Received::Question(question) => question,
            Received::Refused(reply) => return Step::Done(Some(reply)),
            Received::Nothing => return Step::Done(None),
        };
        let limit = if by_tcp { MESSAGE } else { question.datagram() };
        let view = (self.shared.mesh)();
        let Some(client) = view.of_pod(&self.name) else {
            return Step::Done(Some(question.failed(ResponseCode::ServFail, limit)));
        };
        let app = &client.template.app;
        let who = (&app.canonical_name, &app.canonical_revision);
        let protocol = if by_tcp { "tcp" } else { "udp" };
        let metrics = &self.shared.metrics.dns;
        let labels = metrics.labels(query_type(question.kind()), protocol, who);
        metrics.asked(&labels);
        let asked_for = question.wants_ipv6().map(|ipv6| (question.name(), ipv6));
        let (naming, mut looked) = (&self.shared.naming, 0);
        let known =
            asked_for.and_then(|asked| answer::answer(&view, naming, client, asked, &mut looked));
        self.queries.charge((looked / LOOKED_AT) as f64);
        if let Some(known) = known {
            let count = known.addresses.len();
            log(client, &question, Some(&known.service.hostname), count);
            let reply = question.answered(&known.addresses, known.alias, limit);
            return Step::Done(Some(reply));
        }
        log(client, &question, None, 0);
        if self.forwarded.take(Instant::now()).is_err() {
            return Step::Done(Some(question.failed(ResponseCode::ServFail, limit)));
        }
        Step::Forward(Box::new(Pending { question, labels, by_tcp, limit }))
    }

    /// What the name servers say, or SERVFAIL.
    async fn forward(&self, pending: Pending) -> Vec<u8> {
        let Pending { question, labels, by_tcp, limit } = pending;
        let Ok(_place) = self.in_flight.try_acquire() else {
            return question.failed(ResponseCode::ServFail, limit);
        };
        let (metrics, begun) = (&self.shared.metrics.dns, Instant::now());
        metrics.forwarded(&labels);
        let servers = self.shared.servers.now();
        let answer = forward::ask(&self.netns, &servers, &question, by_tcp).await;
        metrics.ended(&labels, begun.elapsed(), answer.is_err());
        match answer {
            Ok(answer) => question.forwarded(answer, limit),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(
                    target: "dns",
                    pod = %self.name, domain = question.name(), error, "no upstream name server \
                                                                        answered"
                );
                question.failed(ResponseCode::ServFail, limit)
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        tracing::debug!(target: "dns", %client, %error, "the answer could not be sent");
    }
}

fn log(client: &Workload, question: &Question, service: Option<&str>, endpoints: usize) {
    let (pod, namespace) = (client.name(), &**client.namespace());
    let result = if service.is_some() { "success" } else { "forwarded" };
    tracing::debug!(
        target: "dns",
        {
            src.workload = pod, src.namespace = namespace, query = %question.kind(),
            domain = question.name(), result, service, endpoints
        },
        "dns query"
    );
}

/// A closed set for metrics: what has no name of its own is `unknown`.
fn query_type(kind: RecordType) -> &'static str {
    kind.into()
}
