//! Two ends, random operations, and a model of what must arrive.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Open,
    Send { stream: usize, bytes: usize, up: bool },
    Finish { stream: usize, up: bool },
    Reset { stream: usize, up: bool },
    Release { stream: usize, up: bool },
    Carry { bytes: usize, up: bool },
    Ping { up: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let (stream, up) = (0..8_usize, any::<bool>());
    prop_oneof![
        2 => Just(Op::Open),
        8 => (stream.clone(), 1..70_000_usize, up).prop_map(|(stream, bytes, up)| Op::Send { stream, bytes, up }),
        1 => (stream.clone(), up).prop_map(|(stream, up)| Op::Finish { stream, up }),
        1 => (stream.clone(), up).prop_map(|(stream, up)| Op::Reset { stream, up }),
        4 => (stream, up).prop_map(|(stream, up)| Op::Release { stream, up }),
        12 => (1..100_000_usize, up).prop_map(|(bytes, up)| Op::Carry { bytes, up }),
        1 => up.prop_map(|up| Op::Ping { up }),
    ]
}

/// One direction of one stream.
#[derive(Default)]
struct Flow {
    sent: u64,
    came: u64,
    held: usize,
    finished: bool,
    ended: bool,
    reset: bool,
}

/// Byte `n` of a flow; lost, doubled or swapped bytes show.
fn byte(id: u32, up: bool, n: u64) -> u8 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ id as u8 ^ u8::from(up)
}

struct World {
    ends: [Http2; 2],
    wires: [VecDeque<u8>; 2],
    flows: HashMap<(u32, bool), Flow>,
    ids: Vec<u32>,
    answered: HashSet<u32>,
}

impl World {
    fn new() -> Self {
        let end = |role| Http2::new(role, Limits::default(), Instant::now());
        Self {
            ends: [end(Role::Client), end(Role::Server)],
            wires: Default::default(),
            flows: HashMap::new(),
            ids: Vec::new(),
            answered: HashSet::new(),
        }
    }

    fn sender(&mut self, up: bool) -> (&mut Http2, &mut VecDeque<u8>) {
        let [client, server] = &mut self.ends;
        let [up_wire, down_wire] = &mut self.wires;
        if up { (client, up_wire) } else { (server, down_wire) }
    }

    fn flow(&mut self, id: u32, up: bool) -> &mut Flow {
        self.flows.entry((id, up)).or_default()
    }

    fn put_control(&mut self, up: bool) {
        let (end, wire) = self.sender(up);
        wire.extend(end.take_control());
    }

    fn apply(&mut self, op: &Op) {
        let pick = |ids: &[u32], n: usize| ids.len().checked_sub(1 + n).map(|i| ids[i]);
        match *op {
            Op::Open => {
                if let Some(id) = self.ends[0].open("10.0.0.1:80", &[("a", "b")]) {
                    self.ids.push(id);
                }
            }
            Op::Send { stream, bytes, up } => {
                let Some(id) = pick(&self.ids, stream) else { return };
                let sent = self.flow(id, up).sent;
                self.put_control(up);
                let (end, wire) = self.sender(up);
                let n = bytes.min(end.sendable(id));
                if n > 0 {
                    wire.extend(end.data_head(id, n));
                    wire.extend((sent..sent + n as u64).map(|at| byte(id, up, at)));
                    self.flow(id, up).sent += n as u64;
                }
            }
            Op::Finish { stream, up } => {
                let Some(id) = pick(&self.ids, stream) else { return };
                let answered = self.answered.contains(&id);
                if (up || answered) && !self.flow(id, up).reset {
                    self.sender(up).0.finish(id);
                    self.flow(id, up).finished = true;
                }
            }
            Op::Reset { stream, up } => {
                let Some(id) = pick(&self.ids, stream) else { return };
                self.sender(up).0.reset(id, Code::CANCEL);
                self.flow(id, true).reset = true;
                self.flow(id, false).reset = true;
            }
            Op::Release { stream, up } => {
                let Some(id) = pick(&self.ids, stream) else { return };
                let held = std::mem::take(&mut self.flow(id, up).held);
                self.sender(!up).0.release(id, held, || 1 << 20);
            }
            Op::Carry { bytes, up } => self.carry(bytes, up),
            Op::Ping { up } => self.sender(up).0.ping([7; 8]),
        }
    }

    /// Takes bytes from a wire to the other end.
    fn carry(&mut self, bytes: usize, up: bool) {
        self.put_control(up);
        let wire = &mut self.wires[usize::from(!up)];
        let input: Vec<u8> = wire.drain(..bytes.min(wire.len())).collect();
        let mut at = 0;
        while at < input.len() {
            let to = &mut self.ends[usize::from(up)];
            let (used, event) = to.receive(&input[at..], Instant::now()).unwrap();
            match event {
                Some(Event::Data { id, range, end }) => {
                    let flow = self.flows.entry((id, up)).or_default();
                    for came in &input[at + range.start..at + range.end] {
                        assert_eq!(
                            *came,
                            byte(id, up, flow.came),
                            "stream {id}, byte {}",
                            flow.came
                        );
                        flow.came += 1;
                    }
                    flow.held += range.len();
                    flow.ended |= end;
                }
                Some(Event::Request { id, .. }) => {
                    to.respond(id, 200, &[], false);
                    self.answered.insert(id);
                }
                Some(Event::Reset { code, .. }) => assert_eq!(code, Code::CANCEL),
                _ => {}
            }
            at += used;
        }
    }

    /// Lets everything arrive and checks that nothing is missing.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.carry(usize::MAX, true);
            self.carry(usize::MAX, false);
        }
        for ((id, up), flow) in &self.flows {
            if !flow.reset {
                assert_eq!(flow.came, flow.sent, "stream {id}");
                assert_eq!(flow.ended, flow.finished, "stream {id}, up {up}");
            }
        }
        for id in self.ids.clone() {
            self.ends[0].reset(id, Code::CANCEL);
        }
        self.carry(usize::MAX, true);
        assert_eq!((self.ends[0].open_streams(), self.ends[1].open_streams()), (0, 0));
    }
}

fn run(cases: u32, ops: usize) {
    let config = ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(cases) };
    proptest!(config, |(ops in prop::collection::vec(op(), ops / 2..ops))| {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        world.settle();
    });
}

#[test]
fn whatever_two_ends_do_every_byte_arrives_once_and_in_order() {
    run(60, 400);
}

#[test]
#[ignore = "a million operations: minutes"]
fn a_million_operations() {
    run(1_400, 1_000);
}
