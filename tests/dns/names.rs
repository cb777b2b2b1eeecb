//! Names of the mesh, by UDP and by TCP.

use adit::{lifecycle::Tasks, observe::conn::LiveTable};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use tokio::net::{TcpStream, UdpSocket};

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
