//! Two ends against each other, and a model of what each stream must have received.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// Something that one of the ends does; streams are picked by number among those it has.
#[derive(Clone, Copy, Debug)]
enum Op {
    Open,
    Send(bool, u8, u16),
    Finish(bool, u8),
    Reset(bool, u8),
    Refuse,
    Release(bool, u8, u16),
    Ping(bool),
    /// Carry this many bytes, in pieces of this size.
    Carry(bool, u16, u8),
    Setting(bool, u16),
}

fn op() -> impl Strategy<Value = Op> {
    let side = any::<bool>;
    prop_oneof![
        3 => Just(Op::Open),
        8 => (side(), any::<u8>(), any::<u16>()).prop_map(|(s, i, n)| Op::Send(s, i, n)),
        2 => (side(), any::<u8>()).prop_map(|(s, i)| Op::Finish(s, i)),
        1 => (side(), any::<u8>()).prop_map(|(s, i)| Op::Reset(s, i)),
        1 => Just(Op::Refuse),
        6 => (side(), any::<u8>(), any::<u16>()).prop_map(|(s, i, n)| Op::Release(s, i, n)),
        1 => side().prop_map(Op::Ping),
        9 => (side(), any::<u16>(), any::<u8>()).prop_map(|(s, n, p)| Op::Carry(s, n, p)),
        1 => (side(), any::<u16>()).prop_map(|(s, n)| Op::Setting(s, n)),
    ]
}

/// What one end knows of one stream.
#[derive(Debug, Default)]
struct Flow {
    sent: u64,
    finished: bool,
    got: u64,
    ended: bool,
    /// Got, and not released.
    held: usize,
    /// Over by RST_STREAM, of either side.
    reset: bool,
}

#[derive(Debug)]
struct End {
    http2: Http2,
    /// By stream; an end that forgot it keeps the flow here.
    flows: HashMap<u32, Flow>,
    ids: Vec<u32>,
    /// Bytes on their way to the other.
    wire: VecDeque<u8>,
    pings: usize,
    pongs: usize,
}

/// The nth byte of a stream in one direction.
fn byte(id: u32, from_client: bool, at: u64) -> u8 {
    (u64::from(id) * 31 + u64::from(from_client) * 7 + at * 13 + (at >> 8)) as u8
}

struct Pair([End; 2], Instant);

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let flood = FloodLimits { burst: u32::MAX, per_second: 0 };
        let limits = Limits { flood, stream_window: 5_000, max_streams: 20, ..Limits::default() };
        let limits = Limits { stream_held: 9_000, stream_window_most: 60_000, ..limits };
        let end = |role| End {
            http2: Http2::new(role, limits, now),
            flows: HashMap::new(),
            ids: Vec::new(),
            wire: VecDeque::new(),
            pings: 0,
            pongs: 0,
        };
        let mut pair = Self([end(Role::Server), end(Role::Client)], now);
        // Small windows hold once they are known.
        [true, false].into_iter().for_each(|side| pair.carry(side, usize::MAX, 50));
        pair
    }

    fn pick(&self, side: bool, nth: u8) -> Option<u32> {
        let ids = &self.0[usize::from(side)].ids;
        // Mostly the youngest: the others are over.
        ids.len().checked_sub(1).map(|last| ids[last - usize::from(nth) % ids.len().min(24)])
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open => {
                let client = &mut self.0[1];
                if let Some(id) = client.http2.open("10.0.0.1:80", &[("forwarded", "for=x")]) {
                    client.flows.insert(id, Flow::default());
                    client.ids.push(id);
                }
            }
            Op::Send(side, nth, most) => {
                let Some(id) = self.pick(side, nth) else { return };
                let end = &mut self.0[usize::from(side)];
                end.flush();
                let length = end.http2.sendable(id).min(usize::from(most));
                if length == 0 {
                    return;
                }
                let head = end.http2.data_head(id, length);
                let flow = end.flows.get_mut(&id).unwrap();
                let bytes = (0..length as u64).map(|n| byte(id, side, flow.sent + n));
                end.wire.extend(head);
                end.wire.extend(bytes);
                flow.sent += length as u64;
            }
            Op::Finish(side, nth) => {
                let Some(id) = self.pick(side, nth) else { return };
                let end = &mut self.0[usize::from(side)];
                end.http2.finish(id);
                end.flows.get_mut(&id).unwrap().finished = true;
            }
            Op::Reset(side, nth) => {
                let Some(id) = self.pick(side, nth) else { return };
                let end = &mut self.0[usize::from(side)];
                end.http2.reset(id, Code::CANCEL);
                end.flows.get_mut(&id).unwrap().reset = true;
            }
            Op::Refuse => {
                let Some(id) = self.pick(false, 0) else { return };
                let end = &mut self.0[0];
                end.http2.reset(id, Code::REFUSED_STREAM);
                end.flows.get_mut(&id).unwrap().reset = true;
            }
            Op::Release(side, nth, most) => {
                let Some(id) = self.pick(side, nth) else { return };
                self.0[usize::from(side)].release(id, usize::from(most));
            }
            Op::Ping(side) => {
                let end = &mut self.0[usize::from(side)];
                end.http2.ping([7; 8]);
                end.pings += 1;
            }
            Op::Carry(side, bytes, piece) => {
                self.carry(side, usize::from(bytes), usize::from(piece) + 1);
            }
            Op::Setting(side, value) => {
                // As if the end announced another window: only the other's sending changes.
                let end = &mut self.0[usize::from(side)];
                end.flush();
                end.wire.extend(setting(4, 5_000 - u32::from(value) % 1000));
            }
        }
    }

    /// Carries from `side` to the other.
    fn carry(&mut self, side: bool, bytes: usize, piece: usize) {
        let [server, client] = &mut self.0;
        let (from, to) = if side { (client, server) } else { (server, client) };
        from.flush();
        let bytes = bytes.min(from.wire.len());
        let bytes: Vec<u8> = from.wire.drain(..bytes).collect();
        bytes.chunks(piece).for_each(|part| to.take(part, side, self.1));
    }

    /// Carries, reads and finishes everything: nothing may be left.
    fn end(mut self) {
        for side in [false, true] {
            self.0[usize::from(side)].http2.go_away(Code::NO_ERROR, !side);
        }
        for round in 0..8 {
            for side in [true, false] {
                let end = &mut self.0[usize::from(side)];
                for id in end.ids.clone() {
                    end.release(id, usize::MAX);
                    end.http2.finish(id);
                    end.flows.get_mut(&id).unwrap().finished = true;
                }
                self.carry(side, usize::MAX, 1 << (round * 2));
            }
        }
        let [server, client] = &self.0;
        assert_eq!((server.http2.open_streams(), client.http2.open_streams()), (0, 0));
        assert!(server.wire.is_empty() && client.wire.is_empty());
        assert_eq!((server.pongs, client.pongs), (server.pings, client.pings));
        assert!(server.http2.peer_is_leaving() && client.http2.peer_is_leaving());
        for (id, ours) in &client.flows {
            let Some(theirs) = server.flows.get(id) else {
                assert!(ours.reset, "{id} was never heard of");
                continue;
            };
            if !ours.reset && !theirs.reset {
                assert_eq!((ours.sent, theirs.sent), (theirs.got, ours.got), "{id}");
                assert!(ours.ended && theirs.ended, "{id}");
            }
        }
    }
}

impl End {
    fn flush(&mut self) {
        self.wire.extend(self.http2.take_control());
    }

    fn release(&mut self, id: u32, most: usize) {
        let flow = self.flows.get_mut(&id).unwrap();
        let bytes = flow.held.min(most);
        flow.held -= bytes;
        self.http2.release(id, bytes, || most);
    }

    fn take(&mut self, mut part: &[u8], from_client: bool, now: Instant) {
        while !part.is_empty() {
            let (n, event) = self.http2.receive(part, now).expect("no failure may occur");
            match event {
                Some(Event::Request { id, request, end }) => {
                    assert!(request.is_connect && request.authority == "10.0.0.1:80" && !end);
                    self.flows.insert(id, Flow::default());
                    self.ids.push(id);
                    self.http2.respond(id, 200, &[], false);
                }
                Some(Event::Response { id, status, end }) => {
                    assert!(status == 200 && !end && !self.flows[&id].reset);
                }
                Some(Event::Data { id, range, end }) => {
                    let flow = self.flows.get_mut(&id).unwrap();
                    assert!(!flow.reset && !flow.ended, "{id}: DATA behind the end");
                    for b in &part[range.clone()] {
                        assert_eq!(*b, byte(id, from_client, flow.got), "{id} at {}", flow.got);
                        flow.got += 1;
                    }
                    flow.held += range.len();
                    flow.ended = end;
                    assert!(flow.held <= 60_000, "{id} holds {}", flow.held);
                }
                Some(Event::Reset { id, code }) => {
                    assert!([Code::CANCEL, Code::REFUSED_STREAM].contains(&code), "{id}: {code:?}");
                    self.flows.get_mut(&id).unwrap().reset = true;
                }
                Some(Event::Pong(_)) => self.pongs += 1,
                Some(Event::GoAway { code, .. }) => assert_eq!(code, Code::NO_ERROR),
                Some(Event::Settings | Event::Window(_)) | None => {}
            }
            part = &part[n..];
        }
    }
}

fn run(cases: u32, ops: usize) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let script = prop::collection::vec(op(), ops / 2..=ops);
    runner
        .run(&script, |script| {
            let mut pair = Pair::new();
            script.into_iter().for_each(|op| pair.apply(op));
            pair.end();
            Ok(())
        })
        .unwrap();
}

#[test]
fn two_ends_agree() {
    run(80, 320);
}

/// A million operations.
#[test]
#[ignore = "takes minutes"]
fn two_ends_agree_for_long() {
    run(2_700, 500);
}
