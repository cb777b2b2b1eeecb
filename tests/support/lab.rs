//! Namespaces, applications and a running adit for one scenario; everything is removed when
//! the lab goes, also after a panic.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use adit::sys::netns::Netns;

use crate::{
    process::{Adit, command_of},
    wait::{LIMIT, wait_for, wait_until},
};

pub(crate) fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

fn make_pod(name: &str, n: u8) {
    ip(&format!("netns add {name}"));
    ip(&format!("-n {name} link set lo up"));
    ip(&format!("-n {name} link add eth0 type veth peer name v{n} netns bridge"));
    ip(&format!("-n bridge link set v{n} master br0 up"));
    ip(&format!("-n {name} addr add 10.77.0.{n}/24 dev eth0"));
    ip(&format!("-n {name} addr add fd77::{n}/64 dev eth0 nodad"));
    ip(&format!("-n {name} link set eth0 up"));
    ip(&format!("-n {name} route add default via 10.77.0.254"));
}

/// Pods on one bridge, and an adit that carries them.
pub(crate) struct Lab {
    pods: Vec<(&'static str, u8)>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) lifetime: &'static str,
    /// The section `ca`, where it is not the embedded one.
    pub(crate) ca: Option<String>,
    /// The section `capture`, without its braces.
    pub(crate) capture: &'static str,
    /// How long connections may go on at a stop.
    pub(crate) drain: &'static str,
    /// Where adit looks for tools first.
    pub(crate) tools: Option<PathBuf>,
    /// What adit finds in its environment beside what is in ours.
    pub(crate) env: Vec<(&'static str, std::ffi::OsString)>,
    /// What adit is told beside its file.
    args: Vec<String>,
    adit: Option<Adit>,
}

impl Lab {
    /// Pods named and numbered: number N has 10.77.0.N and fd77::N.
    pub(crate) fn new(pods: &[(&'static str, u8)]) -> Self {
        ip("netns add bridge");
        ip("-n bridge link add br0 type bridge");
        ip("-n bridge link set br0 up");
        pods.iter().for_each(|(name, n)| make_pod(name, *n));
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self {
            pods: pods.to_vec(),
            dir,
            lifetime: "1h",
            ca: None,
            capture: "rules: nft",
            drain: "2s",
            tools: None,
            env: Vec::new(),
            args: Vec::new(),
            adit: None,
        }
    }

    /// Takes a pod's namespace away and makes another of the same name.
    pub(crate) fn remake(&self, name: &str, n: u8) {
        ip(&format!("netns del {name}"));
        // Its end of the cable goes with it once nobody holds the namespace.
        let _ = Command::new("ip").args(["-n", "bridge", "link", "del", &format!("v{n}")]).output();
        make_pod(name, n);
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the mesh file: `body` after the parts that every scenario shares.
    pub(crate) fn write_mesh(&self, body: &str) {
        fs::write(self.file("mesh.tmp"), self.mesh_text(body)).expect("mesh file written");
        fs::rename(self.file("mesh.tmp"), self.file("mesh.yaml")).expect("mesh file in place");
    }

    /// What [`Lab::write_mesh`] writes.
    pub(crate) fn mesh_text(&self, body: &str) -> String {
        let embedded = || {
            let dir = self.file("ca");
            format!("{{ embedded: {{ dir: {}, svidLifetime: {} }} }}", dir.display(), self.lifetime)
        };
        let ca = self.ca.clone().unwrap_or_else(embedded);
        let head = format!(
            "trustDomain: cluster.local\nca: {ca}\n\
             capture: {{ {} }}\ndrain: {{ deadline: {} }}\naccessLog: {{ format: json }}\n",
            self.capture, self.drain
        );
        head + body
    }

    /// Starts adit and waits until it is ready.
    pub(crate) fn start(&mut self, body: &str) {
        self.launch(body);
        self.wait("ready", || self.readiness().contains("200 OK"));
    }

    pub(crate) fn readiness(&self) -> String {
        self.admin("127.0.0.1:15021", "GET /healthz/ready")
    }

    /// Starts adit.
    pub(crate) fn launch(&mut self, body: &str) {
        self.write_mesh(body);
        self.adit = Some(self.launched("mesh.yaml"));
    }

    fn launched(&self, file: &str) -> Adit {
        let path = std::env::var("PATH").unwrap_or_default();
        let first = self.tools.as_ref().map(|tools| format!("{}:", tools.display()));
        let file = self.file(file);
        let mut adit = command_of(["run".as_ref(), "-c".as_ref(), file.as_os_str()]);
        adit.args(&self.args);
        adit.env("PATH", first.unwrap_or_default() + &path).envs(self.env.iter().cloned());
        Adit::launch(adit)
    }

    /// Every adit that is started takes over from the one before it.
    pub(crate) fn hands_over(&mut self) {
        let path = format!("unix:{}", self.file("takeover.sock").display());
        self.args = vec!["--takeover".into(), path];
    }

    /// Starts another adit, which reads `file`; the one that ran is no longer the lab's.
    pub(crate) fn take_over(&mut self, file: &str) -> Adit {
        let next = self.launched(file);
        self.adit.replace(next).expect("adit ran")
    }

    /// Starts another adit, which is expected to end; the one that runs stays the lab's.
    pub(crate) fn fails_to_take_over(&self, file: &str) -> std::process::ExitStatus {
        self.launched(file).ends()
    }

    /// One HTTP request to an endpoint of adit; empty if it does not answer.
    pub(crate) fn admin(&self, at: &str, request: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut socket) = TcpStream::connect(at) {
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = write!(
                socket,
                "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            );
            let _ = socket.read_to_string(&mut answer);
        }
        answer
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, until: impl FnMut() -> bool) {
        wait_until(what, LIMIT, until);
    }

    /// Waits until what is answered to a request has this, and returns it.
    #[track_caller]
    pub(crate) fn shows(&self, at: &str, request: &str, what: &str) -> String {
        let shown = || Some(self.admin(at, request)).filter(|answer| answer.contains(what));
        wait_for(&format!("{what:?} in the answer to {request}"), LIMIT, shown)
    }

    /// The same of the metrics.
    #[track_caller]
    pub(crate) fn counts(&self, what: &str) -> String {
        self.shows("127.0.0.1:15020", "GET /metrics", what)
    }

    /// Waits for a log line that has all of these, separated by ` … `.
    #[track_caller]
    pub(crate) fn logs(&self, parts: &str) -> String {
        self.adit.as_ref().expect("adit ran").logs(parts)
    }

    /// All that the adit that was started last has printed.
    pub(crate) fn log(&self) -> String {
        self.adit.as_ref().map(Adit::log).unwrap_or_default()
    }

    /// Access-log lines with this direction and reason.
    pub(crate) fn records(&self, direction: &str, reason: &str) -> Vec<serde_json::Value> {
        let lines = self.log();
        let parsed = lines.lines().filter_map(|l| serde_json::from_str(l).ok());
        parsed
            .filter(|v: &serde_json::Value| {
                v["direction"] == direction && v["reason"] == reason && v["target"] == "access"
            })
            .collect()
    }

    /// Waits for such a line and returns the first.
    #[track_caller]
    pub(crate) fn record(&self, direction: &str, reason: &str) -> serde_json::Value {
        self.wait(&format!("a record {direction} {reason}"), || {
            !self.records(direction, reason).is_empty()
        });
        self.records(direction, reason).remove(0)
    }

    pub(crate) fn netns(&self, pod: &str) -> Netns {
        Netns::open(&PathBuf::from("/run/netns").join(pod)).expect("the pod's namespace")
    }

    pub(crate) fn listen(&self, pod: &str, port: u16) -> TcpListener {
        let bind = || TcpListener::bind(("::", port));
        self.netns(pod).run(bind).expect("namespace entered").expect("port is free")
    }

    /// Connects from inside a pod, with time limits on everything.
    pub(crate) fn connect(&self, pod: &str, to: &str) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().expect("an address");
        let limit = Duration::from_secs(5);
        let socket = self.netns(pod).run(|| TcpStream::connect_timeout(&to, limit))??;
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        Ok(socket)
    }

    /// Sends a line and returns what comes back, with the end or the error.
    pub(crate) fn ask(&self, pod: &str, to: &str) -> std::io::Result<String> {
        let mut socket = self.connect(pod, to)?;
        socket.write_all(b"hello\n")?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// An application that answers each connection with who called and what they said.
    pub(crate) fn echo(&self, pod: &str, port: u16) {
        let listener = self.listen(pod, port);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(mut socket) = socket else { return };
                std::thread::spawn(move || {
                    let peer = socket.peer_addr().map(|a| a.ip().to_canonical().to_string());
                    let mut buffer = [0; 65536];
                    let _ = writeln!(socket, "caller {}", peer.unwrap_or_default());
                    loop {
                        match socket.read(&mut buffer) {
                            Ok(n @ 1..) if socket.write_all(&buffer[..n]).is_ok() => {}
                            // What sockmap makes of a blocking read now and then.
                            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                            _ => return,
                        }
                    }
                });
            }
        });
    }

    /// Stops adit as an operator does, and waits for it.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.stop_dead()
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        self.adit.as_ref().expect("adit ran").signal(signal);
    }

    /// Waits for an adit that was told to end, or killed.
    pub(crate) fn stop_dead(&mut self) -> std::process::ExitStatus {
        self.adit.as_mut().expect("adit ran").ends()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.adit.as_ref().expect("adit runs").id()
    }

    /// What a tool prints inside a pod's namespace.
    pub(crate) fn tool(&self, pod: &str, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).stdin(Stdio::null());
        let child = || command.output();
        let done = self.netns(pod).run(child).expect("namespace entered").expect("tool runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.adit.take());
        for name in self.pods.iter().map(|(name, _)| *name).chain(["bridge"]) {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
