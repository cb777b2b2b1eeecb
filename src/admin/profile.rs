//! `/debug/pprof`: a profile of CPU time, while somebody waits for it.

use std::{ops::RangeInclusive, time::Duration};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use futures_util::stream::once;

use crate::{
    http::{Answer, query, stream, text},
    lifecycle::blocking,
    observe::cpu_profile::CpuProfile,
};

const SECONDS: RangeInclusive<u32> = 1..=300;
const FREQUENCY: RangeInclusive<u32> = 1..=1000;

/// Samples for `?seconds=` at `?frequency=` a second. One at a time.
pub(super) fn cpu(request: &Request<Bytes>) -> Answer {
    let asked = number(request, "seconds", 10, SECONDS);
    let (seconds, frequency) = match (asked, number(request, "frequency", 100, FREQUENCY)) {
        (Ok(seconds), Ok(frequency)) => (seconds, frequency),
        (Err(why), _) | (_, Err(why)) => return text(StatusCode::BAD_REQUEST, why),
    };
    let profile = match CpuProfile::start(frequency) {
        Ok(profile) => profile,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    };
    let taken = once(async move {
        tokio::time::sleep(Duration::from_secs(u64::from(seconds))).await;
        match blocking(move || profile.finish()).await {
            Ok(Ok(profile)) => Bytes::from(profile),
            Ok(Err(error)) => {
                tracing::warn!(%error, "CPU profile failed");
                Bytes::new()
            }
            Err(_) => Bytes::new(),
        }
    });
    stream("application/octet-stream", taken, "")
}

/// There is none: the allocator keeps no profile.
pub(super) fn heap() -> Answer {
    let why = "no heap profile: the memory allocator of this build does not record one\n";
    text(StatusCode::INTERNAL_SERVER_ERROR, why)
}

fn number(
    request: &Request<Bytes>,
    key: &str,
    default: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, String> {
    let Some(given) = query(request, key) else { return Ok(default) };
    let number = given.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("{key} must be {} to {}\n", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_refused() {
        for (query, says) in [
            ("seconds=0", "seconds must be 1 to 300\n"),
            ("seconds=301", "seconds must be 1 to 300\n"),
            ("seconds=ten", "seconds must be 1 to 300\n"),
            ("seconds=1&frequency=1001", "frequency must be 1 to 1000\n"),
        ] {
            let request = Request::builder().uri(format!("/debug/pprof/profile?{query}"));
            let request = request.body(Bytes::new()).unwrap();
            assert_eq!(cpu(&request).status(), StatusCode::BAD_REQUEST, "{query}");
            let told = [("seconds", SECONDS), ("frequency", FREQUENCY)]
                .into_iter()
                .find_map(|(key, range)| number(&request, key, 1, range).err());
            assert_eq!(told.as_deref(), Some(says), "{query}");
        }
        assert_eq!(heap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
