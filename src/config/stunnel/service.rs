//! One section of a stunnel.conf as one service.

use std::path::Path;

use super::{
    PinsOf, Remark,
    address::{Host, address},
    options::{is_global, remark},
    text::{Line, Section, is_plain},
};
use crate::standalone::Address;

/// What stunnel's users name as `CApath` to trust what the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs";

/// What became of a section.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) yaml: String,
    pub(super) remarks: Vec<Remark>,
}

/// The entry of `services` while it is made.
struct Entry<'a> {
    section: &'a Section,
    client: bool,
    lines: Vec<String>,
    remarks: Vec<Remark>,
}

/// Makes the entry; one that cannot listen or connect is left out with a remark.
pub(super) fn carry(section: &Section, names: &mut Vec<String>, pins_of: PinsOf<'_>) -> Carried {
    let client = section.get("client").is_some_and(yes);
    let mut entry = Entry { section, client, lines: Vec::new(), remarks: Vec::new() };
    let others = section.options.iter().filter(|line| !is_global(line)).filter_map(remark);
    entry.remarks.extend(others);
    let made = entry.places().is_some();
    if made {
        entry.peers(pins_of);
        entry.wire();
    } else {
        entry.grave_at(section.line, format!("[{}] is left out", section.name));
    }
    let mut remarks = entry.remarks;
    remarks.sort_by_key(|remark| remark.line);
    let mut yaml = String::new();
    if made {
        yaml.push_str(&format!("  - name: {}\n", quoted(&unique(&section.name, names))));
        yaml.push_str(&format!("    mode: {}\n", if client { "client" } else { "server" }));
        entry.lines.iter().for_each(|line| yaml.push_str(&format!("    {line}\n")));
    }
    Carried { yaml, remarks }
}

fn yes(line: &Line) -> bool {
    line.value.eq_ignore_ascii_case("yes")
}

/// JSON's texts are YAML's, but for characters that YAML wants escaped.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.chars().fold(String::new(), |mut out, c| {
        match is_plain(c) {
            true => out.push(c),
            false => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
        out
    })
}

fn list(texts: &[String]) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

fn unique(name: &str, names: &mut Vec<String>) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let mut plain: String = name.chars().take(50).map(legal).collect();
    if plain.is_empty() {
        plain = "service".into();
    }
    let mut wanted = plain.clone();
    let mut n = 1;
    while names.contains(&wanted) {
        n += 1;
        wanted = format!("{plain}-{n}");
    }
    names.push(wanted.clone());
    wanted
}

impl Entry<'_> {
    fn grave_at(&mut self, line: usize, message: String) {
        self.remarks.push(Remark { line, message, grave: true });
    }

    /// `accept` and `connect`.
    fn places(&mut self) -> Option<()> {
        let section = self.section;
        let Some(accept) = section.get("accept") else {
            self.grave_at(section.line, "accept is missing (inetd mode is not carried)".into());
            return None;
        };
        let listen = self.address(accept, if self.client { Host::Any4 } else { Host::Any })?;
        self.lines.push(format!("listen: {}", quoted(&listen.to_string())));
        if self.client && !listen.is_local() {
            let why =
                "listens for other hosts, whose plaintext travels here; rather name localhost";
            self.remarks.push(accept.remark(false, why));
            self.lines.push("unsafeListen: true".into());
        }
        let mut targets: Vec<Address> = Vec::new();
        for connect in section.all("connect") {
            let target = self.address(connect, Host::Local)?;
            if self.client && !matches!(target, Address::Tcp { .. }) {
                self.remarks.push(connect.remark(true, "TLS goes to HOST:PORT only"));
                return None;
            }
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        let texts: Vec<String> = targets.iter().map(ToString::to_string).collect();
        match texts.as_slice() {
            [] => {
                self.grave_at(section.line, "connect is missing".into());
                return None;
            }
            [one] => self.lines.push(format!("target: {}", quoted(one))),
            all => {
                self.lines.push(format!("targets: [{}]", list(all)));
                match section.get("failover").map(|line| line.value.to_ascii_lowercase()) {
                    Some(how) if how == "rr" => self.lines.push("balance: roundRobin".into()),
                    Some(_) => {}
                    None => {
                        let message = "without failover the targets are tried in order; older \
                                       stunnels took them in turn (balance: roundRobin)";
                        let line = section.get("connect").map_or(section.line, |l| l.line);
                        let message = message.to_owned();
                        self.remarks.push(Remark { line, message, grave: false });
                    }
                }
            }
        }
        if !self.client && !targets.iter().all(Address::is_local) {
            for connect in section.all("connect") {
                let why = "plaintext leaves this host";
                self.remarks.push(connect.remark(false, why));
            }
            self.lines.push("unsafeTarget: true".into());
        }
        Some(())
    }

    fn address(&mut self, line: &Line, host: Host) -> Option<Address> {
        let read = address(&line.value, host);
        if let Err(why) = &read {
            self.remarks.push(line.remark(true, why));
        }
        read.ok()
    }

    /// Certificates, and who is checked against what.
    fn peers(&mut self, pins_of: PinsOf<'_>) {
        let section = self.section;
        let level = section.get("verify").map(|line| line.value.clone()).unwrap_or_default();
        let on = |option: &str| section.get(option).is_some_and(yes);
        let (chain, peer) = (
            on("verifyChain") || matches!(level.as_str(), "2" | "3"),
            on("verifyPeer") || matches!(level.as_str(), "3" | "4"),
        );
        if let Some(line) = section.get("verify").filter(|l| l.value == "1") {
            self.remarks.push(line.remark(
                true,
                "a certificate is demanded or not asked for; adit has nothing in between",
            ));
        }
        if let Some(line) = section.get("requireCert").filter(|l| yes(l) && !chain && !peer) {
            self.remarks.push(line.remark(true, "needs verifyChain or verifyPeer beside it"));
        }
        if let Some(line) = section.get("CApath") {
            let system = line.value.trim_end_matches('/') == SYSTEM_ROOTS;
            let both = section.get("CAfile").is_some();
            let why = match (system && !both, chain || peer) {
                (true, _) => "the system's roots are trusted, as no roots are named",
                (false, _) => "a folder of roots is not read; name one file with all",
            };
            self.remarks.push(line.remark(!system || both, why));
        }
        let mut credential = self.credential();
        let ca = section.get("CAfile");
        let rooted = ca.is_some()
            || section.get("CApath").is_some_and(|l| l.value.trim_end_matches('/') == SYSTEM_ROOTS);
        let pins = match (ca, peer) {
            (Some(ca), true) => match pins_of(Path::new(&ca.value)) {
                Ok(pins) if !pins.is_empty() => pins,
                Ok(_) => {
                    self.remarks.push(ca.remark(true, "verifyPeer: it holds no certificate"));
                    Vec::new()
                }
                Err(why) => {
                    let why = format!("verifyPeer admits its certificates, but {why}");
                    self.remarks.push(ca.remark(true, &why));
                    Vec::new()
                }
            },
            (None, true) => {
                let missing = "verifyPeer without a CAfile admits nobody here".to_owned();
                self.grave_at(section.line, missing);
                Vec::new()
            }
            _ => Vec::new(),
        };
        if let Some(ca) = ca {
            credential.push(format!("roots: {}", quoted(&ca.value)));
        } else if chain && section.get("CApath").is_none() && !self.client {
            let missing = "verifyChain without a CAfile: name the roots, and whom to allow";
            self.grave_at(section.line, missing.into());
        }
        let crls: Vec<String> = section.all("CRLfile").map(|line| line.value.clone()).collect();
        if !crls.is_empty() {
            credential.push(format!("crls: [{}]", list(&crls)));
            if !pins.is_empty() {
                let why = "is not asked about pins (verifyPeer)";
                let line = section.get("CRLfile").map(|line| line.remark(true, why));
                self.remarks.extend(line);
            }
        }
        if !credential.is_empty() {
            self.lines.push(format!("credential: {{ {} }}", credential.join(", ")));
        }
        let hosts: Vec<String> = section.all("checkHost").map(|l| l.value.clone()).collect();
        let ips: Vec<String> = section.all("checkIP").map(|l| l.value.clone()).collect();
        match self.client {
            true => self.server(chain, peer, &pins, &hosts, &ips),
            // Nobody, until the operator says whose callers: the system's roots vouch for anybody.
            false if chain && !peer && !rooted => self.lines.push("allow: {}".into()),
            false => self.clients(chain, peer, &pins, &hosts, &ips),
        }
    }

    fn credential(&mut self) -> Vec<String> {
        let section = self.section;
        let (cert, key) = (section.get("cert"), section.get("key"));
        for line in [cert, key].into_iter().flatten() {
            if line.value.starts_with("pkcs11:") {
                self.remarks.push(line.remark(true, "a key of a token is not carried"));
            }
        }
        match (cert, key) {
            (Some(cert), Some(key)) => vec![
                format!("certificate: {}", quoted(&cert.value)),
                format!("privateKey: {}", quoted(&key.value)),
            ],
            // Certificate and key in one file, PEM or PKCS#12.
            (Some(cert), None) => vec![format!("keystore: {}", quoted(&cert.value))],
            (None, key) => {
                if let Some(key) = key {
                    self.remarks.push(key.remark(true, "has no cert beside it"));
                }
                if self.client {
                    self.lines.push("authentication: disabled".into());
                } else {
                    self.grave_at(section.line, "a server needs a cert".into());
                }
                Vec::new()
            }
        }
    }

    /// A server's callers.
    fn clients(
        &mut self,
        chain: bool,
        peer: bool,
        pins: &[String],
        hosts: &[String],
        ips: &[String],
    ) {
        let named = match (chain || peer, peer, hosts, ips) {
            (false, ..) => {
                for line in self.section.all("checkHost").chain(self.section.all("checkIP")) {
                    let why = "no certificate is asked for without verifyChain";
                    self.remarks.push(line.remark(true, why));
                }
                self.lines.push("authentication: disabled".into());
                return;
            }
            (true, true, ..) => {
                self.too_much(hosts, ips);
                format!("pins: [{}]", list(pins))
            }
            (true, false, [], []) => "all: true".into(),
            (true, false, hosts, ips) => {
                for line in self.section.all("checkHost").filter(|l| l.value.contains('*')) {
                    self.remarks.push(line.remark(true, "a DNS name is compared as it is"));
                }
                let dns = (!hosts.is_empty()).then(|| format!("dnsNames: [{}]", list(hosts)));
                let ips = (!ips.is_empty()).then(|| format!("ips: [{}]", list(ips)));
                dns.into_iter().chain(ips).collect::<Vec<_>>().join(", ")
            }
        };
        self.lines.push(format!("allow: {{ {named} }}"));
    }

    /// A client's target.
    fn server(
        &mut self,
        chain: bool,
        peer: bool,
        pins: &[String],
        hosts: &[String],
        ips: &[String],
    ) {
        let section = self.section;
        let sni = section.get("sni").map(|line| line.value.clone());
        if peer {
            self.too_much(hosts, ips);
            self.lines.push(format!("verify: {{ pins: [{}] }}", list(pins)));
            let name = sni.map(|sni| format!("serverName: {}", quoted(&sni)));
            return self.lines.extend(name);
        }
        if !chain {
            let message =
                "stunnel did not check the target's certificate; adit does, with its name";
            self.remarks.push(Remark { line: section.line, message: message.into(), grave: false });
        }
        let checked: Vec<&String> = hosts.iter().chain(ips).collect();
        let name = match (checked.as_slice(), &sni) {
            ([], sni) => {
                if let Some(line) = section.get("verifyChain").filter(|_| chain) {
                    let why = "its name is checked as well: that of sni, else that of connect";
                    self.remarks.push(line.remark(false, why));
                }
                sni.clone()
            }
            ([one], None) => Some((*one).clone()),
            ([one], Some(sni)) if *one == sni => Some(sni.clone()),
            ([one, ..], _) => {
                for line in section.all("checkHost").chain(section.all("checkIP")) {
                    let why = "one name only is possible, which is SNI too: serverName";
                    self.remarks.push(line.remark(true, why));
                }
                Some((*one).clone())
            }
        };
        self.lines.extend(name.map(|name| format!("serverName: {}", quoted(&name))));
    }

    /// Pins replace names.
    fn too_much(&mut self, hosts: &[String], ips: &[String]) {
        if !hosts.is_empty() || !ips.is_empty() {
            for line in self.section.all("checkHost").chain(self.section.all("checkIP")) {
                self.remarks.push(line.remark(false, "the peer's key is checked instead"));
            }
        }
    }

    /// Protocols, timeouts, names of virtual hosts.
    fn wire(&mut self) {
        let section = self.section;
        if let Some(line) = section.get("protocol") {
            match (line.value.to_ascii_lowercase().as_str(), self.client) {
                ("proxy", false) => self.lines.push("proxyProtocol: { send: v1 }".into()),
                ("proxy", true) => self.remarks.push(line.remark(
                    true,
                    "a PROXY header inside TLS is not sent; send it to a server's target",
                )),
                _ => self.remarks.push(line.remark(
                    true,
                    "adit speaks no protocol's STARTTLS: both ends must begin with TLS",
                )),
            }
        }
        if let Some(line) = section.get("sni").filter(|_| !self.client) {
            let why = "one service per address: names do not choose among services";
            self.remarks.push(line.remark(true, why));
        }
        let mut times = Vec::new();
        for (option, key) in [("TIMEOUTconnect", "connect"), ("TIMEOUTclose", "close")] {
            let Some(line) = section.get(option) else { continue };
            match line.value.parse::<u32>() {
                Ok(0) if key == "connect" => {
                    self.remarks.push(line.remark(false, "0 is no time; the default is taken"));
                }
                Ok(seconds) => times.push(format!("{key}: {seconds}s")),
                Err(_) => self.remarks.push(line.remark(true, "is no number of seconds")),
            }
        }
        if !times.is_empty() {
            self.lines.push(format!("timeouts: {{ {} }}", times.join(", ")));
        }
    }
}
