//! What a control plane is told of resources that are not taken.

use std::sync::Arc;

use crate::rpc::discovery::Status;

/// `INVALID_ARGUMENT`, a code of gRPC.
const INVALID_ARGUMENT: i32 = 3;
/// The longest of its parts, in characters, and how many resources it names.
const LONGEST_PART: usize = 300;
const MOST_NAMED: usize = 20;

/// A resource that is not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RejectedResource {
    /// The name of the resource, as the delta has it.
    pub name: Arc<str>,
    /// What is wrong with it.
    pub reason: String,
}

impl RejectedResource {
    /// Of the resource with this name; a reason that is longer than anybody reads is shortened.
    #[must_use]
    pub fn new(name: Arc<str>, reason: &str) -> Self {
        Self { name, reason: short(reason) }
    }
}

/// A text as far as anybody reads it.
pub(super) fn short(text: &str) -> String {
    let mut rest = text.chars();
    let mut short: String = rest.by_ref().take(LONGEST_PART).collect();
    if rest.next().is_some() {
        short.push('…');
    }
    short
}

/// `name: reason; name: reason`, and how many more there are; nothing where all are taken.
pub(super) fn error_detail(faults: &[RejectedResource]) -> Option<Status> {
    if faults.is_empty() {
        return None;
    }
    let named = faults.iter().take(MOST_NAMED).map(|f| format!("{}: {}", short(&f.name), f.reason));
    let mut message = named.collect::<Vec<_>>().join("; ");
    if let Some(more @ 1..) = faults.len().checked_sub(MOST_NAMED) {
        message = format!("{message}; and {more} more");
    }
    Some(Status { code: INVALID_ARGUMENT, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_names_resources_and_reasons_and_stays_short() {
        assert_eq!(error_detail(&[]), None);
        let two = [
            RejectedResource::new("ns/a".into(), "has no scope"),
            RejectedResource::new("ns/b".into(), "is empty"),
        ];
        let detail = error_detail(&two).unwrap();
        assert_eq!(detail.message, "ns/a: has no scope; ns/b: is empty");
        assert_eq!(detail.code, 3);
        let many = vec![RejectedResource::new("n".repeat(5000).into(), &"r".repeat(5000)); 1000];
        let detail = error_detail(&many).unwrap();
        assert!(detail.message.ends_with("; and 980 more"));
        assert!(detail.message.chars().count() < MOST_NAMED * (2 * LONGEST_PART + 6) + 20);
    }
}
