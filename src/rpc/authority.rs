//! gRPC's C library (Python, C++, Ruby, PHP) names a Unix socket by its path with `%2F` in it, as
//! `:authority`, and grpc-java by the path as it is. The `http` crate takes neither, and `h2`
//! resets the stream. Nobody here asks for the authority, so whatever is not a letter, digit, `.`
//! or `-` in it becomes `-` before `h2` sees it, in Huffman coding too: the length of the text
//! stays, and so do HPACK's tables. An authority that is empty becomes `-`; a client that has put
//! it into its table of 4 KiB counts an octet less there than `h2`.
//!
//! A block of fields waits until it is whole, in however many frames it comes; what needs no change
//! passes as it came, and so does what is longer than anybody's fields.

mod fields;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The longest payload of a frame that `h2` takes.
const LONGEST: usize = 16 << 10;
/// The longest block with its frames that waits: `h2` takes 16 KiB of fields here.
const MOST: usize = 32 << 10;

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
    /// Octets left of the preface, then of a payload.
    left: usize,
    head: Vec<u8>,
    /// The frames of a block that is not whole yet; the last of them begins at `last`.
    held: Vec<u8>,
    last: usize,
    holds: bool,
}

impl Default for Frames {
    fn default() -> Self {
        let (head, held) = (Vec::new(), Vec::new());
        Self { left: PREFACE, head, held, last: 0, holds: false }
    }
}

impl Frames {
    /// What `h2` is to see of these bytes.
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (now, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= now.len();
                let to = if self.holds { &mut self.held } else { &mut *out };
                to.extend_from_slice(now);
                bytes = rest;
            } else {
                let (now, rest) = bytes.split_at((9 - self.head.len()).min(bytes.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                if self.head.len() < 9 {
                    return;
                }
                self.begin(out);
            }
            if self.left == 0 && self.holds {
                self.end(out);
            }
        }
    }

    /// The head of a frame is whole.
    fn begin(&mut self, out: &mut Vec<u8>) {
        let head = std::mem::take(&mut self.head);
        self.left = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let open = !self.held.is_empty();
        let belongs = match head[3] {
            HEADERS => !open,
            CONTINUATION => open && self.held[5..9] == head[5..9],
            _ => false,
        };
        self.holds = belongs && self.held.len() + 9 + self.left <= MOST;
        if self.holds {
            self.last = self.held.len();
            self.held.extend(head);
        } else {
            // What does not belong there ends the connection, which is for h2 to say.
            out.append(&mut self.held);
            out.extend(head);
        }
    }

    /// A frame that is held is whole.
    fn end(&mut self, out: &mut Vec<u8>) {
        self.holds = false;
        if self.held[self.last + 4] & END_HEADERS == 0 {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let changed = Block::of(&held).and_then(|block| {
            let fields = fields::served(&block.fields)?;
            Some(block.framed(&held, &fields))
        });
        out.extend(changed.unwrap_or(held));
    }
}

/// A block without its frames.
struct Block {
    flags: u8,
    priority: Vec<u8>,
    fields: Vec<u8>,
}

impl Block {
    /// From its frames; `None` if they break a rule.
    fn of(mut frames: &[u8]) -> Option<Self> {
        let (flags, mut priority, mut fields) = (frames[4], Vec::new(), Vec::new());
        while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = frames {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let (mut payload, rest) = rest.split_at_checked(length)?;
            if *kind == HEADERS && flags & PADDED != 0 {
                let (padding, unpadded) = payload.split_first()?;
                let end = unpadded.len().checked_sub(usize::from(*padding))?;
                payload = &unpadded[..end];
            }
            if *kind == HEADERS && flags & PRIORITY != 0 {
                let (first, others) = payload.split_at_checked(5)?;
                priority.extend_from_slice(first);
                payload = others;
            }
            fields.extend_from_slice(payload);
            frames = rest;
        }
        Some(Self { flags, priority, fields })
    }

    /// In frames anew, with these fields; `held` are those of before.
    fn framed(&self, held: &[u8], fields: &[u8]) -> Vec<u8> {
        let payload = [&self.priority[..], fields].concat();
        let mut frames = Vec::with_capacity(payload.len() + 18);
        let count = payload.chunks(LONGEST).len();
        for (n, part) in payload.chunks(LONGEST).enumerate() {
            let kind = if n == 0 { HEADERS } else { CONTINUATION };
            let first = if n == 0 { self.flags & !(PADDED | END_HEADERS) } else { 0 };
            let last = if n + 1 == count { END_HEADERS } else { 0 };
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes();
            frames.extend_from_slice(&length[1..]);
            frames.extend_from_slice(&[kind, first | last]);
            frames.extend_from_slice(&held[5..9]);
            frames.extend_from_slice(part);
        }
        frames
    }
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
            frames.pass(&buffer.filled()[before..], ready);
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
