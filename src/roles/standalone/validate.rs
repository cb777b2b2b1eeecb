//! What no service may be, whether flags or a file describe it: plaintext stays on this host, one
//! credential, somebody named who may call. Both ask here; only the words differ.

use pki_types::ServerName;

use super::{Role, ServiceConfig};
use crate::{
    credentials::store::CredentialsConfig,
    net::Address,
    observe::{Feature, NotBuilt},
    policy::{Access, Rules},
};

/// The most targets of one service.
pub const MOST_TARGETS: usize = 64;

/// The most protocols of ALPN.
const MOST_PROTOCOLS: usize = 16;

/// How the one who reads an error has written the service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigSyntax {
    /// `--target`
    Flags,
    /// `target:`
    File,
}

/// A rule of configuration that a service violates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Violation {
    /// No target, or too many.
    Targets(usize),
    /// The same target twice.
    Twice(Address),
    /// A server's target is on another host.
    PlaintextLeaves(Address),
    /// A client listens for other hosts.
    PlaintextComes(Address),
    /// A client's target cannot be asked for a certificate of this name.
    ServerName(String),
    /// A target is a socket of systemd.
    NoTarget(Address),
    /// A client's target is not TCP, and reached through a proxy or a tunnel.
    NotTcp(Address),
    /// A server shows no certificate, or a client without `authentication: disabled`.
    NoCredential,
    /// A server that names nobody.
    NobodyNamed,
    /// A server that asks no certificate and yet names somebody.
    NobodyAsked,
    /// Pins beside other names.
    PinsAndNames,
    /// Everybody, and beside that somebody.
    AllAndNames,
    /// Policies that only forbid, and nobody is named.
    OnlyDenied,
    /// A client's tunnel without the identity at its other end.
    TunnelIdentity,
    /// A tunnel with several targets.
    TunnelTargets,
    /// What a tunnel cannot honour: the flag, and the key of a file.
    TunnelExcludes(&'static str, &'static str),
    /// No time to connect.
    NoTime,
    /// The oldest version of TLS is newer than the newest.
    NoVersion,
    /// More protocols than a ClientHello should name, or one twice.
    Protocols,
    /// A client cannot say in a PROXY header who called.
    ClientIntroduces,
    /// A check by HTTP where it cannot be asked.
    HealthUrl(&'static str),
    /// A source of certificates that this build is without.
    NotBuilt(NotBuilt),
}

/// What is wrong, in the words of flags and of a file.
type InBoth = (&'static str, &'static str);

const WHO_MAY_CALL: InBoth = (
    "no client is allowed: give at least one --allow flag, --allow-all, or \
     --disable-authentication",
    "no client is allowed: list some under allow, or set `all: true` there, or `authentication: \
     disabled` beside it",
);
const NOBODY_ASKED: InBoth = (
    "--disable-authentication cannot be used with --allow flags",
    "`authentication: disabled` asks clients for no certificate, so `allow` cannot be used",
);
const ALL_AND_NAMES: InBoth = (
    "--allow-all allows every client, so the other --allow flags have no effect: remove it, or \
     them",
    "`all: true` allows every client, so the other names have no effect: remove it, or them",
);

fn no_credential(flags: bool, role: Role) -> String {
    let none = if flags { "--disable-authentication" } else { "authentication: disabled" };
    match role {
        Role::Server => "a server needs a certificate and its key".into(),
        Role::Client => {
            format!("no certificate is given; {none} connects without one")
        }
    }
}

fn pins_and_names(flags: bool, role: Role) -> &'static str {
    match (role, flags) {
        (Role::Server, true) => "--allow-spki-pin cannot be used with other --allow flags",
        (Role::Client, true) => "--verify-spki-pin cannot be used with other --verify flags",
        (_, false) => "pins cannot be used with other names",
    }
}

impl Violation {
    /// The key of a file that it is about.
    #[must_use]
    pub fn key(&self, role: Role) -> &'static str {
        match self {
            Self::Targets(_) | Self::Twice(_) | Self::PlaintextLeaves(_) => "targets",
            Self::NoTarget(_) | Self::NotTcp(_) | Self::TunnelTargets => "targets",
            Self::PlaintextComes(_) => "listen",
            Self::ServerName(_) => "serverName",
            Self::NoCredential | Self::NotBuilt(_) => "credential",
            Self::NobodyAsked => "authentication",
            Self::TunnelIdentity => "tunnel",
            Self::TunnelExcludes(_, key) => key,
            Self::NoTime => "timeouts",
            Self::NoVersion => "tls",
            Self::Protocols => "alpn",
            Self::ClientIntroduces => "proxyProtocol",
            Self::HealthUrl(_) => "health",
            Self::NobodyNamed | Self::PinsAndNames | Self::AllAndNames | Self::OnlyDenied => {
                match role {
                    Role::Server => "allow",
                    Role::Client => "verify",
                }
            }
        }
    }

    /// What is wrong, and what to do, in the words of whoever wrote it.
    #[must_use]
    pub fn message(&self, syntax: ConfigSyntax, role: Role) -> String {
        let flags = syntax == ConfigSyntax::Flags;
        let or = |flag: &'static str, key: &'static str| if flags { flag } else { key };
        let target = or("--target ", "target ");
        match self {
            Self::Targets(0) => format!("{target}is missing: the address to connect to"),
            Self::Targets(n) => format!("{n} targets, at most {MOST_TARGETS} are allowed"),
            Self::Twice(address) => format!("{target}{address} is listed twice"),
            Self::PlaintextLeaves(address) => format!(
                "{target}{address}: plaintext would leave this host; name localhost, a unix: \
                 path, or {}",
                or("--unsafe-target", "unsafeTarget: true")
            ),
            Self::PlaintextComes(address) => format!(
                "{}{address}: plaintext would come from other hosts; name localhost, unix:, \
                 systemd:, or {}",
                or("--listen ", "listen "),
                or("--unsafe-listen", "unsafeListen: true")
            ),
            Self::ServerName(name) => format!(
                "{}{name:?} is neither a DNS name nor an IP address, so no certificate can have \
                 it; for a server's SPIFFE ID use {}",
                or("--override-server-name ", ""),
                or("--verify-id", "verify.ids")
            ),
            Self::NoTarget(_) if flags => "--target: systemd:NAME is for --listen".into(),
            Self::NoTarget(address) => format!("target {address}: systemd:NAME is for listen"),
            Self::NotTcp(address) => {
                format!("{target}{address} must be HOST:PORT behind a proxy or a tunnel")
            }
            Self::NoCredential => no_credential(flags, role),
            Self::NobodyNamed => or(WHO_MAY_CALL.0, WHO_MAY_CALL.1).into(),
            Self::NobodyAsked => or(NOBODY_ASKED.0, NOBODY_ASKED.1).into(),
            Self::PinsAndNames => pins_and_names(flags, role).into(),
            Self::AllAndNames => or(ALL_AND_NAMES.0, ALL_AND_NAMES.1).into(),
            Self::OnlyDenied => format!(
                "no policy is an ALLOW, so every client is refused; {} allows those that no policy \
                 denies",
                or("--allow-all", "`all: true`")
            ),
            Self::TunnelIdentity => format!(
                "{} needs {}, the identity of the other end",
                or("--tunnel hbone", "tunnel"),
                or("--verify-id", "verify.ids")
            ),
            Self::NoVersion => format!(
                "{} is newer than {}: no TLS version is left",
                or("--min-tls-version", "minVersion"),
                or("--max-tls-version", "maxVersion")
            ),
            Self::TunnelTargets => {
                format!("{} takes one target only", or("--tunnel hbone", "a tunnel"))
            }
            Self::TunnelExcludes(flag, _) if flags => {
                format!("{flag} cannot be used with --tunnel hbone")
            }
            Self::TunnelExcludes(flag, "verify") if flag.starts_with("a --verify") => {
                "only ids can be used with a tunnel".into()
            }
            Self::TunnelExcludes(_, key) => format!("{key}: cannot be used with a tunnel"),
            Self::Protocols => format!(
                "{}at most {MOST_PROTOCOLS} protocols are allowed, each once",
                or("--alpn: ", "")
            ),
            Self::NoTime => or("--connect-timeout must not be 0", "connect must not be 0").into(),
            Self::ClientIntroduces => "send is for `mode: server`: a client's target reads TLS \
                                       first"
                .into(),
            Self::HealthUrl(why) => format!("{}: {why}", or("--target-status", "http")),
            Self::NotBuilt(missing) => {
                let named = match missing.0 {
                    Feature::Pkcs11 => or("--pkcs11-module", "pkcs11"),
                    _ => or("--auto-acme-cert", "acme"),
                };
                let instead = or("--cert and --key", "certificate and privateKey");
                format!("{named}: {missing}, or use {instead}")
            }
        }
    }
}

impl ServiceConfig {
    /// What the service violates of these rules; `policies` is what is in the file of policies that
    /// it names.
    #[must_use]
    pub fn violations(&self, policies: Option<&Rules>) -> Vec<Violation> {
        let mut violations = Vec::new();
        let asked_for = [
            (Feature::Acme, self.credentials.acme().is_some()),
            (Feature::Pkcs11, self.credentials.on_token()),
        ];
        let asked_for = asked_for.into_iter().filter(|(_, asked)| *asked);
        violations
            .extend(asked_for.filter_map(|(f, _)| f.require().err()).map(Violation::NotBuilt));
        self.check_targets(&mut violations);
        let named = self.server_name.as_deref();
        if let Some(name) = named.filter(|name| ServerName::try_from(*name).is_err()) {
            violations.push(Violation::ServerName(name.to_owned()));
        }
        self.check_tunnel(&mut violations);
        self.check_access(policies, &mut violations);
        if self.connect.is_zero() {
            violations.push(Violation::NoTime);
        }
        if self.tls.tls12_only && self.tls.tls13_only {
            violations.push(Violation::NoVersion);
        }
        let alpn = &self.tls.alpn;
        let twice = alpn.iter().enumerate().any(|(n, proto)| alpn[..n].contains(proto));
        if twice || alpn.len() > MOST_PROTOCOLS {
            violations.push(Violation::Protocols);
        }
        if self.role == Role::Client && self.proxy_out.is_some() {
            violations.push(Violation::ClientIntroduces);
        }
        violations
    }

    /// The access rules in force: those of the configuration, and for a server also every client
    /// whose key is pinned.
    #[must_use]
    pub fn admits(&self) -> Access {
        let all = self.access.all || (self.role == Role::Server && self.pinned());
        Access { all, ..self.access.clone() }
    }

    fn pinned(&self) -> bool {
        matches!(&self.credentials, CredentialsConfig::Files { pins, .. } if !pins.is_empty())
    }

    fn check_targets(&self, violations: &mut Vec<Violation>) {
        if !(1..=MOST_TARGETS).contains(&self.targets.len()) {
            violations.push(Violation::Targets(self.targets.len()));
        }
        for (n, target) in self.targets.iter().enumerate() {
            if self.targets[..n].contains(target) {
                violations.push(Violation::Twice(target.clone()));
            }
            match (self.role, target) {
                (Role::Server, Address::Systemd(_)) => {
                    violations.push(Violation::NoTarget(target.clone()));
                }
                (Role::Server, _) if !target.is_local_target() && !self.unsafe_target => {
                    violations.push(Violation::PlaintextLeaves(target.clone()));
                }
                // Who is asked to connect elsewhere, a proxy or a node, knows hosts alone.
                (Role::Client, Address::Unix(_) | Address::Abstract(_) | Address::Systemd(_))
                    if self.hbone.is_some() || self.proxy.is_some() =>
                {
                    violations.push(Violation::NotTcp(target.clone()));
                }
                (Role::Client, Address::Systemd(_)) => {
                    violations.push(Violation::NoTarget(target.clone()));
                }
                _ => {}
            }
        }
        if self.role == Role::Client && !self.listen.is_local() && !self.unsafe_listen {
            violations.push(Violation::PlaintextComes(self.listen.clone()));
        }
        let http = self.health.as_ref().and_then(|health| health.http.as_ref());
        let wrong = match http {
            Some(_) if self.role == Role::Client => Some("a client's target speaks TLS"),
            Some(http) if http.at.is_some() && self.targets.len() > 1 => {
                Some("with several targets name the path alone, such as /healthz")
            }
            Some(http) if http.at.as_ref().is_some_and(|at| !at.is_local_target()) => {
                (!self.unsafe_target).then_some("it is not on this host")
            }
            _ => None,
        };
        violations.extend(wrong.map(Violation::HealthUrl));
    }

    fn check_access(&self, policies: Option<&Rules>, violations: &mut Vec<Violation>) {
        let named = !self.access.is_empty();
        let shows = !matches!(&self.credentials, CredentialsConfig::Files { credential: None, .. });
        if !shows && (self.role == Role::Server || self.tls.authenticate) {
            violations.push(Violation::NoCredential);
        }
        if self.pinned() && named {
            violations.push(Violation::PinsAndNames);
        }
        if self.access.all_and_names() {
            violations.push(Violation::AllAndNames);
        }
        if self.role == Role::Server {
            match (self.tls.authenticate, named || self.pinned()) {
                (false, true) => violations.push(Violation::NobodyAsked),
                (true, false) => violations.push(Violation::NobodyNamed),
                (true, true) if self.access.only_denies(policies) => {
                    violations.push(Violation::OnlyDenied)
                }
                _ => {}
            }
        }
    }

    fn check_tunnel(&self, violations: &mut Vec<Violation>) {
        let Some(hbone) = &self.hbone else { return };
        if self.role == Role::Client && hbone.expect.is_empty() {
            violations.push(Violation::TunnelIdentity);
        }
        if self.targets.len() > 1 {
            violations.push(Violation::TunnelTargets);
        }
        // Mutual TLS 1.3 between X.509-SVIDs: whoever is at its other end has an ID, and a caller's
        // address is that of its tunnel.
        let client = self.role == Role::Client;
        let others = Access { ids: Vec::new(), ..self.access.clone() };
        let (pin, names) = match client {
            true => ("--verify-spki-pin", "verify"),
            false => ("--allow-spki-pin", "allow"),
        };
        let on_token = self.credentials.on_token();
        let acme = self.credentials.acme().is_some();
        let excluded = [
            (on_token, "--pkcs11-module", "credential"),
            (acme, "--auto-acme-cert", "credential"),
            (client && !others.is_empty(), "a --verify flag other than --verify-id", names),
            (self.pinned(), pin, names),
            (!self.tls.authenticate, "--disable-authentication", "authentication"),
            (client && self.server_name.is_some(), "--override-server-name", "serverName"),
            (self.proxy.is_some(), "--proxy", "proxy"),
            (self.proxy_in, "--accept-proxy-protocol", "proxyProtocol"),
            (!self.tls.alpn.is_empty(), "--alpn", "alpn"),
            (self.tls.starttls.is_some(), "--starttls", "starttls"),
            (self.tls.tls12_only, "--max-tls-version TLS1.2", "tunnel"),
        ];
        let given = excluded.iter().filter(|(given, ..)| *given);
        violations.extend(given.map(|(_, flag, key)| Violation::TunnelExcludes(flag, key)));
    }
}

/// Of these ways to name a certificate one may be taken, if `needed` it must.
///
/// # Errors
/// Names them all.
pub fn one_credential(ways: &[(&str, bool)], needed: bool) -> Result<(), String> {
    let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
    let listed = |word: &str| match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{}, {word} {last}", rest.join(", ")),
        _ => names.join(", "),
    };
    match ways.iter().filter(|(_, named)| *named).count() {
        0 if needed => Err(format!("a certificate is needed: {}", listed("or"))),
        0 | 1 => Ok(()),
        _ => Err(format!("{} exclude each other", listed("and"))),
    }
}
