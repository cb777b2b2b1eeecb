//! What breaks a rule for now: lines are struck here, and none is added.

/// By the file of a circle that comes first.
pub(crate) const CIRCLES: &[&str] = &[
    "app::standalone -> ",
    "config::standalone -> ",
    "node::inbound -> ",
    "standalone::acme -> ",
    "standalone::access_control -> ",
    "standalone::credential_store -> ",
    "tls::handshake -> ",
];

pub(crate) const LONG_FILES: &[&str] = &[
    "src/config/mesh_file.rs has",
    "src/standalone/connection.rs has",
    "src/standalone/credential_store/mod.rs has",
    "src/standalone/proxy_protocol.rs has",
    "src/standalone/secured.rs has",
    "src/standalone/service.rs has",
    "src/sys/confine.rs has",
    "src/tls/roots.rs has",
];

pub(crate) const LONG_FUNCTIONS: &[&str] = &[
    "src/app/standalone.rs: `serve` has",
    "src/config/mesh_file.rs: `read` has",
    "src/config/standalone/peers.rs: `material` has",
    "src/config/standalone.rs: `service` has",
    "src/standalone/validate.rs: `message` has",
];

pub(crate) const TEXT_ERRORS: &[&str] = &[];
