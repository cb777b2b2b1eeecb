//! Where the running kernel keeps a field of a struct, by its own type information
//! (BTF, Linux `Documentation/bpf/btf.rst`).

use std::{collections::HashMap, io};

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;
/// Deeper than any struct of the kernel nests.
const DEEPEST: u32 = 16;

/// The types of a kernel.
pub(super) struct Btf {
    types: Vec<Type>,
    strings: Vec<u8>,
    structs: HashMap<String, u32>,
    functions: HashMap<String, u32>,
}

#[derive(Default)]
struct Type {
    kind: u32,
    /// The type it stands for (typedef, const, volatile).
    of: u32,
    members: Vec<Member>,
}

struct Member {
    name: u32,
    of: u32,
    /// In bits.
    offset: u32,
}

impl Btf {
    /// Reads the running kernel's types.
    ///
    /// # Errors
    /// If the kernel has none (`CONFIG_DEBUG_INFO_BTF`).
    pub(super) fn of_kernel() -> io::Result<Self> {
        let path = "/sys/kernel/btf/vmlinux";
        let bytes = std::fs::read(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{path}: {e} (no type information)")))?;
        Self::parse(&bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{path}: not BTF as expected"))
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word =
            |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]) != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let section = |at: usize| -> Option<&[u8]> {
            let start = header.checked_add(word(at)? as usize)?;
            bytes.get(start..start.checked_add(word(at + 4)? as usize)?)
        };
        let (raw, strings) = (section(8)?, section(16)?.to_vec());
        let mut btf = Self {
            types: vec![Type::default()],
            strings,
            structs: HashMap::new(),
            functions: HashMap::new(),
        };
        let word =
            |at: usize| raw.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let mut at = 0;
        while at < raw.len() {
            let (name, info, of) = (word(at)?, word(at + 4)?, word(at + 8)?);
            let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            at += 12;
            let mut members = Vec::new();
            if matches!(kind, STRUCT | UNION) {
                let bitfields = info >> 31 == 1;
                for n in 0..count {
                    let (name, of, offset) =
                        (word(at + n * 12)?, word(at + n * 12 + 4)?, word(at + n * 12 + 8)?);
                    let offset = if bitfields { offset & 0xff_ffff } else { offset };
                    members.push(Member { name, of, offset });
                }
            }
            let id = u32::try_from(btf.types.len()).ok()?;
            let named = match kind {
                STRUCT => Some(&mut btf.structs),
                FUNCTION => Some(&mut btf.functions),
                _ => None,
            };
            if let Some(named) = named {
                named.entry(string(&btf.strings, name)?.to_owned()).or_insert(id);
            }
            btf.types.push(Type { kind, of, members });
            at += match kind {
                1 | 14 | 17 => 4,                  // int, var, decl_tag
                3 => 12,                           // array
                STRUCT | UNION | 19 => count * 12, // and enum64
                6 | 13 => count * 8,               // enum, func_proto
                15 => count * 12,                  // datasec
                _ => 0,
            };
        }
        Some(btf)
    }

    /// The number of a struct.
    pub(super) fn number_of(&self, of: &str) -> Option<i32> {
        i32::try_from(*self.structs.get(of)?).ok()
    }

    /// The number of a function.
    pub(super) fn function(&self, name: &str) -> Option<i32> {
        i32::try_from(*self.functions.get(name)?).ok()
    }

    /// The byte offset of a field, which may be that of a struct inside: `["sk_backlog",
    /// "rmem_alloc"]`. Members without a name are looked through.
    pub(super) fn offset(&self, of: &str, path: &[&str]) -> Option<i16> {
        let (mut id, mut bits) = (*self.structs.get(of)?, 0);
        for name in path {
            let (offset, member) = self.member(id, name, DEEPEST)?;
            (id, bits) = (member, bits + offset);
        }
        bits.is_multiple_of(8).then(|| i16::try_from(bits / 8).ok())?
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let of = self.types.get(id as usize)?;
        if depth == 0 {
            return None;
        }
        // typedef, volatile, const, restrict
        if matches!(of.kind, 8..=11) {
            return self.member(of.of, name, depth - 1);
        }
        of.members.iter().find_map(|member| match string(&self.strings, member.name)? {
            found if found == name => Some((member.offset, member.of)),
            "" => self
                .member(member.of, name, depth - 1)
                .map(|(offset, of)| (member.offset + offset, of)),
            _ => None,
        })
    }
}

fn string(strings: &[u8], at: u32) -> Option<&str> {
    let rest = strings.get(at as usize..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_running_kernel() {
        let Ok(btf) = Btf::of_kernel() else {
            return; // this kernel has no type information
        };
        // `struct sock` starts with `struct sock_common`, and that with the addresses.
        assert_eq!(btf.offset("sock", &["__sk_common", "skc_daddr"]), Some(0));
        assert_eq!(btf.offset("sock", &["__sk_common", "skc_rcv_saddr"]), Some(4));
        let far = btf.offset("tcp_sock", &["write_seq"]).unwrap();
        assert!(far > btf.offset("sock", &["sk_backlog", "rmem_alloc"]).unwrap());
        assert_eq!(btf.offset("tcp_sock", &["no_such_field"]), None);
    }

    #[test]
    fn what_is_not_btf_is_refused() {
        assert!(Btf::parse(b"").is_none());
        assert!(
            Btf::parse(&[0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]).is_none()
        );
    }
}
