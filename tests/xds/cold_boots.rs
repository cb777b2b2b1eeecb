//! A node that starts while its peers do not do as they should, in every order: it is ready in the
//! end, and nobody had to kill it.
//!
//! Each boot runs on one thread with its clock paused, so that what takes minutes takes none. Such a
//! clock leaps to the next timer whenever nothing can go on, and knows nothing of bytes that are on
//! their way through a kernel: with TCP on loopback an hour of it passes before a segment arrives.
//! So the control plane is reached through memory. istio-cni's socket delivers a packet before the
//! call that sends it returns: who waits for one is woken by the next look at the sockets, which
//! costs a leap to the next timer, of [`LOOK`] at most while the two talk.
#![allow(clippy::disallowed_methods, reason = "its runtime owns its tasks")]

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use adit::{
    credentials::{ByteStream, Istiod, IstiodConfig, Svids, Transport},
    identity::{KeyUsageRule, SpiffeId, TrustDomainAliases},
    lifecycle::Tasks,
    mesh::{MtlsMode, Store, source::xds::Xds},
    observe::metrics::Metrics,
    pods::source::{Announcement, PodEvent, zds::ZdsSource},
    rpc::istio_ca::{
        IstioCertificateRequest, IstioCertificateResponse,
        istio_certificate_service_server::IstioCertificateService,
    },
};
use futures_util::future;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncReadExt as _, DuplexStream, duplex},
    runtime::Builder,
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::{
    fake_cni::{add, snapshot_sent},
    fake_istiod::{ADDRESS, AUTHORIZATION, FakeHere, FakeStream},
    grpc_server::acceptor,
    pki::{Ca, Leaf, dns},
    world::{NAME, config, own, pod, policy},
};

const BOOTS: usize = 1000;
/// By the clock that is paused.
const READY_WITHIN: Duration = Duration::from_secs(3600);
/// Between two looks at istio-cni's socket while somebody has to answer, by the same clock …
const LOOK: Duration = Duration::from_millis(50);
/// … and while nobody has to say anything.
const SELDOM: Duration = Duration::from_secs(1);

/// What a control plane does instead of following a node.
#[derive(Clone, Copy, Debug)]
enum Follows {
    /// Nobody listens, for a while.
    Refuses,
    /// It takes the connection, and that is all.
    IsSilent,
    /// It closes the connection.
    Closes,
    /// It is somebody else.
    IsAStranger,
    /// It has no time.
    IsUnavailable,
    /// It takes the stream, and that is all.
    SaysNothing,
}

/// What it does instead of signing an SVID.
#[derive(Clone, Copy, Debug)]
enum Signs {
    IsUnavailable,
    Denies,
    IsSilent,
    Junk,
}

/// What istio-cni does instead of announcing pods.
#[derive(Clone, Copy, Debug)]
enum Announces {
    /// There is no socket, for a while.
    IsAbsent,
    /// It takes the connection, and that is all.
    IsSilent,
    /// It closes the connection.
    Closes,
    /// It has the socket, and takes no connection for a while.
    IsLate,
    /// It announces a pod, and closes the connection before it has named all.
    BreaksOff,
}

/// The order with this number: those of `n` are numbered up to `n!`.
fn order<T: Copy>(all: &[T], mut number: usize) -> Vec<T> {
    let (mut left, mut chosen) = (all.to_vec(), Vec::new());
    while !left.is_empty() {
        chosen.push(left.remove(number % left.len()));
        number /= left.len() + 1;
    }
    chosen
}

#[test]
fn a_thousand_cold_boots_beside_peers_that_fail_in_every_order_end_ready() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(folder.path());
    thread::scope(|scope| {
        for part in 0..2 {
            let (server, folder) = (&server, folder.path());
            scope.spawn(move || {
                for seed in (part..BOOTS).step_by(2) {
                    boot(seed, server, &folder.join(format!("{seed}.sock")));
                }
            });
        }
    });
}

fn boot(seed: usize, server: &Server, socket: &Path) {
    use Announces::{BreaksOff, IsAbsent, IsLate};
    use Follows::{IsAStranger, Refuses, SaysNothing};
    use Signs::{Denies, Junk};
    // 720, 24 and 120 orders, in ever other pairs.
    let follows = [
        Refuses,
        Follows::IsSilent,
        Follows::Closes,
        IsAStranger,
        Follows::IsUnavailable,
        SaysNothing,
    ];
    let follows = order(&follows, seed);
    let signs = order(&[Signs::IsUnavailable, Denies, Signs::IsSilent, Junk], seed * 5);
    let announces = [IsAbsent, Announces::IsSilent, Announces::Closes, IsLate, BreaksOff];
    let announces = order(&announces, seed * 7 + seed / 120);
    let said = Said(format!("seed {seed}: {follows:?}, {signs:?}, {announces:?}"));
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let readiness = runtime.block_on(async {
        let place = Place::default();
        let ca = Signer { ca: Arc::clone(&server.ca), faults: Mutex::new(signs.into()) };
        let (here, stranger) = (FakeHere::new(&server.leaf, ca), server.stranger.clone());
        let peers = future::join(
            control_plane(place.clone(), here, stranger, follows),
            cni(socket, announces),
        );
        tokio::select! {
            readiness = node(server, &place, socket) => readiness,
            _ = peers => unreachable!("a control plane goes on"),
        }
    });
    runtime.shutdown_background();
    assert_eq!(readiness, Ok(()), "within {READY_WITHIN:?}");
    drop(said);
}

/// What a boot that fails is known by.
struct Said(String);

impl Drop for Said {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.0);
        }
    }
}

/// What the control planes of all boots have in common.
struct Server {
    ca: Arc<Ca>,
    leaf: Leaf,
    stranger: TlsAcceptor,
    folder: PathBuf,
}

impl Server {
    fn new(folder: &Path) -> Self {
        let ca = Arc::new(Ca::new("the mesh", Some("spiffe://cluster.local")));
        let named =
            |ca: &Ca| ca.leaf("istiod", |params| params.subject_alt_names = vec![dns(NAME)]);
        std::fs::write(folder.join("root-cert.pem"), &ca.pem).unwrap();
        std::fs::write(folder.join("token"), "a-token\n").unwrap();
        let stranger = acceptor(&named(&Ca::new("another", None)));
        Self { leaf: named(&ca), ca, stranger, folder: folder.to_owned() }
    }
}

/// Where a control plane is, and who listens there.
#[derive(Clone, Default)]
struct Place(Arc<Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>>);

impl Place {
    /// How a node gets there.
    fn transport(&self) -> Transport {
        let place = self.clone();
        Transport::Other(Arc::new(move |_, _| Box::pin(future::ready(place.connected()))))
    }

    fn connected(&self) -> io::Result<ByteStream> {
        let (ours, theirs) = duplex(64 << 10);
        let listens = self.0.lock().unwrap();
        let taken = listens.as_ref().is_some_and(|listens| listens.send(theirs).is_ok());
        let refused = || io::ErrorKind::ConnectionRefused.into();
        taken.then(|| Box::new(ours) as ByteStream).ok_or_else(refused)
    }

    /// Who connects is refused again once this is dropped.
    fn listens(&self) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (say, conns) = mpsc::unbounded_channel();
        *self.0.lock().unwrap() = Some(say);
        conns
    }

    /// The next one who connects; nobody listens after that.
    async fn one(&self) -> DuplexStream {
        self.listens().recv().await.expect("the place is there")
    }
}

/// Fails in this order, each time until the node gives it up, and then does as it should.
async fn control_plane(
    place: Place,
    mut here: FakeHere,
    stranger: TlsAcceptor,
    order: Vec<Follows>,
) {
    for fault in order {
        match fault {
            Follows::Refuses => sleep(Duration::from_secs(20)).await,
            Follows::IsSilent => until_closed(place.one().await).await,
            Follows::Closes => drop(place.one().await),
            Follows::IsAStranger => drop(stranger.accept(place.one().await).await),
            Follows::IsUnavailable => {
                here.door().takes(place.one().await).await;
                here.stream().await.fail(Status::unavailable("it starts")).await;
            }
            Follows::SaysNothing => {
                here.door().takes(place.one().await).await;
                here.stream().await.ended().await;
            }
        }
    }
    let mut conns = place.listens();
    loop {
        tokio::select! {
            Some(conn) = conns.recv() => drop(tokio::spawn(here.door().takes(conn))),
            stream = here.stream() => drop(tokio::spawn(followed(stream))),
        }
    }
}

async fn until_closed(mut conn: DuplexStream) {
    while conn.read(&mut [0; 512]).await.is_ok_and(|n| n > 0) {}
}

async fn followed(mut stream: FakeStream) {
    // A node that has given up meanwhile comes again.
    stream.says(ADDRESS, vec![pod("web", "1")]).await;
    stream.says(AUTHORIZATION, vec![policy("mesh/p")]).await;
    stream.ended().await;
}

/// Fails in this order, and then signs.
struct Signer {
    ca: Arc<Ca>,
    faults: Mutex<VecDeque<Signs>>,
}

#[tonic::async_trait]
impl IstioCertificateService for Signer {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let fault = self.faults.lock().unwrap().pop_front();
        let cert_chain = match fault {
            Some(Signs::IsUnavailable) => return Err(Status::unavailable("it starts")),
            Some(Signs::Denies) => return Err(Status::unauthenticated("no such pod on the node")),
            Some(Signs::IsSilent) => std::future::pending().await,
            Some(Signs::Junk) => vec!["no certificate".to_owned()],
            None => vec![self.ca.sign(&request.get_ref().csr), self.ca.pem.clone()],
        };
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

/// istio-cni's socket.
struct Cni(Socket);

impl Cni {
    fn listens(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None).unwrap();
        socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
        socket.listen(8).unwrap();
        Self(socket)
    }

    /// The next one who connects and says hello; nobody listens after that.
    async fn one(self) -> io::Result<Self> {
        let (socket, _) = self.ready(SELDOM, Socket::accept).await?;
        socket.set_nonblocking(true)?;
        let conversation = Self(socket);
        assert_eq!(conversation.hears(LOOK).await?, [8, 1], "hello");
        Ok(conversation)
    }

    async fn hears(&self, every: Duration) -> io::Result<Vec<u8>> {
        let mut room = [0; 2048];
        let length = self.ready(every, |mut socket: &Socket| socket.read(&mut room)).await?;
        Ok(room[..length].to_vec())
    }

    /// Says this, and hears whether it was done.
    async fn asks(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let raw: Vec<_> = fds.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let (fd, flags) = (self.0.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
        sendmsg::<UnixAddr>(fd, &[IoSlice::new(message)], rights, flags, None)?;
        Ok(self.hears(LOOK).await? == [0x0a, 0])
    }

    async fn until_closed(&self) {
        while self.hears(SELDOM).await.is_ok_and(|heard| !heard.is_empty()) {}
    }

    /// Does it once it can be done.
    async fn ready<T>(
        &self,
        every: Duration,
        mut work: impl FnMut(&Socket) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match work(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(every).await,
                done => return done,
            }
        }
    }
}

/// Fails in this order, and then announces a pod and goes on.
async fn cni(path: &Path, order: Vec<Announces>) {
    let netns = File::open("/proc/thread-self/ns/net").unwrap();
    let web = add("uid-web", "mesh", "web", "web");
    for fault in order {
        match fault {
            Announces::IsAbsent => {
                let _ = std::fs::remove_file(path);
                sleep(Duration::from_secs(40)).await;
            }
            Announces::IsSilent => Cni::listens(path).one().await.unwrap().until_closed().await,
            Announces::Closes => drop(Cni::listens(path).one().await),
            Announces::IsLate => {
                let _socket = Cni::listens(path);
                sleep(Duration::from_secs(45)).await;
            }
            Announces::BreaksOff => {
                let there = Cni::listens(path).one().await.unwrap();
                assert!(there.asks(&web, &[netns.as_fd()]).await.unwrap());
            }
        }
    }
    let there = Cni::listens(path).one().await.unwrap();
    assert!(there.asks(&web, &[netns.as_fd()]).await.unwrap());
    assert!(there.asks(&snapshot_sent(), &[]).await.unwrap());
    there.until_closed().await;
}

/// Starts as an ambient node does: its mesh first, then pods, then their keys. Returns once it is
/// ready.
///
/// # Errors
/// What it waits for still.
async fn node(server: &Server, place: &Place, socket: &Path) -> Result<(), String> {
    let (tasks, metrics) = (Tasks::default(), Arc::new(Metrics::new().unwrap()));
    let mut config = config(15012, &server.folder);
    config.server.server.transport = place.transport();
    let istiod = IstiodConfig {
        server: config.server.clone(),
        svid_lifetime: Duration::from_secs(24 * 3600),
        aliases: TrustDomainAliases::default(),
        key_usage: KeyUsageRule::Required,
    };
    let svids = Svids::new(Arc::new(Istiod::new(istiod)), Arc::clone(&metrics), tasks.child());
    let svids = Arc::new(svids);
    let (xds, pushes) = Xds::follow(config, metrics, &tasks);
    let store = Store::new("cluster.local".parse().unwrap(), MtlsMode::Permissive);
    tasks.spawn(own(store, pushes, Arc::default()));
    let ((zds, mut agent), mut synced) = (ZdsSource::new(socket), xds.status());
    let (announce, announced) = mpsc::channel(16);
    tasks.spawn(async move {
        if synced.wait_for(|status| status.is_synced).await.is_ok() {
            zds.run(announce).await;
        }
    });
    tasks.spawn(carried(announced, Arc::clone(&svids)));
    let status = xds.status();
    let ready = async {
        agent.wait_for(|agent| agent.waits_for().is_none()).await.unwrap();
        let mut key = svids.follow("pod/uid-web").expect("the pod is carried");
        while !matches!(key.latest(), Some(Ok(_))) {
            key.changed().await;
        }
    };
    let in_time = timeout(READY_WITHIN, ready).await;
    tasks.cut();
    in_time.map_err(|_| {
        let (status, without) = (status.borrow(), svids.outage_budget().without);
        format!("{:?}, {:?}, {without:?}", status.error, agent.borrow().waits_for())
    })
}

/// Each pod is carried at once, and its key is asked for.
async fn carried(mut announced: mpsc::Receiver<Announcement>, svids: Arc<Svids>) {
    let id: SpiffeId = "spiffe://cluster.local/ns/mesh/sa/web".parse().unwrap();
    while let Some(Announcement { event, answer }) = announced.recv().await {
        if let PodEvent::Upsert(pod) = event {
            svids.watch(&pod.uid, &id);
        }
        let _ = answer.send(Ok(()));
    }
}
