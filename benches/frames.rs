//! HTTP/2 frames between a client and a server: DATA, and whole streams.

mod cases;

use std::time::Instant;

use adit::hbone::http2::{Event, Http2, Limits, Role};

/// Two ends that have greeted each other.
struct Pair {
    client: Http2,
    server: Http2,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let end = |role| Http2::new(role, Limits::default(), now);
        let mut pair = Self { client: end(Role::Client), server: end(Role::Server), now };
        pair.exchange();
        pair
    }

    /// Each takes what the other has to say, until nobody has anything.
    fn exchange(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.client.has_control() || self.server.has_control() {
            let said = self.client.take_control();
            take(&mut self.server, &said, self.now, &mut events);
            let said = self.server.take_control();
            take(&mut self.client, &said, self.now, &mut events);
        }
        events
    }

    fn open(&mut self) -> u32 {
        let fields = [("baggage", "k8s.namespace.name=shop,k8s.deployment.name=web")];
        let id = self.client.open("10.77.0.2:8080", &fields).expect("room");
        let events = self.exchange();
        assert!(matches!(events[..], [Event::Request { .. }]));
        self.server.respond(id, 200, &fields, false);
        assert!(matches!(self.exchange()[..], [Event::Response { status: 200, .. }]));
        id
    }
}

fn take(end: &mut Http2, mut bytes: &[u8], now: Instant, events: &mut Vec<Event>) {
    while !bytes.is_empty() {
        let (used, event) = end.receive(bytes, now).expect("a sound peer");
        events.extend(event.filter(|e| !matches!(e, Event::Settings | Event::Window(_))));
        bytes = &bytes[used..];
    }
}

fn data(size: usize) -> Box<dyn FnMut()> {
    let mut pair = Pair::new();
    let id = pair.open();
    let (mut frame, mut events) = (vec![b'a'; 9 + size], Vec::new());
    Box::new(move || {
        let head = pair.client.data_head(id, size);
        frame[..9].copy_from_slice(&head);
        take(&mut pair.server, &frame, pair.now, &mut events);
        assert!(matches!(&events[..], [Event::Data { range, .. }] if range.len() == size));
        events.clear();
        pair.server.release(id, size, || 1 << 20);
        if pair.server.has_control() {
            pair.exchange();
        }
    })
}

fn stream() -> Box<dyn FnMut()> {
    let mut pair = Pair::new();
    Box::new(move || {
        let id = pair.open();
        pair.client.finish(id);
        pair.server.finish(id);
        pair.exchange();
        assert_eq!(pair.client.open_streams() + pair.server.open_streams(), 0);
    })
}

fn main() {
    cases::run(&[
        ("data_16384", 16_384, || data(16_384)),
        ("data_100", 100, || data(100)),
        ("stream", 0, stream),
    ]);
}
