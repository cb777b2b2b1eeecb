//! One service of a file.

use std::{path::PathBuf, time::Duration};

use super::{
    credential::credentials,
    peers::access,
    values::{TRUTH, duration, number},
};
use crate::{
    config::{
        load_bans,
        reader::{Item, Map},
        settings::peer_expiry,
    },
    identity::SpiffeId,
    net::Address,
    relay::Limits,
    roles::standalone::{
        Balance, ConfigSyntax, Hbone, HealthConfig, ProxyMode, Quiet, Role, ServiceConfig,
        TlsOptions, Violation,
    },
};

/// Whether it is TLS 1.3.
const VERSIONS: &[(&str, bool)] =
    &[("TLS1.2", false), ("TLS1.3", true), ("1.2", false), ("1.3", true)];

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

pub(super) fn service(item: &Item<'_>) -> Option<ServiceConfig> {
    let map = item.map(SERVICE);
    let name = map.require("name").and_then(|n| service_name(&n));
    let roles = [("server", Role::Server), ("client", Role::Client)];
    let role = map.require("mode").and_then(|m| m.word(&roles));
    let listen: Option<Address> =
        map.require("listen").and_then(|l| l.parse("127.0.0.1:8443, :8443, unix:/run/a.sock"));
    let targets = targets(&map);
    let asked = [("required", true), ("disabled", false)];
    let authenticate = map.get("authentication").and_then(|a| a.word(&asked)).unwrap_or(true);
    let yes = whom(&map, role);
    // Without a mode the rest is read as what it looks like, so that all that is wrong is told.
    let known = role;
    let role = role.unwrap_or_else(|| looks_like(&map));
    if known.is_some() {
        is_of_this_mode(&map, role);
    }
    let timeouts = map.get("timeouts").map(|t| t.map(&["connect", "close", "idle", "lifetime"]));
    let timeout = |key: &str| timeouts.as_ref().and_then(|t| duration(&t.get(key)?));
    let limits = Limits {
        idle: timeout("idle").filter(|l| !l.is_zero()),
        half_closed: Some(timeout("close").unwrap_or(Duration::from_secs(60))),
    };
    let connect = timeout("connect").unwrap_or(Duration::from_secs(10));
    let (mut access, pins, policies) =
        map.get(yes).map(|a| access(&a, role, connect)).unwrap_or_default();
    access.bans = map.get("bans").and_then(|item| bans(&item));
    let ids = access.ids.clone();
    let credentials = credentials(&map, role, authenticate, pins);
    let proxy = map.get("proxyProtocol").map(|p| p.map(&["accept", "send"]));
    let proxy_in = proxy.as_ref().and_then(|p| p.get("accept")?.word(&TRUTH)).unwrap_or(false);
    let proxy_out: Option<ProxyMode> = proxy.and_then(|p| p.get("send")?.parse("conn"));
    let hbone = map.get("tunnel").and_then(|item| tunnel(&item, role, ids));
    let truth = |key: &str| map.get(key).and_then(|item| item.word(&TRUTH)).unwrap_or(false);
    let balances = [("first", Balance::First), ("roundRobin", Balance::RoundRobin)];
    let tls = tls_options(&map, authenticate);
    let kernel = [("auto", true), ("off", false)];
    let balance = map.get("balance").and_then(|b| b.word(&balances)).unwrap_or_default();
    let health = health(&map, targets.len(), hbone.is_some());
    let (unsafe_target, unsafe_listen) = (truth("unsafeTarget"), truth("unsafeListen"));
    let via = map.get("proxy").and_then(|p| p.parse("http://10.0.0.1:3128"));
    let server_name = map.get("serverName").and_then(|s| s.text());
    let lifetime = timeout("lifetime").filter(|l| !l.is_zero());
    let max_connections = map.get("maxConnections").and_then(|m| number(&m, 1 << 20));
    let (peer_expiry, quiet) = (peer_expiry(&map), quiet(&map));
    let kernel_tls = map.get("kernelTls").and_then(|k| k.word(&kernel)).unwrap_or(true);
    // All has been read, and told if it is wrong, before what is missing ends it.
    let config = ServiceConfig {
        name: name?,
        role: known?,
        listen: listen?,
        balance,
        health,
        targets,
        unsafe_target,
        unsafe_listen,
        credentials: credentials?,
        access,
        tls,
        proxy: via,
        server_name,
        connect,
        limits,
        lifetime,
        max_connections,
        proxy_in,
        proxy_out,
        hbone,
        peer_expiry,
        quiet,
        kernel_tls,
        target_status: None,
    };
    let violations = config.violations(policies.as_deref());
    violations.iter().for_each(|violation| tell(violation, item, &map, role));
    violations.is_empty().then_some(config)
}

/// The mode that a service without one is probably to have: some keys are of clients alone.
fn looks_like(map: &Map<'_>) -> Role {
    match ["verify", "serverName", "proxy", "unsafeListen"].iter().any(|key| map.get(key).is_some())
    {
        true => Role::Client,
        false => Role::Server,
    }
}

/// The key of the access rules in this mode; the other mode's key is an error.
fn whom(map: &Map<'_>, role: Option<Role>) -> &'static str {
    let (yes, no) = match role {
        Some(Role::Client) => ("verify", "allow"),
        Some(Role::Server) => ("allow", "verify"),
        None if map.get("verify").is_some() => ("verify", "allow"),
        None => ("allow", "verify"),
    };
    if let Some(wrong) = map.get(no).filter(|_| role.is_some()) {
        wrong.fault(format!("is for the other mode; in this mode the key is {yes}"));
    }
    yes
}

fn is_of_this_mode(map: &Map<'_>, role: Role) {
    let others = match role {
        Role::Server => &["serverName", "proxy", "unsafeListen"][..],
        Role::Client => &["unsafeTarget"],
    };
    for wrong in others.iter().filter_map(|key| map.get(key)) {
        wrong.fault("is for the other mode");
    }
}

/// `{ protocol: hbone, address: … }` of a client, which expects these IDs, and
/// `{ protocol: hbone, authorities: … }` of a server.
fn tunnel(item: &Item<'_>, role: Role, expect: Vec<SpiffeId>) -> Option<Hbone> {
    let tunnel = match role {
        Role::Client => item.map(&["protocol", "address"]),
        Role::Server => item.map(&["protocol", "authorities"]),
    };
    tunnel.require("protocol")?.word(&[("hbone", ())])?;
    let gateway = tunnel.get("address").map(|a| a.parse("10.0.0.1:15008"));
    let authorities = tunnel.list("authorities");
    let authorities = authorities.iter().filter_map(|item| item.text()).collect();
    Some(Hbone { gateway: gateway.flatten(), expect, authorities })
}

fn tls_options(map: &Map<'_>, authenticate: bool) -> TlsOptions {
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
    TlsOptions { tls12_only, tls13_only, ciphers, authenticate, truncation, alpn, starttls }
}

/// What is wrong already is not said to be missing as well.
fn tell(violation: &Violation, item: &Item<'_>, map: &Map<'_>, role: Role) {
    let key = violation.key(role);
    let at = map.get(key).or(map.get("target").filter(|_| key == "targets"));
    let misspelt = map.misspells(key) || (key == "targets" && map.misspells("target"));
    if !misspelt && !at.as_ref().is_some_and(Item::is_faulty) {
        at.unwrap_or(item.clone()).fault(violation.message(ConfigSyntax::File, role));
    }
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
        item.fault(format!("{name:?}: a name must have 1 to 63 letters, digits, - _ ."));
        return None;
    }
    Some(name)
}

fn targets(map: &Map<'_>) -> Vec<Address> {
    let example = "localhost:5432, unix:/run/db.sock";
    match (map.get("target"), map.get("targets")) {
        (Some(_), Some(both)) => {
            both.fault("and target exclude each other: use one of them");
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

/// Several targets are asked whether they are well, one only if the file says so.
fn health(map: &Map<'_>, targets: usize, tunnel: bool) -> Option<HealthConfig> {
    let default = HealthConfig::default();
    let Some(item) = map.get("health") else {
        return (targets > 1 && !tunnel).then_some(default);
    };
    if tunnel {
        item.fault("cannot be used with a tunnel: adit makes no health checks through tunnels");
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
