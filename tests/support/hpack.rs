//! Frames of HTTP/2 and fields of HPACK, byte by byte.

/// A frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// In Huffman coding (RFC 7541 appendix B); of the characters of more than 15 bits three.
pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let codes: [(u32, u64, &[u8]); 13] = [
        (5, 0x0, b"012aceiost"),
        (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
        (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
        (8, 0xf8, b"&*,;XZ"),
        (10, 0x3f8, b"!\"()?"),
        (11, 0x7fa, b"'+|"),
        (12, 0xffa, b"#>"),
        (13, 0x1ff8, b"\0$@[]~"),
        (14, 0x3ffc, b"^}"),
        (15, 0x7ffc, b"<`{"),
        (19, 0x7_fff0, b"\\"),
        (23, 0x7f_ffd8, b"\x01"),
        (30, 0x3fff_fffc, b"\n"),
    ];
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u64, 0);
    for c in text {
        let of = |(length, first, all): &(u32, u64, &[u8])| {
            Some((*length, first + all.iter().position(|one| one == c)? as u64))
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
