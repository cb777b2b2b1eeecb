//! What really goes over the wire between the nodes: every frame, looked into.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow};
use etherparse::{SlicedPacket, TransportSlice};
use serde::Serialize;

use crate::sys::{netns::Netns, packet};

/// Counts over all TCP payloads.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wire {
    /// Packets with a payload.
    pub(super) packets: usize,
    /// Payload bytes.
    pub(super) bytes: usize,
    /// Payloads that begin with the header of a TLS record.
    pub(super) tls_records: usize,
    /// Payloads in which a word of the HTTP exchange can be read.
    pub(super) plaintext_hits: usize,
    /// Payloads to or from another port than 15008.
    pub(super) other_ports: usize,
}

/// A capture that runs until it is stopped.
pub(super) struct Tap {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Wire>,
}

impl Tap {
    /// Begins to look at `interface` inside `netns`.
    pub(super) fn start(netns: &Netns, interface: &str) -> Result<Self> {
        let mut socket = packet::tap(netns, interface, Duration::from_millis(100))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let (mut wire, mut frame) = (Wire::default(), vec![0; 1 << 18]);
            loop {
                match socket.read(&mut frame) {
                    Ok(n) => wire.count(&frame[..n]),
                    Err(_) if stopped.load(Relaxed) => return wire,
                    Err(_) => {} // nothing passed for a while
                }
            }
        });
        Ok(Self { stop, reader })
    }

    /// What passed so far; waits until the wire is quiet.
    pub(super) fn stop(self) -> Result<Wire> {
        self.stop.store(true, Relaxed);
        self.reader.join().map_err(|_| anyhow!("the capture failed"))
    }
}

impl Wire {
    fn count(&mut self, frame: &[u8]) {
        let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { return };
        let payload = tcp.payload();
        if payload.is_empty() {
            return;
        }
        self.packets += 1;
        self.bytes += payload.len();
        // RFC 8446 §5.1: change_cipher_spec, alert, handshake or application_data; 3.x.
        self.tls_records += usize::from(matches!(payload, [20..=23, 3, 0..=4, ..]));
        let words: [&[u8]; 3] = [b"HTTP/1.1", b"GET /", b"hello from"];
        let readable = words.iter().any(|w| payload.windows(w.len()).any(|p| p == *w));
        self.plaintext_hits += usize::from(readable);
        let hbone = [tcp.source_port(), tcp.destination_port()].contains(&15008);
        self.other_ports += usize::from(!hbone);
    }
}
