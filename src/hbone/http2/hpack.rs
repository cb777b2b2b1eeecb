//! Header compression (RFC 7541): a complete decoder with bounded memory, and an encoder
//! that keeps no state.

use std::{collections::VecDeque, sync::LazyLock};

use super::hpack_tables::{CODE_LENGTHS, STATIC};

/// Why a header block could not be read: always COMPRESSION_ERROR (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Malformed(pub &'static str);

/// The dynamic table's size, ours and the peer's: the default (RFC 9113 §6.5.2).
const TABLE_SIZE: usize = 4096;
/// What an entry costs beside its text (RFC 7541 §4.1).
const ENTRY_COST: usize = 32;

/// The receiving side of one connection.
#[derive(Debug)]
pub struct Decoder {
    entries: VecDeque<TableEntry>,
    size: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, limit: TABLE_SIZE }
    }
}

/// Name and value.
type TableEntry = (Box<[u8]>, Box<[u8]>);

/// Where a field's name or value comes from.
enum FieldText {
    Table(usize),
    Owned(Vec<u8>),
}

impl Decoder {
    /// Reads one whole header block, giving each field to `each`, which may ignore it.
    ///
    /// # Errors
    /// If the block is not HPACK; the tables of both ends then differ and the connection ends.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Malformed> {
        let mut fields = 0;
        while let Some(&first) = block.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut block, 7)?;
                    let (name, value) = self.entry(index)?;
                    each(name, value);
                }
                0x40..0x80 => {
                    let (name, value) = self.literal(&mut block, 6)?;
                    each(&name, &value);
                    self.insert(name, value);
                }
                0x20..0x40 => {
                    if fields > 0 {
                        return Err(Malformed("table size update after a field"));
                    }
                    let size = integer(&mut block, 5)?;
                    if size > TABLE_SIZE {
                        return Err(Malformed("table larger than allowed"));
                    }
                    self.limit = size;
                    self.evict();
                    continue;
                }
                _ => {
                    let (name, value) = self.literal(&mut block, 4)?;
                    each(&name, &value);
                }
            }
            fields += 1;
        }
        Ok(())
    }

    fn literal(&self, block: &mut &[u8], prefix: u8) -> Result<(Vec<u8>, Vec<u8>), Malformed> {
        let name = match integer(block, prefix)? {
            0 => FieldText::Owned(string(block)?),
            index => FieldText::Table(index),
        };
        let name = match name {
            FieldText::Owned(name) => name,
            FieldText::Table(index) => self.entry(index)?.0.to_vec(),
        };
        Ok((name, string(block)?))
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed("index 0"))?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(Malformed("no such index"))?;
        Ok((&entry.0, &entry.1))
    }

    fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.size += name.len() + value.len() + ENTRY_COST;
        self.entries.push_front((name.into(), value.into()));
        self.evict();
    }

    /// RFC 7541 §4.4: an entry larger than the table empties it.
    fn evict(&mut self) {
        while self.size > self.limit {
            let Some((name, value)) = self.entries.pop_back() else { return };
            self.size -= name.len() + value.len() + ENTRY_COST;
        }
    }
}

/// RFC 7541 §5.1, up to 2^28.
fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, Malformed> {
    let mask = (1_usize << prefix) - 1;
    let (&first, rest) = block.split_first().ok_or(Malformed("truncated integer"))?;
    *block = rest;
    let mut value = usize::from(first) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let (&byte, rest) = block.split_first().ok_or(Malformed("truncated integer"))?;
        *block = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed("integer too large"))
}

/// RFC 7541 §5.2.
fn string(block: &mut &[u8]) -> Result<Vec<u8>, Malformed> {
    let huffman = block.first().is_some_and(|b| b & 0x80 != 0);
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed("truncated string"))?;
    *block = rest;
    if huffman { HUFFMAN.decode(text) } else { Ok(text.to_vec()) }
}

/// A canonical code: for each length the first code, how many there are, and their symbols.
struct Huffman {
    first: [u32; 31],
    count: [u32; 31],
    offset: [usize; 31],
    symbols: Vec<u16>,
}

static HUFFMAN: LazyLock<Huffman> = LazyLock::new(|| {
    let (mut first, mut count, mut offset) = ([0; 31], [0; 31], [0; 31]);
    let (mut symbols, mut code) = (Vec::new(), 0);
    for length in 1..31_usize {
        code <<= 1;
        (first[length], offset[length]) = (code, symbols.len());
        let these = (0..=256_u16).filter(|s| usize::from(CODE_LENGTHS[usize::from(*s)]) == length);
        symbols.extend(these);
        count[length] = (symbols.len() - offset[length]) as u32;
        code += count[length];
    }
    Huffman { first, count, offset, symbols }
});

impl Huffman {
    fn decode(&self, text: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(text.len() * 8 / 5);
        let (mut code, mut length) = (0_u32, 0);
        for byte in text {
            for bit in (0..8).rev() {
                code = code << 1 | u32::from(byte >> bit & 1);
                length += 1;
                let nth = code.wrapping_sub(self.first[length]);
                if nth < self.count[length] {
                    match u8::try_from(self.symbols[self.offset[length] + nth as usize]) {
                        Ok(symbol) => out.push(symbol),
                        Err(_) => return Err(Malformed("EOS in a string")),
                    }
                    (code, length) = (0, 0);
                } else if length == 30 {
                    return Err(Malformed("no such Huffman code"));
                }
            }
        }
        // RFC 7541 §5.2: padding is a prefix of EOS, shorter than a byte.
        if length > 7 || code != (1 << length) - 1 {
            return Err(Malformed("Huffman padding"));
        }
        Ok(out)
    }
}

/// The table size update of an encoder that uses no table (RFC 7541 §6.3).
pub const NO_TABLE: u8 = 0x20;

/// Appends a field as a literal that no table remembers. `name` is lower case.
pub fn encode(block: &mut Vec<u8>, name: &str, value: &str) {
    if let Some(index) = STATIC.iter().position(|(n, v)| *n == name && *v == value) {
        put_integer(block, 0x80, 7, index + 1);
        return;
    }
    match STATIC.iter().position(|(n, _)| *n == name) {
        Some(index) => put_integer(block, 0, 4, index + 1),
        None => {
            block.push(0);
            put_string(block, name);
        }
    }
    put_string(block, value);
}

fn put_string(block: &mut Vec<u8>, text: &str) {
    put_integer(block, 0, 7, text.len());
    block.extend_from_slice(text.as_bytes());
}

fn put_integer(block: &mut Vec<u8>, pattern: u8, prefix: u8, value: usize) {
    let mask = (1_usize << prefix) - 1;
    if value < mask {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        block.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
        let mut fields = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        decoder.decode(block, |n, v| fields.push(format!("{}={}", text(n), text(v))))?;
        Ok(fields)
    }

    /// RFC 7541 Appendix C.3 (plain) and C.4 (Huffman): three requests on one connection.
    #[test]
    fn the_examples_of_the_rfc() {
        let blocks = [
            ["828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"],
            ["828684be58086e6f2d6361636865", "828684be5886a8eb10649cbf"],
            [
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ];
        for way in [0, 1] {
            let mut decoder = Decoder::default();
            let mut read = |n: usize| read(&mut decoder, &hex(blocks[n][way])).unwrap();
            let get = [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"];
            assert_eq!(read(0), get);
            assert_eq!(read(1), [&get[..], &["cache-control=no-cache"]].concat());
            let last = [":method=GET", ":scheme=https", ":path=/index.html"];
            let rest = [":authority=www.example.com", "custom-key=custom-value"];
            assert_eq!(read(2), [last.as_slice(), &rest].concat());
            assert_eq!(decoder.size, 164);
        }
    }

    #[test]
    fn what_is_not_hpack_is_refused() {
        for (block, why) in [
            ("80", "index 0"),
            ("be", "no such index"),
            ("ff ffffffff01", "integer too large"),
            ("ff", "truncated integer"),
            ("4085", "truncated string"),
            ("3fe21f", "table larger than allowed"),
            ("8220", "table size update after a field"),
            ("0081ff", "Huffman padding"),
            ("0084ffffffff 00", "EOS in a string"),
            ("008100 00", "Huffman padding"),
        ] {
            assert_eq!(read(&mut Decoder::default(), &hex(block)), Err(Malformed(why)), "{block}");
        }
    }

    #[test]
    fn the_table_stays_within_its_size() {
        let mut decoder = Decoder::default();
        for n in 0..1000_usize {
            let mut block = vec![0x40];
            put_string(&mut block, &format!("name-{n}"));
            put_string(&mut block, &"v".repeat(n * 7));
            read(&mut decoder, &block).unwrap();
            assert!(decoder.size <= TABLE_SIZE);
        }
        read(&mut decoder, &hex("20")).unwrap();
        assert_eq!((decoder.size, decoder.entries.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(block in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&mut Decoder::default(), &block);
        }

        #[test]
        fn what_is_encoded_is_read_back(
            fields in prop::collection::vec(("[a-z:-]{1,20}", "[ -~]{0,200}"), 0..20)
        ) {
            let mut block = Vec::new();
            fields.iter().for_each(|(name, value)| encode(&mut block, name, value));
            let expected: Vec<_> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
            prop_assert_eq!(read(&mut Decoder::default(), &block).unwrap(), expected);
        }
    }
}
