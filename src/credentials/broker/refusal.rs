//! What a failed call means for a pod (Broker Endpoint §6, Broker API §4.8).

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::credentials::{
    grpc_status::said, svid_cache::Meaning, workload_api::client::ClientError,
};

/// What to think of it.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Judged {
    /// For a pod that has an SVID.
    pub(super) meaning: Meaning,
    pub(super) why: String,
    /// Asking again soon cannot help.
    pub(super) hopeless: bool,
    /// adit's own SVID is not taken: it needs a new one.
    pub(super) refresh: bool,
}

impl Judged {
    /// For a pod that never had an SVID: there is nothing to withdraw.
    pub(super) fn first(&self) -> Meaning {
        match self.meaning {
            Meaning::Withdrawn => Meaning::Refused,
            other => other,
        }
    }
}

pub(super) fn judge(error: &ClientError) -> Judged {
    let later = |why| Judged { meaning: Meaning::Later, why, hopeless: false, refresh: false };
    match error {
        ClientError::Status(status) => judge_status(status, later),
        ClientError::Unusable(_) => {
            Judged { meaning: Meaning::Unusable, ..later(error.to_string()) }
        }
        ClientError::Ended | ClientError::Slow(_) => later(error.to_string()),
    }
}

fn judge_status(status: &Status, later: impl Fn(String) -> Judged) -> Judged {
    // The code decides; the reason, if there is one, tells it apart from the endpoint's own.
    let info = status.get_details_error_info().filter(|info| info.domain == "spiffe.io");
    let reason = info.map(|info| info.reason.chars().take(100).collect::<String>());
    let code = match reason.as_deref() {
        Some("WORKLOAD_NOT_FOUND") => Code::NotFound,
        Some("WORKLOAD_NOT_ENTITLED") => Code::PermissionDenied,
        Some("WORKLOAD_REFERENCE_INVALID") => Code::InvalidArgument,
        _ => status.code(),
    };
    let named = reason.as_deref().map_or(String::new(), |reason| format!(" ({reason})"));
    let text = format!("{:?}{named}: {}", status.code(), said(status));
    let with = |meaning, hopeless, hint: &str| Judged {
        meaning,
        hopeless,
        ..later(format!("{text}{hint}"))
    };
    match code {
        Code::NotFound => with(Meaning::Withdrawn, false, "; it knows no such pod"),
        Code::PermissionDenied if reason.is_some() => {
            with(Meaning::Withdrawn, false, "; the pod is not registered with it")
        }
        Code::PermissionDenied => {
            let hint = "; either the pod is not registered with it, or adit is not allowed to act as a \
                 broker";
            with(Meaning::Withdrawn, false, hint)
        }
        Code::InvalidArgument | Code::Unimplemented => with(Meaning::Refused, true, ""),
        Code::Unauthenticated => Judged {
            refresh: true,
            ..with(Meaning::Later, false, "; fetching adit's own SVID again")
        },
        _ => later(text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn codes_and_reasons() {
        use Meaning::{Later, Refused, Withdrawn};
        for (code, reason, meaning, first, hopeless) in [
            (Code::PermissionDenied, Some("WORKLOAD_NOT_ENTITLED"), Withdrawn, Refused, false),
            (Code::PermissionDenied, None, Withdrawn, Refused, false),
            (Code::NotFound, Some("WORKLOAD_NOT_FOUND"), Withdrawn, Refused, false),
            (Code::NotFound, None, Withdrawn, Refused, false),
            (Code::InvalidArgument, Some("WORKLOAD_REFERENCE_INVALID"), Refused, Refused, true),
            (Code::InvalidArgument, None, Refused, Refused, true),
            (Code::Unknown, Some("WORKLOAD_NOT_FOUND"), Withdrawn, Refused, false),
            (Code::Unavailable, None, Later, Later, false),
            (Code::Internal, None, Later, Later, false),
        ] {
            let status = match reason {
                Some(reason) => {
                    let details =
                        ErrorDetails::with_error_info(reason, "spiffe.io", HashMap::new());
                    Status::with_error_details(code, "no", details)
                }
                None => Status::new(code, "no"),
            };
            let judged = judge(&status.into());
            let what = (judged.meaning, judged.first(), judged.hopeless);
            assert_eq!(what, (meaning, first, hopeless), "{code:?} {reason:?}");
            assert!(reason.is_none_or(|reason| judged.why.contains(reason)), "{}", judged.why);
        }
        // Somebody else's reasons are not ours.
        let details = ErrorDetails::with_error_info("WORKLOAD_NOT_FOUND", "other", HashMap::new());
        let status = Status::with_error_details(Code::Unavailable, "no", details);
        assert_eq!(judge(&status.into()).meaning, Later);
        assert!(judge(&Status::unauthenticated("no").into()).refresh);
    }
}
