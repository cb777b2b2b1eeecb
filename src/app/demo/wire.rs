//! What really went over the wire between the nodes, read from the packet capture.

use std::{fs::File, path::Path};

use anyhow::Result;
use etherparse::{SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;
use serde::Serialize;

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

pub(super) fn read(file: &Path) -> Result<Wire> {
    let mut reader = PcapReader::new(File::open(file)?)?;
    let mut wire = Wire::default();
    while let Some(Ok(packet)) = reader.next_packet() {
        let Ok(sliced) = SlicedPacket::from_ethernet(&packet.data) else { continue };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { continue };
        let payload = tcp.payload();
        if payload.is_empty() {
            continue;
        }
        wire.packets += 1;
        wire.bytes += payload.len();
        // RFC 8446 §5.1: handshake, change_cipher_spec, alert or application_data; 3.x.
        let is_record = matches!(payload, [20..=23, 3, 0..=4, ..]);
        wire.tls_records += usize::from(is_record);
        let words: [&[u8]; 3] = [b"HTTP/1.1", b"GET /", b"hello from"];
        let readable = words.iter().any(|w| payload.windows(w.len()).any(|p| p == *w));
        wire.plaintext_hits += usize::from(readable);
        let hbone = [tcp.source_port(), tcp.destination_port()].contains(&15008);
        wire.other_ports += usize::from(!hbone);
    }
    Ok(wire)
}
