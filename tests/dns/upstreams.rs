//! Names that the mesh does not know: asked of name servers, and passed on.

use std::time::Duration;

use adit::{lifecycle::Tasks, observe::conn::LiveTable};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};

use crate::{
    harness::Test,
    place::{Proxy, answer, name_server, query, resolv_conf, run},
};

pub(crate) const TESTS: &[Test] = &[
    ("upstreams::an_answer_is_passed_on_with_all_that_is_in_it", whole),
    ("upstreams::what_was_cut_short_is_asked_again_by_tcp", truncated),
    ("upstreams::a_server_that_is_silent_or_fails_is_passed_over", passed_over),
    ("upstreams::an_answer_to_something_else_does_not_count", made_up),
    ("upstreams::without_a_server_that_answers_it_is_servfail_in_time", nobody),
    ("upstreams::other_servers_in_resolv_conf_are_asked_without_a_restart", changed),
];

fn no_such_name(query: &Message) -> Message {
    let mut reply = answer(query, 0);
    reply.metadata.response_code = ResponseCode::NXDomain;
    let zone = Name::from_ascii("example.").unwrap();
    let soa = rdata::SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 60);
    reply.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
    reply
}

fn failing(query: &Message, _: bool) -> Vec<Message> {
    let mut reply = answer(query, 0);
    reply.metadata.response_code = ResponseCode::ServFail;
    vec![reply]
}

fn addresses(reply: &Message) -> usize {
    reply.answers.len()
}

fn whole() {
    run(async {
        let tasks = Tasks::default();
        let server = name_server(&tasks, |query, _| vec![no_such_name(query)]).await;
        let proxy = Proxy::of("shop/web", tasks, &[server]);
        for kind in [RecordType::A, RecordType::MX, RecordType::HTTPS] {
            let query = query("gone.example.", kind, Some(1232));
            for reply in [proxy.asked(&query).await, proxy.asked_by_tcp(&query).await] {
                assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
                assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
                assert_eq!(reply.authorities.len(), 1, "the SOA says how long that holds");
            }
        }
        // Of a name that the mesh knows it knows the addresses, and nothing else.
        let reply = proxy.asked(&query("db.", RecordType::TXT, None)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        let text = proxy.metrics.render(&LiveTable::default());
        for name in ["requests_total", "request_duration_seconds_count"] {
            let series = format!(
                "istio_dns_upstream_{name}{{request_protocol=\"udp\",request_query_type=\"mx\",\
                 source_canonical_revision=\"v1\",source_canonical_service=\"web\"}} 1"
            );
            assert!(text.contains(&series), "{text}");
        }
        assert!(!text.contains("istio_dns_upstream_failures_total{"), "{text}");
    });
}

fn truncated() {
    run(async {
        let tasks = Tasks::default();
        let server = name_server(&tasks, |query, by_tcp| {
            let mut reply = answer(query, if by_tcp { 100 } else { 1 });
            reply.metadata.truncation = !by_tcp;
            vec![reply]
        });
        let server = server.await;
        let proxy = Proxy::of("shop/web", tasks, &[server]);
        let reply = proxy.asked(&query("many.example.", RecordType::A, Some(4096))).await;
        assert!(!reply.metadata.truncation && addresses(&reply) == 100);
        let reply = proxy.asked(&query("many.example.", RecordType::A, None)).await;
        assert!(reply.metadata.truncation && (2..100).contains(&addresses(&reply)));
    });
}

fn passed_over() {
    run(async {
        let tasks = Tasks::default();
        let silent = name_server(&tasks, |_, _| vec![]).await;
        let fails = name_server(&tasks, failing).await;
        let knows = name_server(&tasks, |query, _| vec![answer(query, 3)]).await;
        let closed = "127.0.0.1:1".parse().unwrap();
        for servers in [[silent, knows], [fails, knows], [closed, knows]] {
            let proxy = Proxy::of("shop/web", tasks.clone(), &servers);
            let reply = proxy.asked(&query("www.example.", RecordType::A, None)).await;
            assert_eq!(addresses(&reply), 3, "{servers:?}");
        }
    });
}

fn made_up() {
    run(async {
        let tasks = Tasks::default();
        let server = name_server(&tasks, |query, _| {
            let other = crate::place::query("other.example.", RecordType::A, None);
            let mut other_question = answer(&other, 9);
            other_question.metadata.id = query.metadata.id;
            let mut other_number = answer(query, 9);
            other_number.metadata.id = query.metadata.id.wrapping_add(1);
            vec![other_question, other_number, answer(query, 2)]
        });
        let server = server.await;
        let proxy = Proxy::of("shop/web", tasks, &[server]);
        let reply = proxy.asked(&query("www.example.", RecordType::A, None)).await;
        assert_eq!(addresses(&reply), 2);
    });
}

fn nobody() {
    run(async {
        let tasks = Tasks::default();
        let silent = name_server(&tasks, |_, _| vec![]).await;
        let fails = name_server(&tasks, failing).await;
        for servers in [&[][..], &[silent], &[fails, silent]] {
            let proxy = Proxy::of("shop/web", tasks.clone(), servers);
            let begun = std::time::Instant::now();
            let reply = proxy.asked(&query("www.example.", RecordType::A, None)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
            assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
            let text = proxy.metrics.render(&LiveTable::default());
            let failed = text.contains("istio_dns_upstream_failures_total{");
            assert_eq!(failed, !servers.contains(&fails), "a server's own word is no failure");
        }
    });
}

fn changed() {
    run(async {
        let tasks = Tasks::default();
        let old = name_server(&tasks, |query, _| vec![answer(query, 1)]).await;
        let new = name_server(&tasks, |query, _| vec![answer(query, 2)]).await;
        let proxy = Proxy::of("shop/web", tasks, &[old]);
        let query = query("www.example.", RecordType::A, None);
        assert_eq!(addresses(&proxy.asked(&query).await), 1);
        std::fs::write(proxy.resolv_conf.path(), format!("# new\n{}", resolv_conf(&[new])))
            .unwrap();
        while addresses(&proxy.asked(&query).await) != 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
