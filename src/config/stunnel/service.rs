//! One section of a stunnel.conf as one service.

use super::{
    address::{Host, address},
    certificate::CertificatesOf,
    options::{is_global, warning},
    text::{ConfLine, Section, is_plain},
    versions::versions,
    warning::Warning,
};
use crate::net::Address;

/// What became of a section.
#[derive(Default)]
pub(super) struct Imported {
    pub(super) yaml: String,
    pub(super) warnings: Vec<Warning>,
}

/// The entry of `services` while it is made.
pub(super) struct TranslatedService<'a> {
    pub(super) section: &'a Section,
    pub(super) client: bool,
    pub(super) lines: Vec<String>,
    pub(super) warnings: Vec<Warning>,
}

/// Makes the entry; one that cannot listen or connect is left out with a remark.
pub(super) fn carry(
    section: &Section,
    names: &mut Vec<String>,
    certificates_of: CertificatesOf<'_>,
) -> Imported {
    let client = section.get("client").is_some_and(yes);
    let mut entry = TranslatedService { section, client, lines: Vec::new(), warnings: Vec::new() };
    // What holds for all sections is named once, where it stands.
    let inherited = |line: &&ConfLine| is_global(line) && line.line <= section.line;
    let others = section.options.iter().filter(|line| !inherited(line));
    entry.warnings.extend(others.filter_map(warning));
    let unknown = section.options.iter().find(|line| is_unknown(line));
    if let Some(line) = unknown {
        entry.warnings.push(line.warning(true, "stunnel refuses this value"));
    }
    let made = unknown.is_none() && entry.places().is_some();
    if made {
        entry.peers(certificates_of);
        entry.wire();
    } else {
        entry.grave_at(section.line, format!("[{}] is left out", section.name));
    }
    let mut warnings = entry.warnings;
    warnings.sort_by_key(|remark| remark.line);
    let mut yaml = String::new();
    if made {
        yaml.push_str(&format!("  - name: {}\n", quoted(&unique(&section.name, names))));
        yaml.push_str(&format!("    mode: {}\n", if client { "client" } else { "server" }));
        entry.lines.iter().for_each(|line| yaml.push_str(&format!("    {line}\n")));
    }
    Imported { yaml, warnings }
}

/// Whether it decides who is let in, with a value that stunnel refuses.
fn is_unknown(line: &ConfLine) -> bool {
    let value = line.value.to_ascii_lowercase();
    match line.option.to_ascii_lowercase().as_str() {
        "client" | "verifychain" | "verifypeer" | "requirecert" => value != "yes" && value != "no",
        "verify" => !["0", "1", "2", "3", "4"].contains(&value.as_str()),
        _ => false,
    }
}

pub(super) fn yes(line: &ConfLine) -> bool {
    line.value.eq_ignore_ascii_case("yes")
}

/// JSON's texts are YAML's, but for characters that YAML wants escaped.
pub(super) fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.chars().fold(String::new(), |mut out, c| {
        match is_plain(c) {
            true => out.push(c),
            false => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
        out
    })
}

pub(super) fn list(texts: &[String]) -> String {
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

impl TranslatedService<'_> {
    pub(super) fn grave_at(&mut self, line: usize, message: String) {
        self.warnings.push(Warning { line, message, grave: true });
    }

    /// `accept` and `connect`.
    fn places(&mut self) -> Option<()> {
        let section = self.section;
        let Some(accept) = section.get("accept") else {
            self.grave_at(section.line, "accept is missing (inetd mode is not supported)".into());
            return None;
        };
        let listen = self.address(accept, if self.client { Host::Any4 } else { Host::Any })?;
        self.lines.push(format!("listen: {}", quoted(&listen.to_string())));
        if self.client && !listen.is_local() {
            let why = "accepts plaintext from other hosts; better listen on localhost";
            self.warnings.push(accept.warning(false, why));
            self.lines.push("unsafeListen: true".into());
        }
        let mut targets: Vec<Address> = Vec::new();
        for connect in section.all("connect") {
            let target = self.address(connect, Host::Local)?;
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
                        let message = "without failover adit tries the targets in order; older versions of \
                             stunnel used round-robin (balance: roundRobin)";
                        let line = section.get("connect").map_or(section.line, |l| l.line);
                        let message = message.to_owned();
                        self.warnings.push(Warning { line, message, grave: false });
                    }
                }
            }
        }
        if !self.client && !targets.iter().all(Address::is_local) {
            for connect in section.all("connect") {
                let why = "plaintext leaves this host";
                self.warnings.push(connect.warning(false, why));
            }
            self.lines.push("unsafeTarget: true".into());
        }
        Some(())
    }

    fn address(&mut self, line: &ConfLine, host: Host) -> Option<Address> {
        let read = address(&line.value, host);
        if let Err(why) = &read {
            self.warnings.push(line.warning(true, why));
        }
        read.ok()
    }

    /// Protocols, timeouts, names of virtual hosts.
    fn wire(&mut self) {
        let section = self.section;
        let (tls, said) = versions(section);
        self.lines.extend(tls.map(ToOwned::to_owned));
        self.warnings.extend(said);
        if let Some(line) = section.get("protocol") {
            match (line.value.to_ascii_lowercase().as_str(), self.client) {
                ("proxy", false) => self.lines.push("proxyProtocol: { send: v1 }".into()),
                ("proxy", true) => self.warnings.push(line.warning(
                    true,
                    "a PROXY header inside TLS is not sent; send it to a server's target",
                )),
                ("pgsql", _) => self.lines.push("starttls: postgres".into()),
                _ => self.warnings.push(line.warning(
                    true,
                    "adit speaks STARTTLS of PostgreSQL only: both ends must begin with TLS",
                )),
            }
        }
        if let Some(line) = section.get("sni").filter(|_| !self.client) {
            let why = "adit does not choose a service by name (SNI): use one service per address";
            self.warnings.push(line.warning(true, why));
        }
        let mut times = Vec::new();
        for (option, key) in
            [("TIMEOUTconnect", "connect"), ("TIMEOUTclose", "close"), ("TIMEOUTidle", "idle")]
        {
            let Some(line) = section.get(option) else { continue };
            match line.value.parse::<u32>() {
                Ok(0) if key == "connect" => {
                    self.warnings
                        .push(line.warning(false, "0 is not a valid time; the default is used"));
                }
                Ok(seconds) => times.push(format!("{key}: {seconds}s")),
                Err(_) => self.warnings.push(line.warning(true, "is not a number of seconds")),
            }
        }
        if !times.is_empty() {
            self.lines.push(format!("timeouts: {{ {} }}", times.join(", ")));
        }
    }
}
