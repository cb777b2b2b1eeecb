//! A block of fields (RFC 7541 §6), and the authority in it. Of HPACK's tables nothing need be
//! known: a text keeps its length, so each entry keeps its place.

const NAME: &[u8] = b":authority";

/// The block with an authority that `h2` takes; `None` if it stays as it is, also where it cannot
/// be read: that is for `h2` to say.
pub(super) fn served(block: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut made, mut changed) = (block, Vec::with_capacity(block.len()), false);
    while let Some(first) = rest.first() {
        let (bits, literal) = match first.leading_zeros() {
            0 => (7, false),
            1 => (6, true),
            2 => (5, false),
            _ => (4, true),
        };
        let (index, mut after) = integer(rest, bits)?;
        // Index 1 of the static table is the name.
        let mut is_authority = literal && index == 1;
        if literal && index == 0 {
            let name;
            (name, after) = Text::read(after)?;
            is_authority = name.plain().is_some_and(|name| name == NAME);
        }
        if literal {
            let (value, behind) = Text::read(after)?;
            if is_authority && let Some(value) = value.served()? {
                made.extend_from_slice(&rest[..rest.len() - after.len()]);
                put_length(value.len(), &mut made);
                made.extend(value);
                (rest, changed) = (behind, true);
                continue;
            }
            after = behind;
        }
        made.extend_from_slice(&rest[..rest.len() - after.len()]);
        rest = after;
    }
    changed.then_some(made)
}

/// A string as it came (RFC 7541 §5.2).
struct Text<'a> {
    huffman: bool,
    octets: &'a [u8],
}

impl<'a> Text<'a> {
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let huffman = bytes.first()? & 0x80 != 0;
        let (length, rest) = integer(bytes, 7)?;
        let (octets, rest) = rest.split_at_checked(length)?;
        Some((Self { huffman, octets }, rest))
    }

    /// What it says; `None` if it is not in Huffman coding as it should be.
    fn plain(&self) -> Option<Vec<u8>> {
        if self.huffman { decoded(self.octets) } else { Some(self.octets.to_vec()) }
    }

    /// What stands there instead, if it must not stay; outside of that, `None` if it cannot be
    /// read.
    #[allow(clippy::option_option, reason = "two different answers")]
    fn served(&self) -> Option<Option<Vec<u8>>> {
        let says = self.plain()?;
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        if says.is_empty() {
            return Some(Some(b"-".to_vec()));
        }
        if says.iter().all(fits) {
            return Some(None);
        }
        Some(Some(says.iter().map(|byte| if fits(byte) { *byte } else { b'-' }).collect()))
    }
}

/// An integer behind a prefix (RFC 7541 §5.1), and what follows it.
fn integer(bytes: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let most = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value < most {
        return Some((value, rest));
    }
    // What is longer than any block is refused by h2.
    for shift in [0, 7, 14, 21] {
        let (next, others) = rest.split_first()?;
        value += usize::from(next & 0x7f) << shift;
        rest = others;
        if next & 0x80 == 0 {
            return Some((value, rest));
        }
    }
    None
}

/// The length of a string that is not coded.
fn put_length(length: usize, to: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        return to.push(u8::try_from(length).unwrap_or(0));
    };
    to.push(0x7f);
    while rest > 0x7f {
        to.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
        rest >>= 7;
    }
    to.push(u8::try_from(rest).unwrap_or(0));
}

/// How many characters have a code of each length from 5 bits on (RFC 7541 appendix B): codes are
/// given in order of their lengths, and those of one length follow each other.
const COUNTS: [u32; 26] =
    [10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
const SHORTEST: u32 = 5;
/// Those of up to eight bits, in order. All that may stand in a name are among them.
const SHORT: &[u8] = b"012aceiost %-./3456789=A_bdfghlmnpru:BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz&*,;XZ";
/// The end of a string, which is in none.
const END: u32 = 256;

/// What a string in Huffman coding says; a character of more than eight bits is a zero.
fn decoded(octets: &[u8]) -> Option<Vec<u8>> {
    let mut says = Vec::with_capacity(octets.len() * 8 / 5);
    // Of the code under way: its bits and their number; of this length: the first code, and how
    // many characters have shorter ones.
    let (mut code, mut length, mut first, mut before) = (0_u32, 0_u32, 0_u32, 0_u32);
    for bit in octets.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        let Some(of_length) = length.checked_sub(SHORTEST) else { continue };
        let count = *COUNTS.get(of_length as usize)?;
        if code - first < count {
            let place = before + (code - first);
            if place == END {
                return None;
            }
            says.push(SHORT.get(place as usize).copied().unwrap_or(0));
            (code, length, first, before) = (0, 0, 0, 0);
        } else {
            (first, before) = ((first + count) << 1, before + count);
        }
    }
    // It is filled up with ones to an octet.
    (length < 8 && code == (1 << length) - 1).then_some(says)
}
