//! Two nodes' worth of pods in namespaces, and the programs that run in them.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::sys::{netns::Netns, process};

/// How long anything may take, on a slow machine too.
const WAIT: Duration = Duration::from_secs(30);

/// A pod of the demonstration.
pub(super) struct Pod {
    pub(super) name: &'static str,
    pub(super) node: char,
    pub(super) ip: &'static str,
}

pub(super) const PODS: [Pod; 4] = [
    Pod { name: "web", node: 'a', ip: "10.77.1.1" },
    Pod { name: "intruder", node: 'a', ip: "10.77.1.2" },
    Pod { name: "api", node: 'b', ip: "10.77.2.1" },
    Pod { name: "batch", node: 'b', ip: "10.77.2.2" },
];

/// Ends its programs when dropped; if we are killed first, they end with us. Namespaces and
/// files end with the process.
pub(super) struct Lab {
    pub(super) dir: PathBuf,
    children: Vec<Child>,
}

fn ip(words: &str) -> Result<()> {
    let done = Command::new("ip").args(words.split_whitespace()).output();
    let done = done.context("ip is not installed (package iproute2)")?;
    if !done.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

impl Lab {
    /// Builds nodes a and b, joined by a wire, with a bridge and pods on each.
    pub(super) fn build() -> Result<Self> {
        // On the tmpfs of our own mount namespace: it vanishes with the process.
        let dir = PathBuf::from("/run/adit-demo");
        std::fs::create_dir(&dir)?;
        let lab = Self { dir, children: Vec::new() };
        for (node, net) in [('a', 1), ('b', 2)] {
            ip(&format!("netns add node-{node}"))?;
            ip(&format!("-n node-{node} link set lo up"))?;
            ip(&format!("-n node-{node} link add br0 type bridge"))?;
            ip(&format!("-n node-{node} addr add 10.77.{net}.254/24 dev br0"))?;
            ip(&format!("-n node-{node} link set br0 up"))?;
            let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            lab.netns(&format!("node-{node}"))?.run(forward)??;
        }
        ip("-n node-a link add wire0 type veth peer name wire0 netns node-b")?;
        for (node, net, other) in [('a', 1, 2), ('b', 2, 1)] {
            ip(&format!("-n node-{node} addr add 10.77.0.{net}/24 dev wire0"))?;
            ip(&format!("-n node-{node} link set wire0 up"))?;
            ip(&format!("-n node-{node} route add 10.77.{other}.0/24 via 10.77.0.{other}"))?;
        }
        for (n, pod) in PODS.iter().enumerate() {
            let (name, net) = (pod.name, if pod.node == 'a' { 1 } else { 2 });
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
            ip(&format!(
                "-n {name} link add eth0 type veth peer name v{n} netns node-{}",
                pod.node
            ))?;
            ip(&format!("-n node-{} link set v{n} master br0 up", pod.node))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", pod.ip))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} route add default via 10.77.{net}.254"))?;
        }
        Ok(lab)
    }

    pub(super) fn netns(&self, name: &str) -> Result<Netns> {
        Ok(Netns::open(&Path::new("/run/netns").join(name))?)
    }

    /// Starts a program in a namespace; its output goes to a file of its own.
    pub(super) fn spawn(
        &mut self,
        netns: &str,
        log: &str,
        program: &Path,
        args: &[&str],
    ) -> Result<()> {
        let log = File::create(self.dir.join(log))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process::die_with_parent(&mut command);
        let child = self.netns(netns)?.run(|| command.spawn())?;
        self.children.push(child.with_context(|| format!("cannot start {}", program.display()))?);
        Ok(())
    }

    /// Runs a program in a namespace to its end.
    pub(super) fn tool(&self, netns: &str, program: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        let output = self.netns(netns)?.run(|| command.output())?;
        output.with_context(|| format!("{program} is not installed"))
    }

    /// A connection from inside a namespace, every wait bounded.
    pub(super) fn connect(&self, netns: &str, to: &str) -> Result<std::net::TcpStream> {
        let (to, limit) = (to.parse()?, Duration::from_secs(5));
        let dial = || std::net::TcpStream::connect_timeout(&to, limit);
        let socket = self.netns(netns)?.run(dial)??;
        socket.set_read_timeout(Some(limit))?;
        Ok(socket)
    }

    pub(super) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// Waits up to half a minute for something to become so.
    pub(super) fn wait(&self, what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !so() {
            if start.elapsed() > WAIT {
                bail!("waited {} s for {what}", WAIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
