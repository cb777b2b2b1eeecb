//! The file of `adit proxy`: services that stand in front of others, each as the flags of
//! `adit server` and `adit client` describe one. It is validated as they are ([`ServiceConfig::violations`]).

mod peers;
mod process;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Fault, Faults, KeyLines, LoadError, bounds, ca_server,
    kind::{Kind, or_other},
    load_bans, policies,
    reader::{Files, Item, Map, Notes, documents},
    settings::peer_expiry,
};
use crate::{
    policy::{Policy, Rules},
    relay::Limits,
    standalone::{
        Address, Balance, ConfigSyntax, Hbone, HealthConfig, ProxyMode, Quiet, Role, ServiceConfig,
        TlsOptions, Violation,
    },
};
use peers::{access, material};
pub use process::Globals;

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 32 << 20;
/// The longest file of policies, bytes.
const MAX_POLICIES: u64 = 4 << 20;
/// The most services of one process.
const MOST_SERVICES: usize = 1000;
/// Whether it is TLS 1.3.
const VERSIONS: &[(&str, bool)] =
    &[("TLS1.2", false), ("TLS1.3", true), ("1.2", false), ("1.3", true)];
const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];

/// A file of `adit proxy` without faults.
#[derive(Debug)]
pub struct StandaloneFile {
    /// In the order of the file; each has a name and a place to listen of its own.
    pub services: Vec<ServiceConfig>,
    /// What concerns the process.
    pub globals: Globals,
    /// Where the settings of the process stand.
    pub lines: KeyLines,
    /// Where the credential of each service stands, to say what is wrong with its files.
    pub credentials: Vec<Fault>,
}

/// Reads and checks a file of `adit proxy`, and the files of policies that it names.
///
/// # Errors
/// All faults at once.
pub fn load_standalone(path: &Path) -> Result<StandaloneFile, LoadError> {
    let text = bounds::read(path, MAX_FILE)?;
    let file = crate::identity::shown(path);
    Ok(check_standalone(&file, &text).map_err(|f| or_other(f, &text, Kind::Services))?)
}

/// Checks a text; `file` is its name in faults.
///
/// # Errors
/// All faults at once.
pub fn check_standalone(file: &str, text: &str) -> Result<StandaloneFile, Faults> {
    check_standalone_for(file, text, Files::Here)
}

/// The same, where the files that it names may be on another machine.
///
/// # Errors
/// All faults at once.
pub fn check_standalone_for(
    file: &str,
    text: &str,
    files: Files,
) -> Result<StandaloneFile, Faults> {
    ca_server::parse_into(file, text, Notes::of(files), read)
}

/// Reads Istio `AuthorizationPolicy` documents; all of them apply.
///
/// # Errors
/// All faults at once, with fields of HTTP among them; a file without policies.
pub fn load_policies(path: &Path) -> Result<Arc<Rules>, LoadError> {
    Ok(Arc::new(Rules::compile(read_policies(path)?.iter())))
}

/// The policies of a file, at least one.
pub(super) fn read_policies(path: &Path) -> Result<Vec<Arc<Policy>>, LoadError> {
    let text = bounds::read(path, MAX_POLICIES)?;
    let file = crate::identity::shown(path);
    let documents = documents(&text).map_err(|fault| Faults::one(&file, fault))?;
    let notes = Notes::default();
    let filled = documents.iter().filter(|document| !document.data.is_null());
    let read: Vec<_> =
        filled.flat_map(|d| policies::read_all(&Item::root(d, &notes))).map(Arc::new).collect();
    if !notes.is_clean() {
        return Err(notes.into_faults(&file).into());
    }
    if read.is_empty() {
        let why = "expected AuthorizationPolicy documents: without one nobody is named";
        return Err(Faults::at_start(&file, why).into());
    }
    Ok(read)
}

fn read(root: &Item<'_>) -> Option<StandaloneFile> {
    let top = root.map(process::KEYS);
    let items = top.require("services").map(|item| item.list()).unwrap_or_default();
    if items.len() > MOST_SERVICES {
        root.fault(format!("{} services, at most {MOST_SERVICES} are possible", items.len()));
        return None;
    }
    let services: Vec<_> = items.iter().filter_map(|i| Some((service(i)?, i))).collect();
    let globals = process::globals(&top);
    let (mut names, mut places) = (HashSet::new(), Vec::new());
    let taken = |places: &[(&Address, &str)], at: &Address| {
        let other = places.iter().find(|(other, _)| other.collides(at));
        other.map(|(at, name)| format!("{name} listens at {at} already"))
    };
    for (service, item) in &services {
        if !names.insert(&service.name) {
            item.fault(format!("there is already a service {}", service.name));
        }
        if let Some(why) = taken(&places, &service.listen) {
            item.find("listen").unwrap_or((*item).clone()).fault(why);
        }
        places.push((&service.listen, &service.name));
    }
    if let (Some(status), Some(item)) = (&globals.status.address, top.get("status"))
        && let Some(why) = taken(&places, &status.address)
    {
        item.find("listen").unwrap_or(item.clone()).fault(why);
    }
    let credential = |item: &Item<'_>| {
        let at = item.find("credential").unwrap_or(item.clone()).at("");
        Fault { key: format!("{}.credential", item.path), ..at }
    };
    Some(StandaloneFile {
        credentials: services.iter().map(|(_, item)| credential(item)).collect(),
        services: services.into_iter().map(|(service, _)| service).collect(),
        globals,
        lines: KeyLines::of(root),
    })
}

fn number(item: &Item<'_>, most: usize) -> Option<usize> {
    let number: usize = item.parse("4")?;
    if !(1..=most).contains(&number) {
        item.fault(format!("must be 1 to {most}"));
        return None;
    }
    Some(number)
}

const SERVICE: &[&str] = &[
    "name",
    "mode",
    "listen",
    "target",
    "targets",
    "balance",
    "health",
    "credential",
    "allow",
    "verify",
    "authentication",
    "serverName",
    "proxy",
    "tls",
    "quiet",
    "kernelTls",
    "proxyProtocol",
    "tunnel",
    "timeouts",
    "maxConnections",
    "closeNotify",
    "alpn",
    "starttls",
    "bans",
    "peerExpiry",
    "unsafeTarget",
    "unsafeListen",
];

fn service(item: &Item<'_>) -> Option<ServiceConfig> {
    let map = item.map(SERVICE);
    let name = map.require("name").and_then(|n| service_name(&n));
    let roles = [("server", Role::Server), ("client", Role::Client)];
    let role = map.require("mode").and_then(|m| m.word(&roles));
    let listen: Option<Address> =
        map.require("listen").and_then(|l| l.parse("127.0.0.1:8443, unix:/run/a.sock"));
    let targets = targets(&map);
    let asked = [("required", true), ("disabled", false)];
    let authenticate = map.get("authentication").and_then(|a| a.word(&asked)).unwrap_or(true);
    let (yes, no) = match role {
        Some(Role::Client) => ("verify", "allow"),
        _ => ("allow", "verify"),
    };
    if let Some(wrong) = map.get(no).filter(|_| role.is_some()) {
        wrong.fault(format!("is of the other mode; here it is {yes}"));
    }
    let role = role?;
    for key in if role == Role::Server {
        &["serverName", "proxy", "unsafeListen"][..]
    } else {
        &["unsafeTarget"]
    } {
        if let Some(wrong) = map.get(key) {
            wrong.fault("is of the other mode");
        }
    }
    let timeouts = map.get("timeouts").map(|t| t.map(&["connect", "close", "idle", "lifetime"]));
    let timeout = |key: &str| timeouts.as_ref().and_then(|t| duration(&t.get(key)?));
    let default = Limits::default();
    let limits = Limits {
        idle: timeout("idle").filter(|l| !l.is_zero()),
        half_closed: timeout("close").unwrap_or(default.half_closed),
    };
    let connect = timeout("connect").unwrap_or(Duration::from_secs(10));
    let (mut access, pins, policies) =
        map.get(yes).map(|a| access(&a, role, connect)).unwrap_or_default();
    access.bans = map.get("bans").and_then(|item| bans(&item));
    let ids = access.ids.clone();
    let material = material(&map, role, authenticate, pins);
    let proxy = map.get("proxyProtocol").map(|p| p.map(&["accept", "send"]));
    let proxy_in = proxy.as_ref().and_then(|p| p.get("accept")?.word(&TRUTH)).unwrap_or(false);
    let proxy_out: Option<ProxyMode> = proxy.and_then(|p| p.get("send")?.parse("conn"));
    let hbone = map.get("tunnel").and_then(|item| {
        let tunnel = match role {
            Role::Client => item.map(&["protocol", "address"]),
            Role::Server => item.map(&["protocol", "authorities"]),
        };
        tunnel.require("protocol")?.word(&[("hbone", ())])?;
        let gateway = tunnel.get("address").map(|a| a.parse("10.0.0.1:15008"));
        let authorities = tunnel.list("authorities");
        let authorities = authorities.iter().filter_map(|item| item.text()).collect();
        Some(Hbone { gateway: gateway.flatten(), expect: ids, authorities })
    });
    let truth = |key: &str| map.get(key).and_then(|item| item.word(&TRUTH)).unwrap_or(false);
    let balances = [("first", Balance::First), ("roundRobin", Balance::RoundRobin)];
    let ends = [("required", false), ("optional", true)];
    let truncation = map.get("closeNotify").and_then(|c| c.word(&ends)).unwrap_or(false);
    let tls = map.get("tls").map(|t| t.map(&["minVersion", "maxVersion", "cipherSuites"]));
    let is_13 = |key: &str| tls.as_ref().and_then(|t| t.get(key)?.word(VERSIONS));
    let (tls12_only, tls13_only) = (is_13("maxVersion") == Some(false), is_13("minVersion"));
    let tls13_only = tls13_only.unwrap_or(false);
    let ciphers = tls.as_ref().map(|t| t.list("cipherSuites")).unwrap_or_default();
    let ciphers = ciphers.iter().filter_map(|group| group.parse("AES")).collect();
    let alpn = map.list("alpn").iter().filter_map(|proto| proto.parse("h2")).collect();
    let starttls = map.get("starttls").and_then(|proto| proto.parse("postgres"));
    let config = ServiceConfig {
        name: name?,
        role,
        listen: listen?,
        balance: map.get("balance").and_then(|b| b.word(&balances)).unwrap_or_default(),
        health: health(&map, targets.len(), hbone.is_some()),
        targets,
        unsafe_target: truth("unsafeTarget"),
        unsafe_listen: truth("unsafeListen"),
        material: material?,
        access,
        tls: TlsOptions {
            tls12_only,
            tls13_only,
            ciphers,
            authenticate,
            truncation,
            alpn,
            starttls,
        },
        proxy: map.get("proxy").and_then(|p| p.parse("http://10.0.0.1:3128")),
        server_name: map.get("serverName").and_then(|s| s.text()),
        connect,
        limits,
        lifetime: timeout("lifetime").filter(|l| !l.is_zero()),
        max_connections: map.get("maxConnections").and_then(|m| number(&m, 1 << 20)),
        proxy_in,
        proxy_out,
        hbone,
        peer_expiry: peer_expiry(&map),
        quiet: quiet(&map),
        kernel_tls: map
            .get("kernelTls")
            .and_then(|k| k.word(&[("auto", true), ("off", false)]))
            .unwrap_or(true),
        target_status: None,
    };
    let told = |violation: &Violation| {
        let key = violation.key(role);
        let at = map.get(key).or(map.get("target").filter(|_| key == "targets"));
        // What is wrong already is not said to be missing as well.
        let misspelt = map.misspells(key) || (key == "targets" && map.misspells("target"));
        if !misspelt && !at.as_ref().is_some_and(Item::is_faulty) {
            at.unwrap_or(item.clone()).fault(violation.message(ConfigSyntax::File, role));
        }
    };
    let violations = config.violations(policies.as_deref());
    violations.iter().for_each(told);
    violations.is_empty().then_some(config)
}

/// A file of banned SPIFFE IDs, which must be readable where it is used.
fn bans(item: &Item<'_>) -> Option<PathBuf> {
    let file = PathBuf::from(item.text()?);
    if !item.is_elsewhere() {
        load_bans(&file).map_err(|error| item.fault(error)).ok()?;
    }
    Some(file)
}

/// Names stand in logs and metrics.
fn service_name(item: &Item<'_>) -> Option<String> {
    let name = item.text()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() > 63 || !name.chars().all(legal) {
        item.fault(format!("{name:?}: a name has at most 63 letters, digits, - _ ."));
        return None;
    }
    Some(name)
}

fn targets(map: &Map<'_>) -> Vec<Address> {
    let example = "localhost:5432, unix:/run/db.sock";
    match (map.get("target"), map.get("targets")) {
        (Some(_), Some(both)) => {
            both.fault("is there beside target; name one of them");
            Vec::new()
        }
        (Some(one), None) => one.parse(example).into_iter().collect(),
        (None, _) => map.list("targets").iter().filter_map(|t| t.parse(example)).collect(),
    }
}

/// What is not logged, as `--quiet` names it.
fn quiet(map: &Map<'_>) -> Quiet {
    let all = Quiet { conns: true, conn_errs: true, handshake_errs: true };
    let words = [
        ("all", all),
        ("conns", Quiet { conns: true, ..Quiet::default() }),
        ("conn-errs", Quiet { conn_errs: true, ..Quiet::default() }),
        ("handshake-errs", Quiet { handshake_errs: true, ..Quiet::default() }),
    ];
    let named = map.list("quiet");
    named.iter().filter_map(|item| item.word(&words)).fold(Quiet::default(), |a, b| Quiet {
        conns: a.conns || b.conns,
        conn_errs: a.conn_errs || b.conn_errs,
        handshake_errs: a.handshake_errs || b.handshake_errs,
    })
}

/// `0` is none at all.
fn duration(item: &Item<'_>) -> Option<Duration> {
    match item.text()?.as_str() {
        "0" => Some(Duration::ZERO),
        _ => item.duration(),
    }
}

/// Several targets are asked whether they are well, one only if the file says so.
fn health(map: &Map<'_>, targets: usize, tunnel: bool) -> Option<HealthConfig> {
    let default = HealthConfig::default();
    let Some(item) = map.get("health") else {
        return (targets > 1 && !tunnel).then_some(default);
    };
    if tunnel {
        item.fault("is not for a tunnel: its one target is asked by nobody but callers");
    }
    let health = item.map(&["interval", "timeout", "http"]);
    let time = |key: &str, or: Duration| {
        let item = health.get(key)?;
        let time = item.duration().unwrap_or(or);
        if time < Duration::from_millis(100) {
            item.fault("must be at least 100ms");
        }
        Some(time)
    };
    Some(HealthConfig {
        interval: time("interval", default.interval).unwrap_or(default.interval),
        timeout: time("timeout", default.timeout).unwrap_or(default.timeout),
        http: health.get("http").and_then(|h| h.parse("/healthz")),
    })
}

#[cfg(test)]
mod tests;
