//! Certificates of a section, and who is checked against what.

use std::path::Path;

use super::{
    certificate::{Certificate, CertificatesOf},
    service::{TranslatedService, list, quoted, yes},
    text::ConfLine,
    warning::Warning,
};

/// What stunnel's users name as `CApath` to trust what the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs";

fn is_system_roots(line: &ConfLine) -> bool {
    line.value.trim_end_matches('/') == SYSTEM_ROOTS
}

impl TranslatedService<'_> {
    /// Certificates, and who is checked against what.
    pub(super) fn peers(&mut self, certificates_of: CertificatesOf<'_>) {
        let section = self.section;
        let (chain, peer) = self.demanded();
        let mut credential = self.credential();
        let pins = if peer { self.pinned(chain, certificates_of) } else { Vec::new() };
        if !peer {
            self.names(certificates_of);
        }
        credential.extend(self.roots(chain));
        credential.extend(self.crls(&pins));
        if !credential.is_empty() {
            self.lines.push(format!("credential: {{ {} }}", credential.join(", ")));
        }
        let (hosts, ips) = (self.distinct("checkHost"), self.distinct("checkIP"));
        for line in section.all("checkEmail") {
            let why = "adit does not match mail addresses; use uris, dnsNames or pins";
            self.warnings.push(line.warning(true, why));
        }
        let rooted =
            section.get("CAfile").is_some() || section.get("CApath").is_some_and(is_system_roots);
        let mailed = hosts.is_empty() && ips.is_empty() && section.get("checkEmail").is_some();
        match self.client {
            true => self.server(chain, peer, &pins, &hosts, &ips),
            // Nobody, until the operator says whose callers: the system's roots vouch for anybody.
            // So with those whose mail addresses alone would tell who they are.
            false if chain && !peer && (!rooted || mailed) => self.lines.push("allow: {}".into()),
            false => self.clients(chain, peer, &pins, &hosts, &ips),
        }
    }

    /// Whether the peer's chain is checked, and whether the peer itself must be known.
    fn demanded(&mut self) -> (bool, bool) {
        let section = self.section;
        let level = section.get("verify").map(|line| line.value.clone()).unwrap_or_default();
        let on = |option: &str| section.get(option).is_some_and(yes);
        let (chain, peer) = (
            on("verifyChain") || matches!(level.as_str(), "2" | "3"),
            on("verifyPeer") || matches!(level.as_str(), "3" | "4"),
        );
        if let Some(line) = section.get("verify").filter(|l| l.value == "1") {
            self.warnings.push(
                line.warning(true, "adit either requires a certificate or does not ask for one"),
            );
        }
        if let Some(line) = section.get("requireCert").filter(|l| yes(l) && !chain && !peer) {
            self.warnings.push(line.warning(true, "needs verifyChain or verifyPeer beside it"));
        }
        self.taken_back(chain, peer);
        if let Some(line) = section.get("CApath") {
            let system = is_system_roots(line);
            let both = section.get("CAfile").is_some();
            let why = match (system && !both, chain || peer) {
                (true, _) => "no roots are named, so adit trusts those of the system",
                (false, _) => {
                    "adit does not read a directory of roots; name one file with all of them"
                }
            };
            self.warnings.push(line.warning(!system || both, why));
        }
        (chain, peer)
    }

    /// `verifyPeer`: the pins of the certificates in `CAfile`.
    fn pinned(&mut self, chain: bool, certificates_of: CertificatesOf<'_>) -> Vec<String> {
        let Some(ca) = self.section.get("CAfile") else {
            let missing = "verifyPeer without a CAfile would allow no peer".to_owned();
            self.grave_at(self.section.line, missing);
            return Vec::new();
        };
        match certificates_of(Path::new(&ca.value)) {
            Ok(all) if !all.is_empty() => return self.pins(ca, &all, chain),
            Ok(_) => self
                .warnings
                .push(ca.warning(true, "verifyPeer: the file contains no PEM certificate")),
            Err(why) => {
                let why = format!("verifyPeer allows its certificates, but {why}");
                self.warnings.push(ca.warning(true, &why));
            }
        }
        Vec::new()
    }

    /// The roots of the credential.
    fn roots(&mut self, chain: bool) -> Option<String> {
        let section = self.section;
        if let Some(ca) = section.get("CAfile") {
            return Some(format!("roots: {}", quoted(&ca.value)));
        }
        if chain && section.get("CApath").is_none() && !self.client {
            let missing = "verifyChain without a CAfile: name the roots, and the peers to allow";
            self.grave_at(section.line, missing.into());
        }
        None
    }

    /// The CRLs of the credential.
    fn crls(&mut self, pins: &[String]) -> Option<String> {
        let section = self.section;
        let mut crls: Vec<String> = Vec::new();
        for line in section.all("CRLfile") {
            if !crls.contains(&line.value) {
                crls.push(line.value.clone());
            }
        }
        if crls.is_empty() {
            return None;
        }
        if !pins.is_empty() {
            let why = "is not used with pins (verifyPeer)";
            let line = section.get("CRLfile").map(|line| line.warning(true, why));
            self.warnings.extend(line);
        }
        Some(format!("crls: [{}]", list(&crls)))
    }

    /// The values of an option, each once.
    fn distinct(&self, option: &str) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for line in self.section.all(option).filter(|line| !line.value.is_empty()) {
            if !all.contains(&line.value) {
                all.push(line.value.clone());
            }
        }
        all
    }

    /// Lines that take back, or soften, what others demand. That stays demanded: who is let in is
    /// not widened by a guess at the order in which stunnel reads them.
    fn taken_back(&mut self, chain: bool, peer: bool) {
        if !chain && !peer {
            return;
        }
        let section = self.section;
        let place = |option: &str| section.options.iter().rposition(|line| line.is(option));
        let demand = ["verify", "verifyChain", "verifyPeer"].map(place).into_iter().flatten().max();
        let stays = "adit still requires of the peer what another line requires";
        let off = |line: &&ConfLine| line.value.eq_ignore_ascii_case("no");
        let level = section.get("verify").map(|line| line.value.as_str());
        let softened = section.get("verify").filter(|line| line.value == "0").into_iter();
        let demands = |option: &str| match option {
            "verifyChain" => matches!(level, Some("2" | "3")),
            _ => matches!(level, Some("3" | "4")),
        };
        let options = ["verifyChain", "verifyPeer"].into_iter().filter(|option| demands(option));
        let softened = softened.chain(options.filter_map(|o| section.get(o).filter(off)));
        let warnings: Vec<Warning> = softened.map(|line| line.warning(true, stays)).collect();
        self.warnings.extend(warnings);
        if let Some(line) = section.get("requireCert").filter(off)
            && !self.client
            && place("requireCert") > demand
        {
            let why = "a caller that shows no certificate is refused here";
            self.warnings.push(line.warning(true, why));
        }
    }

    /// `verifyPeer`: a pin for each certificate.
    fn pins(&mut self, ca: &ConfLine, all: &[Certificate], chain: bool) -> Vec<String> {
        if chain {
            let why = "verifyChain beside verifyPeer: a pin replaces the chain, so its roots and \
                       its expiry are not checked";
            self.warnings.push(ca.warning(true, why));
        }
        let mut pins: Vec<String> = Vec::new();
        for certificate in all {
            let Certificate { subject, not_after, .. } = certificate;
            if certificate.expired {
                let why = format!("verifyPeer: {subject} is not valid now, so it is left out");
                self.warnings.push(ca.warning(true, &why));
                continue;
            }
            let why = format!(
                "verifyPeer: stunnel refuses {subject} from {not_after} on; a pin here does not \
                 expire, so remove it then"
            );
            self.warnings.push(ca.warning(false, &why));
            if !pins.contains(&certificate.pin) {
                pins.push(certificate.pin.clone());
            }
        }
        pins
    }

    /// Certificates whose names are in their subject alone, which stunnel takes and adit does not.
    fn names(&mut self, certificates_of: CertificatesOf<'_>) {
        let option = if self.client { "CAfile" } else { "cert" };
        let Some(line) = self.section.get(option) else { return };
        // What cannot be read is said when it is needed.
        let all = certificates_of(Path::new(&line.value)).unwrap_or_default();
        let looked_at = if self.client { &all[..] } else { &all[..all.len().min(1)] };
        for Certificate { subject, authority, self_signed, named, .. } in looked_at {
            if *named || (self.client && !self_signed) {
                continue;
            }
            let kind = if *self_signed { "self-signed and " } else { "" };
            let (grave, why) = match (self.client, *authority) {
                (true, false) => (true, "a target that shows it is refused"),
                (true, true) => (false, "a target that shows it itself is refused"),
                (false, _) => (false, "clients that check names refuse it, adit among them"),
            };
            let message = format!(
                "{subject} is {kind}without a DNS name or an address (subjectAltName), and adit \
                 ignores its common name: {why}"
            );
            self.warnings.push(line.warning(grave, &message));
        }
    }

    fn credential(&mut self) -> Vec<String> {
        let section = self.section;
        let (cert, key) = (section.get("cert"), section.get("key"));
        for line in [cert, key].into_iter().flatten() {
            if line.value.starts_with("pkcs11:") {
                self.warnings.push(
                    line.warning(true, "a key on a token is not imported; set pkcs11 by hand"),
                );
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
                    self.warnings.push(key.warning(true, "needs a `cert` in the same section"));
                }
                if self.client {
                    self.lines.push("authentication: disabled".into());
                } else {
                    self.grave_at(section.line, "a server needs `cert`".into());
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
                let checked = self.section.all("checkHost").chain(self.section.all("checkIP"));
                for line in checked {
                    let why = "without verifyChain stunnel does not ask for a client certificate";
                    self.warnings.push(line.warning(true, why));
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
                for line in self.section.all("checkHost").filter(|l| !l.value.contains('*')) {
                    let why = "adit ignores common names, and wildcards in the certificate";
                    self.warnings.push(line.warning(false, why));
                }
                for line in self.section.all("checkHost").filter(|l| l.value.contains('*')) {
                    self.warnings.push(line.warning(true, "DNS names are compared literally"));
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
        if let Some(line) = section.get("sni").filter(|line| line.value.is_empty()) {
            let why = "SNI is always sent to the target";
            self.warnings.push(line.warning(false, why));
        }
        let sni = section.get("sni").map(|l| l.value.clone()).filter(|sni| !sni.is_empty());
        if peer {
            self.too_much(hosts, ips);
            self.lines.push(format!("verify: {{ pins: [{}] }}", list(pins)));
            let name = sni.map(|sni| format!("serverName: {}", quoted(&sni)));
            return self.lines.extend(name);
        }
        if !chain {
            let message =
                "stunnel did not check the target's certificate; adit does, with its name";
            self.warnings.push(Warning {
                line: section.line,
                message: message.into(),
                grave: false,
            });
        }
        for line in section.all("checkHost") {
            self.warnings.push(line.warning(false, "adit ignores common names"));
        }
        let any = |host: &str| host.contains('*') || host.starts_with('.');
        for line in section.all("checkHost").filter(|line| any(&line.value)) {
            let why = "is not a valid server name; adit checks the name in sni, or else in connect";
            self.warnings.push(line.warning(true, why));
        }
        let hosts = hosts.iter().filter(|host| !any(host));
        let checked: Vec<&String> = hosts.chain(ips).collect();
        let name = match (checked.as_slice(), &sni) {
            ([], sni) => {
                if let Some(line) = section.get("verifyChain").filter(|_| chain) {
                    let why = "adit also checks its name: the one in sni, or else in connect";
                    self.warnings.push(line.warning(false, why));
                }
                sni.clone()
            }
            ([one], None) => Some((*one).clone()),
            ([one], Some(sni)) if *one == sni => Some(sni.clone()),
            ([one, ..], _) => {
                for line in section.all("checkHost").chain(section.all("checkIP")) {
                    let why = "adit takes one name, which is also sent as SNI: serverName";
                    self.warnings.push(line.warning(true, why));
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
                let why = "adit checks the peer's key instead: keep only the allowed certificates in \
                     CAfile";
                self.warnings.push(line.warning(true, why));
            }
        }
    }
}
