//! Reads a YAML tree key by key and takes note of everything that is wrong on the way.

use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    str::FromStr,
};

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::{
    Fault, Faults, bounds,
    not_yaml::{self, glued_key, no_colon_behind, no_space_behind},
    words::{is_name, nearest, one_of, suggest, unknown},
};
use crate::identity::{without, without_keys, without_value};

const MAX_DURATION: std::time::Duration = std::time::Duration::from_secs(10 * 366 * 86_400);

/// How many faults of a file are listed, and how many warnings; the rest is counted.
const LISTED: usize = 50;
/// The longest message of a fault, and the longest path of keys, in characters.
const MESSAGE: usize = 2000;

/// Whether the files that a text names are opened while it is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Files {
    /// They are here.
    Here,
    /// They are here, and each is opened where it is named.
    LookedAt,
    /// The text is for another machine.
    Elsewhere,
}

/// Collects faults and warnings while a file is read.
#[derive(Default)]
pub(super) struct Notes {
    faults: RefCell<Vec<Fault>>,
    /// Faults beyond those that are listed.
    more: Cell<usize>,
    warnings: RefCell<Vec<Fault>>,
    /// Files that the text names are not opened: it is for another machine.
    elsewhere: bool,
    /// They are opened where they are named.
    looked_at: bool,
}

impl Notes {
    /// For a text whose files are opened, or are not.
    pub(super) fn of(files: Files) -> Self {
        Self {
            elsewhere: files == Files::Elsewhere,
            looked_at: files == Files::LookedAt,
            ..Self::default()
        }
    }

    /// Another fault, which is made only if it is listed.
    fn fault(&self, make: impl FnOnce() -> Fault) {
        let mut faults = self.faults.borrow_mut();
        if faults.len() < LISTED {
            faults.push(make());
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// What is wrong with `file`, in the order of its lines.
    pub(super) fn into_faults(self, file: &str) -> Faults {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|f| (f.line, f.column));
        Faults { file: file.into(), faults, more: self.more.get() }
    }

    /// What is legal and probably not meant.
    pub(super) fn into_warnings(self) -> Vec<Fault> {
        self.warnings.into_inner()
    }
}

/// One value, where it stands, and how it is called.
#[derive(Clone)]
pub(super) struct Item<'a> {
    yaml: &'a MarkedYaml<'a>,
    pub(super) path: String,
    notes: &'a Notes,
}

/// The documents of a text, unless it is too deep or too large to be read safely.
pub(super) fn documents(text: &str) -> Result<Vec<MarkedYaml<'_>>, Fault> {
    bounds::check(text)?;
    MarkedYaml::load_from_str(text).map_err(|error| not_yaml::fault(text, &error))
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

    /// Whether the files that it names are not to be opened.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.notes.elsewhere
    }

    /// Whether a file that it names is opened at once.
    pub(super) fn is_looked_at(&self) -> bool {
        self.notes.looked_at
    }

    /// What a mapping has under `key`, whether that is known or not.
    pub(super) fn find(&self, key: &str) -> Option<Self> {
        let YamlData::Mapping(mapping) = &self.yaml.data else { return None };
        let (_, yaml) = mapping.iter().find(|(name, _)| name.data.as_str() == Some(key))?;
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Some(Item { yaml, path, notes: self.notes })
    }

    /// What is said about it.
    pub(super) fn at(&self, message: impl Display) -> Fault {
        let (start, end) = (self.yaml.span.start, self.yaml.span.end);
        let (line, column) = (start.line(), start.col() + 1);
        let end_column = (end.line() == line).then(|| end.col() + 1);
        let message = self.without_secrets(&message.to_string());
        let (key, message) = (cut(without_keys(&self.path).into_owned()), cut(message));
        Fault { line, column, end_column, key, message }
    }

    /// A message about it without what may be a secret, which whoever finds that it is wrong may
    /// quote: a key where its path belongs, a password where the path of its file belongs.
    fn without_secrets(&self, message: &str) -> String {
        let number;
        let value = match &self.yaml.data {
            YamlData::Value(Scalar::Integer(n)) => {
                number = n.to_string();
                &number
            }
            data => data.as_str().unwrap_or_default(),
        };
        let name = self.path.rsplit(['.', '[']).find(|name| !name.ends_with(']'));
        without_value(&without(message, value), name.unwrap_or_default(), value).into_owned()
    }

    pub(super) fn fault(&self, message: impl Display) {
        self.notes.fault(|| self.at(message));
    }

    /// What it lacks, unless a fault in it may be why.
    pub(super) fn lacks(&self, message: impl Display) {
        if !self.is_faulty() {
            self.fault(message);
        }
    }

    /// Whether a fault was found in it. Where not all are listed, any may be.
    pub(super) fn is_faulty(&self) -> bool {
        let here = |fault: &Fault| fault.key.starts_with(&self.path);
        self.notes.more.get() > 0 || self.notes.faults.borrow().iter().any(here)
    }

    pub(super) fn warn(&self, message: impl Display) {
        let mut warnings = self.notes.warnings.borrow_mut();
        if warnings.len() < LISTED {
            warnings.push(self.at(message));
        }
    }

    /// Whether it is a mapping in which `key` has this value.
    pub(super) fn says(&self, key: &str, value: &str) -> bool {
        let YamlData::Mapping(mapping) = &self.yaml.data else { return false };
        let is = |(k, v): (&MarkedYaml<'_>, &MarkedYaml<'_>)| {
            k.data.as_str() == Some(key) && v.data.as_str() == Some(value)
        };
        mapping.iter().any(is)
    }

    /// The entries of a mapping whose keys are all among `known`; others are faults.
    pub(super) fn map(&self, known: &'static [&'static str]) -> Map<'a> {
        let (mut entries, mut unknown_keys, mut meant) = (Vec::new(), false, Vec::new());
        if let YamlData::Mapping(mapping) = &self.yaml.data {
            for (key, value) in mapping {
                let name = key.data.as_str().unwrap_or("?");
                let path = || match (self.path.as_str(), if is_name(name) { name } else { "?" }) {
                    ("", name) => name.to_owned(),
                    (path, name) => format!("{path}.{name}"),
                };
                if known.contains(&name) {
                    let item = Item { yaml: value, path: path(), notes: self.notes };
                    entries.push((name.to_owned(), item));
                } else {
                    unknown_keys = true;
                    if self.notes.more.get() == 0 {
                        meant.extend(nearest(name, known));
                    }
                    let at = || Item { yaml: key, path: path(), notes: self.notes };
                    self.notes.fault(|| {
                        let wrong = glued(name, known).map(no_space_behind);
                        let wrong = wrong.or_else(|| colonless(name, known).map(no_colon_behind));
                        at().at(wrong.unwrap_or_else(|| unknown(name, known)))
                    });
                }
            }
        } else {
            self.fault(match self.yaml.data.as_str().and_then(|text| glued(text, known)) {
                Some(key) => no_space_behind(key),
                None => format!("expected a mapping with keys such as {}", known.join(", ")),
            });
        }
        Map { entries, unknown_keys, meant, of: self.clone() }
    }

    /// The values of a mapping, each with the line of its key; nothing, if it is none.
    pub(super) fn keyed(&self) -> Vec<(usize, Self)> {
        let YamlData::Mapping(mapping) = &self.yaml.data else { return Vec::new() };
        let entry = |(key, yaml): (&'a MarkedYaml<'a>, &'a MarkedYaml<'a>)| {
            let name = key.data.as_str()?;
            let path = match self.path.as_str() {
                "" => name.to_owned(),
                path => format!("{path}.{name}"),
            };
            Some((key.span.start.line(), Item { yaml, path, notes: self.notes }))
        };
        mapping.iter().filter_map(entry).collect()
    }

    /// Any mapping of texts, such as labels.
    pub(super) fn texts(&self) -> Vec<(String, String)> {
        let YamlData::Mapping(mapping) = &self.yaml.data else {
            self.fault("expected a mapping of strings");
            return Vec::new();
        };
        mapping
            .iter()
            .filter_map(|(key, value)| {
                let Some(name) = key.data.as_str().map(ToOwned::to_owned) else {
                    let at = Item { yaml: key, path: self.path.clone(), notes: self.notes };
                    at.fault("a key must be a string; put it in quotes");
                    return None;
                };
                let path = format!("{}.{}", self.path, without(&name, &name));
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
            self.fault("expected a string that is not empty");
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
            self.fault(format!("{text:?}: must be {}{}", one_of(&all), suggest(&text, &all)));
        }
        found
    }
}

/// A mapping whose keys are known.
pub(super) struct Map<'a> {
    entries: Vec<(String, Item<'a>)>,
    unknown_keys: bool,
    /// What unknown keys were probably to be.
    meant: Vec<&'static str>,
    pub(super) of: Item<'a>,
}

impl<'a> Map<'a> {
    pub(super) fn get(&self, key: &str) -> Option<Item<'a>> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, item)| item.clone())
    }

    /// Whether no key is there. Unknown ones are a fault already.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.unknown_keys
    }

    /// Whether an unknown key was probably to be this one.
    pub(super) fn misspells(&self, key: &str) -> bool {
        self.meant.contains(&key)
    }

    pub(super) fn require(&self, key: &str) -> Option<Item<'a>> {
        let found = self.get(key);
        // A key that is misspelt is a fault already, and so is what is not a mapping at all.
        let known = self.misspells(key) || !matches!(self.of.yaml.data, YamlData::Mapping(_));
        if found.is_none() && !known {
            self.of.fault(format!("{key} is missing"));
        }
        found
    }

    pub(super) fn list(&self, key: &str) -> Vec<Item<'a>> {
        self.get(key).map(|item| item.list()).unwrap_or_default()
    }
}

/// The key of `key:value`, which YAML takes for one word, if it is one of these.
fn glued<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    glued_key(text).filter(|key| known.contains(key))
}

/// The key of `key { other: value }`, which YAML takes for a key of several words.
fn colonless<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    let (key, _) = text.split_once(char::is_whitespace)?;
    known.contains(&key).then_some(key)
}

/// A text without what is too long of it.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE) {
        text.truncate(end);
        text.push('…');
    }
    text
}
