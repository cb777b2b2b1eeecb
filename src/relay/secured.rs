//! A TLS peer as the far side of a relay: plaintext is read straight into the place where its
//! record is sealed, and records are opened where they were read.

mod records;

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use tokio::{io::Interest, net::TcpStream};

use self::records::{Machine, Sink, broken, open};
use super::kernel::{Handed, KernelRemote};
use crate::{
    lifecycle::{behind_others, until_heard},
    observe::conn::{Meter, TlsPath},
    relay::{App, Broken, Remote, with_scratch},
    sys::{
        ktls::{self, Version},
        sockets,
    },
    tls::{
        record::{Messages, Records},
        secured::{Secured, SecuredRecords},
    },
};

/// How many reads in a row before others get their turn.
const TURNS: usize = 8;
/// The most that one read of the peer's socket yields.
const READ: usize = 256 * 1024;
/// RFC 8446 §6.2.
const ACCESS_DENIED: u8 = 49;

/// The peer's socket and its records.
pub struct SecuredRemote {
    tcp: App,
    records: Machine,
    /// The start of a record whose rest has not come.
    partial: Vec<u8>,
    /// What the application could not take yet.
    held: Vec<u8>,
    /// The peer has said close_notify.
    ended: bool,
    /// It need not.
    truncation: bool,
    /// We have.
    closed: bool,
}

impl SecuredRemote {
    /// Takes over after the handshake.
    ///
    /// # Errors
    /// If the keys do not fit, or the first bytes of the peer are no records of its.
    pub fn new(secured: Secured) -> io::Result<Self> {
        let records = match secured.records {
            SecuredRecords::Tls13(keys) => {
                Machine::Tls13(Box::new(Records::new(*keys).map_err(broken)?))
            }
            SecuredRecords::Tls12(tls) => Machine::Tls12 { tls, out: Vec::new(), sent: 0 },
        };
        let mut far = Self {
            tcp: App::new(secured.tcp),
            records,
            partial: Vec::new(),
            held: Vec::new(),
            ended: false,
            truncation: false,
            closed: false,
        };
        let mut early = secured.early;
        let mut sink = Sink { app: None, held: &mut far.held, meter: None };
        let (rest, ended) = open(&mut far.records, &mut early, &mut sink).map_err(|b| match b {
            Broken::App(e) | Broken::Remote(e) => e,
        })?;
        far.partial = early.split_off(rest);
        far.ended = ended;
        Ok(far)
    }

    /// Takes the end of TCP for the end of what the peer says.
    pub fn take_truncation(&mut self, taken: bool) {
        self.truncation = taken;
    }

    /// Tells the peer that it may not be here, as far as the socket takes it, and ends. In TLS 1.2
    /// rustls says no alert for us: the end without close_notify is what tells. Waits for a moment
    /// until the peer has heard it ([`until_heard`]).
    pub async fn refuse(mut self) {
        match &mut self.records {
            Machine::Tls13(records) => {
                let _ = records.sealer.refuse(ACCESS_DENIED);
            }
            Machine::Tls12 { .. } => self.closed = true,
        }
        self.part();
        until_heard(self.tcp.socket()).await;
    }

    /// Leaves the records to the kernel where it takes them (`kernel`: where it is wanted at all),
    /// else they stay here. Between two records only: where the start of one has been read, they
    /// stay.
    ///
    /// # Errors
    /// If the kernel has taken one key and not the other.
    pub(crate) fn carried(self: Box<Self>, kernel: bool) -> io::Result<(Box<dyn Remote>, TlsPath)> {
        let support = ktls::support();
        let (whole, open) = (self.partial.is_empty(), !self.ended && !self.closed);
        let version = match &self.records {
            Machine::Tls13(records) if support.tls13 && records.can_be_handed_on() => {
                Version::Tls13
            }
            Machine::Tls12 { .. } if support.tls12 && self.records.waiting() == 0 => Version::Tls12,
            _ => return Ok((self, TlsPath::Userspace)),
        };
        // A socket whose peer has ended already is none that the kernel takes.
        if !(kernel && whole && open) || ktls::attach(&**self.tcp.socket()).is_err() {
            return Ok((self, TlsPath::Userspace));
        }
        let Self { tcp, records, held, truncation, .. } = *self;
        let (keys, messages) = match records {
            Machine::Tls13(records) => {
                let lost = || io::Error::other("records were not between two");
                let (keys, messages) = records.into_keys().ok_or_else(lost)?;
                let (send, receive) = (keys.send.key(), keys.receive.key());
                ((send.map_err(broken)?, receive.map_err(broken)?, Some(keys)), messages)
            }
            Machine::Tls12 { tls, .. } => {
                let (send, receive) = tls.into_secrets().map_err(broken)?;
                ((send, receive, None), Messages::default())
            }
        };
        let handed = Handed { tcp, version, keys, messages, held, truncation };
        Ok((Box::new(KernelRemote::new(handed)?), TlsPath::Kernel))
    }

    /// Says that there is nothing to say: what the peer still says is of no interest.
    pub(crate) fn end(mut self) -> Arc<TcpStream> {
        self.part();
        Arc::clone(self.tcp.socket())
    }

    /// Says in order that nothing more comes, as far as that takes no waiting.
    fn part(&mut self) {
        if !self.closed {
            self.closed = true;
            let _ = self.records.close();
        }
        let _ = self.records.flush(self.tcp.socket());
        let _ = self.tcp.finish();
    }

    fn send_alert(&mut self, error: &io::Error) {
        let cause = error.get_ref().and_then(|e| e.downcast_ref());
        if let (Machine::Tls13(records), Some(cause)) = (&mut self.records, cause) {
            let _ = records.sealer.fail(cause);
            let _ = self.records.flush(self.tcp.socket());
        }
    }
}

impl Remote for SecuredRemote {
    fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            while !self.records.flush(self.tcp.socket()).map_err(Broken::Remote)? {
                ready!(self.tcp.socket().poll_write_ready(cx)).map_err(Broken::Remote)?;
            }
            if self.closed {
                return Poll::Ready(self.tcp.finish().map_err(Broken::Remote));
            }
            ready!(app.socket().poll_read_ready(cx)).map_err(Broken::App)?;
            match self.records.fill(app) {
                Ok(0) => {
                    self.closed = true;
                    self.records.close().map_err(Broken::Remote)?;
                }
                Ok(n) => {
                    meter.up.fetch_add(n as u64, Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    return Poll::Ready(Err(Broken::Remote(e)));
                }
                Err(e) => return Poll::Ready(Err(Broken::App(e))),
            }
        }
        behind_others(cx);
        Poll::Pending
    }

    fn poll_down(
        &mut self,
        cx: &mut Context<'_>,
        app: &mut App,
        meter: &Arc<Meter>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            while !self.held.is_empty() {
                let n = ready!(app.poll_write(cx, &self.held)).map_err(Broken::App)?;
                self.held.drain(..n);
                meter.down.fetch_add(n as u64, Relaxed);
            }
            self.held = Vec::new();
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.socket().poll_read_ready(cx)).map_err(Broken::Remote)?;
            let read = with_scratch(|buffer| {
                let have = self.partial.len();
                buffer[..have].copy_from_slice(&self.partial);
                let read = match self.tcp.socket().try_read(&mut buffer[have..READ]) {
                    Ok(0) if self.truncation && have == 0 => {
                        self.ended = true;
                        return Ok(());
                    }
                    Ok(0) => {
                        let why = crate::tls::record::RecordError::Truncated;
                        return Err(Broken::Remote(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            why,
                        )));
                    }
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(e) => return Err(Broken::Remote(e)),
                };
                if have + read < READ {
                    sockets::not_ready(self.tcp.socket(), Interest::READABLE);
                }
                let input = &mut buffer[..have + read];
                let mut sink = Sink { app: Some(app), held: &mut self.held, meter: Some(meter) };
                let (used, ended) = open(&mut self.records, input, &mut sink)?;
                self.partial.clear();
                self.partial.extend_from_slice(&input[used..]);
                if self.partial.is_empty() {
                    self.partial = Vec::new();
                }
                self.ended = ended;
                Ok(())
            });
            if let Err(error) = read {
                if let Broken::Remote(error) = &error {
                    self.send_alert(error);
                }
                return Poll::Ready(Err(error));
            }
            // An answer of TLS itself (a key update) must not wait for the application.
            if self.records.waiting() > 0 {
                self.records.flush(self.tcp.socket()).map_err(Broken::Remote)?;
            }
        }
        behind_others(cx);
        Poll::Pending
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.tcp.poll_reset(cx)
    }

    fn abort(&mut self) {
        self.tcp.abort();
    }

    fn unsent(&self) -> usize {
        self.tcp.unsent()
    }
}
