//! In which form a scraper gets the metrics.

use std::time::Instant;

use ::http::{HeaderMap, header};
use bytes::Bytes;

/// How the metrics are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Form {
    /// As `OpenMetrics`, else in the text format 0.0.4.
    pub(super) open_metrics: bool,
    pub(super) gzip: bool,
}

impl Form {
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let lists = |name, what: &str| {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.flat_map(|value| value.split(',')).any(|item| is(item, what))
        };
        Self {
            open_metrics: lists(header::ACCEPT, "application/openmetrics-text"),
            gzip: lists(header::ACCEPT_ENCODING, "gzip"),
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self.open_metrics {
            true => "application/openmetrics-text;charset=utf-8;version=1.0.0",
            false => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Whether an item of a list such as `a/b;q=0.5` is this, and not ruled out (RFC 9110 §12.4.2).
fn is(item: &str, what: &str) -> bool {
    let mut parts = item.split(';').map(str::trim);
    let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(what));
    let weight = parts.find_map(|part| part.strip_prefix("q=")).map(str::parse::<f64>);
    named && !weight.is_some_and(|weight| weight.is_ok_and(|weight| weight <= 0.0))
}

/// The metrics as last written.
#[derive(Default)]
pub(super) struct Written(pub(super) Option<(Instant, Form, Bytes)>);

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_asks_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, encoding, open_metrics, gzip) in [
            (prometheus, "gzip", true, true),
            ("text/plain", "identity", false, false),
            ("*/*", "deflate, gzip;q=0.5", false, true),
            ("application/openmetrics-text;q=0", "gzip; q=0", false, false),
            ("", "", false, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding));
            assert_eq!(Form::asked(&headers), Form { open_metrics, gzip }, "{accept} {encoding}");
        }
        assert_eq!(Form::asked(&HeaderMap::new()), Form::default());
    }
}
