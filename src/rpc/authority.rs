//! gRPC's C library (Python, C++, Ruby, PHP) names a Unix socket by its path with `%2F` in it, as
//! `:authority`, and grpc-java by the path as it is. The `http` crate takes neither, and `h2`
//! resets the stream. Nobody here asks for the authority, so whatever is no letter, digit, `.` or
//! `-` in it becomes `-` before `h2` sees it: the length stays, and so do frames and HPACK's
//! tables.
//!
//! Only literals without Huffman coding are changed, which is how those libraries send it.

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
const PRIORITY: u8 = 0x20;

/// The server's end of a connection; what is read from it has an authority that `h2` takes.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    socket: S,
    frames: Frames,
}

impl<S> AnyAuthority<S> {
    /// From its first byte on.
    pub fn new(socket: S) -> Self {
        Self { socket, frames: Frames::default() }
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
}

impl Default for Frames {
    fn default() -> Self {
        let (head, fields) = ([0; 9], Fields::default());
        Self { skip: PREFACE, head, have: 0, padding: Some(0), priority: 0, fields }
    }
}

impl Frames {
    fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match self.skip {
                0 => self.head(bytes),
                left => {
                    let taken = left.min(bytes.len());
                    if matches!(self.head[3], HEADERS | CONTINUATION) && self.have == 9 {
                        bytes[..taken].iter_mut().for_each(|byte| self.field(byte));
                    } else {
                        self.skip -= taken;
                    }
                    taken
                }
            };
            if self.skip == 0 && self.have == 9 {
                self.have = 0;
            }
            bytes = &mut bytes[taken..];
        }
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
                    Text::Value if self.same == NAME.len() && !self.huffman && !plain(*byte) => {
                        *byte = b'-';
                    }
                    Text::Value => {}
                }
                self.string(text)
            }
        };
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
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        self.frames.pass(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
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
