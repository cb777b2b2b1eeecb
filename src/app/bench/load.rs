//! One connection of the load, and what it does until the time is over.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::net::TcpStream;

use super::{
    io::{
        BUFFER, Failed, connect, half_close, patiently, read_exact, read_some, write_all,
        write_some,
    },
    pace::Pace,
    report::Outcome,
    wire::{Hello, Kind, Pattern, TRAILER, Trailer},
};

/// What the connections of one part do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Job {
    /// Messages there and back on one connection.
    Ping,
    /// One message there and back on each of many connections.
    Churn,
    /// A message at the beginning and one at the end.
    Idle,
    /// Bytes as fast as they go.
    Stream(Kind),
    /// Bytes down, read at so many per second; 0 reads none.
    Slow(u64),
}

/// What the connections of one part share.
pub(super) struct Shared {
    pub(super) target: SocketAddr,
    pub(super) job: Job,
    pub(super) size: u32,
    pub(super) verify: bool,
    /// Operations per second of all connections together.
    pub(super) rate: Option<f64>,
    pub(super) connections: usize,
    /// What is measured: after the warm-up, until the end.
    pub(super) begin: Instant,
    pub(super) end: Instant,
    pub(super) counts: Arc<Counts>,
}

/// What has been done so far.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) operations: AtomicU64,
}

/// How long a connection that failed waits before the next try.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs connection number `which` until the end.
pub(super) async fn run(shared: Arc<Shared>, which: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut pace = match Pace::new(shared.rate, which, shared.connections) {
        Ok(pace) => pace,
        Err(error) => {
            outcome.failed(which, error.into());
            return outcome;
        }
    };
    match shared.job {
        Job::Ping => ping(&shared, which, &mut pace, &mut outcome).await,
        Job::Churn => churn(&shared, which, &mut pace, &mut outcome).await,
        Job::Idle => idle(&shared, which, &mut outcome).await,
        Job::Stream(kind) => stream(&shared, which, kind, None, &mut outcome).await,
        Job::Slow(rate) => stream(&shared, which, Kind::Down, Some(rate), &mut outcome).await,
    }
    outcome.unsent = pace.unsent(shared.begin, shared.end);
    outcome
}

impl Shared {
    fn hello(&self, kind: Kind, which: usize) -> Hello {
        Hello { kind, size: self.size, seed: which as u64, verify: self.verify }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    async fn until_end(&self) {
        tokio::time::sleep_until(self.end.into()).await;
    }

    /// Counts an operation that was due at `since`.
    fn done(&self, since: Instant, outcome: &mut Outcome) {
        let now = Instant::now();
        if since >= self.begin || self.job == Job::Idle {
            let micros = (now - since).as_micros().clamp(1, 60_000_000) as u64;
            // The histogram grows with what it holds, so nothing is out of bounds.
            let _ = outcome.latency.record(micros);
        }
        self.counts.operations.fetch_add(1, Relaxed);
        self.counts.sent.fetch_add(self.size.into(), Relaxed);
        self.counts.received.fetch_add(self.size.into(), Relaxed);
    }
}

/// One message there and back.
async fn echo(
    shared: &Shared,
    socket: &TcpStream,
    message: &mut [u8],
    answer: &mut [u8],
    pattern: &mut Pattern,
) -> Result<(), Failed> {
    if shared.verify {
        pattern.fill(message);
    }
    write_all(socket, message).await?;
    read_exact(socket, answer).await?;
    match shared.verify && message != answer {
        true => Err(Failed::corrupt(format!("an answer near byte {} is wrong", pattern.at))),
        false => Ok(()),
    }
}

async fn ping(shared: &Shared, which: usize, pace: &mut Pace, outcome: &mut Outcome) {
    let (mut message, mut answer) = buffers(shared);
    let mut pattern = Pattern::new(which as u64);
    while !shared.is_over() {
        let session = async {
            let socket = connect(shared.target).await?;
            write_all(&socket, &shared.hello(Kind::Echo, which).encode()).await?;
            loop {
                let since = tokio::select! {
                    since = pace.next() => since?,
                    () = shared.until_end() => return Ok(()),
                };
                if shared.is_over() {
                    return Ok(());
                }
                echo(shared, &socket, &mut message, &mut answer, &mut pattern).await?;
                shared.done(since, outcome);
            }
        };
        let ended: Result<(), Failed> = session.await;
        if let Err(failed) = ended {
            outcome.failed(which, failed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn churn(shared: &Shared, which: usize, pace: &mut Pace, outcome: &mut Outcome) {
    let (mut message, mut answer) = buffers(shared);
    let mut pattern = Pattern::new(which as u64);
    let hello = shared.hello(Kind::Echo, which).encode();
    while !shared.is_over() {
        let since = tokio::select! {
            since = pace.next() => since,
            () = shared.until_end() => break,
        };
        let once = async {
            let since = since?;
            let socket = connect(shared.target).await?;
            write_all(&socket, &hello).await?;
            echo(shared, &socket, &mut message, &mut answer, &mut pattern).await?;
            half_close(&socket)?;
            // Closing with the far end's FIN leaves nothing behind on this side.
            patiently("close", read_some(&socket, &mut [0])).await?;
            Ok(since)
        };
        match once.await {
            Ok(since) => shared.done(since, outcome),
            Err(failed) => {
                outcome.failed(which, failed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn idle(shared: &Shared, which: usize, outcome: &mut Outcome) {
    let (mut message, mut answer) = buffers(shared);
    let mut pattern = Pattern::new(which as u64);
    // Not all at once: half of the warm-up is for opening them.
    let open_in = shared.begin.saturating_duration_since(Instant::now()) / 2;
    tokio::time::sleep(open_in.mul_f64(which as f64 / shared.connections as f64)).await;
    let held = async {
        let socket = connect(shared.target).await?;
        write_all(&socket, &shared.hello(Kind::Echo, which).encode()).await?;
        for wait in [false, true] {
            if wait {
                shared.until_end().await;
            }
            let since = Instant::now();
            echo(shared, &socket, &mut message, &mut answer, &mut pattern).await?;
            shared.done(since, outcome);
        }
        Ok(())
    };
    if let Err(failed) = held.await {
        outcome.failed(which, failed);
    }
}

async fn stream(
    shared: &Shared,
    which: usize,
    kind: Kind,
    read_rate: Option<u64>,
    outcome: &mut Outcome,
) {
    let ended = async {
        let socket = connect(shared.target).await?;
        write_all(&socket, &shared.hello(kind, which).encode()).await?;
        if read_rate == Some(0) {
            // Never reads: what the far end sends piles up on the way.
            shared.until_end().await;
            return Ok(());
        }
        let (sent, (received, trailer)) = tokio::try_join!(
            up(shared, which, kind, &socket),
            down(shared, which, &socket, read_rate)
        )?;
        let said = Trailer { up: sent, wrong_at: None, down: received };
        match trailer.wrong_at {
            Some(at) => Err(Failed::corrupt(format!("byte {at} arrived changed at the server"))),
            None if said == trailer => Ok(()),
            None => Err(Failed::corrupt(format!(
                "{} of {sent} bytes arrived at the server, and {} of {} at the client",
                trailer.up, received, trailer.down
            ))),
        }
    };
    if let Err(failed) = ended.await {
        outcome.failed(which, failed);
    }
}

async fn up(shared: &Shared, which: usize, kind: Kind, to: &TcpStream) -> Result<u64, Failed> {
    let (mut buffer, mut pattern, mut sent) = (vec![0; BUFFER], Pattern::new(which as u64), 0);
    while kind.has_up() && !shared.is_over() {
        if shared.verify {
            pattern.fill(&mut buffer);
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let n = patiently("write", write_some(to, rest)).await?;
            shared.counts.sent.fetch_add(n as u64, Relaxed);
            sent += n as u64;
            rest = &rest[n..];
        }
    }
    shared.until_end().await;
    half_close(to)?;
    Ok(sent)
}

/// Reads to the end; the last bytes are the far end's trailer.
async fn down(
    shared: &Shared,
    which: usize,
    from: &TcpStream,
    rate: Option<u64>,
) -> Result<(u64, Trailer), Failed> {
    let (mut buffer, mut pattern) = (vec![0; BUFFER + TRAILER], Pattern::new(which as u64));
    let (mut received, mut have) = (0, 0);
    loop {
        let mut room = buffer.len();
        if let Some(rate) = rate.filter(|_| !shared.is_over()) {
            room = room.min(have + (rate / 20).max(1) as usize);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let read = read_some(from, &mut buffer[have..room]);
        let n = match shared.is_over() {
            true => patiently("read", read).await?,
            false => tokio::select! {
                n = read => n?,
                () = shared.until_end() => continue,
            },
        };
        have += n;
        let sure = have.saturating_sub(TRAILER);
        if shared.verify
            && let Err(at) = pattern.check(&buffer[..sure])
        {
            return Err(Failed::corrupt(format!("byte {at} arrived changed at the client")));
        }
        received += sure as u64;
        shared.counts.received.fetch_add(sure as u64, Relaxed);
        buffer.copy_within(sure..have, 0);
        have -= sure;
        if n == 0 {
            let trailer = buffer[..TRAILER].first_chunk().filter(|_| have == TRAILER);
            let trailer =
                trailer.ok_or_else(|| Failed::eof("closed before the server's final count"))?;
            return Ok((received, Trailer::decode(trailer)));
        }
    }
}

fn buffers(shared: &Shared) -> (Vec<u8>, Vec<u8>) {
    (vec![b'a'; shared.size as usize], vec![0; shared.size as usize])
}
