//! Cuts the byte stream into frames (RFC 9113 §4.1), however it was split on the way. DATA is
//! passed on piece by piece where it lies; everything else is short and gathered first.

use std::ops::Range;

use super::{
    Failure,
    frame::{Code, HEADER, Head, flag, kind},
    headers::MAX_BLOCK,
};

/// What the next bytes were.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    /// Nothing yet: all input was taken.
    Partial,
    /// A frame other than DATA, whole; its payload is in [`Reader::payload`].
    Frame(Head),
    /// The header of a DATA frame: what flow control counts.
    DataHead(Head),
    /// Bytes of the DATA frame, where they lie in the input; the last ones may be none.
    Data {
        /// Where.
        range: Range<usize>,
        /// Nothing more in this frame.
        last: bool,
    },
}

#[derive(Debug)]
enum ReadState {
    Preface(usize),
    Head([u8; HEADER], usize),
    /// The frame, and how much of it is still to come.
    Payload(Head, usize),
    /// The pad length comes next.
    PadLength(Head),
    Data {
        left: usize,
        pad: usize,
    },
    Padding(usize),
}

/// What a client says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest part of a header block that is read whole; of what may be ignored, the start.
const MOST_KEPT: usize = MAX_BLOCK;
/// Room for so much is kept from one frame to the next.
const KEPT_ROOM: usize = 4096;

/// The cutter's state, between one read and the next.
#[derive(Debug)]
pub(super) struct Reader {
    state: ReadState,
    max_frame: usize,
    pub(super) payload: Vec<u8>,
}

impl Reader {
    pub(super) fn new(preface: bool, max_frame: usize) -> Self {
        let state = if preface { ReadState::Preface(0) } else { ReadState::Head([0; HEADER], 0) };
        Self { state, max_frame, payload: Vec::new() }
    }

    /// Takes from `input`, which is not empty: how many bytes, and what they were.
    pub(super) fn next(&mut self, input: &[u8]) -> Result<(usize, Piece), Failure> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match &mut self.state {
                ReadState::Preface(have) => {
                    used += preface(have, rest)?;
                    if *have < PREFACE.len() {
                        return Ok((used, Piece::Partial));
                    }
                    self.state = ReadState::Head([0; HEADER], 0);
                }
                ReadState::Head(bytes, have) => {
                    let n = rest.len().min(HEADER - *have);
                    bytes[*have..*have + n].copy_from_slice(&rest[..n]);
                    *have += n;
                    used += n;
                    if *have < HEADER {
                        return Ok((used, Piece::Partial));
                    }
                    let head = Head::read(bytes);
                    self.begin(head)?;
                    if head.kind == kind::DATA {
                        return Ok((used, Piece::DataHead(head)));
                    }
                }
                ReadState::Payload(head, left) => {
                    let head = *head;
                    let n = rest.len().min(*left);
                    let keep = n.min(MOST_KEPT.saturating_sub(self.payload.len()));
                    self.payload.extend_from_slice(&rest[..keep]);
                    used += n;
                    *left -= n;
                    if *left > 0 {
                        return Ok((used, Piece::Partial));
                    }
                    self.state = ReadState::Head([0; HEADER], 0);
                    return Ok((used, Piece::Frame(head)));
                }
                ReadState::PadLength(head) => {
                    let Some(&pad) = rest.first() else { return Ok((used, Piece::Partial)) };
                    used += 1;
                    let pad = usize::from(pad);
                    // RFC 9113 §6.1: the padding must leave room for itself.
                    let left = (head.length - 1).checked_sub(pad);
                    let left = left.ok_or(Failure::protocol("padding longer than its frame"))?;
                    self.state = ReadState::Data { left, pad };
                }
                ReadState::Data { left, pad } => {
                    if rest.is_empty() && *left > 0 {
                        return Ok((used, Piece::Partial));
                    }
                    let n = rest.len().min(*left);
                    let range = used..used + n;
                    *left -= n;
                    let last = *left == 0;
                    if last {
                        self.state = match *pad {
                            0 => ReadState::Head([0; HEADER], 0),
                            pad => ReadState::Padding(pad),
                        };
                    }
                    return Ok((used + n, Piece::Data { range, last }));
                }
                ReadState::Padding(left) => {
                    let n = rest.len().min(*left);
                    *left -= n;
                    used += n;
                    if *left > 0 {
                        return Ok((used, Piece::Partial));
                    }
                    self.state = ReadState::Head([0; HEADER], 0);
                }
            }
            if used == input.len() && !self.ready_without_input() {
                return Ok((used, Piece::Partial));
            }
        }
    }

    /// Whether the state yields a piece from nothing: an empty payload.
    fn ready_without_input(&self) -> bool {
        match &self.state {
            ReadState::Payload(_, left) => *left == 0,
            ReadState::Data { left, .. } => *left == 0,
            _ => false,
        }
    }

    /// A DATA frame without payload, whose header was taken already, still has its end.
    pub(super) fn owes_empty_data(&self) -> bool {
        matches!(self.state, ReadState::Data { left: 0, .. })
    }

    fn begin(&mut self, head: Head) -> Result<(), Failure> {
        if head.length > self.max_frame {
            return Err(Failure::new(Code::FRAME_SIZE_ERROR, "a frame larger than allowed"));
        }
        self.payload.clear();
        self.state = match head.kind {
            kind::DATA if head.has(flag::PADDED) => {
                if head.length == 0 {
                    return Err(Failure::new(Code::FRAME_SIZE_ERROR, "no room for the pad length"));
                }
                ReadState::PadLength(head)
            }
            kind::DATA => ReadState::Data { left: head.length, pad: 0 },
            kind::HEADERS | kind::CONTINUATION if head.length > MOST_KEPT => {
                return Err(Failure::new(Code::ENHANCE_YOUR_CALM, "headers too large"));
            }
            _ => {
                self.payload.shrink_to(KEPT_ROOM);
                ReadState::Payload(head, head.length)
            }
        };
        Ok(())
    }
}

/// Takes of the preface what has come.
fn preface(have: &mut usize, rest: &[u8]) -> Result<usize, Failure> {
    let n = rest.len().min(PREFACE.len() - *have);
    if rest[..n] != PREFACE[*have..*have + n] {
        return Err(Failure::protocol("not an HTTP/2 preface"));
    }
    *have += n;
    Ok(n)
}
