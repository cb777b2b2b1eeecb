//! PEM as it is written.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// One object in PEM (RFC 7468 §2). Of a key use something that wipes what it made.
#[must_use]
pub fn armour(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(der).as_bytes().chunks(64) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
