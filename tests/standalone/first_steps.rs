//! What a newcomer types first: certificates from one command, a file to begin with, manual pages.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::{
    backends::{Backend, ask},
    process::{Adit, command, command_of, ended},
};

#[test]
fn without_a_command_three_ways_to_begin_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (code, told) = said("", dir.path());
    assert_eq!(code, 2, "{told}");
    for command in ["adit guide mesh", "adit init server", "adit demo", "adit --help"] {
        assert!(told.contains(command), "{told}");
    }
    assert!(!told.contains("error"), "{told}");
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let dir = tempfile::tempdir().unwrap();
    let (code, script) = said("completions bash", dir.path());
    assert_eq!(code, 0);
    fs::write(dir.path().join("adit.bash"), script).unwrap();
    let completed = |typed: &str| {
        let load = ". ./adit.bash; read -ra COMP_WORDS <<< \"$1\"; \
                    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); \
                    _adit adit \"${COMP_WORDS[-1]}\" \"${COMP_WORDS[-2]}\"; \
                    printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut bash = std::process::Command::new("bash");
        bash.args(["--norc", "-c", load, "-", typed]).current_dir(dir.path());
        String::from_utf8(bash.output().unwrap().stdout).unwrap()
    };
    for (typed, offered) in [
        ("adit ser", "server"),
        ("adit ca ro", "rotate"),
        ("adit server --allow-ur", "--allow-uri"),
        ("adit init m", "mesh"),
        ("adit server --quiet han", "handshake-errs"),
    ] {
        assert_eq!(completed(typed).trim(), offered, "{typed}");
    }
}

/// The exit code, and what was said.
fn said(args: &str, within: &Path) -> (i32, String) {
    let done = command(args).current_dir(within).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn throw_away_certificates_prove_server_and_client_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (code, told) = said("cert dev certs --client web --client other", dir.path());
    assert_eq!(code, 0, "{told}");
    let at = |name: &str| dir.path().join("certs").join(name).display().to_string();
    let echo = Backend::echo();
    let server = Adit::start(format!(
        "server --listen 127.0.0.1:0 --target {} --cert {} --key {} --cacert {} --allow-uri \
         spiffe://dev.local/web",
        echo.addr,
        at("server.crt"),
        at("server.key"),
        at("ca.crt")
    ));
    let through = |name: &str| {
        let client = Adit::start(format!(
            "client --listen 127.0.0.1:0 --target localhost:{} --cert {} --key {} --cacert {}",
            server.addr.port(),
            at(&format!("{name}.crt")),
            at(&format!("{name}.key")),
            at("ca.crt")
        ));
        ask(client.addr, b"hello").ok()
    };
    assert_eq!(through("web").as_deref(), Some(&b"hello"[..]));
    assert_ne!(through("other").as_deref(), Some(&b"hello"[..]), "it is not named");
    for name in ["web.key", "other.key", "server.key"] {
        let mode = fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for name in ["web", "other", "server"] {
        let svid = format!("svid lint certs/{name}.crt --bundle certs/ca.crt");
        let (code, told) = said(&svid, dir.path());
        assert_eq!(code, 0, "{told}");
    }
}

#[test]
fn certificates_that_are_there_are_replaced_only_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said("cert dev", dir.path()).0, 0);
    let root = fs::read(dir.path().join("certs/ca.crt")).unwrap();
    let (code, told) = said("cert dev", dir.path());
    assert_eq!(code, 3, "{told}");
    assert!(told.contains("certs/ca.crt exists already"), "{told}");
    assert_eq!(fs::read(dir.path().join("certs/ca.crt")).unwrap(), root);
    assert_eq!(said("cert dev --force", dir.path()).0, 0);
    assert_ne!(fs::read(dir.path().join("certs/ca.crt")).unwrap(), root);
    // A name is a file's name too: it leads nowhere else.
    for name in ["../x", "a/b", "", "..", "ä", "server", "ca"] {
        let args = ["cert", "dev", "elsewhere", "--client", name];
        let done = command_of(args).current_dir(dir.path()).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_ne!(done.status.code(), Some(0), "{name}");
        assert!(!told.contains("panicked"), "{told}");
    }
    assert!(!dir.path().join("elsewhere").exists() && !dir.path().join("x.key").exists());
}

#[test]
fn files_to_begin_with_are_right_and_never_replace_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said("cert dev", dir.path()).0, 0);
    for kind in ["server", "client", "mesh"] {
        let (code, told) = said(&format!("init {kind}"), dir.path());
        assert_eq!(code, 0, "{told}");
        // Its namespaces are of another machine.
        let files = if kind == "mesh" { "--no-files " } else { "" };
        let (code, told) = said(&format!("check --strict {files}{kind}.yaml"), dir.path());
        assert_eq!(code, 0, "{kind}: {told}");
        let (code, told) = said(&format!("init {kind}"), dir.path());
        assert_eq!(code, 3, "{told}");
        let (code, told) = said(&format!("init {kind} -"), dir.path());
        assert_eq!(
            (code, told),
            (0, fs::read_to_string(dir.path().join(format!("{kind}.yaml"))).unwrap())
        );
    }
}

#[test]
fn each_command_has_a_manual_page_and_guides_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(said("man man1", dir.path()).0, 0);
    let page = fs::read_to_string(dir.path().join("man1/adit-server.1")).unwrap();
    assert!(page.contains("\\-\\-allow\\-uri"), "{page}");
    for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "EXIT STATUS", "SEE ALSO"] {
        let is_there = |heading: &str| page.lines().any(|line| line == heading);
        let quoted = format!(".SH \"{section}\"");
        assert!(is_there(&format!(".SH {section}")) || is_there(&quoted), "{section}: {page}");
    }
    for name in ["adit", "adit-run", "adit-ca-serve", "adit-svid-lint"] {
        assert!(dir.path().join(format!("man1/{name}.1")).exists(), "{name}");
    }
    let (code, all) = said("guide", dir.path());
    assert_eq!(code, 0);
    for line in all.lines() {
        let name = line.split_whitespace().next().unwrap();
        let (code, guide) = said(&format!("guide {name}"), dir.path());
        assert!(code == 0 && guide.starts_with("# "), "{name}: {guide}");
    }
    assert_eq!(ended(command("guide nothing")).0, 2);
}
