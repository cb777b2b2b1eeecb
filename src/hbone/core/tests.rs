//! A peer made by hand: frames in records, at the other end of a loopback connection.
#![allow(clippy::unwrap_used)]

use tokio::net::TcpListener;

use super::*;
use crate::{
    hbone::http2::{
        FloodLimits,
        frame::{flag, kind, put},
        hpack,
    },
    tls::{Aead, record::tests::keys},
};

/// A server's core, its socket, and the peer.
struct Ends {
    core: Core,
    tcp: TcpStream,
    peer: Records,
    _peer_tcp: TcpStream,
}

impl Ends {
    async fn new(limits: Limits) -> Self {
        let mut greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        put(&mut greeting, kind::SETTINGS, 0, 0, &[]);
        Self::greeted(Role::Server, limits, &greeting).await
    }

    async fn greeted(role: Role, limits: Limits, greeting: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (peer_tcp, tcp) = tokio::join!(TcpStream::connect(to), listener.accept());
        let (ours, theirs) = keys(Aead::Aes128Gcm);
        let core = Core::new(role, limits, ours, None).unwrap();
        let peer = Records::new(theirs).unwrap();
        let mut ends = Self { core, tcp: tcp.unwrap().0, peer, _peer_tcp: peer_tcp.unwrap() };
        ends.says(greeting).unwrap();
        ends
    }

    /// The peer sends frames, and reads nothing.
    fn says(&mut self, frames: &[u8]) -> Result<(), TunnelError> {
        self.peer.sealer.append(frames).unwrap();
        let mut sealed = self.peer.pending().unwrap().to_vec();
        self.peer.sealer.written(sealed.len());
        self.core.next_turn()?;
        self.core.received(&mut sealed)?;
        self.core.flush(&self.tcp)
    }
}

fn connect(id: u32) -> Vec<u8> {
    let (mut block, mut frame) = (Vec::new(), Vec::new());
    for (name, value) in [(":method", "CONNECT"), (":authority", "10.0.0.1:80")] {
        hpack::encode(&mut block, name, value);
    }
    put(&mut frame, kind::HEADERS, flag::END_HEADERS, id, &block);
    frame
}

/// What it does not read stays bounded: our socket is full, and then it is cut off.
#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let flood = FloodLimits { burst: u32::MAX, per_second: 0 };
    let mut ends = Ends::new(Limits { flood, ..Limits::default() }).await;
    let mut pings = Vec::new();
    (0..900).for_each(|_| put(&mut pings, kind::PING, 0, 0, &[0; 8]));
    for _ in 0..1000 {
        let told = ends.says(&pings);
        let waiting = ends.core.records.sealer.waiting();
        assert!(waiting < 400 << 10, "{waiting} bytes wait");
        if let Err(over) = told {
            assert!(over.to_string().contains("responses are not read"), "{over}");
            return;
        }
    }
    panic!("it was never cut off");
}

/// What was sound before a frame that ends the tunnel is not lost with it.
#[tokio::test]
async fn data_before_an_error_is_handed_over() {
    let mut ends = Ends::new(Limits::default()).await;
    ends.says(&connect(1)).unwrap();
    let mut frames = Vec::new();
    put(&mut frames, kind::DATA, 0, 1, b"hello");
    put(&mut frames, kind::PUSH_PROMISE, 0, 1, &[]);
    assert!(matches!(ends.says(&frames), Err(TunnelError::Http2(_))));
    assert_eq!(ends.core.streams[&1].queue, b"hello");
}

/// RFC 9113 §6.8: the last stream in a GOAWAY is one that its receiver opened. A client that says
/// it with 0 wants no pushes, and goes on with its own streams.
#[tokio::test]
async fn a_clients_goaway_leaves_its_own_streams_alone() {
    let mut ends = Ends::new(Limits::default()).await;
    ends.says(&connect(1)).unwrap();
    let mut frames = Vec::new();
    put(&mut frames, kind::GOAWAY, 0, 0, &[0; 8]);
    put(&mut frames, kind::DATA, 0, 1, b"hello");
    ends.says(&frames).unwrap();
    let stream = &ends.core.streams[&1];
    assert!(stream.reset.is_none() && !stream.unprocessed);
    assert_eq!(stream.queue, b"hello");
}

/// Those up to the last one that it names go on, whatever the peer says of the others.
#[tokio::test]
async fn a_servers_goaway_ends_the_streams_behind_it_and_no_others() {
    let mut settings = Vec::new();
    put(&mut settings, kind::SETTINGS, 0, 0, &[]);
    let mut ends = Ends::greeted(Role::Client, Limits::default(), &settings).await;
    for id in [1, 3, 5] {
        assert_eq!(ends.core.http2.open("10.0.0.1:80", &[]), Some(id));
        ends.core.streams.insert(id, Stream::default());
    }
    let mut frames = Vec::new();
    put(&mut frames, kind::GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    ends.says(&frames).unwrap();
    assert!(
        ends.core.streams.values().all(|s| s.reset.is_none() && !s.unprocessed),
        "a first word"
    );
    let (mut frames, mut block) = (Vec::new(), Vec::new());
    put(&mut frames, kind::GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]);
    hpack::encode(&mut block, ":status", "200");
    put(&mut frames, kind::HEADERS, flag::END_HEADERS, 3, &block);
    put(&mut frames, kind::DATA, 0, 3, b"hello");
    ends.says(&frames).unwrap();
    let told = |id: u32| (ends.core.streams[&id].reset, ends.core.streams[&id].unprocessed);
    assert_eq!([told(1), told(3)], [(None, false); 2]);
    assert_eq!(told(5), (Some(Code::REFUSED_STREAM), true), "it may be asked again elsewhere");
    assert_eq!(ends.core.streams[&3].queue, b"hello");
}

/// What does not open ends the tunnel, whatever sound records are before and behind it.
#[tokio::test]
async fn a_record_that_does_not_open_is_not_skipped() {
    for flipped in [5, 20] {
        let mut ends = Ends::new(Limits::default()).await;
        ends.says(&connect(1)).unwrap();
        let mut record = |bytes: &[u8]| {
            let mut frame = Vec::new();
            put(&mut frame, kind::DATA, 0, 1, bytes);
            ends.peer.sealer.append(&frame).unwrap();
            let sealed = ends.peer.pending().unwrap().to_vec();
            ends.peer.sealer.written(sealed.len());
            sealed
        };
        let (first, mut bad, last) = (record(b"first"), record(b"bad"), record(b"last"));
        bad[flipped] ^= 1;
        let mut input = [first, bad, last].concat();
        let told = ends.core.received(&mut input);
        assert!(matches!(told, Err(TunnelError::Record(RecordError::BadMac))), "{told:?}");
        assert_eq!(ends.core.streams[&1].queue, b"first");
    }
}

/// However much comes at once, a tunnel does so much for its peer and lets others go first.
#[tokio::test]
async fn many_small_frames_take_several_turns() {
    let mut ends = Ends::new(Limits::default()).await;
    ends.says(&connect(1)).unwrap();
    let (mut frames, mut sent) = (Vec::new(), Vec::new());
    for n in 0..5_000_u32 {
        put(&mut frames, kind::DATA, 0, 1, &[n as u8]);
        sent.push(n as u8);
    }
    ends.says(&frames).unwrap();
    let mut turns = 1;
    while ends.core.has_rest() {
        assert!(ends.core.turn_is_over());
        assert!(ends.core.streams[&1].queue.len() < turns * 600, "in turn {turns}");
        ends.core.next_turn().unwrap();
        turns += 1;
    }
    assert_eq!(ends.core.streams[&1].queue, sent);
    assert!(turns >= 9, "{turns}");
    // There is no next turn for a tunnel that ends.
    put(&mut frames, kind::PUSH_PROMISE, 0, 1, &[]);
    let mut sealed = Vec::new();
    ends.peer.sealer.append(&frames).unwrap();
    sealed.extend_from_slice(ends.peer.pending().unwrap());
    let last = sealed.len() - 1;
    sealed[last] ^= 1;
    assert!(matches!(ends.core.received(&mut sealed), Err(TunnelError::Record(_))));
    assert!(ends.core.streams[&1].queue.len() > 5_000 + 4_000);
}
