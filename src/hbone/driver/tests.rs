//! Several tunnels of several callers on one worker; the peers are made by hand, and say much.
#![allow(clippy::unwrap_used)]

use tokio::{io::AsyncWriteExt, net::TcpSocket, task::yield_now};

use super::*;
use crate::{
    hbone::{
        Caller, Callers,
        http2::{
            frame::{flag, kind, put},
            hpack,
        },
    },
    lifecycle::Tasks,
    tls::{
        Aead,
        record::{MAX_RECORD, Records, tests::keys},
    },
};

fn caller(of: &Callers, name: &str) -> Caller {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap();
    of.enter(&id, [192, 0, 2, 1].into(), Instant::now()).unwrap()
}

/// A tunnel whose peer has said a byte for a stream in a frame of its own, `frames` times; as
/// much as the kernel takes of that has come.
async fn beset(caller: &Caller, frames: usize) -> (Arc<Tunnel>, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(1 << 20).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let to = listener.local_addr().unwrap();
    let (peer, tcp) = tokio::join!(TcpStream::connect(to), listener.accept());
    let (ours, theirs) = keys(Aead::Aes128Gcm);
    let limits = Limits::default();
    let core = Core::new(Role::Server, limits, ours, Some(caller.share())).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    put(&mut bytes, kind::SETTINGS, 0, 0, &[]);
    let mut block = Vec::new();
    hpack::encode(&mut block, ":method", "CONNECT");
    hpack::encode(&mut block, ":authority", "10.0.0.1:80");
    put(&mut bytes, kind::HEADERS, flag::END_HEADERS, 1, &block);
    (0..frames).for_each(|_| put(&mut bytes, kind::DATA, 0, 1, &[7]));
    let (mut peer, mut records) = (peer.unwrap(), Records::new(theirs).unwrap());
    for bytes in bytes.chunks(100_000) {
        records.sealer.append(bytes).unwrap();
        let sealed = records.pending().unwrap();
        let sent = tokio::time::timeout(Duration::from_millis(50), peer.write_all(sealed)).await;
        let length = sealed.len();
        records.sealer.written(length);
        if sent.is_err() {
            break;
        }
    }
    let tcp = tcp.unwrap().0;
    (Arc::new(Tunnel { tcp, core: Mutex::new(core) }), peer)
}

/// Bytes of its stream that were taken from a tunnel.
fn taken(tunnel: &Tunnel) -> usize {
    tunnel.core().streams.get(&1).map_or(0, |stream| stream.queue.len())
}

/// However many tunnels a caller has, and whatever each of them says at once.
#[tokio::test]
async fn what_came_and_waits_for_its_turn_is_bounded() {
    const TUNNELS: usize = 60;
    let (callers, tasks) = (Callers::default(), Tasks::default());
    let web = caller(&callers, "web");
    let (mut tunnels, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..TUNNELS {
        let (tunnel, peer) = beset(&web, 20_000).await;
        tunnels.push(Arc::clone(&tunnel));
        tasks.spawn(async move { drop(tunnel.carry().await) });
        peers.push(peer);
    }
    let (mut most, mut widest) = (0, 0);
    for _ in 0..1_000 {
        yield_now().await;
        let unread = tunnels.iter().map(|t| t.core().unread());
        most = most.max(unread.clone().sum());
        widest = widest.max(unread.max().unwrap());
    }
    let wide = 4 << 20;
    assert!(most > wide / 2, "{most}: the kernel took little, and nothing was tried");
    assert!(most < wide + widest + TUNNELS * MAX_RECORD, "{most}, {widest} in one");
    tunnels.iter().for_each(|tunnel| tunnel.end(TunnelError::Closed));
    assert_eq!(tunnels.iter().map(|t| t.core().unread()).sum::<usize>(), 0);
}

/// A caller that says a lot in a hundred tunnels gets about as much done as one with one.
#[tokio::test]
async fn callers_take_turns_however_many_tunnels_they_have() {
    let (callers, tasks) = (Callers::default(), Tasks::default());
    let (many, one) = (caller(&callers, "many"), caller(&callers, "one"));
    let (mut of_many, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let (tunnel, peer) = beset(&many, 6_000).await;
        of_many.push(tunnel);
        peers.push(peer);
    }
    let (of_one, _peer) = beset(&one, 12_000).await;
    for tunnel in of_many.iter().chain([&of_one]) {
        let tunnel = Arc::clone(tunnel);
        tasks.spawn(async move { drop(tunnel.carry().await) });
    }
    let mut rounds = 0;
    while taken(&of_one) < 10_000 {
        yield_now().await;
        rounds += 1;
        assert!(rounds < 100_000, "{}", taken(&of_one));
    }
    let (by_many, by_one) = (of_many.iter().map(|t| taken(t)).sum::<usize>(), taken(&of_one));
    assert!(by_many < 2 * by_one, "{by_many} of many, {by_one} of one");
    assert!(by_many > by_one / 2, "{by_many} of many, {by_one} of one");
    // And alone it is held up by nobody: all of it is taken, a tunnel is not forgotten.
    of_one.end(TunnelError::Closed);
    while of_many.iter().any(|tunnel| taken(tunnel) < 5_000) {
        yield_now().await;
        rounds += 1;
        assert!(rounds < 200_000, "a tunnel waits for ever");
    }
}
