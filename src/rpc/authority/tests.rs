use super::*;

const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// What comes out, the same in one piece and byte by byte.
fn passed(frames: &[Vec<u8>]) -> Vec<u8> {
    let sent = [START, &frames.concat()].concat();
    let mut whole = Vec::new();
    Frames::default().pass(&mut sent.clone(), &mut whole);
    let (mut each, mut sent, mut pieces) = (Vec::new(), sent, Frames::default());
    sent.chunks_mut(1).for_each(|byte| pieces.pass(byte, &mut each));
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

#[test]
fn padding_priority_and_continuations() {
    let [was, is] = ["a%b", "a-b"].map(|a| blocks(a)[0].clone());
    for cut in 0..was.len() {
        let frames = |block: &[u8]| {
            let first = [&[3, b'%', 0, 0, 0, b'%'][..], &block[..cut], b"%%%"].concat();
            [frame(HEADERS, PADDED | PRIORITY, &first), frame(CONTINUATION, 4, &block[cut..])]
        };
        assert_eq!(passed(&frames(&was)), frames(&is).concat(), "{cut}");
    }
}

#[test]
fn long_values_and_huffman() {
    let long = "%".repeat(300);
    let block =
        |value: &str| [&[0x41, 0x7f, 0xad, 0x01][..], value.as_bytes(), &[0x41, 1, b'%']].concat();
    let is = [&block(&"-".repeat(300))[..306], &b"-"[..]].concat();
    assert_eq!(passed(&[frame(HEADERS, 4, &block(&long))]), frame(HEADERS, 4, &is));
    let coded = frame(HEADERS, 4, &[0x41, 0x82, b'%', b'%', 0x40, 0x81, b'%', 1, b'%']);
    assert_eq!(passed(std::slice::from_ref(&coded)), coded);
}

/// In Huffman coding (RFC 7541 appendix B), of characters that have eight bits at most.
fn huffman(text: &str) -> Vec<u8> {
    let codes = [
        (5, 0x0, "012aceiost"),
        (6, 0x14, " %-./3456789=A_bdfghlmnpru"),
        (7, 0x5c, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
        (8, 0xf8, "&*,;XZ"),
    ];
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for c in text.chars() {
        let of = |(length, first, all): &(u32, u32, &str)| {
            Some((*length, first + u32::try_from(all.find(c)?).unwrap()))
        };
        let (length, code) = codes.iter().find_map(of).unwrap();
        (held, bits) = (held << length | code, bits + length);
        while bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    if bits > 0 {
        bytes.push((held << (8 - bits)) as u8 | 0xff >> bits);
    }
    bytes
}

/// As no name is: the frame is longer by an octet, also with padding and another frame behind it.
#[test]
fn an_empty_authority_becomes_a_name() {
    let other = frame(0, 0, b"%2F");
    for first in [0x41, 0x01, 0x11] {
        for length in [0, 0x80] {
            let block = |value: &[u8]| [&[0x83, first][..], value, &[0x86, 0x84]].concat();
            let padded = |block: &[u8]| [&[2][..], block, b"%%"].concat();
            let frames = |value: &[u8]| {
                let block = block(value);
                let padded = frame(HEADERS, 4 | PADDED, &padded(&block));
                [frame(HEADERS, 4, &block), other.clone(), padded, other.clone()]
            };
            assert_eq!(passed(&frames(&[length])), frames(b"\x01-").concat());
        }
    }
    // One that would be too long for it stays, and what is not whole yet waits.
    let long = [&[0x41, 0][..], &[0x84; LONGEST - 2]].concat();
    assert_eq!(passed(&[frame(HEADERS, 4, &long)]), frame(HEADERS, 4, &long));
    let mut out = Vec::new();
    let part = [START, &frame(HEADERS, 4, &[0x41, 0])[..10]].concat();
    Frames::default().pass(&mut part.clone(), &mut out);
    assert_eq!(out, START);
}

/// Each character keeps its bits, so the length stays, coded and not, and so do HPACK's tables.
#[test]
fn a_path_in_huffman_coding_becomes_a_name() {
    let value = |coded: Vec<u8>| {
        let length = 0x80 | u8::try_from(coded.len()).unwrap();
        let block = [&[0x83, 0x41, length][..], &coded, &[0x40, 1, b'x', 1, b'/']].concat();
        frame(HEADERS, 4, &block)
    };
    for (was, is) in [
        ("/run/lab/a.sock", "3run3lab3a.sock"),
        ("tmp%2Fa.sock", "tmp.2Fa.sock"),
        ("unix:///run/a_b.sock", "unixB333run3abb.sock"),
        ("a b%c=d_e:f&g*h,i;j", "a-b.cAdbeBfXgZhXiZj"),
        ("%%//__==::&&**,,;;  ", "..33bbAABBXXZZXXZZ--"),
        ("localhost", "localhost"),
        ("XYZ-09.az", "XYZ-09.az"),
    ] {
        assert_eq!(passed(&[value(huffman(was))]), value(huffman(is)), "{was}");
    }
    // What has more bits than eight passes, and what follows it is known again: `@` and `/`.
    let coded = |last: u8| value(vec![0xff, 0xd3, last]);
    assert_eq!(passed(&[coded(0b0001_1111)]), coded(0b0011_1111));
}

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
        let out = passed(&[frame(HEADERS, bytes[0], &bytes), bytes.clone()]);
        // What is not whole waits; an empty authority is an octet longer.
        assert!(out.len() >= 9 + 200 && out.len() <= 9 + 200 + 200 + 10, "{}", out.len());
    }
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
    let is_authority = index == 1 || (index == 0 && !coded && name == NAME);
    // Not empty; and zeros, which Huffman coding has for `0`.
    let value = match (is_authority, huffman) {
        (true, true) => vec![0; value.len().max(1)],
        (true, false) if value.is_empty() => vec![0],
        _ => value,
    };
    head.extend(integer(if huffman { 0x80 } else { 0 }, 7, value.len()));
    let changed = value.iter().map(|byte| match byte {
        b'%' | 0 | 0xff if is_authority && !huffman => b'-',
        byte => *byte,
    });
    ([&head[..], &changed.collect::<Vec<_>>()].concat(), [&head[..], &value].concat())
}

/// Blocks of every form of field, cut into frames anywhere, with padding and priority.
#[test]
fn whatever_stands_beside_the_authority_stays() {
    let mut seed = 7_u64;
    let mut chance = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    for _ in 0..3000 {
        let fields: Vec<_> = (0..1 + chance(8)).map(|_| field(&mut chance)).collect();
        let (is, was): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
        let (is, was) = (is.concat(), was.concat());
        let mut cuts = [chance(was.len() + 1), chance(was.len() + 1)];
        cuts.sort_unstable();
        let (padding, flags) = (chance(256), [0, PADDED, PRIORITY, PADDED | PRIORITY][chance(4)]);
        let frames = |block: &[u8]| {
            let mut first = Vec::new();
            first.extend((flags & PADDED != 0).then(|| u8::try_from(padding).unwrap()));
            first.extend(if flags & PRIORITY != 0 { &b"%%%%%"[..] } else { b"" });
            first.extend(&block[..cuts[0]]);
            first.extend(vec![b'%'; if flags & PADDED != 0 { padding } else { 0 }]);
            vec![
                frame(HEADERS, flags, &first),
                frame(CONTINUATION, PADDED | PRIORITY, &block[cuts[0]..cuts[1]]),
                frame(CONTINUATION, 4, &block[cuts[1]..]),
                frame(0, PADDED, b"\x02A\x01%%%"),
            ]
        };
        assert_eq!(passed(&frames(&was)), frames(&is).concat());
    }
}
