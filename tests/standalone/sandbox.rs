//! What the process may not do.

use std::{fs, os::unix::fs::symlink};

use nix::sys::signal::Signal;

use crate::{
    backends::Backend,
    peers::Caller,
    pki::{Pki, as_server},
    process::{Adit, command, refused},
    wait::{LIMIT, wait_until},
};

/// A field of each thread's status.
fn of_threads(adit: &Adit, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", adit.id())).unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let found = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().to_owned()
    };
    status.map(found).collect()
}

#[test]
fn it_is_confined_unless_told_otherwise() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let flags = pki.server(echo.addr) + "--allow-all";
    let adit = Adit::start(flags.clone() + " --require-sandbox");
    adit.logs("sandbox … landlock=\"on\" … seccomp=\"on\"");
    for (field, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let all = of_threads(&adit, field);
        assert!(all.len() > 2 && all.iter().all(|is| is == value), "{field} {all:?}");
    }
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    let open = Adit::start(flags + " --disable-landlock --disable-seccomp");
    open.logs("sandbox … landlock=\"off\" … seccomp=\"off\"");
    assert!(of_threads(&open, "Seccomp:").iter().all(|is| is == "0"));
}

/// Whoever starts it cannot talk it out of its sandbox: it looks at nothing that it was given.
#[test]
fn what_its_environment_says_confines_nobody() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let mut said = command(&(pki.server(echo.addr) + "--allow-all --require-sandbox"));
    said.env("ADIT_CONFINED", "x");
    let adit = Adit::spawn(said);
    adit.logs(
        "sandbox … landlock=\"on\" … seccomp=\"on\" … files=\"limited to the configured ones\"",
    );
    for (field, value) in [("Seccomp:", "2"), ("NoNewPrivs:", "1")] {
        let all = of_threads(&adit, field);
        assert!(all.iter().all(|is| is == value), "{field} {all:?}");
    }
}

/// A core file would hold private keys. `sleep` beside it shows that core files are written here.
#[test]
fn no_core_file_is_written() {
    use std::os::unix::process::ExitStatusExt;
    let (pki, echo) = (Pki::new(), Backend::echo());
    let folder = tempfile::tempdir().unwrap();
    let dumps = |command: &str, ready: &dyn Fn(u32)| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("ulimit -c unlimited && exec {command}")]);
        let output = std::process::Stdio::null;
        let mut child =
            shell.current_dir(folder.path()).stdout(output()).stderr(output()).spawn().unwrap();
        ready(child.id());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(6), "{command}: {status}");
        status.core_dumped()
    };
    let slept = dumps("sleep 60", &|pid| {
        wait_until("the shell has become `sleep`", LIMIT, || {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        });
    });
    if !slept {
        return eprintln!("no core files here");
    }
    let at = crate::ports::free();
    let line = pki.server(echo.addr).replace("127.0.0.1:0", &at.to_string());
    let adit = format!(
        "{} {line} --allow-all --disable-landlock --disable-seccomp",
        env!("CARGO_BIN_EXE_adit")
    );
    let ready = |_| {
        wait_until("it listens", LIMIT, || std::net::TcpStream::connect(at).is_ok());
    };
    assert!(!dumps(&adit, &ready));
}

/// A certificate that becomes a link to somewhere else is not followed there.
#[test]
fn files_elsewhere_are_out_of_reach() {
    let (pki, elsewhere, echo) = (Pki::new(), Pki::new(), Backend::echo());
    let next = pki.ca.leaf("server", as_server);
    elsewhere.put("next", &next);
    for (flag, says) in [("", "Permission denied"), ("--disable-landlock", "reloaded")] {
        pki.put("server", &pki.server);
        let adit = Adit::start(pki.server(echo.addr) + "--allow-all " + flag);
        for end in ["crt", "key"] {
            fs::remove_file(pki.path(&format!("server.{end}"))).unwrap();
            symlink(elsewhere.path(&format!("next.{end}")), pki.path(&format!("server.{end}")))
                .unwrap();
        }
        adit.signal(Signal::SIGHUP);
        adit.logs(says);
        let caller = Caller::new(&pki.ca, Some(&pki.app));
        assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    }
}

#[test]
#[cfg_attr(not(feature = "pkcs11"), ignore = "needs the cargo feature pkcs11")]
fn what_cannot_be_confined_is_not_started_when_that_is_required() {
    let pki = Pki::new();
    let flags = format!(
        "server --listen 127.0.0.1:0 --target localhost:1 --allow-all --cert {} \
         --pkcs11-module {} --require-sandbox",
        pki.at("server.crt"),
        pki.at("module.so")
    );
    let (code, said) = refused(&flags);
    assert!(code == 1 && said.contains("the sandbox is required"), "{said}");
}
