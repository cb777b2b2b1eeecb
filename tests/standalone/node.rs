//! `adit node` before it does anything: how a container that was made for ztunnel calls it, and
//! what it refuses.

use std::os::unix::process::CommandExt as _;

use crate::process::{command, ended, refused};

/// The exit code, standard output and standard error.
fn said(args: &str, program: Option<&str>) -> (i32, String, String) {
    let mut command = command(args);
    if let Some(program) = program {
        command.arg0(program);
    }
    let done = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap_or(-1), text(&done.stdout), text(&done.stderr))
}

#[test]
fn version_help_and_nonsense_are_what_an_image_is_asked_for() {
    let (code, version, _) = said("version", Some("/usr/local/bin/ztunnel"));
    let lines: Vec<&str> = version.lines().collect();
    assert_eq!((code, lines.len()), (0, 1), "{version}");
    assert!(lines[0].starts_with("version.BuildInfo{Version:\""), "{version}");
    assert!(lines[0].contains("CryptoProvider:\"tls-aws-lc\", Features:\""), "{version}");
    assert_eq!(said("--version", None).1, concat!("adit ", env!("CARGO_PKG_VERSION"), "\n"));
    let (code, help, _) = said("help", None);
    assert!(code == 0 && help.contains("Check and understand:"), "{help}");
    let (code, nothing, help) = said("nonsense", None);
    assert_eq!((code, &*nothing), (2, ""));
    assert!(help.contains("'nonsense'") && help.contains("--help"), "{help}");
}

#[test]
fn the_arguments_of_the_chart_start_a_node_and_a_file_stays_a_file() {
    for (args, program) in [
        ("proxy ztunnel", None),
        ("node", None),
        ("", Some("/usr/local/bin/ztunnel")),
        ("proxy", Some("ztunnel")),
    ] {
        let mut wrong = command(args);
        if let Some(program) = program {
            wrong.arg0(program);
        }
        wrong.env("SECRET_TTL", "soon").env("ENABLE_PROXY", "yes");
        let (code, log) = ended(wrong);
        assert_eq!(code, 3, "{args}: {log}");
        assert!(log.contains("SECRET_TTL: \"soon\": expected a duration"), "{args}: {log}");
        assert!(log.contains("ENABLE_PROXY: \"yes\": expected true or false"), "{args}: {log}");
        assert!(log.ends_with("2 errors in the environment\n"), "{args}: {log}");
    }
    let (code, log) = refused("proxy services.yaml");
    assert!(code == 2 && log.contains("services.yaml"), "{log}");
    let (code, log) = refused("proxy -c /nowhere.yaml");
    assert!(code == 3 && log.contains("/nowhere.yaml"), "{log}");
}
