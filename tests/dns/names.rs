//! Names of the mesh, by UDP and by TCP.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use adit::{lifecycle::Tasks, observe::conn::LiveTable};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

use crate::{
    harness::Test,
    place::{LIMIT, Proxy, answer, name_server, query, read, run, write},
};

pub(crate) const TESTS: &[Test] = &[
    ("names::a_service_is_answered_by_udp_and_tcp_and_counted", service),
    ("names::what_does_not_fit_a_datagram_comes_by_tcp", large),
    ("names::a_slow_question_of_a_connection_holds_up_no_other", pipelined),
    ("names::a_pod_that_the_mesh_does_not_know_gets_servfail", unknown),
    ("names::what_is_no_query_is_refused_or_dropped_and_the_next_is_answered", malformed),
    ("names::the_ports_are_free_when_the_pod_has_ended", ended),
    ("names::a_pod_that_asks_too_much_waits_for_its_answers_and_is_counted", greedy),
    ("names::whoever_asks_in_the_place_of_a_pod_hears_what_the_pod_would", in_its_place),
    ("names::what_is_asked_of_others_is_answered_when_nothing_listens_any_more", late),
];

fn service() {
    run(async {
        let proxy = Proxy::of("shop/web", Tasks::default(), &[]);
        let query = query("Db.", RecordType::A, Some(1232));
        for reply in [proxy.asked(&query).await, proxy.asked_by_tcp(&query).await] {
            assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
            let said: Vec<_> = reply.answers.iter().map(ToString::to_string).collect();
            assert_eq!(said, ["Db. 30 IN A 10.96.0.1"]);
        }
        let text = proxy.metrics.render(&LiveTable::default());
        for protocol in ["tcp", "udp"] {
            let series = format!(
                "istio_dns_requests_total{{request_protocol=\"{protocol}\",request_query_type=\"a\",\
                 source_canonical_revision=\"v1\",source_canonical_service=\"web\"}} 1"
            );
            assert!(text.contains(&series), "{text}");
        }
        assert!(!text.contains("istio_dns_upstream_requests_total{"), "nobody else was asked");
    });
}

fn in_its_place() {
    run(async {
        let tasks = Tasks::default();
        let server = name_server(&tasks, |query, _| vec![answer(query, 2)]).await;
        let proxy = Proxy::of("shop/web", tasks, &[server]);
        let found = async |name| proxy.resolver.addresses(name, false).await;
        assert_eq!(found("db.shop").await, [Ipv4Addr::new(10, 96, 0, 1)]);
        let both = [0, 1].map(|n| Ipv4Addr::new(192, 0, 2, n));
        assert_eq!(found("other.example.org.").await, both);
        assert!(proxy.resolver.addresses("db.shop", true).await.is_empty(), "no IPv6");
        let long = format!("{}.test", "a".repeat(64));
        assert!(found(&long).await.is_empty(), "a label that no name has");
    });
}

fn large() {
    run(async {
        let proxy = Proxy::of("shop/web", Tasks::default(), &[]);
        for payload in [None, Some(1232)] {
            let query = query("many.example.com.", RecordType::A, payload);
            let reply = proxy.asked(&query).await;
            assert!(reply.metadata.truncation && !reply.answers.is_empty());
            let limit = usize::from(payload.unwrap_or(512));
            assert!(reply.to_vec().unwrap().len() <= limit);
            let whole = proxy.asked_by_tcp(&query).await;
            assert!(!whole.metadata.truncation && whole.answers.len() == 200);
        }
    });
}

fn pipelined() {
    run(async {
        let tasks = Tasks::default();
        let silent = name_server(&tasks, |_, _| vec![]).await;
        let proxy = Proxy::of("shop/web", tasks, &[silent]);
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let slow = query("slow.example.", RecordType::A, None);
        let fast = query("db.", RecordType::A, None);
        write(&mut stream, &slow).await;
        write(&mut stream, &fast).await;
        let first = tokio::time::timeout(LIMIT, read(&mut stream)).await.unwrap().unwrap();
        assert_eq!((first.metadata.id, first.answers.len()), (fast.metadata.id, 1));
        let second = tokio::time::timeout(LIMIT, read(&mut stream)).await.unwrap().unwrap();
        assert_eq!(second.metadata.id, slow.metadata.id);
        assert_eq!(second.metadata.response_code, ResponseCode::ServFail);
    });
}

fn unknown() {
    run(async {
        let proxy = Proxy::of("shop/gone", Tasks::default(), &[]);
        let reply = proxy.asked(&query("db.", RecordType::A, None)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    });
}

fn malformed() {
    run(async {
        let proxy = Proxy::of("shop/web", Tasks::default(), &[]);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(proxy.address).await.unwrap();
        let good = query("db.", RecordType::A, None);
        let an_answer = answer(&good, 1).to_vec().unwrap();
        let cut_off = &good.to_vec().unwrap()[..15];
        for bytes in [&[][..], &[7; 5], &an_answer, cut_off, &good.to_vec().unwrap()] {
            socket.send(bytes).await.unwrap();
        }
        let mut codes = Vec::new();
        for _ in 0..2 {
            let mut buffer = [0; 512];
            let received = tokio::time::timeout(LIMIT, socket.recv(&mut buffer)).await;
            assert!(received.unwrap().unwrap() >= 12);
            codes.push(buffer[3] & 0x0f);
        }
        assert_eq!(codes, [1, 0], "what has no answer of its own was passed over");
    });
}

fn ended() {
    run(async {
        let proxy = Proxy::of("shop/web", Tasks::default(), &[]);
        let query = query("db.", RecordType::A, None);
        assert_eq!(proxy.asked(&query).await.answers.len(), 1);
        proxy.tasks.cut();
        proxy.tasks.ended().await;
        drop(UdpSocket::bind(proxy.address).await.unwrap());
        assert!(TcpStream::connect(proxy.address).await.is_err());
    });
}

fn greedy() {
    run(async {
        let (tasks, of_each) = (Tasks::default(), 100);
        let proxy = Proxy::with("shop/web", tasks, &[], |config| config.queries = of_each);
        // Each is looked for under some 120 names.
        let query = query(&format!("{}test.", "a.".repeat(120)), RecordType::A, None);
        let (mut reader, mut writer) =
            TcpStream::connect(proxy.address).await.unwrap().into_split();
        let bytes = query.to_vec().unwrap();
        let framed = [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
        let begun = Instant::now();
        let asks = async {
            for _ in 0..60 {
                writer.write_all(&framed).await.unwrap();
            }
        };
        let hears = async {
            for _ in 0..60 {
                let mut reply = vec![0; usize::from(reader.read_u16().await.unwrap())];
                reader.read_exact(&mut reply).await.unwrap();
                assert_eq!(reply[6..8], [0, 1], "one address");
            }
        };
        tokio::join!(asks, hears);
        assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
        let text = proxy.metrics.render(&LiveTable::default());
        let throttled = text.lines().find_map(|l| l.strip_prefix("adit_dns_throttled_total "));
        assert!(throttled.unwrap().parse::<u64>().unwrap() > 0);
        let other = Proxy::of("shop/web", Tasks::default(), &[]);
        let text = other.metrics.render(&LiveTable::default());
        assert!(text.contains("adit_dns_throttled_total 0"), "each pod pays for itself");
    });
}

fn late() {
    run(async {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::of("shop/web", Tasks::default(), &[server.local_addr().unwrap()]);
        let by_udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        by_udp.connect(proxy.address).await.unwrap();
        let asked = query("www.example.", RecordType::A, None);
        by_udp.send(&asked.to_vec().unwrap()).await.unwrap();
        let mut by_tcp = TcpStream::connect(proxy.address).await.unwrap();
        write(&mut by_tcp, &asked).await;
        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        let forwarded = Message::from_vec(&buffer[..length]).unwrap();
        let by_tcp_too = "istio_dns_upstream_requests_total{request_protocol=\"tcp\"";
        while !proxy.metrics.render(&LiveTable::default()).contains(by_tcp_too) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.tasks.cut();
        proxy.tasks.ended().await;
        drop(UdpSocket::bind(proxy.address).await.unwrap());
        let reply = answer(&forwarded, 2).to_vec().unwrap();
        server.send_to(&reply, from).await.unwrap();
        let heard = tokio::time::timeout(LIMIT, by_udp.recv(&mut buffer)).await.unwrap();
        let reply = Message::from_vec(&buffer[..heard.unwrap()]).unwrap();
        assert_eq!((reply.metadata.id, reply.answers.len()), (asked.metadata.id, 2));
        let reply = tokio::time::timeout(LIMIT, read(&mut by_tcp)).await.unwrap().unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(read(&mut by_tcp).await.is_err(), "it takes no more questions");
        proxy.answers.ended().await;
    });
}
