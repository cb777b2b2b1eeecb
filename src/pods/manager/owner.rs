//! Whose a namespace is: the pod's only if it holds an address of that pod. A name that stands for
//! another pod's namespace would give that pod this one's identity.

use std::{net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    lifecycle::blocking,
    mesh::NetnsRef,
    pods::{TRY_AGAIN_EVERY, source::PodFacts},
    sys::netns::Netns,
};

/// How often it is looked for an address that is not there yet: whoever makes a pod does so after
/// its namespace, and from then on nothing protects the pod until it is seen.
const EVERY: Duration = Duration::from_millis(50);
/// For so long at first …
const AT_FIRST: Duration = Duration::from_secs(1);
/// … and then almost until the next try ([`crate::pods::TRY_AGAIN_EVERY`]).
const AGAIN: Duration = TRY_AGAIN_EVERY.saturating_sub(Duration::from_millis(200));

/// Opens the pod's namespace, and waits for a moment until it holds an address of the pod. It is
/// opened again at each look: the process that names it may enter another one meanwhile, or end and
/// leave its number to another process. `opened` hears which one it is.
///
/// # Errors
/// That it cannot be opened, or the addresses that are missing and those that are there.
pub(super) async fn open_namespace(
    facts: &PodFacts,
    again: bool,
    opened: impl Fn(&Netns),
) -> anyhow::Result<Netns> {
    let until = Instant::now() + if again { AGAIN } else { AT_FIRST };
    loop {
        let path = facts.netns.as_ref().map(NetnsRef::path);
        let open = move || path.map_or_else(Netns::current, |path| Netns::open(&path));
        let netns = blocking(open).await??;
        opened(&netns);
        let (netns, missing) = look(netns, facts).await?;
        match missing {
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
pub(super) async fn still_holds(netns: Netns, facts: &PodFacts) -> anyhow::Result<Netns> {
    match look(netns, facts).await? {
        (netns, None) => Ok(netns),
        (_, Some(missing)) => Err(missing),
    }
}

/// The namespace, and what is wrong if it holds no address of the pod.
async fn look(netns: Netns, facts: &PodFacts) -> anyhow::Result<(Netns, Option<anyhow::Error>)> {
    let looked = blocking(move || netns.addresses().map(|there| (netns, there)));
    let (netns, there) = looked.await??;
    let wanted = &facts.addresses;
    if wanted.iter().any(|address| there.contains(address)) {
        return Ok((netns, None));
    }
    let named = facts.netns.as_ref().map(NetnsRef::path);
    let named = named.map_or_else(String::new, |path| format!(" {}", path.display()));
    let missing = anyhow::anyhow!(
        "its network namespace{named} holds {}, but none of the pod's addresses ({}): it may be \
         another pod's, so nothing is changed in it; correct `netns` or `addresses` in the mesh \
         file",
        listed(&there),
        listed(wanted),
    );
    Ok((netns, Some(missing)))
}

fn listed(addresses: &[IpAddr]) -> String {
    let far = addresses.iter().filter(|address| !address.is_loopback());
    let all: Vec<_> = far.map(ToString::to_string).collect();
    if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
}
