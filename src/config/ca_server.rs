//! The file of `adit ca serve`, and the file with the cluster's pods.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use pki_types::ServerName;

use super::{
    Faults, LoadError, bounds,
    kind::{FileKind, or_other},
    opening::{self, Holds},
    reader::{Item, Map, Notes, documents},
    restart::{KeyLines, changed},
    sandbox,
    svid_lifetime::svid_lifetime,
};
use crate::{
    authority::serve::{
        Attestors, Endpoint, ExpectedClaims, JoinTokens, KeysFrom, Kubernetes, Review,
        ServerConfig, TOKEN_REVIEWS,
        authorize::{IssuingRules, Pod},
    },
    identity::{TrustDomain, shown},
    observe::logging::LogFormat,
    sys::confine::Sandbox,
};

/// The longest file that is read, bytes: 100,000 pods.
const MAX_FILE: u64 = 32 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// A file of `adit ca serve` without faults.
pub struct CaServerConfig {
    /// Where the CA's root is kept.
    pub dir: PathBuf,
    /// What the server does.
    pub server: ServerConfig,
    /// Where the pods of the cluster are listed.
    pub pods: Option<PathBuf>,
    /// Where metrics and readiness are served.
    pub metrics: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How far the process confines itself.
    pub sandbox: Sandbox,
    /// Where the settings stand.
    pub lines: KeyLines,
}

impl CaServerConfig {
    /// The keys of settings that differ in `now` and take effect only after a restart: the running
    /// server is confined to its files and ports.
    #[must_use]
    pub fn restart_keys(&self, now: &Self) -> Vec<&'static str> {
        // Without `..`: of a setting that is added it has to be said what it is.
        let Self { dir, server, pods, metrics, log_format, sandbox, lines: _ } = self;
        let ServerConfig { listen, names: _, svid_lifetime: _, rules, attestors } = server;
        let Attestors { kubernetes, join, svid } = attestors;
        let wanted = &now.server.attestors;
        let (then, to) = (kubernetes.as_ref(), wanted.kubernetes.as_ref());
        let both = then.zip(to);
        changed(&[
            ("listen", *listen != now.server.listen),
            ("trustDomain", rules.trust_domain != now.server.rules.trust_domain),
            ("dir", *dir != now.dir),
            ("metrics", *metrics != now.metrics),
            ("accessLog", *log_format != now.log_format),
            ("sandbox", *sandbox != now.sandbox),
            // What is taken away is taken away at once.
            ("attestors.kubernetes", then.is_none() && to.is_some()),
            ("attestors.kubernetes.jwks", both.is_some_and(|(then, to)| then.keys != to.keys)),
            (
                "attestors.kubernetes.tokenReview",
                both.is_some_and(|(then, to)| then.review != to.review),
            ),
            ("attestors.kubernetes.pods", both.is_some() && *pods != now.pods),
            ("attestors.joinTokens", wanted.join.is_some() && *join != wanted.join),
            ("attestors.svid", !svid && wanted.svid),
        ])
    }
}

/// Reads and checks the file of `adit ca serve`.
///
/// # Errors
/// All faults at once.
pub fn load_ca_server(path: &Path) -> Result<CaServerConfig, LoadError> {
    let text = bounds::read(path, MAX_FILE)?;
    Ok(check_ca_server(&shown(path), &text).map_err(|f| or_other(f, &text, FileKind::CaServer))?)
}

/// Checks a text; `file` is its name in faults.
///
/// # Errors
/// All faults at once.
pub fn check_ca_server(file: &str, text: &str) -> Result<CaServerConfig, Faults> {
    parse(file, text, read)
}

/// Reads the file with the cluster's pods.
///
/// # Errors
/// All faults at once.
pub fn load_pods(path: &Path) -> Result<Vec<Pod>, LoadError> {
    load(path, |root| {
        let top = root.map(&["pods"]);
        top.require("pods")?;
        Some(top.list("pods").iter().filter_map(pod).collect())
    })
}

pub(super) fn load<T>(path: &Path, read: impl Fn(&Item<'_>) -> Option<T>) -> Result<T, LoadError> {
    let text = bounds::read(path, MAX_FILE)?;
    Ok(parse(&shown(path), &text, read)?)
}

pub(super) fn parse<T>(
    file: &str,
    text: &str,
    read: impl Fn(&Item<'_>) -> Option<T>,
) -> Result<T, Faults> {
    parse_into(file, text, Notes::default(), read)
}

/// Parses `text` as one YAML document; `notes` collects its errors.
pub(super) fn parse_into<T>(
    file: &str,
    text: &str,
    notes: Notes,
    read: impl Fn(&Item<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let documents = documents(text).map_err(|fault| Faults::one(file, fault))?;
    let [document] = documents.as_slice() else {
        return Err(Faults::at_start(file, "expected one YAML document"));
    };
    let value = read(&Item::root(document, &notes));
    match value {
        Some(value) if notes.is_clean() => Ok(value),
        _ if notes.is_clean() => Err(Faults::at_start(file, "incomplete")),
        _ => Err(notes.into_faults(file)),
    }
}

fn path(map: &Map<'_>, key: &str) -> Option<PathBuf> {
    Some(map.require(key)?.text()?.into())
}

fn read(root: &Item<'_>) -> Option<CaServerConfig> {
    let top = root.map(&[
        "listen",
        "trustDomain",
        "dir",
        "serverNames",
        "svidLifetime",
        "attestors",
        "metrics",
        "accessLog",
        "sandbox",
    ]);
    let listen = top.require("listen").and_then(|l| l.parse("0.0.0.0:15012"));
    let trust_domain: Option<TrustDomain> =
        top.require("trustDomain").and_then(|t| t.parse("cluster.local"));
    let dir = path(&top, "dir");
    let names: Vec<String> = top.list("serverNames").iter().filter_map(|n| n.text()).collect();
    for item in top.list("serverNames") {
        let name = item.text().filter(|name| ServerName::try_from(name.as_str()).is_err());
        if let Some(name) = name {
            item.fault(format!("{name:?} is neither a DNS name nor an IP address"));
        }
    }
    if names.is_empty() && top.get("serverNames").is_none() {
        root.fault("serverNames is missing: the DNS names and IP addresses that clients call");
    }
    let svid_lifetime = svid_lifetime(&top, HOUR);
    let attestors = top.require("attestors").map(|item| attestors(&item));
    let metrics = top.get("metrics").map(|item| item.map(&["address"]));
    let metrics = metrics.and_then(|m| m.require("address")?.parse("[::]:15020"));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let log = top.get("accessLog").map(|item| item.map(&["format"]));
    let log_format = log.and_then(|l| l.require("format")?.word(&formats)).unwrap_or_default();
    let (attestors, trusted_node_accounts, pods) = attestors?;
    let rules = IssuingRules { trust_domain: trust_domain?, trusted_node_accounts };
    let server =
        ServerConfig { listen: listen?, names, svid_lifetime: svid_lifetime?, rules, attestors };
    Some(CaServerConfig {
        dir: dir?,
        server,
        pods,
        metrics,
        log_format,
        sandbox: sandbox::read(&top),
        lines: KeyLines::of(root),
    })
}

type Accounts = BTreeSet<(String, String)>;

fn attestors(item: &Item<'_>) -> (Attestors, Accounts, Option<PathBuf>) {
    let map = item.map(&["kubernetes", "joinTokens", "svid"]);
    let truth = [("true", true), ("false", false)];
    let svid = map.get("svid").and_then(|s| s.word(&truth)).unwrap_or(false);
    let join = map.get("joinTokens").map(|j| j.map(&["dir"]));
    let join = join.and_then(|j| Some(JoinTokens { dir: path(&j, "dir")? }));
    let (mut accounts, mut pods, mut kubernetes) = (Accounts::new(), None, None);
    if let Some(item) = map.get("kubernetes") {
        let section = item.map(&[
            "issuer",
            "audience",
            "jwks",
            "jwksRoots",
            "tokenReview",
            "trustedNodeAccounts",
            "pods",
        ]);
        kubernetes = read_kubernetes(&section);
        for item in section.list("trustedNodeAccounts") {
            let Some(text) = item.text() else { continue };
            match text.split_once('/') {
                Some((ns, sa)) if !ns.is_empty() && !sa.is_empty() && !sa.contains('/') => {
                    accounts.insert((ns.into(), sa.into()));
                }
                _ => item.fault("expected NAMESPACE/SERVICEACCOUNT, such as istio-system/ztunnel"),
            }
        }
        pods = section.get("pods").and_then(|p| Some(p.text()?.into()));
        if pods.is_none() && !accounts.is_empty() {
            item.fault(
                "pods is missing: it says which pods trustedNodeAccounts may request SVIDs for",
            );
        }
    }
    if let Some(item) = map.get("joinTokens").filter(|_| !svid) {
        item.fault(
            "svid is missing: a host that joined shows its SVID to renew it and to receive bans, \
             so set `svid: true` beside joinTokens",
        );
    }
    if kubernetes.is_none() && join.is_none() && !svid {
        item.fault("no attestor is configured: name kubernetes, joinTokens or svid");
    }
    (Attestors { kubernetes, join, svid }, accounts, pods)
}

fn read_kubernetes(map: &Map<'_>) -> Option<Kubernetes> {
    let audience = map.get("audience").map_or(Some("istio-ca".into()), |a| a.text());
    let (jwks, review) = (map.get("jwks"), map.get("tokenReview"));
    if jwks.is_some() == review.is_some() {
        map.of.fault("expected either jwks or tokenReview, which validates the tokens");
        return None;
    }
    // The API server checks the issuer of tokens that it is asked about.
    let issuer = match jwks {
        Some(_) => map.require("issuer")?.text(),
        None => Some(String::new()),
    };
    let keys = jwks.and_then(|item| {
        let text = item.text()?;
        if !text.contains("://") {
            return opening::path(&item, Holds::Something).map(KeysFrom::File);
        }
        endpoint(&item, &text, path(map, "jwksRoots")?).map(KeysFrom::Url)
    });
    let review = review.and_then(|item| {
        let review = item.map(&["apiServer", "token", "roots"]);
        let server = review.require("apiServer")?;
        let url = format!("{}{TOKEN_REVIEWS}", server.text()?.trim_end_matches('/'));
        let endpoint = endpoint(&server, &url, path(&review, "roots")?)?;
        Some(Review { endpoint, token: path(&review, "token")? })
    });
    let expected = ExpectedClaims { issuer: issuer?, audience: audience? };
    (keys.is_some() || review.is_some()).then_some(Kubernetes { expected, keys, review })
}

fn endpoint(item: &Item<'_>, url: &str, roots: PathBuf) -> Option<Endpoint> {
    let parsed = Endpoint::parse(url, roots);
    parsed.map_err(|why| item.fault(format!("{url:?} {why}"))).ok()
}

fn pod(item: &Item<'_>) -> Option<Pod> {
    let map = item.map(&["namespace", "serviceAccount", "node", "name", "uid"]);
    let [namespace, service_account, node, name, uid] =
        ["namespace", "serviceAccount", "node", "name", "uid"].map(|key| map.require(key)?.text());
    Some(Pod {
        namespace: namespace?,
        service_account: service_account?,
        node: node?,
        name: name?,
        uid: uid?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
listen: 127.0.0.1:15012
trustDomain: td
dir: /ca
serverNames: [ca.test, 127.0.0.1]
attestors:
  kubernetes: { issuer: 'https://k8s', jwks: /jwks, trustedNodeAccounts: [sys/adit], pods: /pods }
  joinTokens: { dir: /tokens }
  svid: true
";

    #[test]
    fn a_whole_file() {
        let config = parse("f", GOOD, read).unwrap();
        let attestors = &config.server.attestors;
        assert_eq!(attestors.kubernetes.as_ref().unwrap().expected.audience, "istio-ca");
        assert!(attestors.join.is_some() && attestors.svid);
        assert_eq!(config.server.svid_lifetime, HOUR);
        assert_eq!(config.server.rules.trusted_node_accounts.len(), 1);
        let review = GOOD.replace(
            "jwks: /jwks",
            "tokenReview: { apiServer: 'https://api:6443/', token: /t, roots: /r }",
        );
        let config = parse("f", &review, read).unwrap();
        let review = config.server.attestors.kubernetes.unwrap().review.unwrap();
        assert_eq!((review.endpoint.server.port, &*review.endpoint.path), (6443, TOKEN_REVIEWS));
    }

    #[test]
    fn faults_say_what_to_do() {
        for (was, is, says) in [
            ("listen: 127.0.0.1:15012", "listen: here", "for example 0.0.0.0:15012"),
            ("serverNames: [ca.test, 127.0.0.1]", "", "serverNames is missing"),
            ("dir: /ca", "dirr: /ca", "did you mean dir?"),
            ("jwks: /jwks, ", "", "either jwks or tokenReview"),
            ("issuer: 'https://k8s', ", "", "issuer is missing"),
            ("jwks: /jwks", "jwks: 'http://k8s/jwks', jwksRoots: /r", "begin with https://"),
            ("jwks: /jwks", "jwks: 'https://k8s/jwks'", "jwksRoots is missing"),
            ("[sys/adit]", "[adit]", "NAMESPACE/SERVICEACCOUNT"),
            (", pods: /pods", "", "pods is missing"),
            ("svid: true", "svid: yes", "must be true or false"),
            ("\n  svid: true", "", "set `svid: true` beside joinTokens"),
            ("svid: true", "svid: false", "set `svid: true` beside joinTokens"),
        ] {
            let text = GOOD.replace(was, is);
            assert_ne!(text, GOOD, "{was}");
            let Err(faults) = parse("f", &text, read) else { panic!("{is:?} is not an error") };
            assert!(faults.to_string().contains(says), "{is:?}: {faults}");
        }
        let nobody = "listen: 1.1.1.1:1\ntrustDomain: td\ndir: /d\nserverNames: [a]\nattestors: {}";
        let Err(faults) = parse("f", nobody, read) else { panic!("no attestor is not an error") };
        assert!(faults.to_string().contains("no attestor is configured"), "{faults}");
    }

    #[test]
    fn what_waits_for_a_restart_is_named_with_its_line() {
        let start = parse("f", GOOD, read).unwrap();
        let waits = |was: &str, is: &str| -> Vec<String> {
            let text = GOOD.replace(was, is);
            assert_ne!(text, GOOD, "{was}");
            let now = parse("f", &text, read).unwrap();
            start.restart_keys(&now).into_iter().map(|key| now.lines.place("f", key)).collect()
        };
        for (was, is, waiting) in [
            ("[ca.test, 127.0.0.1]", "[other.test]", &[][..]),
            ("dir: /ca", "svidLifetime: 1m\ndir: /ca", &[]),
            ("[sys/adit]", "[sys/other]", &[]),
            ("https://k8s", "https://other", &[]),
            ("\n  joinTokens: { dir: /tokens }", "", &[]),
            ("127.0.0.1:15012", "127.0.0.1:15013", &["listen (f:2)"]),
            ("trustDomain: td", "trustDomain: other", &["trustDomain (f:3)"]),
            ("dir: /ca", "dir: /other", &["dir (f:4)"]),
            ("svid: true", "svid: true\nmetrics: { address: '[::1]:1' }", &["metrics (f:10)"]),
            ("jwks: /jwks", "jwks: /other", &["attestors.kubernetes.jwks (f:7)"]),
            ("pods: /pods", "pods: /other", &["attestors.kubernetes.pods (f:7)"]),
            ("dir: /tokens", "dir: /other", &["attestors.joinTokens (f:8)"]),
        ] {
            assert_eq!(waits(was, is), waiting, "{is}");
        }
        let less = GOOD.replace("\n  joinTokens: { dir: /tokens }\n  svid: true", "");
        let less = parse("f", &less, read).unwrap();
        let more = less.restart_keys(&start);
        assert_eq!(more, ["attestors.joinTokens", "attestors.svid"]);
    }

    #[test]
    fn pods_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pods");
        std::fs::write(
            &file,
            "pods: [{namespace: a, serviceAccount: b, node: n, name: c, uid: u}]",
        )
        .unwrap();
        assert_eq!(load_pods(&file).unwrap()[0].service_account, "b");
        std::fs::write(&file, "pods: [{namespace: a, serviceAccount: b, name: c}]").unwrap();
        assert!(load_pods(&file).unwrap_err().to_string().contains("node is missing"));
        std::fs::write(&file, "pods: []").unwrap();
        assert!(load_pods(&file).unwrap().is_empty());
    }
}
