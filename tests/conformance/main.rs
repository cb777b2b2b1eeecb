//! The standards' own words as tables.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/corpus.rs"]
mod corpus;
mod h2_oracle;
#[path = "../support/jwt_corpus.rs"]
mod jwt_corpus;
mod jwt_svid;
mod key_usage;
mod lint;
mod openssl;
mod original_port;
#[path = "../support/pattern.rs"]
mod pattern;
#[path = "../support/ports.rs"]
mod ports;
mod random_bytes;
mod records;
#[path = "../support/records_end.rs"]
mod records_end;
mod resigned;
mod revocation;
mod spiffe_id;
#[path = "../support/spiffe_ids.rs"]
mod spiffe_ids;
#[path = "../support/svids.rs"]
mod svids;
#[path = "../support/wait.rs"]
mod wait;
mod x509_svid;
