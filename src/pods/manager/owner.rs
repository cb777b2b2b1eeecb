//! Whose a namespace is: the pod's only if it holds an address of that pod. A name that stands for
//! another pod's namespace would give that pod this one's identity.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{lifecycle::blocking, mesh::Workload, sys::netns::Netns};

/// How often it is looked for an address that is not there yet: whoever makes a pod does so after
/// its namespace, and from then on nothing protects the pod until it is seen.
const EVERY: Duration = Duration::from_millis(50);
/// For so long at first …
const AT_FIRST: Duration = Duration::from_secs(1);
/// … and then almost until the next try, which comes within 5 s.
const AGAIN: Duration = Duration::from_millis(4800);

/// Waits for a moment until the namespace holds an address of the pod.
///
/// # Errors
/// Names the addresses that are missing and those that are there.
pub(crate) async fn holds_an_address(
    netns: Netns,
    workload: &Arc<Workload>,
    again: bool,
) -> anyhow::Result<Netns> {
    let until = Instant::now() + if again { AGAIN } else { AT_FIRST };
    let mut netns = netns;
    loop {
        let looked;
        (netns, looked) = blocking(move || {
            let looked = netns.addresses();
            (netns, looked)
        })
        .await?;
        let there = looked?;
        let wanted = &workload.addresses;
        if wanted.is_empty() || wanted.iter().any(|address| there.contains(address)) {
            return Ok(netns);
        }
        if Instant::now() > until {
            anyhow::bail!(
                "its network namespace{} holds {}, but none of the pod's addresses ({}): it may be \
                 another pod's, so nothing is changed in it; correct `netns` or `addresses` in the \
                 mesh file",
                workload
                    .netns()
                    .as_ref()
                    .map_or_else(String::new, |n| format!(" {}", n.path().display())),
                listed(&there),
                listed(wanted),
            );
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    let far = addresses.iter().filter(|address| !address.is_loopback());
    let all: Vec<_> = far.map(ToString::to_string).collect();
    if all.is_empty() { "no address".to_owned() } else { all.join(", ") }
}
