//! Values that several sections write alike.

use std::time::Duration;

use crate::config::reader::Item;

pub(super) const TRUTH: [(&str, bool); 2] = [("true", true), ("false", false)];

pub(super) fn number(item: &Item<'_>, most: usize) -> Option<usize> {
    let number: usize = item.parse("4")?;
    if !(1..=most).contains(&number) {
        item.fault(format!("must be 1 to {most}"));
        return None;
    }
    Some(number)
}

/// `0` is none at all.
pub(super) fn duration(item: &Item<'_>) -> Option<Duration> {
    match item.text()?.as_str() {
        "0" => Some(Duration::ZERO),
        _ => item.duration(),
    }
}
