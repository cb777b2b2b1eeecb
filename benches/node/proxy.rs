//! A node proxy as Istio's chart runs it, and the istio-cni that tells it of its pods.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use adit::sys::netns::Netns;
use nix::unistd::{SysconfVar, sysconf};

use crate::{
    fake_cni::{Conversation, FakeCni, add, snapshot_sent},
    istiod::AT,
    lab::Lab,
    process::Adit,
    wait::LIMIT,
};

/// The one of this tree.
pub(crate) const ADIT: &str = env!("CARGO_BIN_EXE_adit");

/// Its pods and their namespaces.
const PODS: [&str; 2] = ["web", "db"];

pub(crate) struct NodeProxy {
    process: Adit,
    cni: FakeCni,
    agent: Option<Conversation>,
    pods: Vec<File>,
}

/// What a process has used so far.
pub(crate) struct Usage {
    pub(crate) cpu_ms: f64,
    pub(crate) resident_kb: f64,
    pub(crate) peak_kb: f64,
}

impl NodeProxy {
    /// Starts one; istio-cni runs.
    pub(crate) fn start(lab: &Lab, program: &str) -> Self {
        let file = |name: &str| lab.file(name).display().to_string();
        let (cni, istiod) = (FakeCni::listen(&lab.file("zds.sock")), format!("https://{AT}"));
        let mut command = Command::new(program);
        command.args(["proxy", "ztunnel"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs([
            ("CA_ADDRESS", istiod.clone()),
            ("XDS_ADDRESS", istiod),
            ("CA_ROOT_CA", file("root-cert.pem")),
            ("XDS_ROOT_CA", file("root-cert.pem")),
            ("AUTH_TOKEN", file("istio-token")),
            ("INPOD_UDS", file("zds.sock")),
        ]);
        command.envs([
            ("RUST_LOG", "warn"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_ENABLE_HBONE", "true"),
            ("CLUSTER_ID", "Kubernetes"),
            ("INPOD_ENABLED", "true"),
            ("TERMINATION_GRACE_PERIOD_SECONDS", "3"),
            ("POD_NAME", "ztunnel-n1"),
            ("POD_NAMESPACE", "istio-system"),
            ("NODE_NAME", "n1"),
            ("INSTANCE_IP", "10.77.0.201"),
            ("SERVICE_ACCOUNT", "ztunnel"),
        ]);
        let process = lab.netns("n1").run(|| Adit::launch(command)).unwrap();
        let pods = PODS.map(|pod| File::open(format!("/run/netns/{pod}")).unwrap());
        Self { process, cni, agent: None, pods: pods.into() }
    }

    /// istio-cni tells it of its pods and hears that they are in the mesh.
    pub(crate) fn is_told_of_its_pods(&mut self) {
        let agent = self.cni.accept();
        for (pod, netns) in PODS.iter().zip(&self.pods) {
            let told = add(&format!("uid-{pod}"), "shop", pod, pod);
            assert_eq!(agent.asks(&told, &[netns.as_fd()]), "", "{pod}");
        }
        assert_eq!(agent.asks(&snapshot_sent(), &[]), "");
        self.agent = Some(agent);
    }

    /// Waits until it says that it is.
    pub(crate) fn is_ready(&self, lab: &Lab) {
        let (netns, begun) = (lab.netns("n1"), Instant::now());
        while !readiness(&netns).contains("200 OK") {
            assert!(begun.elapsed() < LIMIT, "not ready: {}", self.process.log());
            sleep(Duration::from_millis(1));
        }
    }

    /// Whether a pod's stream goes through a tunnel: what only passes it on would look fast.
    pub(crate) fn has_tunnels(&self, lab: &Lab) -> bool {
        PODS.iter().any(|pod| {
            let all = lab.tool(pod, "ss -Htn state established");
            all.lines().any(|line| line.contains(":15008"))
        })
    }

    pub(crate) fn usage(&self) -> Usage {
        let of = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.process.id()));
        let (status, stat) = (of("status").unwrap(), of("stat").unwrap());
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        // The name before the last parenthesis may have anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = [fields[11], fields[12]].map(|t| t.parse::<f64>().unwrap()).iter().sum();
        let hertz = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        Usage {
            cpu_ms: ticks * 1e3 / hertz as f64,
            resident_kb: line("VmRSS:"),
            peak_kb: line("VmHWM:"),
        }
    }
}

fn readiness(netns: &Netns) -> String {
    let mut answer = String::new();
    if let Ok(mut socket) = netns.run(|| TcpStream::connect("127.0.0.1:15021")).unwrap() {
        let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
        let asked = "GET /healthz/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let _ = socket.write_all(asked.as_bytes());
        let _ = socket.read_to_string(&mut answer);
    }
    answer
}
