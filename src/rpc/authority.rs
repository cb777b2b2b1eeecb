//! gRPC's C library (Python, C++, Ruby, PHP) names a Unix socket by its path with `%2F` in it, as
//! `:authority`, and grpc-java by the path as it is. The `http` crate takes neither, and `h2`
//! resets the stream. Nobody here asks for the authority, so whatever is no letter, digit, `.` or
//! `-` in it becomes `-` before `h2` sees it: the length stays, and so do frames and HPACK's
//! tables.
//!
//! Of a value in Huffman coding each character becomes another of as many bits (RFC 7541 appendix
//! B), which no bit that has passed need be known again for. Characters of more than eight bits,
//! as `@` and `~`, are left as they are. A value that is empty becomes `-`, and the frame longer by
//! an octet; a client that has put it into its table of 4 KiB counts an octet less there than `h2`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = 24;
const NAME: &[u8] = b":authority";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
/// The longest payload of a frame that `h2` takes.
const LONGEST: usize = 16 << 10;
const PRIORITY: u8 = 0x20;

/// The server's end of a connection; what is read from it has an authority that `h2` takes.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    socket: S,
    frames: Frames,
    /// What is to be read, from `at` on.
    ready: Vec<u8>,
    at: usize,
}

impl<S> AnyAuthority<S> {
    /// From its first byte on.
    pub fn new(socket: S) -> Self {
        Self { socket, frames: Frames::default(), ready: Vec::new(), at: 0 }
    }
}

/// Where in its frames a client is.
#[derive(Debug)]
struct Frames {
    /// Bytes left of the preface, then of the payload.
    skip: usize,
    head: [u8; 9],
    have: usize,
    /// Octets of padding that end the payload: `None` if their number comes next.
    padding: Option<usize>,
    /// Octets of priority that come next.
    priority: usize,
    fields: Fields,
    /// A frame that waits until it is whole, and where in it the length of an empty authority is.
    held: Vec<u8>,
    holds: bool,
    gap: Option<usize>,
}

impl Default for Frames {
    fn default() -> Self {
        let (head, fields) = ([0; 9], Fields::default());
        let (held, holds, gap) = (Vec::new(), false, None);
        let (skip, have, padding, priority) = (PREFACE, 0, Some(0), 0);
        Self { skip, head, have, padding, priority, fields, held, holds, gap }
    }
}

impl Frames {
    /// What `h2` is to see of these bytes.
    fn pass(&mut self, mut bytes: &mut [u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let taken = match self.skip {
                0 => {
                    let taken = self.head(bytes);
                    if self.have == 9 {
                        self.hold(out);
                    }
                    taken
                }
                left => {
                    let taken = left.min(bytes.len());
                    if matches!(self.head[3], HEADERS | CONTINUATION) && self.have == 9 {
                        for byte in &mut bytes[..taken] {
                            self.field(byte);
                            self.keep(*byte, out);
                        }
                    } else {
                        self.skip -= taken;
                        out.extend_from_slice(&bytes[..taken]);
                    }
                    taken
                }
            };
            if self.skip == 0 && self.have == 9 {
                self.have = 0;
                self.release(out);
            }
            bytes = &mut bytes[taken..];
        }
    }

    /// The head of a frame is whole. One with fields may become longer by one octet, and waits
    /// until it is whole; one that must not be longer is passed as it comes.
    fn hold(&mut self, out: &mut Vec<u8>) {
        (self.holds, self.gap) = (self.head[3] == HEADERS && self.skip < LONGEST, None);
        if self.holds {
            self.held.extend_from_slice(&self.head);
        } else {
            out.extend_from_slice(&self.head);
        }
    }

    fn keep(&mut self, byte: u8, out: &mut Vec<u8>) {
        if !self.holds {
            return out.push(byte);
        }
        if std::mem::take(&mut self.fields.empty) {
            self.gap = Some(self.held.len());
        }
        self.held.push(byte);
    }

    /// The frame is whole. An authority that is empty becomes `-`.
    fn release(&mut self, out: &mut Vec<u8>) {
        if let Some(at) = self.gap.take() {
            self.held[at] = 1;
            self.held.insert(at + 1, b'-');
            let length = u32::try_from(self.held.len() - 9).unwrap_or(u32::MAX).to_be_bytes();
            self.held[..3].copy_from_slice(&length[1..]);
        }
        out.append(&mut self.held);
        self.holds = false;
    }

    fn head(&mut self, bytes: &[u8]) -> usize {
        let taken = (9 - self.have).min(bytes.len());
        self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        if self.have == 9 {
            let [a, b, c, kind, flags, ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            let first = kind == HEADERS;
            self.padding = (!first || flags & PADDED == 0).then_some(0);
            self.priority = if first && flags & PRIORITY != 0 { 5 } else { 0 };
            if first {
                self.fields = Fields::default();
            }
        }
        taken
    }

    fn field(&mut self, byte: &mut u8) {
        self.skip -= 1;
        match self.padding {
            None => self.padding = Some(usize::from(*byte)),
            Some(_) if self.priority > 0 => self.priority -= 1,
            Some(padding) if self.skip < padding => {}
            Some(_) => self.fields.pass(byte),
        }
    }
}

/// Where in a block of fields a client is (RFC 7541 §6). Of the tables nothing need be known.
#[derive(Debug, Default)]
struct Fields {
    state: State,
    /// Octets that a string has left, or its length so far, and the place of the next seven bits.
    left: usize,
    shift: u32,
    huffman: bool,
    /// The bits so far of a character in Huffman coding, and how many these are.
    code: (u32, u32),
    /// The octet that has just passed says that the authority is empty.
    empty: bool,
    /// How much of the name is that of the authority; longer than it if it cannot be.
    same: usize,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Field,
    /// An index, or a size, goes on; then comes another field, or the value.
    Index(bool),
    Length(Text),
    LongLength(Text),
    In(Text),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Text {
    Name,
    Value,
}

impl Fields {
    fn pass(&mut self, byte: &mut u8) {
        use State::{Field, In, Index, Length, LongLength};
        self.state = match self.state {
            Field => self.first(*byte),
            Index(_) if *byte & 0x80 != 0 => return,
            Index(value) => {
                if value {
                    Length(Text::Value)
                } else {
                    Field
                }
            }
            Length(text) => {
                (self.huffman, self.left, self.shift) =
                    (*byte & 0x80 != 0, usize::from(*byte & 0x7f), 0);
                self.code = (0, 0);
                self.empty = self.left == 0 && text == Text::Value && self.same == NAME.len();
                if self.left == 0x7f { LongLength(text) } else { self.string(text) }
            }
            LongLength(text) => {
                let bits = usize::from(*byte & 0x7f);
                // What is longer than any block of fields is refused by h2.
                let more = if self.shift > 21 { 0 } else { bits << self.shift };
                (self.left, self.shift) = (self.left + more, self.shift.saturating_add(7));
                if *byte & 0x80 != 0 { LongLength(text) } else { self.string(text) }
            }
            In(text) => {
                self.left -= 1;
                match text {
                    Text::Name if NAME.get(self.same) == Some(byte) => self.same += 1,
                    Text::Name => self.same = usize::MAX,
                    Text::Value if self.same == NAME.len() && self.huffman => self.bits(byte),
                    Text::Value if self.same == NAME.len() && !plain(*byte) => *byte = b'-',
                    Text::Value => {}
                }
                self.string(text)
            }
        };
    }

    /// Of the characters that are no letter, digit, `.` or `-`, those of six bits are ` ` and `%`
    /// (01010x: with 01011x they are `-` and `.`), `/`, `=` and `_` (011000, 100000, 100010: with
    /// another last bit they are `3`, `A` and `b`); that of seven is `:` (1011100: likewise `B`);
    /// those of eight are `&`, `*`, `,` and `;` (111110xx: with 1111110x they are `X` and `Z`).
    fn bits(&mut self, byte: &mut u8) {
        for at in (0..8).rev() {
            let bit = u32::from(*byte >> at & 1);
            let (code, length) = self.code;
            let other = match (length, code) {
                (4, 0b0101) | (5, 0b01100 | 0b10000 | 0b10001 | 0b11111) | (6, 0b10_1110) => 1,
                (6, 0b11_1110) => 0,
                _ => bit,
            };
            *byte = *byte & !(1 << at) | u8::from(other == 1) << at;
            let (code, length) = (code << 1 | bit, length + 1);
            // The last code of each length; beyond these h2 takes no character.
            let ends = match length {
                5 => code <= 0x9,
                6 => code <= 0x2d,
                7 => code <= 0x7b,
                8 => code <= 0xfd,
                10 => code <= 0x3fc,
                11 => code <= 0x7fc,
                12 => code <= 0xffb,
                13 => code <= 0x1ffd,
                14 => code <= 0x3ffd,
                15 => code <= 0x7ffe,
                _ => false,
            };
            self.code = match (ends, length) {
                (true, _) => (0, 0),
                (false, 0..=15) => (code, length),
                (false, _) => (u32::MAX, 15),
            };
        }
    }

    fn first(&mut self, byte: u8) -> State {
        let (prefix, literal) = match byte.leading_zeros() {
            0 => (0x7f, false),
            1 => (0x3f, true),
            2 => (0x1f, false),
            _ => (0x0f, true),
        };
        let index = byte & prefix;
        // Index 1 of the static table is the name.
        self.same = if index == 1 { NAME.len() } else { 0 };
        match (literal, index) {
            (true, 0) => State::Length(Text::Name),
            (literal, index) if index == prefix => State::Index(literal),
            (true, _) => State::Length(Text::Value),
            (false, _) => State::Field,
        }
    }

    /// In a string, or after it.
    fn string(&mut self, text: Text) -> State {
        match text {
            _ if self.left > 0 => State::In(text),
            Text::Name => {
                if self.huffman {
                    self.same = 0;
                }
                State::Length(Text::Value)
            }
            Text::Value => State::Field,
        }
    }
}

/// What may stand anywhere in a name.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, frames, ready, at } = &mut *self;
        loop {
            if *at < ready.len() {
                let taken = buffer.remaining().min(ready.len() - *at);
                buffer.put_slice(&ready[*at..*at + taken]);
                *at += taken;
                return Poll::Ready(Ok(()));
            }
            ready.clear();
            *at = 0;
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *socket).poll_read(cx, buffer))?;
            if buffer.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            frames.pass(&mut buffer.filled_mut()[before..], ready);
            buffer.set_filled(before);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests; // src/rpc/authority/tests.rs
