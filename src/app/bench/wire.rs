//! What the two ends of `adit bench` say to each other: one hello, then bytes.
//!
//! A stream (up, down or both) ends when the load half-closes; the far end then says in a
//! trailer how many bytes it had and sent, and whether they were right.

/// The length of a hello.
pub(super) const HELLO: usize = 20;
/// The length of a trailer.
pub(super) const TRAILER: usize = 24;
/// The largest message.
pub(crate) const MOST_SIZE: u32 = 1 << 20;
const MAGIC: [u8; 4] = *b"adbn";
const VERSION: u8 = 1;

/// What a connection does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Messages of one size, each sent back.
    Echo,
    /// Bytes from the load to the far end.
    Up,
    /// Bytes from the far end to the load.
    Down,
    /// Both at once.
    Duplex,
}

const KINDS: [Kind; 4] = [Kind::Echo, Kind::Up, Kind::Down, Kind::Duplex];

impl Kind {
    pub(super) fn has_up(self) -> bool {
        matches!(self, Self::Up | Self::Duplex)
    }

    pub(super) fn has_down(self) -> bool {
        matches!(self, Self::Down | Self::Duplex)
    }
}

/// The first bytes of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hello {
    pub(super) kind: Kind,
    /// Of one message, in bytes (echo).
    pub(super) size: u32,
    /// Of the pattern.
    pub(super) seed: u64,
    /// Whether the bytes of a stream follow the pattern.
    pub(super) verify: bool,
}

impl Hello {
    pub(super) fn encode(self) -> [u8; HELLO] {
        let mut bytes = [0; HELLO];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = KINDS.iter().position(|k| *k == self.kind).unwrap_or(0) as u8;
        bytes[6] = u8::from(self.verify);
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.seed.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HELLO]) -> Result<Self, &'static str> {
        let [a, b, c, d, version, kind, verify, zero, s0, s1, s2, s3, seed @ ..] = *bytes;
        if [a, b, c, d] != MAGIC {
            return Err("the other end is not `adit bench`");
        }
        if version != VERSION || zero != 0 || verify > 1 {
            return Err("the other end is another version of adit bench");
        }
        let kind = *KINDS.get(usize::from(kind)).ok_or("an unknown kind of connection")?;
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        if !(1..=MOST_SIZE).contains(&size) {
            return Err("a message size that is not allowed");
        }
        Ok(Self { kind, size, seed: u64::from_be_bytes(seed), verify: verify == 1 })
    }
}

/// The last bytes of a stream, from the far end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trailer {
    /// Bytes that came up.
    pub(super) up: u64,
    /// Where the first wrong one of them was.
    pub(super) wrong_at: Option<u64>,
    /// Bytes that were sent down.
    pub(super) down: u64,
}

impl Trailer {
    pub(super) fn encode(self) -> [u8; TRAILER] {
        let mut bytes = [0; TRAILER];
        bytes[..8].copy_from_slice(&self.up.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.wrong_at.unwrap_or(u64::MAX).to_be_bytes());
        bytes[16..].copy_from_slice(&self.down.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; TRAILER]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let wrong_at = Some(word(8)).filter(|at| *at != u64::MAX);
        Self { up: word(0), wrong_at, down: word(16) }
    }
}

/// Bytes that depend on a seed and on where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    seed: u64,
    /// How many bytes have gone by.
    pub(super) at: u64,
}

impl Pattern {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, at: 0 }
    }

    /// Writes what comes next.
    pub(super) fn fill(&mut self, mut buffer: &mut [u8]) {
        while !buffer.is_empty() {
            let skip = (self.at % 8) as usize;
            let word = word(self.seed, self.at / 8).to_le_bytes();
            let here = buffer.len().min(8 - skip);
            let (now, rest) = buffer.split_at_mut(here);
            now.copy_from_slice(&word[skip..skip + here]);
            self.at += here as u64;
            buffer = rest;
        }
    }

    /// Compares what comes next; says where the first wrong byte is.
    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), u64> {
        let mut right = [0; 4096];
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(right.len()));
            let (begin, right) = (self.at, &mut right[..now.len()]);
            self.fill(right);
            if now != right {
                let wrong = now.iter().zip(right.iter()).take_while(|(a, b)| a == b).count();
                return Err(begin + wrong as u64);
            }
            bytes = rest;
        }
        Ok(())
    }
}

/// splitmix64 of the position.
fn word(seed: u64, at: u64) -> u64 {
    let mut z = seed.wrapping_add((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_and_trailer_come_back() {
        for kind in KINDS {
            let hello = Hello { kind, size: 77, seed: u64::MAX - 3, verify: true };
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
        for wrong_at in [None, Some(0), Some(9)] {
            let trailer = Trailer { up: 5, wrong_at, down: u64::MAX };
            assert_eq!(Trailer::decode(&trailer.encode()), trailer);
        }
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let mut bytes = vec![0; 100_000];
        let mut sent = Pattern::new(7);
        for part in bytes.chunks_mut(777) {
            sent.fill(part);
        }
        let mut taken = Pattern::new(7);
        assert_eq!(taken.check(&bytes[..33_333]), Ok(()));
        bytes[50_001] ^= 1;
        assert_eq!(taken.check(&bytes[33_333..]), Err(50_001));
        assert!(Pattern::new(8).check(&bytes[..8]).is_err(), "another seed");
    }

    proptest::proptest! {
        #[test]
        fn no_hello_makes_it_panic(bytes: [u8; HELLO]) {
            if let Ok(hello) = Hello::decode(&bytes) {
                proptest::prop_assert_eq!(hello.encode(), bytes);
            }
        }
    }
}
