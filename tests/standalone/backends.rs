//! Plain servers on threads, as legacy applications are: they know nothing of TLS.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::wait::LIMIT;

/// One that listens until dropped.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    taken: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Backend {
    /// Each connection in a thread.
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::at(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
    }

    /// At a socket that is there.
    pub(crate) fn at(
        listener: TcpListener,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let (taken, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, stopping) = (Arc::clone(&taken), Arc::clone(&stop));
        let serve = Arc::new(serve);
        let accepting = thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if stopping.load(SeqCst) {
                    return;
                }
                counter.fetch_add(1, SeqCst);
                patient(&socket);
                let serve = Arc::clone(&serve);
                thread::spawn(move || serve(socket));
            }
        });
        Self { addr, taken, stop, accepting: Some(accepting) }
    }

    /// Says back what it hears, and ends when that has ended.
    pub(crate) fn echo() -> Self {
        Self::start(echo)
    }

    /// Hears all, then says how many bytes that were.
    pub(crate) fn counting() -> Self {
        Self::start(|mut socket| {
            let heard = std::io::copy(&mut socket, &mut std::io::sink());
            if let Ok(bytes) = heard {
                let _ = write!(socket, "{bytes}");
                let _ = socket.shutdown(Shutdown::Write);
            }
        })
    }

    /// Says something first and ends its side at once; hears the rest.
    pub(crate) fn greeting(words: impl Into<Vec<u8>>) -> Self {
        let words = words.into();
        Self::start(move |mut socket| {
            let _ = socket.write_all(&words);
            let _ = socket.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        })
    }

    /// How many connections it has taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Answers a question, and once its caller has ended goes on speaking for longer than `limit`, but
/// is never silent for so long; then it says nothing more and ends nothing.
pub(crate) struct Fading {
    backend: Backend,
    limit: Duration,
    /// When it began to say the last, and what became of its side of the connection.
    told: mpsc::Receiver<(Instant, Option<io::Error>)>,
}

impl Fading {
    pub(crate) fn start(limit: Duration) -> Self {
        let (tell, told) = mpsc::channel();
        let backend = Backend::start(move |mut socket| {
            let mut question = [0; 8];
            let asked = socket.read_exact(&mut question).and_then(|()| socket.write_all(b"answer"));
            let _ = asked.and_then(|()| socket.read_to_end(&mut Vec::new()));
            // Taken before the bytes go: whoever carries them may see them before this thread runs
            // on.
            let mut last = Instant::now();
            for _ in 0..12 {
                thread::sleep(limit / 8);
                last = Instant::now();
                let _ = socket.write_all(&[7; 1000]);
            }
            let mut became = None;
            while became.is_none() && last.elapsed() < LIMIT {
                thread::sleep(Duration::from_millis(10));
                became = socket.take_error().unwrap();
            }
            let _ = tell.send((last, became));
        });
        Self { backend, limit, told }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.backend.addr
    }

    /// Asks through whoever listens there, where silence is cut after the limit: not before, and
    /// with a reset on both sides.
    pub(crate) fn is_cut(&self, through: SocketAddr) {
        let mut socket = dial(through);
        thread::sleep(Duration::from_millis(200));
        socket.write_all(b"question").unwrap();
        socket.read_exact(&mut [0; 6]).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        let end = socket.read_to_end(&mut heard).map_err(|e| e.kind());
        let at = Instant::now();
        assert_eq!((heard.len(), end), (12_000, Err(ErrorKind::ConnectionReset)));
        let (last, became) = self.told.recv().unwrap();
        assert!(at - last >= self.limit, "cut {:?} after the last byte", at - last);
        assert!(became.is_some(), "the backend is told nothing, or of an end in order");
    }
}

pub(crate) fn echo(mut socket: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = crate::wait::read_once(&mut socket, &mut buffer) {
        if socket.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = socket.shutdown(Shutdown::Write);
}

/// No test waits for ever.
pub(crate) fn patient(socket: &TcpStream) {
    let _ = socket.set_read_timeout(Some(LIMIT));
    let _ = socket.set_write_timeout(Some(LIMIT));
    let _ = socket.set_nodelay(true);
}

/// A plain connection.
pub(crate) fn dial(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    patient(&socket);
    socket
}

/// Says it, ends its side, and hears the rest: as `nc -N` does.
pub(crate) fn ask(addr: SocketAddr, words: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = dial(addr);
    socket.write_all(words)?;
    socket.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    socket.read_to_end(&mut heard)?;
    Ok(heard)
}

/// Ends it as a process that was killed does: with a reset.
pub(crate) fn reset(socket: TcpStream) {
    socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// A port that nobody listens at.
pub(crate) fn nobody() -> SocketAddr {
    crate::ports::free()
}
