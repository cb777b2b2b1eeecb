//! Paths and texts as they may be printed: where somebody gave a key itself for the path of its
//! file (`--key "$(cat key.pem)"`, `privateKey: |`), not a byte of it.

use std::{borrow::Cow, path::Path};

use super::secrets::{is_path, without_user, without_users};

/// The longest path that Linux takes, and the longest name in one, bytes.
const LONGEST: (usize, usize) = (4096, 255);
/// What every item of PEM begins with.
const BEGIN: &str = "-----BEGIN";
/// And what its last line begins with.
const END: &str = "-----END";
/// The shortest base64 that may be a key, and the shortest part of one between its slashes.
const SHORTEST_KEY: usize = 40;
const SHORTEST_LINE: usize = 32;

/// A path as it is printed.
#[must_use]
pub fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    let text = path.to_string_lossy();
    let long = bytes > LONGEST.0 || text.split('/').any(|name| name.len() > LONGEST.1);
    let hides = is_key(&text) || text.split('/').any(is_line_of_key);
    match long || hides {
        true => {
            format!("a path that is the text of a key ({bytes} bytes), not the path of a file")
        }
        false => text.into_owned(),
    }
}

/// Paths as they are printed, with commas between them.
#[must_use]
pub fn shown_all(paths: &[std::path::PathBuf]) -> String {
    paths.iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ")
}

/// A file of a secret as messages name it: its path, unless somebody may have put the secret where
/// its path belongs; then the `key` that names it.
#[must_use]
pub fn secret_file(key: &str, path: &Path) -> String {
    match is_path(&path.to_string_lossy()) {
        true => shown(path),
        false => format!("the file that {key} names"),
    }
}

/// What is to be done about the `key` of a secret's file that cannot be read, if the secret itself
/// was probably written there.
#[must_use]
pub fn secret_advice(key: &str, path: &Path) -> String {
    let what = if key.contains("pin") { "PIN" } else { "password" };
    match is_path(&path.to_string_lossy()) {
        true => String::new(),
        false => format!("; {key} takes a path: write the {what} into a file and name that"),
    }
}

/// Whether a text that stands where something short belongs may be a key: PEM, or DER in base64.
fn is_key(text: &str) -> bool {
    let base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/' | b'=');
    // The first bytes of a sequence of ASN.1.
    let der = text.starts_with('M') && text.len() >= SHORTEST_KEY && text.bytes().all(base64);
    text.contains(['\n', '\r']) || text.contains(BEGIN) || der
}

/// Whether a name in a path may be a line of a key: base64, which mixes what names seldom mix.
/// Hashes, in hexadecimal or base32, do not.
fn is_line_of_key(name: &str) -> bool {
    let base64 = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'=');
    let has = |of: fn(&u8) -> bool| name.bytes().any(|c| of(&c));
    name.len() >= SHORTEST_LINE
        && name.bytes().all(base64)
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
}

/// A message in which nothing that somebody typed may be a line of a key.
#[must_use]
pub fn without_lines_of_keys(message: &str) -> String {
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let (mut told, mut rest) = (String::new(), message);
    while let Some(start) = rest.find(base64) {
        let length = rest[start..].find(|c| !base64(c)).unwrap_or(rest.len() - start);
        let (word, after) = rest[start..].split_at(length);
        told.push_str(&rest[..start]);
        match word.split('/').any(is_line_of_key) {
            true => told.push_str(&format!("(the text of a key, {length} bytes)")),
            false => told.push_str(word),
        }
        rest = after;
    }
    told + rest
}

/// A message without the keys that are quoted in it, as they are or escaped, and without the users
/// and passwords of URLs.
#[must_use]
pub fn without_keys(message: &str) -> Cow<'_, str> {
    match without_pem(message) {
        Cow::Borrowed(message) => without_users(message),
        Cow::Owned(message) => without_users(&message).into_owned().into(),
    }
}

fn without_pem(message: &str) -> Cow<'_, str> {
    let Some(start) = message.find(BEGIN) else { return message.into() };
    let end = message.rfind(END).filter(|end| *end > start).map(|end| end + END.len());
    // The rest of the last line: ` PRIVATE KEY-----`.
    let end = end.and_then(|end| Some(end + message[end..].find("-----")? + 5));
    let end = end.unwrap_or(message.len());
    let (before, after) = (&message[..start], &message[end..]);
    format!("{before}(the text of a key, {} bytes){after}", end - start).into()
}

/// A message about `value`, without it where it may be a key, and without the user and password in
/// it.
#[must_use]
pub fn without<'a>(message: &'a str, value: &str) -> Cow<'a, str> {
    if let Some(told) = without_user(value).filter(|_| !is_key(value)) {
        let quoted = message.replace(&format!("{value:?}"), &format!("{told:?}"));
        return without_keys(&quoted.replace(value, &told)).into_owned().into();
    }
    if !is_key(value) || value.trim().is_empty() {
        return without_keys(message);
    }
    let instead = format!("(the text of a key, {} bytes)", value.len());
    let plain = message.replace(&format!("{value:?}"), &instead).replace(value, &instead);
    without_keys(&plain).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHsecrethsecret\n\
                       -----END PRIVATE KEY-----";

    #[test]
    fn the_text_of_a_key_is_no_path_that_is_shown() {
        let one_line = KEY.replace('\n', " ");
        let der = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghsecret";
        let (long, deep) = ("hsecret".repeat(40), "hsecret/".repeat(600));
        for text in [KEY, &KEY[28..], &one_line, der, &long, &deep] {
            let told = shown(Path::new(text));
            let said = format!("a path that is the text of a key ({} bytes)", text.len());
            assert!(told.contains(&said) && !told.contains("hsecret"), "{told}");
        }
        let under = Path::new(KEY).join("tls.key");
        assert!(!shown(&under).contains("hsecret"));
        let line = "AwEHoUQDQgAEjhJDsecrethsecretQ29tcGxldGVseQ";
        for of in [line.to_owned(), format!("/etc/{line}"), format!("keys/{line}")] {
            assert!(!shown(Path::new(&of)).contains("hsecret"), "{of}");
            let told = without_lines_of_keys(&format!("unexpected argument '{of}' found"));
            assert!(told.ends_with(" bytes)' found") && !told.contains("hsecret"), "{told}");
        }
        let hash = "3b1f2c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f809";
        assert_eq!(shown(&Path::new("/var/lib").join(hash)), format!("/var/lib/{hash}"));
        let usage =
            "error: unexpected argument '--certt' found\n\nUsage: adit server --target <ADDR>";
        assert_eq!(without_lines_of_keys(usage), usage);
        for path in ["/etc/adit/key.pem", "Mail/keys/server.pem", "MIGHTY", "a b.pem", ""] {
            assert_eq!(shown(Path::new(path)), path);
        }
    }

    #[test]
    fn a_password_in_place_of_the_path_of_its_file_is_not_told() {
        for secret in ["hunter2", "1234", "adit-join.c2VjcmV0", "/aGVsbG8gd29ybGQ1234"] {
            let told = secret_file("`pinFile`", Path::new(secret));
            assert_eq!(told, "the file that `pinFile` names", "{secret}");
        }
        for path in ["/etc/pw", "./pw", "../pw"] {
            assert_eq!(secret_file("`pinFile`", Path::new(path)), path);
        }
    }

    #[test]
    fn messages_lose_the_keys_that_they_quote() {
        let quoted = format!("{KEY:?}: is no address; for example a:1");
        for message in [quoted, format!("{KEY}: is no address; for example a:1")] {
            let told = without_keys(&message);
            assert!(told.contains("is no address; for example a:1"), "{told}");
            assert!(!told.contains("hsecret"), "{told}");
        }
        let cut = format!("no name: {}", &KEY[..50]);
        assert!(without_keys(&cut).ends_with("(the text of a key, 50 bytes)"));
        let lines = "line of hsecret\nline of hsecret";
        let told = without(&format!("{lines:?}: no"), lines).into_owned();
        assert_eq!(told, "(the text of a key, 31 bytes): no");
        assert_eq!(without("\"a\": no", "a"), "\"a\": no");
        let (url, message) = ("http://b:p w\"@h", "\"http://b:p w\\\"@h\": no");
        assert_eq!(without(message, url), "\"http://…@h\": no");
    }
}
