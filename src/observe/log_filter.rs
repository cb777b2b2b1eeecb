//! Filters of log lines as people write them: `RUST_LOG`'s language, and the words and colons that
//! operators of Istio know (`access:debug`, `warning`).

use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, ParseError},
};

/// What our lines are of, beside modules (`adit::…`).
const TARGETS: [&str; 6] = ["access", "ca", "federation", "svid", "tunnel", "workload_api"];

/// A filter. A word alone that is not a valid level would be taken for a part of the program, and
/// everything else would be silent.
pub(super) fn parsed(filter: &str) -> Result<EnvFilter, String> {
    let filter = translated(filter);
    for word in filter.split(',').map(str::trim) {
        let ours = word == "adit" || word.starts_with("adit::") || TARGETS.contains(&word);
        let alone = !word.is_empty() && !word.contains(['=', '[', ']', '{', '}']);
        if alone && !ours && word.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "{word:?} is not a valid level (off, error, warn, info, debug, trace); for one \
                 part of the program write PART=LEVEL, such as svid=debug"
            ));
        }
    }
    let filter = if filter.trim().is_empty() { "info" } else { &filter };
    filter.parse().map_err(|e: ParseError| e.to_string())
}

/// `PART:LEVEL` as `PART=LEVEL`, and other names of levels as those that are known.
fn translated(filter: &str) -> String {
    // Of spans and their fields nothing but RUST_LOG's language speaks.
    if filter.contains(['[', '{']) {
        return filter.to_owned();
    }
    let level = |word: &str| match word.trim() {
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        level => level.to_owned(),
    };
    let part = |word: &str| {
        let colon = word.rsplit_once(':').filter(|(part, _)| !part.ends_with(':'));
        match word.split_once('=').or(colon) {
            Some((part, word)) => format!("{}={}", part.trim(), level(word)),
            None => level(word),
        }
    };
    filter.split(',').map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_silences_nothing() {
        for right in [
            "info",
            "WARN",
            "off",
            "3",
            "",
            "adit",
            "adit::node",
            "svid",
            "svid=debug,info",
            "info,access=off",
            "h2=trace",
            "info,[conn{id=1}]=debug",
        ] {
            assert!(parsed(right).is_ok(), "{right}: {:?}", parsed(right).err());
        }
        for (wrong, says) in [
            ("inof", "\"inof\" is not a valid level (off, error,"),
            ("svid=debug,wran", "\"wran\" is not a valid level"),
            ("adit=inof", "expected one of"),
            ("access:inof", "expected one of"),
        ] {
            let error = parsed(wrong).err().unwrap_or_default();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert_eq!(parsed("").unwrap().to_string(), "info");
    }

    #[test]
    fn what_operators_of_istio_write_is_understood() {
        for (written, read) in [
            ("access:debug,info", "access=debug,info"),
            ("ztunnel::xds:debug", "ztunnel::xds=debug"),
            ("adit::node", "adit::node"),
            ("warning", "warn"),
            ("critical", "error"),
            ("off", "off"),
            ("access=warning, svid: critical", "access=warn,svid=error"),
        ] {
            assert_eq!(translated(written), read, "{written}");
        }
    }
}
