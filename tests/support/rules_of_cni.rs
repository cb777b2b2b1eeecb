//! The redirection that istio-cni makes in a pod.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::lab::Lab;

/// What istio-cni puts into a pod, but for probes, beside rules of routing.
const REDIRECTS: &str = "
table inet istio-ambient-nat {
  chain prerouting { type nat hook prerouting priority dstnat; jump istio-prerouting; }
  chain output { type nat hook output priority -100; jump istio-output; }
  chain istio-prerouting {
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
  chain istio-output {
    meta l4proto tcp meta mark & 0xfff == 0x111 accept
    udp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
    tcp dport 53 ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15053
    oifname lo ip daddr != 127.0.0.1 accept
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 redirect to :15001
  }
}
table inet istio-ambient-mangle {
  chain prerouting { type filter hook prerouting priority mangle; jump istio-prerouting; }
  chain output { type route hook output priority mangle; jump istio-output; }
  chain istio-prerouting {
    meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
  }
  chain istio-output { ct mark & 0xfff == 0x111 meta mark set ct mark; }
}
";

/// Puts it into a pod.
pub(crate) fn redirect(lab: &Lab, pod: &str) {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = lab.netns(pod).run(|| nft.spawn()).unwrap().unwrap();
    nft.stdin.take().unwrap().write_all(REDIRECTS.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    lab.tool(pod, "ip rule add fwmark 0x111/0xfff lookup 100 priority 32764");
    lab.tool(pod, "ip route replace local 0.0.0.0/0 dev lo table 100");
}
