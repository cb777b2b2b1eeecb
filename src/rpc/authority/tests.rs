#[path = "../../../tests/support/hpack.rs"]
mod hpack;

use hpack::huffman;

use super::*;

const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    hpack::frame(kind, flags, 1, payload)
}

/// What comes out, the same in one piece and byte by byte.
fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
    let sent = [START, &frames.concat()].concat();
    let mut whole = Vec::new();
    Frames::default().pass(&sent, &mut whole);
    let (mut each, mut pieces) = (Vec::new(), Frames::default());
    sent.chunks(1).for_each(|byte| pieces.pass(byte, &mut each));
    assert_eq!(whole, each);
    whole[PREFACE..].to_vec()
}

fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// As gRPC's C library writes them, and with the name by its index.
fn blocks(authority: &str) -> [Vec<u8>; 3] {
    let path = [&[0x40][..], &text(":path"), &text("/%2F/%")].concat();
    let literal = [&[0x40][..], &text(":authority"), &text(authority)].concat();
    let indexed = |first| [&[first][..], &text(authority)].concat();
    let rest = [&[0x83, 0x86, 0x3f, 0xff, 0x10][..], &[0x00], &text("x"), &text("a%b")].concat();
    [literal, indexed(0x41), indexed(0x01)].map(|of| [&path[..], &of, &rest].concat())
}

#[test]
fn only_the_authority_changes() {
    let was = blocks("run%2Flab%2Fa.sock").map(|block| frame(HEADERS, 4, &block));
    let is = blocks("run-2Flab-2Fa.sock").map(|block| frame(HEADERS, 4, &block));
    let other = frame(0, 0, b"%2F \x41\x01%");
    let was = [&was[..], std::slice::from_ref(&other), &was[..]].concat();
    assert_eq!(passed(&was), [&is[..], &[other], &is[..]].concat().concat());
}

#[test]
fn a_path_as_it_is_becomes_a_name() {
    for (was, is) in [
        ("/run/lab/a.sock", "-run-lab-a.sock"),
        ("unix:///run/a_b.sock", "unix----run-a-b.sock"),
        ("a@b:c:d [x]", "a-b-c-d--x-"),
        ("\u{1}\u{ff}", "---"),
        ("localhost", "localhost"),
    ] {
        let (was, is) = (blocks(was), blocks(is));
        let frames = |blocks: [Vec<u8>; 3]| blocks.map(|block| frame(HEADERS, 4, &block));
        assert_eq!(passed(&frames(was)), frames(is).concat());
    }
    for name in ["-run-lab-a.sock", "-", "---", ".", "0"] {
        name.parse::<http::uri::Authority>().unwrap();
    }
}

/// What is changed comes in one frame, without padding; what is not comes as it was.
#[test]
fn padding_priority_and_continuations() {
    let [was, is] = ["a%b", "a-b"].map(|a| blocks(a)[0].clone());
    for cut in 0..was.len() {
        let frames = |block: &[u8]| {
            let first = [&[3, b'%', 0, 0, 0, b'%'][..], &block[..cut], b"%%%"].concat();
            [frame(HEADERS, PADDED | PRIORITY | 1, &first), frame(CONTINUATION, 4, &block[cut..])]
        };
        let whole = [&[b'%', 0, 0, 0, b'%'][..], &is].concat();
        assert_eq!(passed(&frames(&was)), frame(HEADERS, PRIORITY | 4 | 1, &whole), "{cut}");
        assert_eq!(passed(&frames(&is)), frames(&is).concat(), "{cut}");
    }
}

#[test]
fn long_values_are_cut_into_frames() {
    let block = |value: &str| [&[0x41, 0x7f, 0xad, 0x01][..], value.as_bytes(), &[0x84]].concat();
    let [was, is] = ["%", "-"].map(|c| frame(HEADERS, 4, &block(&c.repeat(300))));
    assert_eq!(passed(&[was]), is);
    // Not coded it is longer than a frame may be.
    let coded = vec![0x55; 15_000];
    let block = [&[0x41, 0xff, 0x99, 0x74][..], &coded].concat();
    let out = passed(&[frame(HEADERS, 4, &block)]);
    let value = fields::served(&block).unwrap();
    assert!(value.len() > LONGEST && value.ends_with(b"---"));
    let (first, second) = value.split_at(LONGEST);
    assert_eq!(out, [frame(HEADERS, 0, first), frame(CONTINUATION, 4, second)].concat());
    // More than anybody has passes as it came, and so do the frames behind it.
    let long = [&[0x41, 0][..], &[0x84; LONGEST - 2]].concat();
    let frames =
        [frame(HEADERS, 0, &long), frame(CONTINUATION, 0, &long), frame(CONTINUATION, 4, &long)];
    assert_eq!(passed(&frames), frames.concat());
}

/// As no name is.
#[test]
fn an_empty_authority_becomes_a_name() {
    let other = frame(0, 0, b"%2F");
    for first in [0x41, 0x01, 0x11] {
        for length in [0, 0x80] {
            let block = |value: &[u8]| [&[0x83, first][..], value, &[0x86, 0x84]].concat();
            let was = block(&[length]);
            let padded = [&[2][..], &was, b"%%"].concat();
            let is = frame(HEADERS, 4, &block(b"\x01-"));
            let frames = [frame(HEADERS, 4, &was), other.clone()];
            assert_eq!(passed(&frames), [is.clone(), other.clone()].concat());
            let frames = [frame(HEADERS, 4 | PADDED, &padded), other.clone()];
            assert_eq!(passed(&frames), [is.clone(), other.clone()].concat());
            for cut in 0..=was.len() {
                let (one, two) = was.split_at(cut);
                let frames = [frame(HEADERS, 0, one), frame(CONTINUATION, 4, two)];
                assert_eq!(passed(&frames), is, "{cut}");
            }
        }
    }
    // What is not whole yet waits; what does not belong into a block is for h2 to see.
    let mut out = Vec::new();
    let part = [START, &frame(HEADERS, 4, &[0x41, 0])[..10]].concat();
    Frames::default().pass(&part, &mut out);
    assert_eq!(out, START);
    let frames = [frame(HEADERS, 0, &[0x41, 0]), other, frame(CONTINUATION, 4, &[0x84])];
    assert_eq!(passed(&frames), frames.concat());
}

/// Each character becomes one, coded and not, and so HPACK's tables stay.
#[test]
fn a_path_in_huffman_coding_becomes_a_name() {
    let block = |coded: bool, value: &[u8]| {
        let length = u8::try_from(value.len()).unwrap() | if coded { 0x80 } else { 0 };
        frame(HEADERS, 4, &[&[0x83, 0x41, length][..], value, &[0x40, 1, b'x', 1, b'/']].concat())
    };
    for (was, is) in [
        (&b"/run/lab/a.sock"[..], &b"-run-lab-a.sock"[..]),
        (b"tmp%2Fa.sock", b"tmp-2Fa.sock"),
        (b"a@b~c!d\"e(f)g?h'i+j|k#l>m", b"a-b-c-d-e-f-g-h-i-j-k-l-m"),
        (b"\0$@[]~^}<`{\\\x01\n", b"--------------"),
        (b"\n", b"-"),
    ] {
        assert_eq!(passed(&[block(true, &huffman(was))]), block(false, is), "{was:?}");
        assert_eq!(passed(&[block(false, was)]), block(false, is), "{was:?}");
    }
    for name in [&b"localhost"[..], b"XYZ-09.az"] {
        let same = block(true, &huffman(name));
        assert_eq!(passed(std::slice::from_ref(&same)), same);
    }
    // The end of a string in a string, and what fills up no octet: for h2 to refuse.
    for broken in [&[0xff, 0xff, 0xff, 0xff][..], &[0b0101_0100]] {
        let same = block(true, broken);
        assert_eq!(passed(std::slice::from_ref(&same)), same);
    }
    // The name may be coded too.
    let name = huffman(b":authority");
    let head = [&[0x40, 0x80 | u8::try_from(name.len()).unwrap()][..], &name].concat();
    let of = |value: &[u8]| frame(HEADERS, 4, &[&head[..], value].concat());
    assert_eq!(passed(&[of(b"\x03a/b")]), of(b"\x03a-b"));
}

/// An integer after a prefix of so many bits (RFC 7541 §5.1).
fn integer(first: u8, bits: u32, value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![first | u8::try_from(most).unwrap()], value - most);
    while rest > 127 {
        bytes.push(0x80 | u8::try_from(rest & 127).unwrap());
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// A field in any of its forms, and what it must become.
fn field(chance: &mut impl FnMut(usize) -> usize) -> (Vec<u8>, Vec<u8>) {
    let (kind, bits) = [(0x80, 7), (0x20, 5), (0x40, 6), (0x00, 4), (0x10, 4)][chance(5)];
    if matches!(kind, 0x80 | 0x20) {
        let field = integer(kind, bits, chance(400));
        return (field.clone(), field);
    }
    let names: [&[u8]; 5] = [b":authority", b":authorit", b":authority2", b"%", b""];
    let (index, name, coded) = (chance(3) * chance(70), names[chance(5)], chance(4) == 0);
    let mut head = integer(kind, bits, index);
    if index == 0 {
        head.extend(integer(if coded { 0x80 } else { 0 }, 7, name.len()));
        head.extend(name);
    }
    let value: Vec<u8> = (0..chance(3) * chance(150)).map(|_| b"%a-\x00\xff"[chance(5)]).collect();
    let huffman = chance(4) == 0;
    let is_authority = index == 1 || (index == 0 && !coded && name == b":authority");
    let value = match (is_authority, huffman) {
        (true, false) if value.is_empty() => vec![0],
        // Zeros are `0` there, five bits each, filled up with ones.
        (true, true) => vec![0, 0, 0, 0x07],
        _ => value,
    };
    head.extend(integer(if huffman { 0x80 } else { 0 }, 7, value.len()));
    let changed = value.iter().map(|byte| match byte {
        b'%' | 0 | 0xff if is_authority && !huffman => b'-',
        byte => *byte,
    });
    ([&head[..], &changed.collect::<Vec<_>>()].concat(), [&head[..], &value].concat())
}

/// Seconds each.
mod slow {
    use super::*;

    #[test]
    fn anything_else_passes() {
        let mut seed = 1_u32;
        for _ in 0..2000 {
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            })
            .take(200)
            .collect();
            // What is not whole waits, and what is coded comes longer, by no more than its shortest
            // code allows.
            let out = passed(&[frame(HEADERS, bytes[0], &bytes), bytes.clone()]);
            assert!(out.len() <= (9 + 200) * 8 / 5 + 200 + 9, "{}", out.len());
        }
    }

    /// Blocks of every form of field, cut into frames anywhere, with padding and priority.
    #[test]
    fn whatever_stands_beside_the_authority_stays() {
        let mut seed = 7_u64;
        let mut chance = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..3000 {
            let fields: Vec<_> = (0..1 + chance(8)).map(|_| field(&mut chance)).collect();
            let (is, was): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
            let (is, was) = (is.concat(), was.concat());
            let mut cuts = [chance(was.len() + 1), chance(was.len() + 1)];
            cuts.sort_unstable();
            let (padding, flags) =
                (chance(256), [0, PADDED, PRIORITY, PADDED | PRIORITY][chance(4)]);
            let first = |block: &[u8]| {
                let mut first = Vec::new();
                first.extend((flags & PADDED != 0).then(|| u8::try_from(padding).unwrap()));
                first.extend(if flags & PRIORITY != 0 { &b"%%%%%"[..] } else { b"" });
                first.extend(&block[..cuts[0]]);
                first.extend(vec![b'%'; if flags & PADDED != 0 { padding } else { 0 }]);
                first
            };
            let frames = [
                frame(HEADERS, flags, &first(&was)),
                frame(CONTINUATION, PADDED | PRIORITY, &was[cuts[0]..cuts[1]]),
                frame(CONTINUATION, 4, &was[cuts[1]..]),
                frame(0, PADDED, b"\x02A\x01%%%"),
            ];
            let block = Block::of(&passed(&frames[..3])).unwrap();
            assert_eq!(block.fields, is);
            assert_eq!(block.priority, if flags & PRIORITY != 0 { &b"%%%%%"[..] } else { b"" });
            let out = passed(&frames);
            assert!(out.ends_with(&frames[3]));
            if is == was {
                assert_eq!(out, frames.concat());
            }
        }
    }
}
