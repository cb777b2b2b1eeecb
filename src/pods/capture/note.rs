//! The options that rules were applied with, noted in a comment of one of them: what stands does not
//! say whether anything that is not there was ever asked for.

use serde::Serialize;

use super::Options;
use crate::mesh::NonTcp;

const BEGIN: &str = "adit applied: ";
const PROBES: &str = "kubelet probes";
const NON_TCP: &str = "non-tcp ";

/// The note of `options`: nft takes 128 bytes of a comment.
pub(super) fn of(options: Options) -> String {
    let probes = if options.kubelet_probes { format!(", {PROBES}") } else { String::new() };
    format!("{BEGIN}{}{probes}, {NON_TCP}{}", mtls(options), options.non_tcp.as_str())
}

fn mtls(options: Options) -> &'static str {
    if options.strict { "strict" } else { "permissive" }
}

/// The options that a listing notes; none if an earlier version of adit applied the rules, or the
/// rule with the note was removed or changed.
pub(super) fn read(listed: &str) -> Option<Options> {
    let (_, note) = listed.split_once(&format!("comment \"{BEGIN}"))?;
    let (note, _) = note.split_once('"')?;
    let mut words = note.split(", ");
    let strict = match words.next()? {
        "strict" => true,
        "permissive" => false,
        _ => return None,
    };
    let mut options = Options { strict, kubelet_probes: false, non_tcp: NonTcp::Pass };
    for word in words {
        match word.strip_prefix(NON_TCP) {
            Some(verdict) => options.non_tcp = verdict.parse().ok()?,
            None if word == PROBES => options.kubelet_probes = true,
            None => return None,
        }
    }
    Some(options)
}

/// What adit was asked for when it applied the rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// `strict` or `permissive`.
    pub mtls: &'static str,
    /// The kubelet's probes are to pass.
    pub kubelet_probes: bool,
    /// What is to be done with traffic that is not TCP: `pass`, `count` or `drop`.
    pub non_tcp: &'static str,
}

impl From<Options> for Asked {
    fn from(options: Options) -> Self {
        Self {
            mtls: mtls(options),
            kubelet_probes: options.kubelet_probes,
            non_tcp: options.non_tcp.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::capture::rules;

    #[test]
    fn the_options_are_read_from_the_rules() {
        for strict in [true, false] {
            for kubelet_probes in [true, false] {
                for non_tcp in [NonTcp::Pass, NonTcp::Count, NonTcp::Drop] {
                    let options = Options { strict, kubelet_probes, non_tcp };
                    let applied = rules::ruleset(options);
                    assert_eq!(read(&applied), Some(options));
                    assert!(of(options).len() <= 128);
                    for changed in [
                        applied.replace(NON_TCP, "else "),
                        applied.replace(NON_TCP, "non-tcp else"),
                        applied.replace(&format!("{BEGIN}{}", mtls(options)), BEGIN),
                    ] {
                        assert_eq!(read(&changed), None, "{changed}");
                    }
                }
            }
        }
        assert_eq!(read("table inet adit-nat {\n}\n"), None);
    }
}
