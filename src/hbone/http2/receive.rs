//! What the peer sends: every frame of RFC 9113 §6, checked.

use std::time::Instant;

use super::{
    Event, Failure, Role,
    connection::{DataFrame, Http2},
    frame::{Code, Head, flag, kind},
    headers::{Block, Fields},
    reader::Piece,
};

type Received = Result<Option<Event>, Failure>;

impl Http2 {
    /// Takes from `input`: how many bytes, and what they were, if that concerns anybody.
    /// Call again until all input is used.
    ///
    /// # Errors
    /// The connection must end: [`Http2::go_away`] with the failure's code.
    pub fn receive(
        &mut self,
        input: &[u8],
        now: Instant,
    ) -> Result<(usize, Option<Event>), Failure> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if rest.is_empty() && !self.reader.owes_empty_data() {
                return Ok((used, None));
            }
            let (n, piece) = self.reader.next(rest)?;
            let event = match piece {
                Piece::Partial => None,
                Piece::DataHead(head) => self.data_begins(head, now)?,
                Piece::Data { range, last } => {
                    self.data(used + range.start..used + range.end, last, now)?
                }
                Piece::Frame(head) => {
                    let payload = std::mem::take(&mut self.reader.payload);
                    let event = self.frame(head, &payload, now);
                    self.reader.payload = payload;
                    event?
                }
            };
            if self.is_unread() {
                let why = "many requests whose responses are not read";
                return Err(Failure::new(Code::ENHANCE_YOUR_CALM, why));
            }
            used += n;
            if event.is_some() {
                return Ok((used, event));
            }
        }
    }

    fn frame(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        self.in_order(head)?;
        let on_stream = head.stream != 0;
        let right_place = match head.kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => !on_stream,
            kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => on_stream,
            _ => true,
        };
        if !right_place {
            return Err(Failure::protocol("a frame on the wrong stream"));
        }
        match head.kind {
            kind::HEADERS => {
                let block = Block::begin(head, payload)?;
                self.block_grew(block, head, now)
            }
            kind::CONTINUATION => {
                let lost = Failure::protocol("CONTINUATION without HEADERS");
                let mut block = self.block.take().ok_or(lost)?;
                block.extend(payload)?;
                self.block_grew(block, head, now)
            }
            kind::PRIORITY => {
                self.budget.pay(1, "PRIORITY flood", now)?;
                match head.length == 5 || !self.streams.contains_key(&head.stream) {
                    true => Ok(None),
                    false => self.stream_fails(head.stream, Code::FRAME_SIZE_ERROR, now),
                }
            }
            kind::RST_STREAM => self.reset_came(head, payload, now),
            kind::SETTINGS => self.settings_came(head, payload, now),
            kind::PUSH_PROMISE => Err(Failure::protocol("PUSH_PROMISE, which is not allowed")),
            kind::PING => self.ping_came(head, payload, now),
            kind::GOAWAY => self.goaway_came(head, payload, now),
            kind::WINDOW_UPDATE => self.window_came(head, payload, now),
            _ => self.budget.pay(1, "flood of unknown frames", now).map(|()| None),
        }
    }

    /// SETTINGS first (§3.4), and nothing inside a header block (§6.10).
    fn in_order(&self, head: Head) -> Result<(), Failure> {
        if !self.peer.seen && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Failure::protocol("the first frame is not SETTINGS"));
        }
        match &self.block {
            Some(block) if head.kind != kind::CONTINUATION || head.stream != block.stream => {
                Err(Failure::protocol("a frame inside a header block"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a stream was never opened (§5.1: idle).
    fn is_idle(&self, id: u32) -> bool {
        if self.opens(id) { id >= self.next_local } else { id > self.last_peer }
    }

    /// §5.4.2: ends one stream for the peer's fault.
    fn stream_fails(&mut self, id: u32, code: Code, now: Instant) -> Received {
        self.budget.pay(2, "flood of stream errors", now)?;
        if self.streams.contains_key(&id) {
            self.reset(id, code);
            return Ok(Some(Event::Reset { id, code }));
        }
        self.late += u64::from(self.limits.stream_window);
        self.put_reset(id, code);
        Ok(None)
    }

    fn data_begins(&mut self, head: Head, now: Instant) -> Received {
        self.in_order(head)?;
        let (id, length) = (head.stream, head.length);
        if id == 0 || self.is_idle(id) {
            return Err(Failure::protocol("DATA on a stream that is not open"));
        }
        if !self.receive.charge(length) {
            let why = "more DATA than the connection's window";
            return Err(Failure::new(Code::FLOW_CONTROL_ERROR, why));
        }
        let window = self.limits.connection_window;
        if let Some(credit) = self.receive.release(length, || window) {
            self.put_control(kind::WINDOW_UPDATE, 0, 0, &credit.to_be_bytes());
        }
        let end = head.has(flag::END_STREAM);
        self.data = None;
        let client = self.role == Role::Client;
        let Some(stream) = self.streams.get_mut(&id) else {
            if length > 0 && length as u64 <= self.late {
                self.late -= length as u64;
                return Ok(None);
            }
            return self.budget.pay(1, "DATA on closed streams", now).map(|()| None);
        };
        if stream.remote_closed {
            return self.stream_fails(id, Code::STREAM_CLOSED, now);
        }
        if client && !stream.answered {
            return self.stream_fails(id, Code::PROTOCOL_ERROR, now);
        }
        if !stream.receive.charge(length) {
            return self.stream_fails(id, Code::FLOW_CONTROL_ERROR, now);
        }
        self.data = Some(DataFrame { id, ends: end, length, left: length });
        Ok(None)
    }

    fn data(&mut self, range: std::ops::Range<usize>, last: bool, now: Instant) -> Received {
        let Some(DataFrame { id, ends, length, left }) = self.data.as_mut() else {
            return Ok(None);
        };
        let (id, ends, length) = (*id, *ends, *length);
        *left -= range.len();
        let overhead = *left;
        if last {
            self.data = None;
            if overhead == length && !ends {
                self.budget.pay(1, "flood of empty DATA", now)?;
            }
            self.release(id, overhead, || 0); // padding is taken as it comes
        }
        let end = last && ends;
        if end {
            self.remote_ended(id);
        }
        Ok((end || !range.is_empty()).then_some(Event::Data { id, range, end }))
    }

    fn remote_ended(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.remote_closed = true;
        }
        self.forget_if_over(id);
    }

    fn block_grew(&mut self, block: Block, head: Head, now: Instant) -> Received {
        if !head.has(flag::END_HEADERS) {
            self.block = Some(block);
            return Ok(None);
        }
        let fields = block.read(&mut self.hpack)?;
        self.budget.pay(fields.excess(), "header blocks that are too large when unpacked", now)?;
        let (id, end) = (block.stream, block.end_stream);
        match self.role {
            Role::Server if id > self.last_peer => self.request(id, end, fields, now),
            _ if self.is_idle(id) => Err(Failure::protocol("HEADERS that belong to no request")),
            _ => self.answer(id, end, &fields, now),
        }
    }

    fn request(&mut self, id: u32, end: bool, fields: Fields, now: Instant) -> Received {
        if id.is_multiple_of(2) {
            return Err(Failure::protocol("a client's stream with an even identifier"));
        }
        self.last_peer = id;
        self.budget.request(now)?;
        if self.leaving.is_some_and(|last| id > last) {
            self.late += u64::from(self.limits.stream_window);
            return self.budget.pay(1, "streams after GOAWAY", now).map(|()| None); // §6.8: unseen
        }
        if self.streams.len() >= self.limits.max_streams as usize {
            return self.stream_fails(id, Code::REFUSED_STREAM, now);
        }
        let too_large = fields.too_large();
        let Some(request) = fields.request().filter(|_| !too_large) else {
            if too_large {
                self.budget.pay(2, "flood of headers", now)?;
                self.insert(id, end);
                self.respond(id, 431, &[], true);
                return Ok(None);
            }
            return self.stream_fails(id, Code::PROTOCOL_ERROR, now);
        };
        self.insert(id, end);
        Ok(Some(Event::Request { id, request, end }))
    }

    fn answer(&mut self, id: u32, end: bool, fields: &Fields, now: Instant) -> Received {
        let Some(stream) = self.streams.get_mut(&id) else {
            if fields.asks() {
                return Err(Failure::protocol(
                    "a request on a stream identifier that was used before",
                )); // §5.1.1
            }
            return self.budget.pay(1, "HEADERS on closed streams", now).map(|()| None);
        };
        if stream.remote_closed {
            return self.stream_fails(id, Code::STREAM_CLOSED, now);
        }
        if self.role == Role::Client && !stream.answered {
            return match fields.status() {
                Some(100..200) if !end => {
                    self.budget.pay(1, "flood of interim responses", now).map(|()| None)
                }
                Some(status @ 200..) => {
                    stream.answered = true;
                    if end {
                        self.remote_ended(id);
                    }
                    Ok(Some(Event::Response { id, status, end }))
                }
                _ => self.stream_fails(id, Code::PROTOCOL_ERROR, now),
            };
        }
        self.stream_fails(id, Code::PROTOCOL_ERROR, now) // a tunnel has no trailers (§8.5)
    }

    fn reset_came(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        let code = Code(number(payload)?);
        if self.is_idle(head.stream) {
            return Err(Failure::protocol("RST_STREAM on an idle stream"));
        }
        let Some(stream) = self.remove(head.stream) else {
            return self.budget.pay(1, "RST_STREAM flood", now).map(|()| None);
        };
        if self.role == Role::Server && !stream.answered {
            self.budget.pay(4, "rapid reset", now)?; // CVE-2023-44487
        }
        Ok(Some(Event::Reset { id: head.stream, code }))
    }

    fn settings_came(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        if head.has(flag::ACK) {
            sized(head.length == 0)?;
            return self.budget.settings_ack(now).map(|()| None);
        }
        sized(head.length.is_multiple_of(6) && head.length == payload.len())?;
        self.budget.pay(1, "SETTINGS flood", now)?;
        self.peer.seen = true;
        for setting in payload.chunks_exact(6) {
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            self.setting(u16::from_be_bytes([setting[0], setting[1]]), value)?;
        }
        self.put_control(kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(Some(Event::Settings))
    }

    fn setting(&mut self, id: u16, value: u32) -> Result<(), Failure> {
        match id {
            2 if value > 1 || (value == 1 && self.role == Role::Client) => {
                Err(Failure::protocol("ENABLE_PUSH out of range"))
            }
            3 => {
                self.peer.max_streams = value;
                Ok(())
            }
            4 if value > (1 << 31) - 1 => {
                Err(Failure::new(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE out of range"))
            }
            4 => {
                let by = i64::from(value) - i64::from(self.peer.initial_window);
                self.peer.initial_window = value;
                self.streams.values_mut().try_for_each(|s| s.send.grow(by))
            }
            5 if !(16_384..1 << 24).contains(&value) => {
                Err(Failure::protocol("MAX_FRAME_SIZE out of range"))
            }
            5 => {
                self.peer.max_frame = value as usize;
                Ok(())
            }
            _ => Ok(()), // ours need no table, and what is unknown is ignored (§6.5.2)
        }
    }

    fn ping_came(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        sized(head.length == 8)?;
        let mut opaque = [0; 8];
        opaque.copy_from_slice(payload);
        if head.has(flag::ACK) {
            self.budget.pong(now)?;
            return Ok(Some(Event::Pong(opaque)));
        }
        self.budget.pay(1, "PING flood", now)?;
        self.put_control(kind::PING, flag::ACK, 0, &opaque);
        Ok(None)
    }

    fn goaway_came(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        sized(head.length >= 8)?;
        self.budget.pay(1, "GOAWAY flood", now)?;
        self.peer_leaving = true;
        let (last, code) = (number(&payload[..4])? & 0x7fff_ffff, number(&payload[4..8])?);
        Ok(Some(Event::GoAway { last, code: Code(code) }))
    }

    fn window_came(&mut self, head: Head, payload: &[u8], now: Instant) -> Received {
        let by = number(payload)? & 0x7fff_ffff;
        self.budget.update(now)?;
        if head.stream == 0 {
            if by == 0 {
                return Err(Failure::protocol("WINDOW_UPDATE by 0"));
            }
            self.send.grow(i64::from(by))?;
            return Ok(Some(Event::Window(None)));
        }
        if self.is_idle(head.stream) {
            return Err(Failure::protocol("WINDOW_UPDATE on an idle stream"));
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else { return Ok(None) };
        match stream.send.grow(i64::from(by)) {
            Ok(()) if by > 0 => Ok(Some(Event::Window(Some(head.stream)))),
            Ok(()) => self.stream_fails(head.stream, Code::PROTOCOL_ERROR, now),
            Err(failure) => self.stream_fails(head.stream, failure.code, now),
        }
    }
}

fn sized(right: bool) -> Result<(), Failure> {
    let wrong = Failure::new(Code::FRAME_SIZE_ERROR, "a frame of the wrong size");
    if right { Ok(()) } else { Err(wrong) }
}

fn number(payload: &[u8]) -> Result<u32, Failure> {
    let wrong = Failure::new(Code::FRAME_SIZE_ERROR, "a frame of the wrong size");
    payload.try_into().map(u32::from_be_bytes).map_err(|_| wrong)
}
