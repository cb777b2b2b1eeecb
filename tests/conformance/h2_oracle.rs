//! The `h2` crate at the other end of a pipe: both roles, without TLS. ADIT_ORACLE_STREAMS (150)
//! streams of random sizes; 35,000 are a million operations.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use adit::hbone::http2::{Code, Event, Http2, Limits, Role};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinSet,
};

/// What a stream carries; both directions are told by its number alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Plan {
    number: u32,
    up: usize,
    down: usize,
    /// The one with h2 resets it behind its bytes, instead of ending it.
    reset: bool,
}

fn plan(number: u32) -> Plan {
    let mut rng = StdRng::seed_from_u64(u64::from(number));
    let mut size = || match rng.random_range(0..4) {
        0 => rng.random_range(0..4),
        1 => rng.random_range(0..2_000),
        2 => rng.random_range(0..70_000),
        _ => rng.random_range(0..600_000),
    };
    Plan { number, up: size(), down: size(), reset: number % 7 == 3 }
}

fn byte(number: u32, up: bool, at: usize) -> u8 {
    (number as usize * 31 + usize::from(up) * 7 + at * 13 + (at >> 8)) as u8
}

fn bytes(number: u32, up: bool, from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| byte(number, up, at)).collect()
}

fn number(authority: &str) -> u32 {
    authority.strip_prefix("stream:").unwrap().parse().unwrap()
}

/// Our end of one stream.
#[derive(Debug)]
struct Ours {
    plan: Plan,
    sent: usize,
    got: usize,
    ended: bool,
    finished: bool,
    reset: Option<Code>,
    answered: bool,
}

/// Drives our machine until all streams are over; what became of each, by its number.
async fn ours(role: Role, mut io: DuplexStream, streams: u32) -> BTreeMap<u32, Ours> {
    let limits = Limits { connection_window: 300_000, ..Limits::default() };
    let mut end = Http2::new(role, limits, Instant::now());
    let mut rng = StdRng::seed_from_u64(7);
    let mut open: HashMap<u32, Ours> = HashMap::new();
    let mut over = BTreeMap::new();
    let mut input = vec![0; 100_000];
    let (mut next, mut operations) = (1, 0_u64);
    loop {
        while role == Role::Client && end.has_settings() && next <= streams && end.room() > 0 {
            let id = end.open(&format!("stream:{next}"), &[("forwarded", "for=x")]).unwrap();
            open.insert(id, begun(plan(next)));
            next += 1;
        }
        let mut out = end.take_control();
        let up = role == Role::Client;
        for (id, stream) in open.iter_mut().filter(|(_, s)| s.answered && !s.finished) {
            let whole = if up { stream.plan.up } else { stream.plan.down };
            loop {
                let most = rng.random_range(1..=40_000);
                let length = end.sendable(*id).min(whole - stream.sent).min(most);
                if length == 0 {
                    break;
                }
                operations += 1;
                out.extend(end.data_head(*id, length));
                out.extend(bytes(stream.plan.number, up, stream.sent, length));
                stream.sent += length;
            }
            if stream.sent == whole && stream.reset.is_none() {
                end.finish(*id);
                stream.finished = true;
            }
        }
        out.extend(end.take_control());
        io.write_all(&out).await.unwrap();
        let ends = |s: &Ours| s.reset.is_some() || (s.finished && s.ended);
        over.extend(open.extract_if(|_, s| ends(s)).map(|(_, s)| (s.plan.number, s)));
        if over.len() == streams as usize {
            assert_eq!(end.open_streams(), 0, "all are forgotten");
            eprintln!("{operations} frames sent and steps of what came");
            end.go_away(Code::NO_ERROR, false);
            io.write_all(&end.take_control()).await.unwrap();
            io.shutdown().await.unwrap();
            while io.read(&mut input).await.is_ok_and(|n| n > 0) {}
            return over;
        }
        let most = rng.random_range(1..=input.len());
        let read = io.read(&mut input[..most]).await.unwrap();
        assert!(read > 0, "h2 hung up: {open:?}");
        let mut used = 0;
        while used < read {
            let (n, event) = end.receive(&input[used..read], Instant::now()).unwrap();
            operations += 1;
            match event {
                Some(Event::Request { id, request, .. }) => {
                    assert!(request.is_connect);
                    end.respond(id, 200, &[("server", "adit")], false);
                    let stream = Ours { answered: true, ..begun(plan(number(&request.authority))) };
                    open.insert(id, stream);
                }
                Some(Event::Response { id, status, end }) => {
                    assert!(status == 200 && !end);
                    open.get_mut(&id).unwrap().answered = true;
                }
                Some(Event::Data { id, range, end: ended }) => {
                    let stream = open.get_mut(&id).unwrap();
                    let length = range.len();
                    let expected = bytes(stream.plan.number, !up, stream.got, length);
                    assert!(input[used..read][range] == expected, "{stream:?}");
                    stream.got += length;
                    stream.ended = ended;
                    end.release(id, length, || 100_000);
                }
                Some(Event::Reset { id, code }) => {
                    open.get_mut(&id).unwrap().reset = Some(code);
                }
                _ => {}
            }
            used += n;
        }
    }
}

fn begun(plan: Plan) -> Ours {
    let (sent, got, ended, finished, answered) = (0, 0, false, false, false);
    Ours { plan, sent, got, ended, finished, reset: None, answered }
}

/// h2's end of one stream: both directions at once.
async fn theirs(plan: Plan, up: bool, mut send: SendStream<Bytes>, mut receive: RecvStream) {
    let (whole, expected) = if up { (plan.up, plan.down) } else { (plan.down, plan.up) };
    let sending = async {
        let mut sent = 0;
        while sent < whole {
            send.reserve_capacity((whole - sent).min(50_000));
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            let length = room.min(whole - sent);
            send.send_data(bytes(plan.number, up, sent, length).into(), false).unwrap();
            sent += length;
        }
        send
    };
    let receiving = async {
        let mut got = 0;
        while let Some(part) = receive.data().await {
            let part = part.unwrap();
            assert!(part == bytes(plan.number, !up, got, part.len()), "{plan:?} at {got}");
            got += part.len();
            receive.flow_control().release_capacity(part.len()).unwrap();
        }
        assert_eq!(got, expected, "{plan:?}");
    };
    let (mut send, ()) = tokio::join!(sending, receiving);
    match plan.reset {
        true => send.send_reset(Reason::CANCEL),
        false => send.send_data(Bytes::new(), true).unwrap(),
    }
}

fn check(over: &BTreeMap<u32, Ours>, streams: u32, up: bool) {
    assert_eq!(over.len(), streams as usize);
    for (number, ours) in over {
        let Plan { up: there, down: back, reset, .. } = plan(*number);
        let (to_send, to_get) = if up { (there, back) } else { (back, there) };
        assert_eq!(ours.sent, to_send, "{ours:?}");
        if reset {
            assert_eq!(ours.reset, Some(Code::CANCEL), "{ours:?}");
            assert!(ours.got <= to_get);
        } else {
            assert_eq!((ours.got, ours.reset), (to_get, None), "{ours:?}");
        }
    }
}

fn number_of_streams() -> u32 {
    std::env::var("ADIT_ORACLE_STREAMS").map_or(150, |s| s.parse().unwrap())
}

/// A window that is not refilled is a stall.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60 + u64::from(number_of_streams()) / 10), work)
        .await
        .expect("no stall")
}

#[tokio::test]
async fn our_client_against_their_server() {
    let (near, far) = duplex(30_000);
    let server = async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(20).initial_window_size(10_000).max_frame_size(17_000);
        let mut connection = builder.handshake::<_, Bytes>(far).await.unwrap();
        let mut streams = JoinSet::new();
        while let Some(stream) = connection.accept().await {
            let (request, mut respond) = stream.unwrap();
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.headers()["forwarded"], "for=x");
            let plan = plan(number(request.uri().authority().unwrap().as_str()));
            let send = respond.send_response(Response::new(()), false).unwrap();
            streams.spawn(theirs(plan, false, send, request.into_body()));
        }
        while let Some(done) = streams.join_next().await {
            done.unwrap();
        }
    };
    let (over, ()) =
        in_time(async { tokio::join!(ours(Role::Client, near, number_of_streams()), server) })
            .await;
    check(&over, number_of_streams(), true);
}

#[tokio::test]
async fn their_client_against_our_server() {
    let (near, far) = duplex(30_000);
    let client = async {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(10_000).max_frame_size(17_000);
        let (mut opener, connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let mut streams = JoinSet::new();
        for number in 1..=number_of_streams() {
            opener = opener.ready().await.unwrap();
            let authority = format!("stream:{number}");
            let request = Request::connect(authority).body(()).unwrap();
            let (response, send) = opener.send_request(request, false).unwrap();
            streams.spawn(async move {
                let response = response.await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()["server"], "adit");
                theirs(plan(number), true, send, response.into_body()).await;
            });
        }
        while let Some(done) = streams.join_next().await {
            done.unwrap();
        }
        driver.join_next().await.unwrap().unwrap().unwrap();
        drop(opener); // its last handle would hang up
    };
    let (over, ()) =
        in_time(async { tokio::join!(ours(Role::Server, near, number_of_streams()), client) })
            .await;
    check(&over, number_of_streams(), false);
}
