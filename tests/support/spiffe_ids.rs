//! SPIFFE-ID §2: the corpus of what is an ID and what is not, as bytes, for whoever parses them.

/// `(text, whether it is an ID)`.
const IDS: &[(&str, bool)] = &[
    ("spiffe://td", true),
    ("spiffe://td/a/b", true),
    ("spiffe://1.2.3.4/x", true),
    ("spiffe://a_b.c-d/x", true),
    ("spiffe://td/...", true),
    ("spiffe://td/.a", true),
    ("spiffe://td/..a", true),
    ("spiffe://td/A-Z_0.9", true),
    ("", false),
    ("spiffe:/td", false),
    ("Spiffe://td", false),
    ("SPIFFE://td/x", false),
    ("http://td/x", false),
    ("spiffe://", false),
    ("spiffe:///x", false),
    ("spiffe://td/", false),
    ("spiffe://td//x", false),
    ("spiffe://td/x/", false),
    ("spiffe://td/.", false),
    ("spiffe://td/..", false),
    ("spiffe://td/a/./b", false),
    ("spiffe://td/a/../b", false),
    ("spiffe://TD/x", false),
    ("spiffe://td:80/x", false),
    ("spiffe://u@td/x", false),
    ("spiffe://td/x?q", false),
    ("spiffe://td?q", false),
    ("spiffe://td/x#f", false),
    ("spiffe://td#f", false),
    ("spiffe://td/%41", false),
    ("spiffe://t%41d/x", false),
    ("spiffe://[::1]/x", false),
    (" spiffe://td/x", false),
    ("spiffe://td/x ", false),
];

/// The trust domains of the IDs that are some, but for those of [`every_byte`].
pub(crate) fn trust_domains() -> Vec<String> {
    ["td", "1.2.3.4", "a_b.c-d"].map(str::to_owned).into_iter().chain(["d".repeat(255)]).collect()
}

/// The corpus, the longest ones that fit and the shortest that do not included.
pub(crate) fn ids() -> Vec<(Vec<u8>, bool)> {
    let long = |len: usize| format!("spiffe://td/{}", "a".repeat(len - "spiffe://td/".len()));
    let domain = |len: usize| format!("spiffe://{}/x", "d".repeat(len));
    let made = [(long(2048), true), (long(2049), false), (domain(255), true), (domain(256), false)];
    let written = IDS.iter().map(|(text, valid)| ((*text).to_owned(), *valid));
    written.chain(made).map(|(text, valid)| (text.into_bytes(), valid)).collect()
}

/// Each byte that is in neither set, once in a path and once in a trust domain. Upper case is
/// wrong in the second only; a slash ends one.
pub(crate) fn every_bad_byte() -> Vec<Vec<u8>> {
    let in_path = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/');
    let around = |before: &str, byte: u8, after: &str| {
        [before.as_bytes(), &[byte], after.as_bytes()].concat()
    };
    let paths = (0..=255).filter(|b| !in_path(*b)).map(|b| around("spiffe://td/a", b, "b"));
    let domains = (0..=255).filter(|b| !in_path(*b) || b.is_ascii_uppercase());
    paths.chain(domains.map(|b| around("spiffe://a", b, "b/x"))).collect()
}
