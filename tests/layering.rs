//! Imports point down, files stay small, `unsafe` stays in its room.

#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree must fail")]

use std::{fs, path::Path};

/// Lowest first; a room imports only from those before it.
const LAYERS: &[&str] = &[
    "sys",
    "lifecycle",
    "identity",
    "observe",
    "rpc",
    "tls",
    "ca",
    "policy",
    "mesh",
    "relay",
    "tunnel",
    "node",
    "standalone",
    "config",
    "admin",
    "app",
    "cli",
];

/// `(room, file, text without comments)` of every production file.
fn sources() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new("src").to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let room = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
                let room = room.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
                let code = code.collect::<Vec<_>>().join("\n");
                found.push((room, path.display().to_string(), code));
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let rank = |room: &str| LAYERS.iter().position(|l| *l == room);
    for (room, file, text) in sources() {
        let Some(own) = rank(&room) else { continue }; // lib.rs, main.rs
        let text = text.replace("use crate::{\n", "use crate::{ ");
        for used in text.split("crate::").skip(1) {
            let names: Vec<String> = match used.strip_prefix('{') {
                Some(group) => group_heads(group),
                None => vec![word(used)],
            };
            for used in names.iter().filter(|u| **u != room) {
                let below = rank(used).is_some_and(|r| r < own);
                assert!(below, "{file}: `{room}` must not import `{used}`");
            }
        }
    }
}

fn word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of every item of `a::b, c::{d, e}}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(word(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(word(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.retain(|h| !h.is_empty());
    heads
}

#[test]
fn files_are_short() {
    for (_, file, _) in sources() {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{file} has {lines} lines: two rooms became one");
    }
}

#[test]
fn unsafe_stays_in_sys() {
    for (room, file, text) in sources() {
        assert!(room == "sys" || !text.contains("unsafe {"), "{file} has unsafe code");
    }
}
