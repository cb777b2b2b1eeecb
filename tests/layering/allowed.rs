//! What breaks a rule for now: lines are struck here, and none is added.

/// By the file of a circle that comes first.
pub(crate) const CIRCLES: &[&str] = &[];

pub(crate) const LONG_FILES: &[&str] = &[];

pub(crate) const LONG_FUNCTIONS: &[&str] = &[];

pub(crate) const TEXT_ERRORS: &[&str] = &[];

/// Doc comments of `src`, by file and phrase.
pub(crate) const COMMENTS: &[&str] = &[
    "src/admin/mod.rs: `be had`",
    "src/admin/state.rs: `believed`",
    "src/admin/views/pods.rs: `the same as`",
    "src/app/ambient/role.rs: `believed`",
    "src/app/run/start.rs: `believed`",
    "src/cli/exit.rs: `the same for`",
    "src/cli/help.rs: `the same for`",
    "src/cli/output.rs: `the same,`",
    "src/config/ca_server.rs: `the same,`",
    "src/config/environment/mod.rs: `what becomes of`",
    "src/config/environment/variables.rs: `the same of`",
    "src/config/environment/variables.rs: `what becomes of`",
    "src/config/federation.rs: `whom`",
    "src/config/standalone.rs: `the same,`",
    "src/config/standalone/peers.rs: `whom`",
    "src/pods/announced.rs: `what becomes of`",
    "src/pods/capture/mod.rs: `what becomes of`",
    "src/pods/capture/non_tcp.rs: `what becomes of`",
    "src/pods/capture/probes.rs: `nobody may`",
    "src/pods/capture/redirects.rs: `what becomes of`",
    "src/pods/capture/report.rs: `the same of`",
    "src/pods/manager/change.rs: `what becomes of`",
    "src/pods/manager/non_tcp.rs: `what becomes of`",
    "src/pods/manager/rules.rs: `what becomes of`",
    "src/pods/redirect_watch.rs: `what becomes of`",
    "src/pods/rule_watch.rs: `the same for`",
    "src/pods/rule_watch.rs: `what becomes of`",
    "src/pods/source/mod.rs: `what becomes of`",
    "src/pods/source/zds/driver.rs: `what becomes of`",
];
