//! Names asked by this process itself in the place of a pod, and answered as that pod's queries are:
//! with the same bounds, from the mesh or by the name servers.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};

use super::pod::PodDns;

/// Resolves names for one pod.
pub struct Resolver(Arc<PodDns>);

impl Resolver {
    pub(super) fn new(pod: Arc<PodDns>) -> Self {
        Self(pod)
    }

    /// The addresses of a name, of one family, in any order; none if nobody knows it.
    pub async fn addresses(&self, name: &str, ipv6: bool) -> Vec<IpAddr> {
        let Some(question) = question(name, ipv6) else { return Vec::new() };
        let answer = Arc::clone(&self.0).reply(question).await;
        answer.map_or_else(Vec::new, |answer| addresses(&answer, ipv6))
    }
}

fn question(name: &str, ipv6: bool) -> Option<Vec<u8>> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    let kind = if ipv6 { RecordType::AAAA } else { RecordType::A };
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message.to_vec().ok()
}

fn addresses(answer: &[u8], ipv6: bool) -> Vec<IpAddr> {
    let answer = Message::from_vec(answer);
    let answers = answer.map(|answer| answer.answers).unwrap_or_default();
    let found = answers.iter().filter_map(|record| match record.data {
        RData::A(ip) => Some(IpAddr::from(ip.0)),
        RData::AAAA(ip) => Some(IpAddr::from(ip.0)),
        _ => None,
    });
    found.filter(|ip| ip.is_ipv6() == ipv6).collect()
}
