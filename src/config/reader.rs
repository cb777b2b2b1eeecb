//! Reads a YAML tree key by key and takes note of everything that is wrong on the way.

use std::{cell::RefCell, fmt::Display, str::FromStr};

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::Fault;

const MAX_DURATION: std::time::Duration = std::time::Duration::from_secs(10 * 366 * 86_400);

/// Collects faults and warnings while a file is read.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) faults: RefCell<Vec<Fault>>,
    pub(super) warnings: RefCell<Vec<Fault>>,
}

/// One value, where it stands, and how it is called.
#[derive(Clone)]
pub(super) struct Item<'a> {
    yaml: &'a MarkedYaml<'a>,
    pub(super) path: String,
    notes: &'a Notes,
}

/// The documents of a text.
pub(super) fn documents(text: &str) -> Result<Vec<MarkedYaml<'_>>, Fault> {
    MarkedYaml::load_from_str(text).map_err(|e| Fault {
        line: e.marker().line(),
        column: e.marker().col() + 1,
        key: String::new(),
        message: format!("not YAML: {}", e.info()),
    })
}

/// The keys of a document that is a mapping.
pub(super) fn keys<'a>(document: &'a MarkedYaml<'_>) -> Vec<&'a str> {
    match &document.data {
        YamlData::Mapping(mapping) => mapping.keys().filter_map(|k| k.data.as_str()).collect(),
        _ => Vec::new(),
    }
}

impl<'a> Item<'a> {
    pub(super) fn root(yaml: &'a MarkedYaml<'a>, notes: &'a Notes) -> Self {
        Self { yaml, path: String::new(), notes }
    }

    fn at(&self, message: impl Display) -> Fault {
        let start = self.yaml.span.start;
        let (line, column) = (start.line(), start.col() + 1);
        Fault { line, column, key: self.path.clone(), message: message.to_string() }
    }

    pub(super) fn fault(&self, message: impl Display) {
        self.notes.faults.borrow_mut().push(self.at(message));
    }

    /// Whether a fault was found in it.
    pub(super) fn is_faulty(&self) -> bool {
        self.notes.faults.borrow().iter().any(|fault| fault.key.starts_with(&self.path))
    }

    pub(super) fn warn(&self, message: impl Display) {
        self.notes.warnings.borrow_mut().push(self.at(message));
    }

    /// The entries of a mapping whose keys are all among `known`; others are faults.
    pub(super) fn map(&self, known: &'static [&'static str]) -> Map<'a> {
        let mut entries = Vec::new();
        if let YamlData::Mapping(mapping) = &self.yaml.data {
            for (key, value) in mapping {
                let name = key.data.as_str().unwrap_or("?").to_owned();
                let path = match self.path.as_str() {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                if known.contains(&name.as_str()) {
                    entries.push((name, Item { yaml: value, path, notes: self.notes }));
                } else {
                    Item { yaml: key, path, notes: self.notes }.fault(unknown(&name, known));
                }
            }
        } else {
            self.fault(format!("expected a mapping with keys such as {}", known.join(", ")));
        }
        Map { entries, of: self.clone() }
    }

    /// Any mapping of texts, such as labels.
    pub(super) fn texts(&self) -> Vec<(String, String)> {
        let YamlData::Mapping(mapping) = &self.yaml.data else {
            self.fault("expected a mapping of texts");
            return Vec::new();
        };
        mapping
            .iter()
            .filter_map(|(key, value)| {
                let Some(name) = key.data.as_str().map(ToOwned::to_owned) else {
                    let at = Item { yaml: key, path: self.path.clone(), notes: self.notes };
                    at.fault("a key must be a text; put it in quotes");
                    return None;
                };
                let path = format!("{}.{name}", self.path);
                Some((name, Item { yaml: value, path, notes: self.notes }.text()?))
            })
            .collect()
    }

    pub(super) fn list(&self) -> Vec<Item<'a>> {
        let YamlData::Sequence(items) = &self.yaml.data else {
            self.fault("expected a list, such as [a, b]");
            return Vec::new();
        };
        let item =
            |(n, yaml)| Item { yaml, path: format!("{}[{n}]", self.path), notes: self.notes };
        items.iter().enumerate().map(item).collect()
    }

    /// A text that is not empty.
    pub(super) fn text(&self) -> Option<String> {
        let text = match &self.yaml.data {
            YamlData::Value(Scalar::String(text)) => text.to_string(),
            YamlData::Value(Scalar::Integer(n)) => n.to_string(),
            YamlData::Value(Scalar::Boolean(b)) => b.to_string(),
            _ => String::new(),
        };
        if text.is_empty() {
            self.fault("expected a text that is not empty");
            return None;
        }
        Some(text)
    }

    /// A text in some format; `example` shows it.
    pub(super) fn parse<T: FromStr>(&self, example: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.text()?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.fault(format!("{text:?}: {e}; for example {example}"));
                None
            }
        }
    }

    pub(super) fn duration(&self) -> Option<std::time::Duration> {
        let text = self.text()?;
        match humantime::parse_duration(&text) {
            Ok(value) if value > MAX_DURATION => {
                self.fault(format!("{text:?} is longer than ten years"));
                None
            }
            Ok(value) => Some(value),
            Err(e) => {
                self.fault(format!("{text:?}: {e}; for example 30s, 5m, 1h"));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(format!("{text:?} is none of {}{}", all.join(", "), suggest(&text, &all)));
        }
        found
    }
}

/// A mapping whose keys are known.
pub(super) struct Map<'a> {
    entries: Vec<(String, Item<'a>)>,
    pub(super) of: Item<'a>,
}

impl<'a> Map<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, item)| item.clone())
    }

    /// Whether no known key is there.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn require(&self, key: &str) -> Option<Item<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.of.fault(format!("{key} is missing"));
        }
        found
    }

    pub(super) fn list(&self, key: &str) -> Vec<Item<'a>> {
        self.get(key).map(|item| item.list()).unwrap_or_default()
    }
}

fn unknown(name: &str, known: &[&str]) -> String {
    match suggest(name, known) {
        s if s.is_empty() => format!("unknown key; known here: {}", known.join(", ")),
        s => format!("unknown key{s}"),
    }
}

fn suggest(word: &str, among: &[&str]) -> String {
    let near = among.iter().map(|w| (strsim::damerau_levenshtein(word, w), w)).min();
    match near {
        Some((distance, w)) if distance <= 1 + word.chars().count() / 3 => {
            format!("; did you mean {w}?")
        }
        _ => String::new(),
    }
}
