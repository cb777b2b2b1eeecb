//! The production files under `src`, and what each imports from which module.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A path that a file names, from the root of the crate.
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    /// By `pub use`: who asks this module for it is led on.
    pub(crate) passed_on: bool,
}

/// One production file.
pub(crate) struct File {
    pub(crate) path: String,
    /// `["hbone", "http2", "frame"]`; empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    /// Without lines that are comments only.
    pub(crate) text: String,
    pub(crate) lines: usize,
    pub(crate) imports: Vec<Import>,
}

impl File {
    pub(crate) fn room(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }
}

/// All of them, without tests.
pub(crate) fn files() -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("tests") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.ends_with("tests.rs")
                && !path.ends_with("build.rs")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    let modules: BTreeSet<Vec<String>> = found.iter().map(|p| module(p)).collect();
    found.iter().map(|path| read(path, &modules)).collect()
}

/// The text of each file of these endings below these folders.
pub(crate) fn texts(folders: &[&str], endings: &[&str]) -> Vec<String> {
    paths(folders, endings).iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The files of these endings among these paths and below them.
pub(crate) fn paths(of: &[&str], endings: &[&str]) -> Vec<String> {
    let mut rest: Vec<PathBuf> = of.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}

fn module(path: &Path) -> Vec<String> {
    let path = path.strip_prefix("src").unwrap().with_extension("");
    let mut names: Vec<String> = path.iter().map(|n| n.to_str().unwrap().to_owned()).collect();
    names.pop_if(|n| matches!(n.as_str(), "mod" | "lib" | "main"));
    names
}

fn read(path: &Path, modules: &BTreeSet<Vec<String>>) -> File {
    let whole = fs::read_to_string(path).unwrap();
    let lines = whole.lines().count();
    let code =
        |l: &str| if l.trim_start().starts_with("//") { String::new() } else { l.to_owned() };
    let text = whole.lines().map(code).collect::<Vec<_>>().join("\n");
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let module = module(path);
    let mut seen = Imports { within: &module, modules, found: Vec::new() };
    seen.read(production);
    let imports = seen.found;
    File { path: path.display().to_string(), module, text, lines, imports }
}

struct Imports<'a> {
    within: &'a [String],
    modules: &'a BTreeSet<Vec<String>>,
    found: Vec<Import>,
}

impl Imports<'_> {
    fn read(&mut self, text: &str) {
        let mut rest = text;
        let mut body = String::new();
        while let Some(at) = rest.find("use ") {
            let line = rest[..at].rfind('\n').map_or(0, |n| n + 1);
            let before = rest[line..at].trim();
            let (upto, after) = (&rest[..at], &rest[at + 4..]);
            body.push_str(upto);
            if before.is_empty() || before.starts_with("pub") {
                let end = after.find(';').unwrap_or(after.len());
                self.tree(&[], &after[..end], !before.is_empty());
                rest = &after[end..];
            } else {
                rest = after;
            }
        }
        body.push_str(rest);
        self.named(&body);
    }

    /// Paths in the middle of code.
    fn named(&mut self, body: &str) {
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in body.match_indices(start) {
                let before = body[..at].chars().next_back().unwrap_or(' ');
                if before.is_alphanumeric() || matches!(before, '_' | ':' | '$') {
                    continue;
                }
                let end = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':'));
                let path = body[at..].split(end).next().unwrap_or_default();
                let names: Vec<String> =
                    path.split("::").filter(|n| !n.is_empty()).map(str::to_owned).collect();
                self.add(&names, false);
            }
        }
    }

    /// From the root of the crate; nothing for a path that leads to another crate, or to an item
    /// that has been brought in already.
    fn add(&mut self, names: &[String], passed_on: bool) {
        let mut from = self.within.to_vec();
        let mut rest = names;
        match names.first().map(String::as_str) {
            Some("crate") => {
                from.clear();
                rest = &names[1..];
            }
            Some("self") => rest = &names[1..],
            Some("super") => {
                while rest.first().is_some_and(|n| n == "super") {
                    from.pop();
                    rest = &rest[1..];
                }
            }
            Some(first) => {
                from.push(first.to_owned());
                if !self.modules.contains(&from) {
                    return;
                }
                from.pop();
            }
            None => return,
        }
        from.extend_from_slice(rest);
        self.found.push(Import { path: from, passed_on });
    }

    /// One tree of a `use`: `a::{b, c::{d, e as f}}`.
    fn tree(&mut self, before: &[String], tree: &str, passed_on: bool) {
        let (head, group) = match tree.split_once('{') {
            Some((head, group)) => (head, group.rsplit_once('}').map(|(inner, _)| inner)),
            None => (tree.split(" as ").next().unwrap_or_default(), None),
        };
        let mut names = before.to_vec();
        let parts = head.split("::").map(str::trim).filter(|n| !n.is_empty() && *n != "*");
        names.extend(parts.filter(|n| *n != "self" || before.is_empty()).map(str::to_owned));
        let Some(group) = group else { return self.add(&names, passed_on) };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices().chain([(group.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    let one = &group[start..at];
                    if !one.trim().is_empty() {
                        self.tree(&names, one, passed_on);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
}
