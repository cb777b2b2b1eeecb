//! What a file may demand of its reader: bytes, nesting, values. Asked before anything is built
//! of it, by a parser that keeps its place on the heap; the one that builds recurses.

use std::{fs::File, io::Read, path::Path};

use saphyr_parser::{Event, Parser};

use super::{Fault, LoadError};

/// How deep values may be nested; what is written by people and by `kubectl` needs a dozen.
const DEPTH: usize = 64;
/// How many values a file may have: 100,000 pods and some more.
const VALUES: usize = 2_000_000;
/// How many aliases. What they stand for is bounded where they are resolved.
const ALIASES: usize = 10_000;

/// The text of a file of at most `max` bytes, whatever it says of its size.
pub(super) fn read(path: &Path, max: u64) -> Result<String, LoadError> {
    let failed = |source| LoadError::Read { path: path.into(), source };
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
    let utf8 = |e: std::string::FromUtf8Error| std::io::Error::other(format!("no UTF-8: {e}"));
    String::from_utf8(bytes).map_err(|e| failed(utf8(e)))
}

/// Whether a text is shallow and small enough to be read.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let (mut depth, mut values, mut aliases) = (0_usize, 0_usize, 0_usize);
    for event in Parser::new_from_str(text) {
        let at = |line, column, message| Fault { line, column, key: String::new(), message };
        let (event, span) = event.map_err(|e| {
            at(e.marker().line(), e.marker().col() + 1, format!("not YAML: {}", e.info()))
        })?;
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => {
                depth = depth.saturating_sub(1);
                continue;
            }
            Event::Alias(_) => aliases += 1,
            Event::Scalar(..) | Event::DocumentStart(_) => {}
            _ => continue,
        }
        values += 1;
        let why = match (depth > DEPTH, values > VALUES, aliases > ALIASES) {
            (true, ..) => format!("nested deeper than {DEPTH}"),
            (_, true, _) => format!("has more than {VALUES} values"),
            (.., true) => format!("has more than {ALIASES} aliases"),
            _ => continue,
        };
        return Err(at(span.start.line(), span.start.col() + 1, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config;

    /// Far more than it takes on a busy machine, far less than what is not bounded.
    const SOON: Duration = Duration::from_secs(5);

    fn every_reader(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        std::fs::write(&file, text).unwrap();
        assert!(!config::is_standalone(text));
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
            let begun = Instant::now();
            for said in every_reader(&deep) {
                assert!(
                    said.contains("nested deeper than 64") || said.contains("not YAML"),
                    "{said}"
                );
            }
            assert!(begun.elapsed() < SOON, "{:?}: {:?}", &deep[..20], begun.elapsed());
        }
    }

    #[test]
    fn a_great_many_unknown_keys_are_counted_and_not_listed() {
        let text: String = (0..200_000).map(|n| format!("trustDomian{n}: x\n")).collect();
        let begun = Instant::now();
        let faults = config::parse("f", &text).unwrap_err();
        assert!(begun.elapsed() < 4 * SOON, "{:?}", begun.elapsed());
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

    #[test]
    fn a_file_that_hides_its_size_ends_nevertheless() {
        let error = read(Path::new("/dev/zero"), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("the limit is 1048576"), "{error}");
        let aliases = format!("a: &a x\nb: [{}]", "*a, ".repeat(20_000));
        assert!(check(&aliases).unwrap_err().message.contains("aliases"));
    }
}
