//! `sslVersion`, `sslVersionMin`, `sslVersionMax` and what `options` says of versions, as one.

use super::{
    support::switch,
    text::{ConfLine, Section},
    warning::Warning,
};

const TLS12_ALONE: &str = "tls: { maxVersion: TLS1.2 }";
const TLS13_ALONE: &str = "tls: { minVersion: TLS1.3 }";
const NEVER_LESS: &str = "adit speaks TLS 1.2 and 1.3, never less";

/// The order of versions; those below 1.2 are one.
fn place(version: &str) -> Option<u8> {
    match version {
        "tlsv1.3" => Some(3),
        "tlsv1.2" => Some(2),
        "sslv2" | "sslv3" | "tlsv1" | "tlsv1.1" => Some(1),
        _ => None,
    }
}

/// The line for the service, if one is needed, and what is to be said.
pub(super) fn versions(section: &Section) -> (Option<&'static str>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let (mut least, mut most) = (0, u8::MAX);
    // The lines that leave 1.2 or 1.3 out: of bounds the last counts, `options` add up.
    let mut leaving_out: Vec<&ConfLine> = Vec::new();
    for line in &section.options {
        let (min, max) = (line.is("sslVersionMin"), line.is("sslVersionMax"));
        if !(min || max || line.is("sslVersion")) {
            continue;
        }
        let value = line.value.to_ascii_lowercase();
        let version = place(&value);
        if version.is_none() && !matches!(value.as_str(), "all" | "") {
            warnings.push(line.warning(true, "is not a version of TLS"));
            continue;
        }
        if !max {
            least = version.unwrap_or(0);
        }
        if !min {
            most = version.unwrap_or(u8::MAX);
        }
        let bounds = |v: &u8| version.is_some_and(|it| (!max && *v < it) || (!min && *v > it));
        leaving_out.extend([2, 3].iter().any(bounds).then_some(line));
        if version == Some(1) && !max {
            warnings.push(line.warning(false, NEVER_LESS));
        }
    }
    let mut off = [false; 4];
    for back in [false, true] {
        for line in section.all("options") {
            if let Some((version, taken_back)) = switch(&line.value)
                && taken_back == back
            {
                off[usize::from(version)] = !back;
                leaving_out.extend((!back).then_some(line));
            }
        }
    }
    let takes = |version: u8| (least..=most).contains(&version) && !off[usize::from(version)];
    match (takes(2), takes(3)) {
        (true, true) => return (None, warnings),
        (true, false) => return (Some(TLS12_ALONE), warnings),
        (false, true) => return (Some(TLS13_ALONE), warnings),
        (false, false) => {}
    }
    for line in leaving_out {
        let remark = line.warning(true, NEVER_LESS);
        if !warnings.contains(&remark) {
            warnings.push(remark);
        }
    }
    (None, warnings)
}
