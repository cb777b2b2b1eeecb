//! A running `adit ca serve`, and clients for it. It ends with its owner.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use adit::{
    credentials::{
        AuthToken, ControlPlane, Istiod, IstiodConfig, Roots, Server, Source, SourceError, Urgency,
        Wanted,
    },
    identity::{KeyUsageRule, SpiffeId, X509Svid},
};
use serde_json::Value;

use crate::{
    issuer::{Issuer, jwks},
    process::{Adit, command_of},
    wait::{LIMIT, wait_for},
};

pub(crate) const PODS: &str = "pods:
- { namespace: shop, serviceAccount: web, node: n1, name: web-1, uid: uid-web-1 }
- { namespace: shop, serviceAccount: db, node: n2, name: db-1, uid: uid-db-1 }
- { namespace: sys, serviceAccount: adit, node: n1, name: adit-1, uid: uid-adit-1 }
";

/// Tokens by a JWKS file, join tokens and SVIDs.
pub(crate) const ATTESTORS: &str = "
  kubernetes: { issuer: 'https://kubernetes.test', jwks: DIR/jwks, trustedNodeAccounts: [sys/adit], pods: DIR/pods }
  joinTokens: { dir: DIR/join }
  svid: true
";

pub(crate) struct CaServer {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) addr: SocketAddr,
    adit: Option<Adit>,
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://td/{path}").parse().expect("a SPIFFE ID")
}

impl CaServer {
    /// With these keys and the usual attestors.
    pub(crate) fn start(issuers: &[&Issuer]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("jwks"), jwks(issuers)).expect("JWKS written");
        Self::start_in(dir, ATTESTORS, "127.0.0.1:0")
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, attestors: &str, listen: &str) -> Self {
        Self::start_with(dir, attestors, listen, &[])
    }

    /// With more in its environment.
    pub(crate) fn start_with(
        dir: tempfile::TempDir,
        attestors: &str,
        listen: &str,
        env: &[(&str, OsString)],
    ) -> Self {
        let path = dir.path().display().to_string();
        let config = format!(
            "listen: {listen}\ntrustDomain: td\ndir: DIR/ca\nserverNames: [ca.test, 127.0.0.1]\n\
             svidLifetime: 10m\naccessLog: {{ format: json }}\n\
             metrics: {{ address: '127.0.0.1:0' }}\n\
             attestors: {attestors}"
        );
        fs::write(dir.path().join("pods"), PODS).expect("pods written");
        fs::write(dir.path().join("ca.yaml"), config.replace("DIR", &path)).expect("written");
        let addr = "127.0.0.1:0".parse().expect("an address");
        let mut server = Self { dir, addr, adit: None };
        server.run(env);
        server
    }

    fn run(&mut self, env: &[(&str, OsString)]) {
        let file = self.file("ca.yaml");
        let mut adit =
            command_of(["ca".as_ref(), "serve".as_ref(), "-c".as_ref(), file.as_os_str()]);
        adit.envs(env.iter().map(|(key, value)| (key, value)));
        adit::sys::process::die_with_parent(&mut adit);
        self.adit = Some(Adit::launch(adit));
        let line = self.line("serving the CA", |l| l["message"] == "serving the CA");
        self.addr = line["address"].as_str().expect("an address").parse().expect("an address");
    }

    /// Kills it without a warning, and starts it again on the same port.
    pub(crate) fn crash_and_restart(&mut self) {
        self.stop();
        let config = fs::read_to_string(self.file("ca.yaml")).expect("the file");
        let first = config.lines().next().expect("a line");
        let config = config.replace(first, &format!("listen: {}", self.addr));
        fs::write(self.file("ca.yaml"), config).expect("written");
        self.run(&[]);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.adit.as_ref().expect("it runs").id()
    }

    /// Waits for one that was told to end.
    pub(crate) fn ends(&mut self) -> std::process::ExitStatus {
        self.adit.as_mut().expect("it runs").ends()
    }

    pub(crate) fn stop(&mut self) {
        self.adit = None;
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// All that it has printed.
    pub(crate) fn log(&self) -> String {
        self.adit.as_ref().map(Adit::log).unwrap_or_default()
    }

    /// All log lines so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last log line of its kind, waited for.
    #[track_caller]
    pub(crate) fn line(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("a line {what}"), LIMIT, || {
            self.lines().into_iter().rev().find(|line| is(line))
        })
    }

    /// The `n`th decision, counted from 0.
    #[track_caller]
    pub(crate) fn decision(&self, n: usize) -> Value {
        let decided =
            |l: &Value| l["message"] == "SVID issued" || l["message"] == "request refused";
        let all = || self.lines().into_iter().filter(decided).collect::<Vec<_>>();
        self.line("of a decision", |_| all().len() > n);
        all().swap_remove(n)
    }

    /// An istiod source that shows `token`.
    pub(crate) fn client(&self, token: &str) -> Istiod {
        let file = self.file(&format!("token-{:x}", rand::random::<u64>()));
        fs::write(&file, format!("{token}\n")).expect("token written");
        Istiod::new(self.config(file))
    }

    pub(crate) fn config(&self, token: PathBuf) -> IstiodConfig {
        let address = format!("https://{}", self.addr);
        let uri = address.parse().expect("a URI");
        IstiodConfig {
            server: ControlPlane {
                server: Server::of(&uri, Some("ca.test"), 15012).expect("a server"),
                alternative_name: None,
                address,
                token: Some(AuthToken::File(token)),
                roots: Roots::File(self.file("ca/root.pem")),
                cluster_id: Some("one".into()),
                headers: Vec::new(),
            },
            svid_lifetime: Duration::from_secs(300),
            aliases: Default::default(),
            key_usage: KeyUsageRule::Required,
        }
    }

    pub(crate) fn metrics(&self) -> String {
        use std::io::{Read, Write};
        let at = self.line("of metrics", |l| l["message"] == "serving metrics");
        let at = at["address"].as_str().expect("an address").to_owned();
        let mut socket = std::net::TcpStream::connect(at).expect("connected");
        let ask = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        socket.write_all(ask.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Waits until the metrics have this, and returns them.
    #[track_caller]
    pub(crate) fn counts(&self, what: &str) -> String {
        let counted = || Some(self.metrics()).filter(|metrics| metrics.contains(what));
        wait_for(&format!("{what:?} in the metrics"), LIMIT, counted)
    }

    /// A step of `adit ca` in the CA's directory.
    pub(crate) fn ca(&self, step: &[&str]) {
        let mut adit = command_of(["ca"]);
        let done = adit.args(step).arg("--dir").arg(self.file("ca")).output();
        let done = done.expect("adit runs");
        assert!(done.status.success(), "{step:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A join token, made by the command.
    pub(crate) fn join_token(&self, id: &SpiffeId, ttl: &str) -> String {
        let mut adit = command_of(["ca"]);
        adit.args(["token", "create", "--id", id.as_str(), "--ttl", ttl, "--dir"]);
        let made = adit.arg(self.file("join")).output().expect("adit runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    }
}

/// How a host of this identity is told to get another join token into `file`.
pub(crate) fn told_to_join_again(id: &SpiffeId, file: &Path) -> String {
    format!(
        "a join token serves once, so a restart needs a new one: run `adit ca token create --dir DIR \
         --id {id}` on the machine of the CA (DIR is `attestors.joinTokens.dir` of its file), and \
         write what it prints into {}",
        file.display()
    )
}

pub(crate) async fn fetch(client: &Istiod, wanted: &SpiffeId) -> Result<X509Svid, SourceError> {
    let wanted = Wanted { uid: wanted.as_str().into(), id: wanted.clone() };
    let fetched = client.fetch(&wanted, Urgency::OnDemand);
    tokio::time::timeout(Duration::from_secs(20), fetched).await.expect("an end")
}
