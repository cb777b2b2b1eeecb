//! What may be a secret in what somebody typed: the user and password of a URL, and the values of
//! keys that are called so.

use std::borrow::Cow;

/// What stands in place of what is not shown.
const BLANK: &str = "…";
/// What stands in place of a value.
const NOT_SHOWN: &str = "(the value, which is not shown)";
/// The shortest run of letters and digits that may be a secret, bytes.
const SHORTEST_RUN: usize = 16;
/// Changes from lower to upper case in such a run that names do not have.
const CHANGES_OF_CASE: usize = 4;

/// A value without the user and password in it: `http://USER:PASSWORD@HOST`, or without the
/// scheme, which somebody may have forgotten; `None` if there are none.
#[must_use]
pub fn without_user(value: &str) -> Option<String> {
    let (before, host) = value.rsplit_once('@')?;
    let kept = match before.split_once("://") {
        Some((scheme, user)) if !user.is_empty() && !user.starts_with('/') => {
            Some(scheme.len() + "://".len())
        }
        Some(_) => None,
        None => {
            let (_, password) = before.split_once(':')?;
            let quotes = before.len() - before.trim_start_matches(['"', '\'', '`', '(']).len();
            (!password.is_empty() && !password.starts_with('/')).then_some(quotes)
        }
    };
    Some(format!("{}{BLANK}@{host}", &value[..kept?]))
}

/// A message without the users and passwords of URLs that are quoted in it.
#[must_use]
pub fn without_users(message: &str) -> Cow<'_, str> {
    if !message.contains('@') {
        return message.into();
    }
    let words = message.split_inclusive(char::is_whitespace);
    words.map(|word| without_user(word).unwrap_or_else(|| word.to_owned())).collect()
}

/// A message about the value of `key`, without it where it may be a secret: a path is none.
#[must_use]
pub fn without_value<'a>(message: &'a str, key: &str, value: &str) -> Cow<'a, str> {
    if value.is_empty() || !is_secret(key) || is_path(value) {
        return message.into();
    }
    let message = message.replace(&format!("{value:?}"), NOT_SHOWN);
    let (mut told, mut rest) = (String::new(), &*message);
    while let Some(at) = rest.find(value) {
        let (before, after) = (&rest[..at], &rest[at + value.len()..]);
        let is_part = before.ends_with(char::is_alphanumeric)
            || (before.is_empty() && told.ends_with(char::is_alphanumeric))
            || after.starts_with(char::is_alphanumeric);
        told += before;
        told += if is_part { value } else { NOT_SHOWN };
        rest = after;
    }
    (told + rest).into()
}

/// Whether the value of a key may be shown beside what is said about it.
#[must_use]
pub fn may_be_shown(key: &str, value: &str) -> bool {
    let is_named = is_secret(key) || key.to_ascii_lowercase().ends_with("key");
    (!is_named || is_path(value)) && !has_long_run(value) && without_user(value).is_none()
}

/// Whether a key is called like one of a secret. Pins are public.
fn is_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let has = |part: &&str| lower.contains(*part);
    lower == "pin"
        || key.starts_with("pin") && key[3..].starts_with(|c: char| !c.is_ascii_lowercase())
        || key.ends_with("Pin")
        || ["pass", "secret", "token", "hmac", "pwd"].iter().any(has)
}

pub(super) fn is_path(value: &str) -> bool {
    ["/", "./", "../"].iter().any(|begin| value.starts_with(begin)) && !has_long_run(value)
}

/// Whether there is a run of base64 or hexadecimal that no name would be.
#[must_use]
pub fn has_long_run(text: &str) -> bool {
    let is_of_run = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '=');
    text.split(|c| !is_of_run(c)).filter(|run| run.len() >= SHORTEST_RUN).any(|run| {
        let changes = run.as_bytes().windows(2);
        let changes = changes.filter(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase());
        run.bytes().any(|c| c.is_ascii_digit()) || changes.count() >= CHANGES_OF_CASE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_of_urls_are_not_told() {
        for (value, without) in [
            ("https://bob:S3cretPw@proxy:3128", Some("https://…@proxy:3128")),
            ("https://token@proxy", Some("https://…@proxy")),
            ("http://bob:S3/cr@et Pw@proxy", Some("http://…@proxy")),
            ("bob:S3cretPw@proxy:3128", Some("…@proxy:3128")),
            ("https://proxy:3128", None),
            ("unix:@adit", None),
            ("unix:///run/user@1000/adit.sock", None),
            ("unix:/run/user@1000/adit.sock", None),
            ("me@example.org", None),
        ] {
            assert_eq!(without_user(value).as_deref(), without, "{value}");
        }
        let message = "\"http://a:b@h/x\": no; 'socks5://c:d@h' and x@y, see https://h/@z";
        let told = without_users(message);
        assert_eq!(told, "\"http://…@h/x\": no; 'socks5://…@h' and x@y, see https://…@z");
        assert_eq!(without_users("\"bob:pw@h\": no"), "\"…@h\": no");
        assert_eq!(without_users("  two\n lines "), "  two\n lines ");
    }

    #[test]
    fn values_of_keys_that_are_called_so_are_not_told() {
        for (key, message, value) in [
            ("passwordFile", "hunter2: No such file", "hunter2"),
            ("pinFile", "12: No such file", "12"),
            ("pin", "\"a\\\"b\": no", "a\"b"),
            ("hmacKey", "\"x\": no", "x"),
            ("token", "/aGVsbG8gd29ybGQ1234: no", "/aGVsbG8gd29ybGQ1234"),
        ] {
            let told = without_value(message, key, value);
            assert!(told.starts_with(NOT_SHOWN) && !told.contains(value), "{told}");
            assert!(!may_be_shown(key, value), "{key}");
        }
        for (key, value) in [
            ("passwordFile", "/etc/pw"),
            ("pins", "sha256:x"),
            ("listen", "x:y"),
            ("dnsNames", "a"),
        ] {
            let message = format!("{value:?}: no");
            assert_eq!(without_value(&message, key, value), message);
            assert!(may_be_shown(key, value), "{key}");
        }
        assert_eq!(
            without_value("a: a path", "pin", "a"),
            format!("{NOT_SHOWN}: {NOT_SHOWN} path")
        );
        assert_eq!(without_value("1: 12 of 21", "pin", "1"), format!("{NOT_SHOWN}: 12 of 21"));
        assert!(!may_be_shown("privateKey", "abc") && may_be_shown("privateKey", "/a.key"));
        for run in ["0123456789abcdef", "aGVsbG8gd29ybGQhIQ==", "1234567890123456"] {
            assert!(!may_be_shown("listen", run), "{run}");
        }
        assert!(!has_long_run(
            "AuthorizationPolicy organizationalUnits spiffe://td/ns/shop/sa/web"
        ));
    }
}
