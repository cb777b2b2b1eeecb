//! The standards' own words as tables.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod spiffe_id;
mod x509_svid;
