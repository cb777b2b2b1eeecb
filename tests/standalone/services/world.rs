//! Certificates, processes of adit, back ends and callers.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::SystemTime,
};

use nix::sys::signal::Signal;
use pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::{
    pki::{self, Ca, dns, ip},
    process::{Adit, command_of},
    wait::LIMIT,
};

/// A folder with a CA and what it has signed.
pub(crate) struct World {
    dir: tempfile::TempDir,
    ca: Ca,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self { dir, ca: Ca::new("root", None) };
        world.write("ca.crt", &world.ca.pem);
        world.sign("server", "server", Some("spiffe://td/ns/prod/sa/server"));
        world
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.file(name), text).unwrap();
        self.file(name)
    }

    /// `name.crt` and `name.key`: a common name, `localhost` and (but for `named`) 127.0.0.1, and a
    /// URI.
    pub(crate) fn sign(&self, name: &str, cn: &str, uri: Option<&str>) {
        let names =
            [Some(dns("localhost")), (name != "named").then(|| ip("127.0.0.1")), uri.map(pki::uri)];
        let leaf =
            self.ca.leaf(cn, |p| p.subject_alt_names = names.into_iter().flatten().collect());
        self.write(&format!("{name}.key"), &leaf.key_pem);
        self.write(&format!("{name}.crt"), &leaf.pem);
    }

    /// The same, of this life.
    pub(crate) fn sign_lasting(&self, name: &str, from: SystemTime, until: SystemTime) {
        let leaf = self.ca.leaf(name, |p| {
            p.subject_alt_names = vec![dns("localhost"), ip("127.0.0.1")];
            (p.not_before, p.not_after) = (from.into(), until.into());
        });
        self.write(&format!("{name}.key"), &leaf.key_pem);
        self.write(&format!("{name}.crt"), &leaf.pem);
    }

    /// `credential:` of the server.
    pub(crate) fn credential(&self, name: &str) -> String {
        let at = |end: &str| self.file(&format!("{name}.{end}")).display().to_string();
        format!(
            "credential: {{ certificate: {}, privateKey: {}, roots: {} }}",
            at("crt"),
            at("key"),
            self.file("ca.crt").display()
        )
    }

    /// An entry of `services`.
    pub(crate) fn server(&self, name: &str, port: u16, target: SocketAddr, more: &str) -> String {
        let credential = self.credential("server");
        format!(
            "- {{ name: {name}, mode: server, listen: '127.0.0.1:{port}', target: '{target}', \
             {credential}, {more} }}\n"
        )
    }

    fn config(&self, name: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let chain = CertificateDer::from_pem_file(self.file(&format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
        Arc::new(builder.with_client_auth_cert(vec![chain], key).unwrap())
    }

    /// Calls a server with the certificate `name`; what the back end says first.
    pub(crate) fn call(&self, name: &str, port: u16) -> Result<Call, String> {
        let tcp = dial(port)?;
        let server = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(self.config(name), server).unwrap();
        Call::new(StreamOwned::new(tls, tcp))
    }
}

fn dial(port: u16) -> Result<TcpStream, String> {
    let tcp = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    Ok(tcp)
}

/// Calls a plain port.
pub(crate) fn call_plain(port: u16) -> Result<Call, String> {
    Call::new(dial(port)?)
}

trait Stream: std::io::Read + std::io::Write + Send {}
impl<T: std::io::Read + std::io::Write + Send> Stream for T {}

/// An open connection to a back end.
pub(crate) struct Call {
    stream: Box<dyn Stream>,
    /// Who answered.
    pub(crate) name: String,
}

impl Call {
    fn new(stream: impl Stream + 'static) -> Result<Self, String> {
        let mut call = Self { stream: Box::new(stream), name: String::new() };
        call.name = call.line()?;
        Ok(call)
    }

    fn line(&mut self) -> Result<String, String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            match crate::wait::read_once(&mut self.stream, &mut byte) {
                Ok(1) if byte == *b"\n" => return Ok(String::from_utf8(line).unwrap()),
                Ok(1) => line.push(byte[0]),
                Ok(_) => return Err("ended".into()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Says something and hears the same.
    pub(crate) fn echo(&mut self, text: &str) -> Result<(), String> {
        self.stream.write_all(format!("{text}\n").as_bytes()).map_err(|e| e.to_string())?;
        self.stream.flush().map_err(|e| e.to_string())?;
        let heard = self.line()?;
        assert_eq!(heard, text);
        Ok(())
    }
}

/// A server that says its name, then echoes.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    pub(crate) calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(name: &str) -> Self {
        Self::at(name, "127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn at(name: &str, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let (calls, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counted, stopped) = (Arc::clone(&calls), Arc::clone(&stop));
        let name = name.to_owned();
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(SeqCst) {
                    return;
                }
                counted.fetch_add(1, SeqCst);
                let name = name.clone();
                std::thread::spawn(move || serve(stream, &name));
            }
        });
        Self { addr, calls, stop, thread: Some(thread) }
    }
}

fn serve(mut stream: TcpStream, name: &str) {
    let _ = stream.set_read_timeout(Some(LIMIT));
    if writeln!(stream, "{name}").is_err() {
        return;
    }
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        if stream.write_all(line.as_bytes()).is_err() {
            return;
        }
        line.clear();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers HTTP GET with 200 or 503.
pub(crate) fn http(well: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(10_000) {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = crate::wait::read_once(&mut stream, &mut request);
            let status = if well.load(SeqCst) { "200 OK" } else { "503 Unwell" };
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        }
    });
    addr
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    crate::ports::free().port()
}

/// A process of adit whose file is edited, and whose lines are read one after the other.
pub(crate) struct Proxy {
    adit: Adit,
    file: PathBuf,
    /// How many lines have been waited through.
    seen: usize,
}

impl Proxy {
    /// `adit proxy` with these services, once all of them listen.
    pub(crate) fn start(world: &World, services: &str) -> Self {
        let file = world.write("services.yaml", &format!("services:\n{services}"));
        let mut proxy = Self::with(&["proxy", "-c", file.to_str().unwrap()], &file);
        for _ in services.lines().filter(|line| line.starts_with("- ")) {
            proxy.wait("listening");
        }
        proxy
    }

    /// Any command line; `file` is what [`Proxy::edit`] writes.
    pub(crate) fn with(args: &[&str], file: &Path) -> Self {
        Self { adit: Adit::launch(command_of(args)), file: file.into(), seen: 0 }
    }

    /// Waits for a line that was not waited for before.
    #[track_caller]
    pub(crate) fn wait(&mut self, text: &str) -> String {
        let (at, line) = self.adit.line_since(self.seen, text);
        self.seen = at + 1;
        line
    }

    /// The lines up to the last that was waited for.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.adit.log().lines().take(self.seen).map(str::to_owned).collect()
    }

    /// Waits for a line, unless it was there before.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        if !self.seen().iter().any(|line| line.contains(text)) {
            self.wait(text);
        }
    }

    /// Writes the services in place of the old; returns when the file has been judged.
    #[track_caller]
    pub(crate) fn edit(&mut self, services: &str) -> String {
        fs::write(&self.file, format!("services:\n{services}")).unwrap();
        self.wait("configuration re")
    }

    #[cfg(feature = "rego")]
    pub(crate) fn threads(&self, name: &str) -> usize {
        self.adit.threads(name)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.adit.signal(signal);
    }

    /// Waits until it has ended by itself.
    pub(crate) fn ends(&mut self) -> std::process::ExitStatus {
        self.adit.ends()
    }

    /// SIGTERM; the exit code.
    pub(crate) fn stop(self) -> i32 {
        self.adit.stop()
    }
}

/// Runs adit to its end: code, stdout, stderr.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let out = command_of(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
}
