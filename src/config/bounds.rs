//! What a file may demand of its reader: bytes, nesting, values. Asked before anything is built
//! of it, by a parser that keeps its place on the heap; the one that builds recurses.

use std::{collections::HashMap, fs::File, io::Read, os::unix::fs::FileTypeExt, path::Path};

use saphyr_parser::{Event, Parser};

use super::{Fault, LoadError, not_yaml};

/// How deep values may be nested; what is written by people and by `kubectl` needs a dozen.
const DEPTH: usize = 64;
/// How many values a file may have: 100,000 pods and some more.
const VALUES: usize = 2_000_000;
/// How many aliases.
const ALIASES: usize = 10_000;

/// The text of a file of at most `max` bytes, whatever it says of its size.
pub(super) fn read(path: &Path, max: u64) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
    // Who opens a pipe waits for its writer, if need be for ever; one that a shell made is written.
    let is_pipe = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
    if is_pipe && !path.starts_with("/dev") && !path.starts_with("/proc") {
        return Err(failed(std::io::Error::other("is a pipe: name a file")));
    }
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > max {
        return Err(LoadError::TooLarge { path: path.into(), size, max });
    }
    read_from(file, path, max)
}

/// The text of at most `max` bytes that `from` has; `path` is its name in errors.
pub(super) fn read_from(from: impl Read, path: &Path, max: u64) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
    let too_large = |size| LoadError::TooLarge { path: path.into(), size, max };
    let mut bytes = Vec::new();
    from.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(too_large(bytes.len() as u64));
    }
    let utf8 = |e: std::string::FromUtf8Error| std::io::Error::other(format!("not UTF-8: {e}"));
    String::from_utf8(bytes).map_err(|e| failed(utf8(e)))
}

/// How much a value is, with all that its aliases stand for.
#[derive(Clone, Copy, Default)]
struct TextExtent {
    /// How deep it is nested: 0 without anything in it.
    depth: usize,
    values: usize,
}

/// What has begun and not ended, outermost first, each with its anchor (0: none), and what each
/// anchor holds.
#[derive(Default)]
struct Extents {
    open: Vec<(usize, TextExtent)>,
    anchored: HashMap<usize, TextExtent>,
}

impl Extents {
    /// A value that is whole; the document's own is in nothing.
    fn add(&mut self, anchor: usize, value: TextExtent) {
        if anchor != 0 {
            self.anchored.insert(anchor, value);
        }
        if let Some((_, within)) = self.open.last_mut() {
            within.depth = within.depth.max(value.depth + 1);
            within.values = within.values.saturating_add(value.values);
        }
    }
}

/// Whether a text is shallow and small enough to be read, its aliases as what they stand for:
/// whoever builds it puts that in their place, and goes as deep as that goes.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let (mut extents, mut values, mut aliases) = (Extents::default(), 0_usize, 0_usize);
    let scalar = TextExtent { depth: 0, values: 1 };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| not_yaml::fault(text, &error))?;
        let mut deepest = 0;
        match event {
            Event::SequenceStart(anchor, ..) | Event::MappingStart(anchor, ..) => {
                extents.open.push((anchor, scalar));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, value)) = extents.open.pop() {
                    extents.add(anchor, value);
                }
                continue;
            }
            Event::Alias(anchor) => {
                aliases += 1;
                let value = extents.anchored.get(&anchor).copied().unwrap_or(scalar);
                deepest = value.depth;
                values = values.saturating_add(value.values);
                extents.add(0, value);
            }
            Event::Scalar(_, _, anchor, _) => extents.add(anchor, scalar),
            Event::DocumentStart(_) => {}
            _ => continue,
        }
        values += 1;
        let depth = extents.open.len() + deepest;
        let why = match (depth > DEPTH, values > VALUES, aliases > ALIASES) {
            (true, ..) => format!("nested deeper than {DEPTH}"),
            (_, true, _) => format!("has more than {VALUES} values"),
            (.., true) => format!("has more than {ALIASES} aliases"),
            _ => continue,
        };
        return Err(Fault::at(span.start.line(), span.start.col() + 1, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config;

    /// Far more work than it is: what is not bounded never ends.
    const SOON: Duration = Duration::from_secs(60);

    /// How long this thread has worked; how busy the machine is beside it is no matter.
    fn worked() -> Duration {
        nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap().into()
    }

    fn every_reader(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        std::fs::write(&file, text).unwrap();
        assert_ne!(config::kind(text), Some(config::FileKind::Services));
        vec![
            config::load(&file).unwrap_err().to_string(),
            config::load_standalone(&file).unwrap_err().to_string(),
            config::load_policies(&file).unwrap_err().to_string(),
            config::load_ca_server(&file).err().unwrap().to_string(),
            config::load_pods(&file).unwrap_err().to_string(),
        ]
    }

    #[test]
    fn what_is_nested_without_end_is_refused_by_every_reader() {
        let many = 50_000;
        for deep in [
            "- ".repeat(many) + "a",
            "[".repeat(many),
            "{a: ".repeat(many),
            "? ".repeat(many) + "a",
            (0..1000).map(|n| " ".repeat(n) + "a:\n").collect(),
            format!("pods: {}", "[".repeat(many) + &"]".repeat(many)),
        ] {
            let begun = worked();
            for said in every_reader(&deep) {
                assert!(
                    said.contains("nested deeper than 64") || said.contains("not YAML"),
                    "{said}"
                );
            }
            let took = worked() - begun;
            assert!(took < SOON, "{:?}: {took:?}", &deep[..20]);
        }
    }

    /// An alias stands for all that its anchor holds, and anchors hold aliases.
    #[test]
    fn aliases_that_stand_for_very_much_end_nevertheless() {
        let tenfold = |n: usize| {
            (1..n).map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(10)))
        };
        let deeper = |n: usize| {
            (1..n).map(|n| format!("a{n}: &a{n} {}*a{}{}\n", "[".repeat(60), n - 1, "]".repeat(60)))
        };
        for (name, text) in [
            ("ten times ten", format!("a0: &a0 x\n{}", tenfold(12).collect::<String>())),
            ("deeper and deeper", format!("a0: &a0 x\n{}", deeper(56).collect::<String>())),
            ("a thousand times", format!("a0: &a0 x\n{}", deeper(1000).collect::<String>())),
            ("itself", "a: &a [*a]\n".into()),
            ("nobody", "a: *b\n".into()),
            ("a key", "&a k: v\n*a : w\n".into()),
            ("merged", "x: &x { node: n }\n<<: *x\n".into()),
        ] {
            let begun = worked();
            for said in every_reader(&text) {
                assert!(said.len() < 40_000, "{name}: {} bytes", said.len());
            }
            let took = worked() - begun;
            assert!(took < SOON, "{name}: {took:?}");
        }
    }

    #[test]
    fn a_pipe_is_waited_for_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("f.yaml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = config::load(&pipe).err().unwrap().to_string();
        assert!(error.contains("is a pipe: name a file"), "{error}");
    }

    #[test]
    fn a_file_that_hides_its_size_ends_nevertheless() {
        let error = read(Path::new("/dev/zero"), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("the limit is 1048576"), "{error}");
        let aliases = format!("a: &a x\nb: [{}]", "*a, ".repeat(20_000));
        assert!(check(&aliases).unwrap_err().message.contains("aliases"));
    }

    /// Seconds each.
    mod slow {
        use super::*;

        #[test]
        fn a_great_many_unknown_keys_are_counted_and_not_listed() {
            let text: String = (0..200_000).map(|n| format!("trustDomian{n}: x\n")).collect();
            let begun = worked();
            let faults = config::parse("f", &text).unwrap_err();
            let took = worked() - begun;
            assert!(took < SOON, "{took:?}");
            assert!(faults.faults.len() <= 50, "{}", faults.faults.len());
            let said = faults.to_string();
            assert!(said.ends_with("of them not listed") && said.len() < 20_000, "{said}");
            assert_eq!(
                faults.faults.len() + faults.more,
                200_001,
                "and one that is missing and not misspelt"
            );
            let long = format!("{}: x\n", "k".repeat(100_000));
            let said = config::parse("f", &long).unwrap_err().to_string();
            assert!(said.len() < 10_000, "{}", said.len());
        }
    }
}
