//! Which implementation of an AEAD this CPU does fastest: aws-lc has code for AVX-512 and for
//! plain AES-NI and nothing between, `ring` has code for VAES with AVX2. A self-test of a few
//! milliseconds at the start of the process tells, for each cipher by itself.

use std::{
    str::FromStr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::aead::{Implementation, Key, TAG};
use crate::tls::Aead;

/// `tls: { aead: … }`
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AeadSetting {
    /// What is clearly faster here.
    #[default]
    Auto,
    /// aws-lc.
    AwsLc,
    /// `ring`.
    Ring,
}

impl FromStr for AeadSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "aws-lc" => Ok(Self::AwsLc),
            "ring" => Ok(Self::Ring),
            other => Err(format!("{other:?}: must be auto, aws-lc or ring")),
        }
    }
}

/// What was found out about one implementation of a cipher.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Measured {
    /// Whether it gives the bytes of the standard.
    pub sound: bool,
    /// The least time that a record of [`LARGE`] bytes took, sealed and opened …
    pub large: Duration,
    /// … and one of [`SMALL`] bytes.
    pub small: Duration,
}

impl Measured {
    /// Megabytes a second in records of [`LARGE`] bytes, on one core: sealed or opened.
    #[must_use]
    pub fn megabytes(&self) -> u64 {
        2 * LARGE as u64 * 1000 / u64::try_from(self.large.as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

/// What was chosen for a cipher, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    /// The cipher.
    pub aead: Aead,
    /// Who seals and opens its records.
    pub by: Implementation,
    /// In the order of [`Implementation::ALL`].
    pub found: [Measured; 2],
}

/// The plaintext of a full record.
const LARGE: usize = 16 << 10;
/// The plaintext of a small one.
const SMALL: usize = 1 << 10;
/// How often each is timed at most …
const ROUNDS: u32 = 64;
/// … in this time, for each cipher.
const WITHIN: Duration = Duration::from_millis(3);
/// Small records in one round: the clock is not read for each.
const SMALL_RECORDS: u32 = 8;
/// aws-lc stays unless the other takes at most so many hundredths of its time.
const CLEARLY: u128 = 97;

/// Whether `ring` has a cipher, in the order of [`Aead::ALL`]. aws-lc has all of them until
/// something else is chosen.
static RING: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
static CHOICES: OnceLock<[Choice; 3]> = OnceLock::new();

/// Whose code a new key of this cipher uses.
pub(super) fn implementation(aead: Aead) -> Implementation {
    match RING[aead as usize].load(Relaxed) {
        false => Implementation::AwsLc,
        true => Implementation::Ring,
    }
}

/// What [`choose`] chose; empty before.
#[must_use]
pub fn choices() -> &'static [Choice] {
    CHOICES.get().map_or(&[], |choices| choices)
}

/// Lets one implementation make all keys from now on: for measurements and tests, which want
/// either.
pub fn prefer(by: Implementation) {
    RING.iter().for_each(|ring| ring.store(by == Implementation::Ring, Relaxed));
}

/// Tests what there is, measures it and chooses, once in the life of a process, and says so in the
/// log. Takes a few milliseconds.
///
/// # Errors
/// If a cipher gives wrong bytes by either implementation: nothing may be encrypted with it.
pub fn choose(setting: AeadSetting) -> Result<&'static [Choice], String> {
    let mut choices = Vec::new();
    for aead in Aead::ALL {
        let (sound, same) = (Implementation::ALL.map(|by| is_sound(by, aead)), agree(aead));
        for (by, _) in Implementation::ALL.iter().zip(sound).filter(|(_, sound)| !sound) {
            let (cipher, by) = (aead.as_str(), by.as_str());
            tracing::error!(cipher, by, "this implementation gives wrong bytes: it is not used");
        }
        if sound == [true; 2] && !same {
            let cipher = aead.as_str();
            tracing::error!(cipher, "aws-lc and ring give different bytes: ring is not used");
        }
        let found = measure(aead, [sound[0], sound[1] && (same || !sound[0])]);
        let by = decide(setting, found)
            .ok_or_else(|| format!("the self-test of {} failed", aead.as_str()))?;
        choices.push(Choice { aead, by, found });
    }
    let choices = choices.try_into().map_err(|_| "not every cipher was tested")?;
    let choices: &[Choice; 3] = CHOICES.get_or_init(|| choices);
    for choice in choices {
        RING[choice.aead as usize].store(choice.by == Implementation::Ring, Relaxed);
    }
    let said = choices.iter().map(|Choice { aead, by, found: [aws_lc, ring] }| {
        let (cipher, by) = (aead.as_str(), by.as_str());
        let (aws_lc, ring) = (aws_lc.megabytes(), ring.megabytes());
        format!("{cipher} by {by} (MB/s: aws-lc {aws_lc}, ring {ring})")
    });
    tracing::info!("TLS records: {}", said.collect::<Vec<_>>().join(", "));
    Ok(choices)
}

/// The library for the cipher of which this was measured; `None` if neither may be used.
fn decide(setting: AeadSetting, found: [Measured; 2]) -> Option<Implementation> {
    use Implementation::{AwsLc, Ring};
    let [aws_lc, ring] = found;
    match (aws_lc.sound, ring.sound) {
        (false, false) => None,
        (true, false) => Some(AwsLc),
        (false, true) => Some(Ring),
        (true, true) => Some(match setting {
            AeadSetting::AwsLc => AwsLc,
            AeadSetting::Ring => Ring,
            AeadSetting::Auto => {
                // The mean of both ratios, without fractions.
                let [large, small] = [(aws_lc.large, ring.large), (aws_lc.small, ring.small)]
                    .map(|(a, r)| r.as_nanos() * 10_000 / a.as_nanos().max(1));
                if (large + small) / 2 <= CLEARLY * 100 { Ring } else { AwsLc }
            }
        }),
    }
}

/// The least times of either, taken in turns so that a busy machine disturbs both alike.
fn measure(aead: Aead, sound: [bool; 2]) -> [Measured; 2] {
    let mut found =
        sound.map(|sound| Measured { sound, large: Duration::MAX, small: Duration::MAX });
    let secret = [0x5a; 32];
    let keys = Implementation::ALL.map(|by| Key::new(by, aead, &secret[..aead.key_len()]).ok());
    let mut record = vec![b'a'; LARGE + TAG];
    let begin = Instant::now();
    for round in 0..ROUNDS {
        for (found, key) in found.iter_mut().zip(&keys) {
            let Some(key) = key.as_ref().filter(|_| found.sound) else { continue };
            found.large = found.large.min(timed(key, &mut record, 1));
            found.small = found.small.min(timed(key, &mut record[..SMALL + TAG], SMALL_RECORDS));
        }
        if round > 2 && begin.elapsed() > WITHIN {
            break;
        }
    }
    found
}

/// What one record takes that is sealed and opened.
fn timed(key: &Key, record: &mut [u8], count: u32) -> Duration {
    let begin = Instant::now();
    for n in 0..count {
        let mut nonce = [0; 12];
        nonce[8..].copy_from_slice(&n.to_be_bytes());
        let (text, tag) = record.split_at_mut(record.len() - TAG);
        if let Ok(made) = key.seal(nonce, &[23, 3, 3, 0, 0], text) {
            tag.copy_from_slice(&made);
        }
        let _ = key.open(nonce, &[23, 3, 3, 0, 0], record);
    }
    begin.elapsed() / count
}

/// An answer that is known: of "The Galois/Counter Mode of Operation (GCM)", test cases 4 and 16,
/// and of RFC 8439 §2.8.2.
struct KnownAnswer {
    key: &'static [u8],
    nonce: [u8; 12],
    aad: &'static [u8],
    plain: &'static [u8],
    sealed: &'static [u8],
    tag: [u8; TAG],
}

fn known(aead: Aead) -> KnownAnswer {
    match aead {
        Aead::Aes128Gcm => KnownAnswer { key: GCM_KEY, sealed: GCM_128, tag: GCM_128_TAG, ..GCM },
        Aead::Aes256Gcm => KnownAnswer { sealed: GCM_256, tag: GCM_256_TAG, ..GCM },
        Aead::ChaCha20Poly1305 => CHACHA,
    }
}

/// Whether the known answer comes out, opens again, and does not open when a bit of it is another.
fn is_sound(by: Implementation, aead: Aead) -> bool {
    let KnownAnswer { key, nonce, aad, plain, sealed, tag } = known(aead);
    let Ok(key) = Key::new(by, aead, key) else { return false };
    let mut text = plain.to_vec();
    if key.seal(nonce, aad, &mut text) != Ok(tag) || text != sealed {
        return false;
    }
    text.extend(tag);
    let mut forged = text.clone();
    forged[3] ^= 1;
    key.open(nonce, aad, &mut text) == Ok(plain.len())
        && text.starts_with(plain)
        && key.open(nonce, aad, &mut forged).is_err()
}

/// Whether both give the same bytes at the lengths where code for many blocks begins and ends.
fn agree(aead: Aead) -> bool {
    let lengths = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 1000, 16_385];
    let plain = pattern(16_385);
    lengths.iter().all(|length| same_bytes(aead, &plain[..*length]))
}

/// Bytes without a period that a block could hide.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Whether both make the same of a text, and either opens what the other has sealed.
fn same_bytes(aead: Aead, plain: &[u8]) -> bool {
    let length = plain.len();
    let secret: [u8; 32] = std::array::from_fn(|n| n as u8 ^ 0x36);
    let keys = Implementation::ALL.map(|by| Key::new(by, aead, &secret[..aead.key_len()]));
    let [Ok(one), Ok(other)] = &keys else { return false };
    let aad = [23, 3, 3, (length >> 8) as u8, length as u8];
    let nonce = std::array::from_fn(|n| (n + length) as u8);
    let sealed = [one, other].map(|key| {
        let mut text = plain.to_vec();
        let tag = key.seal(nonce, &aad, &mut text).ok()?;
        text.extend(tag);
        Some(text)
    });
    let [Some(mut first), Some(mut second)] = sealed else { return false };
    let same = first == second;
    let opened = [(other, &mut first), (one, &mut second)];
    same && opened
        .into_iter()
        .all(|(key, text)| key.open(nonce, &aad, text) == Ok(length) && text.starts_with(plain))
}

const GCM: KnownAnswer = KnownAnswer {
    key: b"\xfe\xff\xe9\x92\x86\x65\x73\x1c\x6d\x6a\x8f\x94\x67\x30\x83\x08\
        \xfe\xff\xe9\x92\x86\x65\x73\x1c\x6d\x6a\x8f\x94\x67\x30\x83\x08",
    nonce: *b"\xca\xfe\xba\xbe\xfa\xce\xdb\xad\xde\xca\xf8\x88",
    aad: b"\xfe\xed\xfa\xce\xde\xad\xbe\xef\xfe\xed\xfa\xce\xde\xad\xbe\xef\xab\xad\xda\xd2",
    plain: b"\xd9\x31\x32\x25\xf8\x84\x06\xe5\xa5\x59\x09\xc5\xaf\xf5\x26\x9a\
        \x86\xa7\xa9\x53\x15\x34\xf7\xda\x2e\x4c\x30\x3d\x8a\x31\x8a\x72\
        \x1c\x3c\x0c\x95\x95\x68\x09\x53\x2f\xcf\x0e\x24\x49\xa6\xb5\x25\
        \xb1\x6a\xed\xf5\xaa\x0d\xe6\x57\xba\x63\x7b\x39",
    sealed: &[],
    tag: [0; TAG],
};
const GCM_KEY: &[u8] = b"\xfe\xff\xe9\x92\x86\x65\x73\x1c\x6d\x6a\x8f\x94\x67\x30\x83\x08";
const GCM_128: &[u8] = b"\x42\x83\x1e\xc2\x21\x77\x74\x24\x4b\x72\x21\xb7\x84\xd0\xd4\x9c\
    \xe3\xaa\x21\x2f\x2c\x02\xa4\xe0\x35\xc1\x7e\x23\x29\xac\xa1\x2e\
    \x21\xd5\x14\xb2\x54\x66\x93\x1c\x7d\x8f\x6a\x5a\xac\x84\xaa\x05\
    \x1b\xa3\x0b\x39\x6a\x0a\xac\x97\x3d\x58\xe0\x91";
const GCM_128_TAG: [u8; TAG] = *b"\x5b\xc9\x4f\xbc\x32\x21\xa5\xdb\x94\xfa\xe9\x5a\xe7\x12\x1a\x47";
const GCM_256: &[u8] = b"\x52\x2d\xc1\xf0\x99\x56\x7d\x07\xf4\x7f\x37\xa3\x2a\x84\x42\x7d\
    \x64\x3a\x8c\xdc\xbf\xe5\xc0\xc9\x75\x98\xa2\xbd\x25\x55\xd1\xaa\
    \x8c\xb0\x8e\x48\x59\x0d\xbb\x3d\xa7\xb0\x8b\x10\x56\x82\x88\x38\
    \xc5\xf6\x1e\x63\x93\xba\x7a\x0a\xbc\xc9\xf6\x62";
const GCM_256_TAG: [u8; TAG] = *b"\x76\xfc\x6e\xce\x0f\x4e\x17\x68\xcd\xdf\x88\x53\xbb\x2d\x55\x1b";
const CHACHA: KnownAnswer = KnownAnswer {
    key: b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\
        \x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f",
    nonce: *b"\x07\x00\x00\x00\x40\x41\x42\x43\x44\x45\x46\x47",
    aad: b"\x50\x51\x52\x53\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7",
    plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
        future, sunscreen would be it.",
    sealed: b"\xd3\x1a\x8d\x34\x64\x8e\x60\xdb\x7b\x86\xaf\xbc\x53\xef\x7e\xc2\
        \xa4\xad\xed\x51\x29\x6e\x08\xfe\xa9\xe2\xb5\xa7\x36\xee\x62\xd6\
        \x3d\xbe\xa4\x5e\x8c\xa9\x67\x12\x82\xfa\xfb\x69\xda\x92\x72\x8b\
        \x1a\x71\xde\x0a\x9e\x06\x0b\x29\x05\xd6\xa5\xb6\x7e\xcd\x3b\x36\
        \x92\xdd\xbd\x7f\x2d\x77\x8b\x8c\x98\x03\xae\xe3\x28\x09\x1b\x58\
        \xfa\xb3\x24\xe4\xfa\xd6\x75\x94\x55\x85\x80\x8b\x48\x31\xd7\xbc\
        \x3f\xf4\xde\xf0\x8e\x4b\x7a\x9d\xe5\x76\xd2\x65\x86\xce\xc6\x4b\
        \x61\x16",
    tag: *b"\x1a\xe1\x0b\x59\x4f\x09\xe2\x6a\x7e\x90\x2e\xcb\xd0\x60\x06\x91",
};
#[cfg(test)]
mod tests {
    use super::*;

    fn found(sound: bool, large: u64, small: u64) -> Measured {
        Measured { sound, large: Duration::from_nanos(large), small: Duration::from_nanos(small) }
    }

    #[test]
    fn aws_lc_stays_unless_ring_is_clearly_faster() {
        use Implementation::{AwsLc, Ring};
        let aws_lc = found(true, 10_000, 1000);
        for (large, small, by) in [
            (6000, 700, Ring),
            (9690, 969, Ring),
            (9800, 980, AwsLc),
            (10_000, 1000, AwsLc),
            (20_000, 900, AwsLc),
            // Full records gain more than small ones lose.
            (6000, 1200, Ring),
            (9500, 1200, AwsLc),
        ] {
            let ring = found(true, large, small);
            assert_eq!(decide(AeadSetting::Auto, [aws_lc, ring]), Some(by), "{large} {small}");
            assert_eq!(decide(AeadSetting::AwsLc, [aws_lc, ring]), Some(AwsLc));
            assert_eq!(decide(AeadSetting::Ring, [aws_lc, ring]), Some(Ring));
        }
    }

    #[test]
    fn what_gives_wrong_bytes_is_never_chosen() {
        use Implementation::{AwsLc, Ring};
        for setting in ["auto", "aws-lc", "ring"] {
            let setting = setting.parse().unwrap();
            let (good, wrong) = (found(true, 10_000, 1000), found(false, 1, 1));
            assert_eq!(decide(setting, [good, wrong]), Some(AwsLc));
            assert_eq!(decide(setting, [wrong, good]), Some(Ring));
            assert_eq!(decide(setting, [wrong, wrong]), None);
        }
    }

    #[test]
    fn the_known_answers_come_out_of_either() {
        for aead in Aead::ALL {
            for by in Implementation::ALL {
                assert!(is_sound(by, aead), "{aead:?} {by:?}");
            }
            assert!(agree(aead), "{aead:?}");
        }
    }

    #[test]
    fn the_self_test_takes_milliseconds_and_measures_all() {
        let begin = Instant::now();
        let measured = Aead::ALL.map(|aead| measure(aead, [true; 2]));
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        for found in measured.iter().flatten() {
            assert!(found.large > found.small && found.large < Duration::from_secs(1), "{found:?}");
            assert!(found.megabytes() > 0);
        }
    }

    /// Every length that a record can have, its inner type and padding included.
    #[test]
    fn both_give_the_same_bytes_at_every_length() {
        let plain = pattern(16_640);
        for aead in Aead::ALL {
            for length in 0..=plain.len() {
                assert!(same_bytes(aead, &plain[..length]), "{aead:?} {length}");
            }
        }
    }
}
