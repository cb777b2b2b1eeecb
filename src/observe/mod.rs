//! What adit says about its work: one record per connection, metrics, access log, logging.

pub mod conn;
