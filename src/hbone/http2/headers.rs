//! Header blocks: gathered over CONTINUATION (RFC 9113 §6.10), read, and checked against §8.3.

use super::{
    Failure,
    frame::{Code, Head, flag, kind, put},
    hpack,
};

/// The largest header block, still compressed.
pub(super) const MAX_BLOCK: usize = 32 * 1024;
/// The most frames it may come in.
const MAX_FRAMES: u32 = 16;
/// The most text kept of a block's fields (what we announce as MAX_HEADER_LIST_SIZE).
pub(super) const MAX_LIST: usize = 16 * 1024;

/// A header block that is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    bytes: Vec<u8>,
    frames: u32,
}

impl Block {
    /// From a HEADERS frame: padding and the long deprecated priority fall away.
    pub(super) fn begin(head: Head, payload: &[u8]) -> Result<Self, Failure> {
        let size = || Failure::new(Code::FRAME_SIZE_ERROR, "HEADERS too short");
        let mut payload = payload;
        let mut pad = 0;
        if head.has(flag::PADDED) {
            let (&first, rest) = payload.split_first().ok_or_else(size)?;
            (pad, payload) = (usize::from(first), rest);
        }
        if head.has(flag::PRIORITY) {
            payload = payload.get(5..).ok_or_else(size)?;
        }
        let length = payload.len().checked_sub(pad);
        let length = length.ok_or(Failure::protocol("padding longer than its frame"))?;
        let end_stream = head.has(flag::END_STREAM);
        Ok(Self { stream: head.stream, end_stream, bytes: payload[..length].to_vec(), frames: 1 })
    }

    /// A CONTINUATION frame.
    pub(super) fn extend(&mut self, payload: &[u8]) -> Result<(), Failure> {
        self.frames += 1;
        if self.frames > MAX_FRAMES || self.bytes.len() + payload.len() > MAX_BLOCK {
            return Err(Failure::new(Code::ENHANCE_YOUR_CALM, "a header block that does not end"));
        }
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    /// Reads the block; the tables need it even when nobody wants the fields.
    pub(super) fn read(&self, hpack: &mut hpack::Decoder) -> Result<Fields, Failure> {
        let mut fields = Fields::default();
        let malformed = |m: hpack::Malformed| Failure::new(Code::COMPRESSION_ERROR, m.0);
        hpack.decode(&self.bytes, |n, v| fields.add(n, v)).map_err(malformed)?;
        Ok(fields)
    }
}

/// A request as CONNECT needs it; every text came from the peer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Request {
    /// `:method` is CONNECT.
    pub is_connect: bool,
    /// `:authority`.
    pub authority: String,
    /// `forwarded` (RFC 7239).
    pub forwarded: Option<String>,
}

/// The fields of one block that matter, and whether the block keeps the rules.
#[derive(Debug, Default)]
pub(super) struct Fields {
    size: usize,
    regular: bool,
    malformed: bool,
    method: Option<String>,
    authority: Option<String>,
    status: Option<u16>,
    scheme: bool,
    path: bool,
    forwarded: Option<String>,
}

impl Fields {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + 32;
        if self.size > MAX_LIST {
            return;
        }
        // RFC 9113 §8.2.1: no upper case, no control characters, no surrounding blanks.
        let bad_name = |b: &u8| b.is_ascii_uppercase() || *b <= b' ' || *b >= 0x7f;
        let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
        let bad_value = value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
        let pseudo = name.first() == Some(&b':');
        if name.is_empty() || name.iter().any(bad_name) || bad_value {
            self.malformed = true;
        }
        self.malformed |= blank(value.first()) || blank(value.last());
        self.malformed |= name[usize::from(pseudo)..].contains(&b':');
        if !pseudo {
            return self.regular(name, value);
        }
        self.malformed |= self.regular; // pseudo fields come first (§8.3)
        let text = || Some(String::from_utf8_lossy(value).into_owned());
        let twice = match name {
            b":method" => std::mem::replace(&mut self.method, text()).is_some(),
            b":authority" => std::mem::replace(&mut self.authority, text()).is_some(),
            b":status" => {
                let status = std::str::from_utf8(value).ok().filter(|v| v.len() == 3);
                let status = status.and_then(|v| v.parse().ok());
                self.malformed |= status.is_none();
                std::mem::replace(&mut self.status, status).is_some()
            }
            b":scheme" => std::mem::replace(&mut self.scheme, true),
            b":path" => std::mem::replace(&mut self.path, true),
            _ => true, // :protocol was not offered (RFC 8441)
        };
        self.malformed |= twice;
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) {
        self.regular = true;
        // RFC 9113 §8.2.2: fields of one connection only.
        self.malformed |= match name {
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding"
            | b"upgrade" => true,
            b"te" => value != b"trailers",
            _ => false,
        };
        if name == b"forwarded" && self.forwarded.is_none() {
            self.forwarded = std::str::from_utf8(value).ok().map(ToOwned::to_owned);
        }
    }

    /// How often over what is kept this unpacks to: HPACK makes 32 KiB say 128 MiB.
    pub(super) fn excess(&self) -> u32 {
        u32::try_from(self.size / MAX_LIST).unwrap_or(u32::MAX)
    }

    /// More text than we announced to take.
    pub(super) fn too_large(&self) -> bool {
        self.size > MAX_LIST
    }

    /// Whether this would open a stream.
    pub(super) fn asks(&self) -> bool {
        self.method.is_some()
    }

    /// RFC 9113 §8.3.1 and §8.5; `None` if it is malformed.
    pub(super) fn request(self) -> Option<Request> {
        let is_connect = self.method.as_deref()? == "CONNECT";
        let sound = match is_connect {
            true => !self.scheme && !self.path && self.authority.is_some(),
            false => self.scheme && self.path,
        };
        if self.malformed || self.status.is_some() || !sound {
            return None;
        }
        let authority = self.authority.unwrap_or_default();
        Some(Request { is_connect, authority, forwarded: self.forwarded })
    }

    /// RFC 9113 §8.3.2; `None` if it is malformed.
    pub(super) fn status(&self) -> Option<u16> {
        let request = self.method.is_some() || self.authority.is_some() || self.scheme || self.path;
        self.status.filter(|_| !self.malformed && !request)
    }
}

/// Appends HEADERS and as many CONTINUATION as the peer's frame size asks for. The `first` of a
/// connection says that we use no table, so that no SETTINGS_HEADER_TABLE_SIZE can be below it
/// (RFC 9113 §4.3.1).
pub(super) fn put_headers(
    out: &mut Vec<u8>,
    stream: u32,
    end_stream: bool,
    fields: &[(&str, &str)],
    max_frame: usize,
    first: bool,
) {
    let mut block = Vec::with_capacity(256);
    block.extend(first.then_some(hpack::NO_TABLE));
    fields.iter().for_each(|(name, value)| hpack::encode(&mut block, name, value));
    let mut kind = kind::HEADERS;
    let mut flags = if end_stream { flag::END_STREAM } else { 0 };
    let mut rest = block.as_slice();
    loop {
        let (part, left) = rest.split_at(rest.len().min(max_frame));
        flags |= if left.is_empty() { flag::END_HEADERS } else { 0 };
        put(out, kind, flags, stream, part);
        if left.is_empty() {
            return;
        }
        (rest, kind, flags) = (left, kind::CONTINUATION, 0);
    }
}
