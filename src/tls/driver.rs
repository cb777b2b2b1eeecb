//! Drives a rustls handshake over a socket, and no further than its last record: what the
//! peer sent behind it stays sealed, for our own record layer.

use std::time::Duration;

use rustls::{
    CommonState,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, UnbufferedStatus},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    TlsError,
    key_schedule::{Agreed, heard},
    shown,
};
use crate::lifecycle::until_heard;

/// A handshake's flight is a few KiB; a peer may send chains of up to this.
const MOST: usize = 128 * 1024;
/// In records; a real handshake has less than ten. rustls looks through all fragments of a
/// message whenever one more comes.
const MOST_RECORDS: usize = 256;
/// PostgreSQL's SSLRequest, which asks for TLS in the clear.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const HEADER: usize = 5;
/// RFC 8446 §5.2: 2^14 + 256.
const LARGEST_RECORD: usize = 16_384 + 256;

/// What rustls wants next.
pub(super) enum HandshakeStep {
    /// Another record, please.
    Read,
    /// The handshake is over and all of it has been encoded.
    Done,
}

/// One end of a handshake.
pub(super) trait Handshake {
    /// Feeds whole records; appends what must be sent; says how many bytes were used.
    fn step(
        &mut self,
        input: &mut [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Result<HandshakeStep, TlsError>);
    /// What was agreed on, and what the peer showed.
    fn state(&self) -> &CommonState;
    /// Whether this end speaks first.
    const BEGINS: bool;
}

impl Handshake for UnbufferedClientConnection {
    const BEGINS: bool = true;

    fn step(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<HandshakeStep, TlsError>) {
        let (used, step) = drain(input, |input| progress(self.process_tls_records(input), out));
        // What is left to say is an alert, behind what was to be said before it. Nothing else may
        // be asked of a machine that has failed.
        while step.is_err() && self.wants_write() {
            if !matches!(progress(self.process_tls_records(&mut []), out), (_, Ok(None))) {
                break;
            }
        }
        (used, step)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

impl Handshake for UnbufferedServerConnection {
    const BEGINS: bool = false;

    fn step(
        &mut self,
        input: &mut [u8],
        out: &mut Vec<u8>,
    ) -> (usize, Result<HandshakeStep, TlsError>) {
        let (used, step) = drain(input, |input| progress(self.process_tls_records(input), out));
        // What is left to say is an alert, behind what was to be said before it. Nothing else may
        // be asked of a machine that has failed.
        while step.is_err() && self.wants_write() {
            if !matches!(progress(self.process_tls_records(&mut []), out), (_, Ok(None))) {
                break;
            }
        }
        (used, step)
    }

    fn state(&self) -> &CommonState {
        self
    }
}

/// Repeats `once` until rustls needs something from outside.
fn drain(
    mut input: &mut [u8],
    mut once: impl FnMut(&mut [u8]) -> (usize, Result<Option<HandshakeStep>, TlsError>),
) -> (usize, Result<HandshakeStep, TlsError>) {
    let mut used = 0;
    shown::forget();
    loop {
        let (discard, step) = once(input);
        used += discard;
        input = &mut input[discard..];
        match step {
            Ok(None) => {}
            Ok(Some(step)) => return (used, Ok(step)),
            Err(error) => return (used, Err(error.about(shown::named()))),
        }
    }
}

fn progress<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Vec<u8>,
) -> (usize, Result<Option<HandshakeStep>, TlsError>) {
    let step = match status.state {
        Err(error) => Err(TlsError::from_rustls(error)),
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(|room| data.encode(room), out),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done(); // it is sent before anything else is read
            Ok(None)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Some(HandshakeStep::Read)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(HandshakeStep::Done)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            Err(TlsError::Other("closed during the handshake".into()))
        }
        Ok(_) => Err(TlsError::Other("data arrived before the handshake was complete".into())),
    };
    (status.discard, step)
}

fn encode(
    mut data: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    out: &mut Vec<u8>,
) -> Result<Option<HandshakeStep>, TlsError> {
    let end = out.len();
    let needed = match data(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Ok(_) => return Ok(None),
        Err(e) => return Err(TlsError::Other(e.to_string())),
    };
    out.resize(end + needed, 0);
    data(&mut out[end..]).map_err(|e| TlsError::Other(e.to_string()))?;
    Ok(None)
}

/// A handshake that is over.
pub(super) struct Finished<H> {
    /// The socket, at the first byte after `early`.
    pub(super) tcp: TcpStream,
    pub(super) tls: Box<H>,
    /// Records that were read together with the end of the handshake, still sealed.
    pub(super) early: Vec<u8>,
    /// The traffic secrets of TLS 1.3.
    pub(super) agreed: Agreed,
}

/// A handshake between two waits.
struct Progress<H> {
    tls: Box<H>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Whole records at the start of `input` that rustls may look at.
    offered: usize,
    /// How many records that were, all in all.
    records: usize,
    agreed: Agreed,
}

impl<H> Progress<H> {
    /// Offers one more record, if it is whole.
    fn offer(&mut self) -> Result<bool, TlsError> {
        let Some(record) = whole_record(&self.input[self.offered..])? else { return Ok(false) };
        self.offered += record;
        self.records += 1;
        if self.records > MOST_RECORDS {
            return Err(TlsError::Other(format!(
                "the handshake has more than {MOST_RECORDS} records"
            )));
        }
        Ok(true)
    }
}

/// Does the cryptography of one flight beside the worker: a burst of handshakes must not delay
/// the streams that are open. A step whose peer ran out of time before its turn is left out.
async fn off_worker<H: Handshake + Send + 'static>(
    mut at: Progress<H>,
) -> Result<(Progress<H>, Result<HandshakeStep, TlsError>), TlsError> {
    let stepped = AbortOnDropHandle::new(tokio::task::spawn_blocking(move || {
        loop {
            let ((used, step), agreed) =
                heard(|| at.tls.step(&mut at.input[..at.offered], &mut at.output));
            at.agreed.add(agreed);
            at.input.drain(..used);
            at.offered -= used;
            // The rest of the peer's flight, if it is there: each hop costs two switches.
            if !matches!(step, Ok(HandshakeStep::Read)) || !at.output.is_empty() {
                return (at, step);
            }
            match at.offer() {
                Ok(true) => {}
                Ok(false) => return (at, step),
                Err(error) => return (at, Err(error)),
            }
        }
    }));
    stepped.await.map_err(|e| TlsError::Other(format!("handshake thread: {e}")))
}

/// Runs the handshake to its end, within this time.
///
/// # Errors
/// What was wrong with the peer, after the alert for it was sent (as far as the socket took
/// it without waiting); a caller has a moment more to read that ([`until_heard`]).
///
/// # Cancel safety
/// Dropping the future closes the socket.
pub(super) async fn run<H>(
    tcp: TcpStream,
    tls: H,
    within: Duration,
) -> Result<Finished<H>, TlsError>
where
    H: Handshake + Send + 'static,
{
    let mut told = false;
    let shaken = timeout(within, shake(&tcp, tls, &mut told)).await;
    match shaken.unwrap_or(Err(TlsError::Timeout(within))) {
        Ok(Progress { tls, input: early, agreed, .. }) => Ok(Finished { tcp, tls, early, agreed }),
        Err(error) => {
            // A caller may have sent more by now: it takes its own end of the handshake for the
            // end.
            if told && !H::BEGINS {
                until_heard(&tcp).await;
            }
            Err(error)
        }
    }
}

/// `told`: whether an alert was sent.
async fn shake<H>(tcp: &TcpStream, tls: H, told: &mut bool) -> Result<Progress<H>, TlsError>
where
    H: Handshake + Send + 'static,
{
    let mut at = Progress {
        tls: Box::new(tls),
        input: Vec::new(),
        output: Vec::new(),
        offered: 0,
        records: 0,
        agreed: Agreed::default(),
    };
    if !H::BEGINS {
        hello(tcp, &mut at).await?;
    }
    loop {
        let (back, step) = off_worker(at).await?;
        at = back;
        let step = match step {
            Ok(step) => step,
            Err(error) => {
                *told = !at.output.is_empty() && tcp.try_write(&at.output).is_ok();
                return Err(error);
            }
        };
        send(tcp, &mut at.output).await?;
        match step {
            HandshakeStep::Read => record(tcp, &mut at).await?,
            HandshakeStep::Done => return Ok(at),
        }
    }
}

/// Waits for a caller's first record. One that ends before its first byte only looked whether
/// somebody is here.
async fn hello<H>(tcp: &TcpStream, at: &mut Progress<H>) -> Result<(), TlsError> {
    match record(tcp, at).await {
        Err(TlsError::Closed | TlsError::Reset(_)) if at.input.is_empty() => Err(TlsError::Silent),
        other => other,
    }
}

/// Waits for one more record and offers it.
async fn record<H>(tcp: &TcpStream, at: &mut Progress<H>) -> Result<(), TlsError> {
    while !at.offer()? {
        receive(tcp, &mut at.input).await?;
    }
    Ok(())
}

fn whole_record(input: &[u8]) -> Result<Option<usize>, TlsError> {
    if input.starts_with(&SSL_REQUEST) {
        return Err(TlsError::SslRequest);
    }
    if SSL_REQUEST.starts_with(input) {
        return Ok(None);
    }
    let Some(header) = input.get(..HEADER) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !(20..=23).contains(&header[0]) || header[1] != 3 || length > LARGEST_RECORD {
        return Err(TlsError::Other(
            "received bytes that are not TLS; the peer may speak plaintext".into(),
        ));
    }
    Ok((input.len() >= HEADER + length).then_some(HEADER + length))
}

async fn send(tcp: &TcpStream, output: &mut Vec<u8>) -> Result<(), TlsError> {
    let mut sent = 0;
    while sent < output.len() {
        match tcp.try_write(&output[sent..]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                tcp.writable().await.map_err(lost)?;
            }
            Err(e) => return Err(lost(e)),
        }
    }
    output.clear();
    Ok(())
}

async fn receive(tcp: &TcpStream, input: &mut Vec<u8>) -> Result<(), TlsError> {
    if input.len() > MOST {
        return Err(TlsError::Other(format!("the handshake has more than {MOST} bytes")));
    }
    input.reserve(4096);
    loop {
        tcp.readable().await.map_err(lost)?;
        match tcp.try_read_buf(input) {
            Ok(0) => return Err(TlsError::Closed),
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(lost(e)),
        }
    }
}

fn lost(error: std::io::Error) -> TlsError {
    match error.kind() {
        std::io::ErrorKind::ConnectionReset => TlsError::Reset(error.to_string()),
        _ => TlsError::Other(error.to_string()),
    }
}
