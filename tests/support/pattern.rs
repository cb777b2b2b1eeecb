//! Bytes that both ends know: what arrives is compared in full, at its place in the stream.

use std::sync::LazyLock;

use rand::{RngCore, SeedableRng, rngs::StdRng};

/// A prime, so that no record or window is a multiple of it.
const PERIOD: usize = 1_048_573;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = vec![0; PERIOD];
    StdRng::seed_from_u64(2026).fill_bytes(&mut bytes);
    bytes
});

/// One direction of one stream; `at` is where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    seed: usize,
    pub(crate) at: usize,
}

impl Pattern {
    pub(crate) fn new(seed: usize) -> Self {
        Self { seed: seed * 7919, at: 0 }
    }

    /// The next bytes: `most` or fewer.
    pub(crate) fn next(&mut self, most: usize) -> &'static [u8] {
        let from = (self.seed + self.at) % PERIOD;
        let bytes = &BYTES[from..PERIOD.min(from + most)];
        self.at += bytes.len();
        bytes
    }

    /// Fails unless `came` is what comes next.
    pub(crate) fn expect(&mut self, mut came: &[u8]) {
        while !came.is_empty() {
            let at = self.at;
            let bytes = self.next(came.len());
            assert!(came[..bytes.len()] == *bytes, "other bytes than were sent, behind {at}");
            came = &came[bytes.len()..];
        }
    }
}
