//! Endpoints that a section of the mesh file names, or else the environment.

use super::reader::Map;

/// An endpoint that the file names under `key`, or else the environment.
pub(super) fn endpoint<T>(section: &Map<'_>, key: &str, variable: &str, example: &str) -> Option<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match (section.get(key), std::env::var(variable)) {
        (Some(socket), _) => socket.parse(example),
        (None, Ok(text)) => {
            text.parse().inspect_err(|e| section.of.fault(format!("{variable}: {e}"))).ok()
        }
        (None, Err(_)) => {
            let how = format!("{key} is missing, and {variable} is not set");
            section.of.fault(format!("{how}; for example {key}: {example}"));
            None
        }
    }
}
