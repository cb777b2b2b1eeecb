//! What is counted or dropped of pods' traffic that is not TCP.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::pods::manager::JudgedPod;

/// One pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NonTcpView {
    pod: String,
    verdict: &'static str,
    /// By direction and protocol; only those that have come.
    packets: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
}

impl NonTcpView {
    pub(crate) fn of(judged: &JudgedPod) -> Self {
        let mut packets: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (direction, kind, n) in judged.packets.each().filter(|(.., n)| *n > 0) {
            packets.entry(direction).or_default().insert(kind, n);
        }
        Self { pod: judged.pod.to_string(), verdict: judged.verdict.as_str(), packets }
    }
}
