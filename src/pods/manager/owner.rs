//! Whose a namespace is: the pod's only if it holds an address of that pod. A name that stands for
//! another pod's namespace would give that pod this one's identity.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    lifecycle::blocking,
    mesh::NetnsRef,
    pods::{
        TRY_AGAIN_EVERY,
        source::{Member, PodFacts, PodNetns},
    },
    sys::netns::Netns,
};

/// How often it is looked for an address that is not there yet: whoever makes a pod does so after
/// its namespace, and from then on nothing protects the pod until it is seen.
const EVERY: Duration = Duration::from_millis(50);
/// For so long at first …
const AT_FIRST: Duration = Duration::from_secs(1);
/// … and then almost until the next try ([`crate::pods::TRY_AGAIN_EVERY`]).
const AGAIN: Duration = TRY_AGAIN_EVERY.saturating_sub(Duration::from_millis(200));

/// Opens the pod's namespace, and waits for a moment until it holds an address of the pod, where
/// those are known ([`super::joined`] looks where they come later). It is
/// opened again at each look: the process that names it may enter another one meanwhile, or end and
/// leave its number to another process. `opened` hears which one it is.
///
/// # Errors
/// That it cannot be opened, or the addresses that are missing and those that are there.
pub(super) async fn open_namespace(
    facts: &PodFacts,
    again: bool,
    opened: impl Fn(&Netns),
) -> anyhow::Result<Arc<Netns>> {
    let until = Instant::now() + if again { AGAIN } else { AT_FIRST };
    loop {
        let netns = match &facts.netns {
            PodNetns::Own => Arc::new(blocking(Netns::current).await??),
            PodNetns::Named(name) => {
                let path = name.path();
                Arc::new(blocking(move || Netns::open(&path)).await??)
            }
            PodNetns::Open(netns) => Arc::clone(netns),
        };
        opened(&netns);
        match look(&netns, facts).await? {
            None => return Ok(netns),
            Some(missing) if Instant::now() > until => return Err(missing),
            Some(_) => tokio::time::sleep(EVERY).await,
        }
    }
}

/// Looks once more whether an open namespace still holds an address of the pod.
///
/// # Errors
/// The addresses that are missing and those that are there.
pub(super) async fn still_holds(netns: &Arc<Netns>, facts: &PodFacts) -> anyhow::Result<()> {
    look(netns, facts).await?.map_or(Ok(()), Err)
}

/// What is wrong if the namespace holds no address of the pod.
async fn look(netns: &Arc<Netns>, facts: &PodFacts) -> anyhow::Result<Option<anyhow::Error>> {
    let Member::Known { addresses: wanted, .. } = &facts.member else { return Ok(None) };
    let netns = Arc::clone(netns);
    let there = blocking(move || netns.addresses()).await??;
    if wanted.iter().any(|address| there.contains(address)) {
        return Ok(None);
    }
    let named = facts.netns.named().map(NetnsRef::path);
    let named = named.map_or_else(String::new, |path| format!(" {}", path.display()));
    let missing = anyhow::anyhow!(
        "its network namespace{named} has {}, but none of the pod's addresses ({}): it may belong \
         to another pod, so adit changes nothing in it; correct `netns` or `addresses` in the mesh \
         file",
        listed(&there),
        listed(wanted),
    );
    Ok(Some(missing))
}

/// As people read them.
pub(super) fn listed(addresses: &[IpAddr]) -> String {
    let far = addresses.iter().filter(|address| !address.is_loopback());
    let all: Vec<_> = far.map(ToString::to_string).collect();
    if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
}
