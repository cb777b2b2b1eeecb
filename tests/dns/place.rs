//! A pod's DNS proxy, what asks it, and the name servers behind it.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use adit::{
    lifecycle::Tasks,
    mesh::{MtlsMode, NetworkAddress, Service, Store, Template, Workload},
    net::PodName,
    observe::metrics::Metrics,
    proxy::dns::{DnsConfig, DnsProxy, Resolver, ServedPod},
    sys::netns::Netns,
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// Longer than any deadline of the proxy.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn run(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(LIMIT * 2, scenario).await.expect("it ends") });
}

/// What a name server answers to a query, whether it came by TCP: nothing, or these messages.
pub(crate) type Says = fn(&Message, bool) -> Vec<Message>;

/// A name server on a loopback address, as long as `tasks` run.
pub(crate) async fn name_server(tasks: &Tasks, says: Says) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_vec(&buffer[..length]).unwrap();
            for answer in says(&query, false) {
                udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }
    });
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            connections.spawn(async move {
                while let Ok(query) = read(&mut stream).await {
                    for answer in says(&query, true) {
                        write(&mut stream, &answer).await;
                    }
                }
            });
        }
    });
    address
}

/// The next message of a connection.
pub(crate) async fn read(stream: &mut TcpStream) -> std::io::Result<Message> {
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(Message::from_vec(&bytes).unwrap())
}

pub(crate) async fn write(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

pub(crate) fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        query.set_edns(edns);
    }
    query
}

/// An answer to `query` with `count` addresses.
pub(crate) fn answer(query: &Message, count: u8) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries.clone_from(&query.queries);
    answer.metadata.authoritative = true;
    let name = query.queries[0].name();
    for n in 0..count {
        let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, n).into());
        answer.add_answer(Record::from_rdata(name.clone(), 300, data));
    }
    answer
}

/// The proxy of the pod `shop/web`.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Asks in the pod's place.
    pub(crate) resolver: Resolver,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: Tasks,
    pub(crate) answers: Tasks,
    pub(crate) resolv_conf: tempfile::NamedTempFile,
}

pub(crate) fn resolv_conf(servers: &[SocketAddr]) -> String {
    servers.iter().map(|s| format!("nameserver [{}]:{}\n", s.ip(), s.port())).collect()
}

impl Proxy {
    pub(crate) fn of(uid: &str, tasks: Tasks, servers: &[SocketAddr]) -> Self {
        Self::with(uid, tasks, servers, |_| {})
    }

    pub(crate) fn with(
        uid: &str,
        tasks: Tasks,
        servers: &[SocketAddr],
        change: impl FnOnce(&mut DnsConfig),
    ) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), resolv_conf(servers)).unwrap();
        let mut store = Store::new("td".parse().unwrap(), MtlsMode::Strict);
        for (hostname, count) in
            [("db.shop.svc.cluster.local", 1), ("many.example.com", 200_u8), ("*.test", 1)]
        {
            let mut service = Service::new("shop".into(), hostname.into());
            let ip = |n: u8| std::net::IpAddr::from([10, 96, 0, n]);
            service.vips = (1..=count).map(|n| NetworkAddress::from(ip(n))).collect();
            store.upsert_service(service);
        }
        let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let mut template = Template::new("shop".into(), id);
        template.app.canonical_name = "web".into();
        template.app.canonical_revision = "v1".into();
        store.upsert_workload(Workload {
            uid: "shop/web".into(),
            name: "web".into(),
            addresses: ["10.0.0.1".parse().unwrap()].into(),
            node: None,
            healthy: true,
            template: Arc::new(template),
            local: None,
        });
        let (view, metrics) = (Arc::new(store.view()), Arc::new(Metrics::new().unwrap()));
        let mut config = DnsConfig {
            resolv_conf: file.path().to_owned(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            ..DnsConfig::default()
        };
        change(&mut config);
        let dns =
            DnsProxy::new(config, Arc::new(move || view.clone()), Arc::clone(&metrics), &tasks);
        let netns = Arc::new(Netns::current().unwrap());
        let name = PodName { uid: uid.into(), name: uid.into(), service_account: None };
        let answers = Tasks::default();
        let served = dns.serve(&netns, &Arc::new(name), &tasks, &answers);
        let ServedPod { addresses, resolver } = served.unwrap();
        Self { address: addresses[0], resolver, metrics, tasks, answers, resolv_conf: file }
    }

    pub(crate) async fn asked(&self, query: &Message) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("it answers").unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert_eq!(reply.queries, query.queries);
        reply
    }

    pub(crate) async fn asked_by_tcp(&self, query: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        write(&mut stream, query).await;
        let reply = timeout(LIMIT, read(&mut stream)).await.expect("it answers").unwrap();
        assert_eq!(reply.metadata.id, query.metadata.id);
        reply
    }
}
