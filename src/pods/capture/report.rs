//! What is captured in a namespace, for people and scripts who ask ([`super::show`]).

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Asked, CaptureError, OfFamily, Options, Redirects, Standing, ip_rules, non_tcp, refusal, rules,
    tools::{Tools, listed},
};
use crate::sys::netns::Netns;

/// The capture rules of a namespace.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureReport {
    /// adit's own rules and routes are there.
    pub applied: bool,
    /// Nothing of adit's rules is missing or changed. None if that cannot be told: nothing that is
    /// always applied is missing, and the rules do not note what else they were to be.
    pub complete: Option<bool>,
    /// What is missing or changed, where some of adit's rules are there.
    pub missing: Vec<&'static str>,
    /// The tables (`inet`) that have other rules than adit applied; none are named where the rules
    /// do not note what was asked for.
    pub changed: Vec<&'static str>,
    /// What adit was asked for when it applied the rules; none if an earlier version that noted
    /// nothing applied them, or the rule with the note is gone.
    pub asked: Option<Asked>,
    /// Plaintext connections that are older than the rules are blocked (`mtls: strict`).
    pub strict: bool,
    /// The kubelet's probes pass, from the address that istio-cni gives them.
    pub kubelet_probes: bool,
    /// What is done with traffic that is not TCP: `pass`, `count` or `drop`; none if somebody has
    /// changed the rules about it.
    pub non_tcp: Option<&'static str>,
    /// Another program (istio-cni, Cilium) redirects what the applications send to adit; none if
    /// that cannot be found out.
    pub outbound_by_others: Option<bool>,
    /// Another program (istio-cni, Cilium) redirects what arrives as plaintext to adit; none if
    /// that cannot be found out.
    pub inbound_by_others: Option<bool>,
    /// adit's tables, as nft prints them.
    pub nft: String,
    /// adit's rules of policy routing, as ip prints them, each behind its family.
    pub ip_rules: Vec<String>,
}

impl CaptureReport {
    /// What is there now.
    pub(super) fn of(netns: &Arc<Netns>) -> Result<Self, CaptureError> {
        let stop = CancellationToken::new();
        let tools = Tools { netns, stop: &stop };
        // Whether nft can say anything at all.
        tools.nft(&["list", "tables"], "")?;
        let mut nft = String::new();
        for table in rules::TABLES.into_iter().chain([refusal::TABLE]) {
            match tools.nft(&["list", "table", "inet", table], "") {
                Err(CaptureError::Tool { .. }) => {}
                listed => nft += &listed?,
            }
        }
        let is_there = |table: &str| listed(&nft, table).is_some();
        let of_family = |(family, name): (&str, &'static str)| {
            ip_rules(tools, family).into_iter().map(move |rule| format!("{name} {rule}"))
        };
        let ip_rules: Vec<_> =
            [("-4", "IPv4"), ("-6", "IPv6")].into_iter().flat_map(of_family).collect();
        let standing = Standing::look(netns, &stop)?;
        let others = Redirects::look(netns, &stop).ok();
        let any = |is: fn(&OfFamily) -> bool| others.map(|others| others.families.iter().any(is));
        let judged = non_tcp::standing(&nft);
        let stands = Options {
            strict: is_there(rules::FILTER),
            kubelet_probes: rules::PROBES.iter().any(|(_, address)| nft.contains(address)),
            non_tcp: judged.unwrap_or_default(),
        };
        let noted = standing.noted();
        let has_some = rules::TABLES.iter().any(|table| is_there(table)) || !ip_rules.is_empty();
        let wanted = noted.unwrap_or(stands);
        let missing = if has_some { standing.missing(wanted) } else { Vec::new() };
        let changed = noted.map(|noted| standing.changed(noted)).unwrap_or_default();
        let is_whole = has_some && missing.is_empty() && changed.is_empty();
        Ok(Self {
            applied: rules::ALWAYS.iter().all(|t| is_there(t)) && super::routed(tools),
            complete: if is_whole && noted.is_none() { None } else { Some(is_whole) },
            missing,
            changed,
            asked: noted.map(Asked::from),
            strict: stands.strict,
            kubelet_probes: stands.kubelet_probes,
            non_tcp: judged.map(|judged| judged.as_str()),
            outbound_by_others: any(|of| of.outbound),
            inbound_by_others: any(|of| of.inbound),
            nft,
            ip_rules,
        })
    }
}
