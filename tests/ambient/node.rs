//! One node: its adit, and its istio-cni.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    fake_cni::{Conversation, FakeCni, add, snapshot_sent},
    istiod::AT,
    lab::Lab,
    outages::Fails,
    process::{Adit, command_of},
    wait::{LIMIT, wait_for},
};

/// How long a peer is away, or silent.
pub(crate) const A_WHILE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Node {
    name: &'static str,
    /// In which adit runs, as a pod of its own.
    netns: &'static str,
    address: &'static str,
    chart: Chart,
    /// What is said beside the chart's variables.
    pub(crate) said: Vec<(&'static str, String)>,
    cni: Option<FakeCni>,
    agent: Option<Conversation>,
    adit: Option<Adit>,
}

/// Whose chart starts adit.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Chart {
    #[default]
    Istio,
    Cilium,
}

impl Node {
    pub(crate) fn new(name: &'static str, address: &'static str) -> Self {
        Self { name, netns: name, address, ..Self::default() }
    }

    /// As Cilium's chart starts it: on the node's own network.
    pub(crate) fn of_cilium(name: &'static str, address: &'static str) -> Self {
        Self { chart: Chart::Cilium, ..Self::new(name, address) }
    }

    /// The operator says this too.
    pub(crate) fn with(mut self, variable: &'static str, value: impl Into<String>) -> Self {
        self.said.push((variable, value.into()));
        self
    }

    /// The same in this network.
    pub(crate) fn in_network(self, network: &'static str) -> Self {
        self.with("NETWORK", network)
    }

    /// The pod that a rollout starts on the same node before it ends this one.
    pub(crate) fn successor(&self, netns: &'static str, address: &'static str) -> Self {
        let (chart, said) = (self.chart, self.said.clone());
        Self { netns, chart, said, ..Self::new(self.name, address) }
    }

    /// Starts adit as the chart does.
    pub(crate) fn launch(&mut self, lab: &Lab) {
        let mut adit = command_of(["proxy", "ztunnel"]);
        adit.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        adit.env("INPOD_UDS", self.socket(lab));
        match self.chart {
            Chart::Istio => self.add_variables_of_istio(lab, &mut adit),
            Chart::Cilium => self.add_variables_of_cilium(lab, &mut adit),
        }
        adit.envs(self.said.iter().cloned());
        self.adit = Some(lab.netns(self.netns).run(|| Adit::launch(adit)).unwrap());
    }

    fn add_variables_of_istio(&self, lab: &Lab, adit: &mut Command) {
        let file = |name: &str| lab.file(name).display().to_string();
        let istiod = format!("https://{AT}");
        adit.envs([
            ("CA_ADDRESS", istiod.clone()),
            ("XDS_ADDRESS", istiod),
            ("CA_ROOT_CA", file("root-cert.pem")),
            ("XDS_ROOT_CA", file("root-cert.pem")),
            ("AUTH_TOKEN", file("istio-token")),
            ("POD_NAME", format!("ztunnel-{}", self.netns)),
        ]);
        adit.envs([
            ("LOG_FORMAT", "json"),
            ("RUST_LOG", "info"),
            ("RUST_BACKTRACE", "1"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("INPOD_ENABLED", "true"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "3"),
            ("POD_NAMESPACE", "istio-system"),
            ("NODE_NAME", self.name),
            ("INSTANCE_IP", self.address),
            ("SERVICE_ACCOUNT", "ztunnel"),
            ("ZTUNNEL_CPU_LIMIT", "1"),
        ]);
    }

    /// And the log as JSON, which scenarios read.
    fn add_variables_of_cilium(&self, lab: &Lab, adit: &mut Command) {
        let roots = lab.file("bootstrap-root.crt").display().to_string();
        adit.envs([("XDS_ROOT_CA", &roots), ("CA_ROOT_CA", &roots)]);
        adit.envs([
            ("XDS_ADDRESS", "https://localhost:15012"),
            ("CA_ADDRESS", "https://localhost:15012"),
            ("ISTIO_META_DNS_CAPTURE", "false"),
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("NODE_NAME", self.address),
            ("INSTANCE_IP", self.address),
            ("LOG_FORMAT", "json"),
        ]);
    }

    /// Where the CNI agent of its node listens.
    fn socket(&self, lab: &Lab) -> PathBuf {
        match self.chart {
            Chart::Istio => lab.file(&format!("{}.sock", self.name)),
            Chart::Cilium => PathBuf::from(format!("/var/run/cilium/{}/ztunnel.sock", self.name)),
        }
    }

    /// istio-cni starts.
    pub(crate) fn starts_cni(&mut self, lab: &Lab) {
        let socket = self.socket(lab);
        std::fs::create_dir_all(socket.parent().expect("a folder")).unwrap();
        self.cni = Some(FakeCni::listen(&socket));
    }

    /// istio-cni does this instead of announcing pods.
    pub(crate) fn cni_fails(&self, lab: &Lab, fault: Fails) {
        let connected = || FakeCni::listen(&self.socket(lab)).accept();
        match fault {
            Fails::IsAway => thread::sleep(A_WHILE),
            Fails::Closes => drop(connected()),
            Fails::IsSilent => {
                let _open = connected();
                thread::sleep(A_WHILE);
            }
            Fails::IsWrong => {
                let netns = File::open("/run/netns/web").unwrap();
                let web = add("uid-web", "shop", "web", "web");
                assert_eq!(connected().asks(&web, &[netns.as_fd()]), "");
            }
        }
    }

    /// istio-cni ends, and the connection to it.
    pub(crate) fn ends_cni(&mut self) {
        (self.cni, self.agent) = (None, None);
    }

    /// adit connects to istio-cni, and is told of these pods.
    #[track_caller]
    pub(crate) fn announces(&mut self, pods: &[&str]) {
        self.agent = Some(self.cni.as_ref().expect("istio-cni runs").accept());
        self.is_told(pods);
    }

    /// The same of a successor, which the same istio-cni hears.
    #[track_caller]
    pub(crate) fn announces_to(&self, successor: &mut Self, pods: &[&str]) {
        successor.agent = Some(self.cni.as_ref().expect("istio-cni runs").accept());
        successor.is_told(pods);
    }

    #[track_caller]
    fn is_told(&self, pods: &[&str]) {
        for pod in pods {
            assert_eq!(self.adds(pod, pod), "", "{pod}");
        }
        assert_eq!(self.agent().asks(&snapshot_sent(), &[]), "");
    }

    /// What is answered to a pod with this namespace.
    #[track_caller]
    pub(crate) fn adds(&self, pod: &str, netns: &str) -> String {
        let netns = File::open(format!("/run/netns/{netns}")).unwrap();
        self.agent().asks(&add(&format!("uid-{pod}"), "shop", pod, pod), &[netns.as_fd()])
    }

    /// The connection to istio-cni.
    #[track_caller]
    pub(crate) fn agent(&self) -> &Conversation {
        self.agent.as_ref().expect("adit has connected")
    }

    /// As a crash does.
    pub(crate) fn kill(&mut self) {
        (self.adit, self.agent) = (None, None);
    }

    pub(crate) fn adit(&self) -> &Adit {
        self.adit.as_ref().expect("adit runs")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ends(&mut self) -> ExitStatus {
        self.adit.as_mut().expect("adit runs").ends()
    }

    /// One HTTP request to an endpoint of adit: the whole answer, empty if there is none.
    pub(crate) fn http(&self, lab: &Lab, port: u16, request: &str) -> String {
        let mut answer = String::new();
        let connect = || TcpStream::connect(("127.0.0.1", port));
        if let Ok(mut socket) = lab.netns(self.netns).run(connect).unwrap() {
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            let end = "HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            let _ = write!(socket, "{request} {end}");
            let _ = socket.read_to_string(&mut answer);
        }
        answer
    }

    /// Whose certificates it holds.
    pub(crate) fn certificates(&self, lab: &Lab) -> Vec<String> {
        let dump = self.dump(lab);
        let all = dump["certificates"].as_array().unwrap();
        all.iter().map(|one| one["identity"].as_str().unwrap().to_owned()).collect()
    }

    /// The serial number of a pod's SVID that it got last, hex.
    #[track_caller]
    pub(crate) fn serial(&self, pod: &str) -> String {
        let id = format!("spiffe://cluster.local/ns/shop/sa/{pod}");
        wait_for(&format!("the SVID of {pod} at {}", self.name), LIMIT, || {
            let log = self.adit().log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let issued = |v: &Value| v["message"] == "SVID issued" && v["identity"] == *id;
            lines.rev().find(issued).map(|v| v["serial"].as_str().unwrap().to_owned())
        })
    }

    /// What `/config_dump` says.
    pub(crate) fn dump(&self, lab: &Lab) -> Value {
        let answer = self.http(lab, 15000, "GET /config_dump");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Waits until the readiness endpoint says this.
    #[track_caller]
    pub(crate) fn says_of_readiness(&self, lab: &Lab, what: &str) -> String {
        let shown =
            || Some(self.http(lab, 15021, "GET /healthz/ready")).filter(|said| said.contains(what));
        wait_for(&format!("{what:?} of the readiness of {}", self.name), LIMIT, shown)
    }

    /// Waits until the metrics have a line with all of these, separated by ` … `.
    #[track_caller]
    pub(crate) fn counts(&self, lab: &Lab, parts: &str) -> String {
        let parts: Vec<&str> = parts.split(" … ").collect();
        wait_for(&format!("a metric with {parts:?} at {}", self.name), LIMIT, || {
            let text = self.http(lab, 15020, "GET /metrics");
            let found = text.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(ToOwned::to_owned)
        })
    }

    /// Waits for a line of the access log for which this holds.
    #[track_caller]
    pub(crate) fn record(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("a record of {what} at {}", self.name), LIMIT, || {
            let log = self.adit().log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.filter(|line| line["scope"] == "access").find(|line| holds(line))
        })
    }
}
