//! The file of `adit ca serve` is edited while it runs.

use std::{
    fs,
    time::{Duration, Instant, SystemTime},
};

use nix::sys::signal::{Signal, kill};

use crate::{
    issuer::jwks,
    manager::Manager,
    pipe,
    process::{Adit, command_of},
    server::{ATTESTORS, CaServer, fetch, id},
    wait::{LIMIT, wait_for},
};

const READ: &str = "configuration reloaded";

impl CaServer {
    /// Its file with another text in a place of it, which is there.
    fn edited(&self, was: &str, is: &str) -> String {
        let text = fs::read_to_string(self.file("ca.yaml")).unwrap();
        assert!(text.contains(was), "{was} in {text}");
        text.replace(was, is)
    }

    pub(crate) fn edit(&self, was: &str, is: &str) {
        fs::write(self.file("ca.yaml"), self.edited(was, is)).unwrap();
    }

    /// How often it has said so.
    fn said(&self, message: &str) -> usize {
        self.lines().iter().filter(|line| line["message"] == message).count()
    }

    #[track_caller]
    pub(crate) fn has_read(&self, times: usize) {
        wait_for("it is read", LIMIT, || (self.said(READ) >= times).then_some(()));
    }

    /// How long a new SVID is valid, or why there is none.
    async fn lifetime(&self) -> Result<Duration, String> {
        let joins = id("host/db");
        let token = self.join_token(&joins, "1m");
        let svid = fetch(&self.client(&token), &joins).await.map_err(|e| e.to_string())?;
        Ok(svid.not_after.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

#[tokio::test]
async fn an_edit_takes_effect_and_what_waits_for_a_restart_is_named() {
    let server = CaServer::start(&[]);
    let (minute, listen) = (Duration::from_secs(60), format!("listen: {}", server.addr));
    assert!(server.lifetime().await.unwrap() > 2 * minute);
    server.edit("svidLifetime: 10m", "svidLifetime: 1m");
    server.has_read(1);
    assert!(server.lifetime().await.unwrap() <= minute);
    // What is wrong changes nothing, and is said.
    let right = fs::read_to_string(server.file("ca.yaml")).unwrap();
    server.edit("svidLifetime: 1m", "svidLifetime: 1s");
    let refused =
        |l: &serde_json::Value| l["message"] == "configuration rejected, keeping the previous one";
    let refused = server.line("of the refusal", refused)["error"].to_string();
    assert!(refused.contains("ca.yaml:5") && refused.contains("at least 10s"), "{refused}");
    assert!(server.lifetime().await.unwrap() <= minute);
    // Another port waits, with its line; an attestor that is struck is gone at once.
    let struck = right.replace("  joinTokens:", "  # joinTokens:");
    fs::write(server.file("ca.yaml"), struck.replace("listen: 127.0.0.1:0", &listen)).unwrap();
    let place =
        format!("listen ({}:1): takes effect after a restart", server.file("ca.yaml").display());
    server.line("of the port", |l| l["message"] == place.as_str());
    let error = server.lifetime().await.unwrap_err();
    assert!(error.contains("join tokens are not accepted here"), "{error}");
    assert_eq!(server.said(READ), 2);
}

/// The median of three edits is asked for: a busy machine may be late with one.
#[test]
fn an_edit_is_in_use_within_a_second() {
    let server = CaServer::start(&[]);
    let mut took = [("10m", "11m"), ("11m", "12m"), ("12m", "13m")].map(|(was, is)| {
        let (before, lifetime) = (server.said(READ), "svidLifetime: ");
        server.edit(&format!("{lifetime}{was}"), &format!("{lifetime}{is}"));
        let began = Instant::now();
        server.has_read(before + 1);
        began.elapsed()
    });
    took.sort();
    assert!(took[1] < Duration::from_secs(1), "{took:?}");
}

/// Somebody has put a pipe there, or its mount hangs.
#[test]
fn a_file_that_cannot_be_read_keeps_no_signal_waiting() {
    for name in ["ca.yaml", "pods"] {
        let mut server = CaServer::start(&[]);
        server.stop();
        let pods = server.file("pods").display().to_string();
        let by_proc = pipe::by_proc(&server.file("pods")).display().to_string();
        server.edit(&pods, &by_proc);
        let file = pipe::by_proc(&server.file("ca.yaml"));
        let adit = Adit::launch(command_of(["ca", "serve", "-c", file.to_str().unwrap()]));
        adit.logs("\"serving the CA\"");
        pipe::put(&server.file(name));
        let _held = pipe::read_by_adit(&server.file(name));
        let begun = Instant::now();
        assert_eq!(adit.stop(), 0);
        assert!(begun.elapsed() < Duration::from_secs(3), "{name}: {:?}", begun.elapsed());
    }
}

/// Who writes a file in place and is asked to be heard at once: the half of it is not taken.
#[tokio::test]
async fn a_file_that_is_being_written_at_sighup_is_read_once_it_is_whole() {
    let manager = Manager::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("jwks"), jwks(&[])).unwrap();
    let server = CaServer::start_with(dir, ATTESTORS, "127.0.0.1:0", &[manager.env()]);
    manager.hears("READY=1\n");
    let whole = server.edited("svidLifetime: 10m", "svidLifetime: 30m");
    // Right as it stands, and not what is meant.
    let half = whole.replace("svidLifetime: 30m", "svidLifetime: 3m").replace("  svid: true\n", "");
    let half = half.replace("  joinTokens:", "  # joinTokens:");
    fs::write(server.file("ca.yaml"), half).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.pid()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    manager.hears("RELOADING=1\n");
    fs::write(server.file("ca.yaml"), whole).unwrap();
    manager.hears("READY=1\n");
    // The half has no join tokens, and a shorter lifetime.
    let lifetime = server.lifetime().await.expect("the half is not taken");
    assert!(lifetime > Duration::from_secs(240), "{lifetime:?}");
    assert_eq!(server.said(READ), 1, "{}", server.log());
    // Nothing has changed: it is read at once.
    kill(pid, Signal::SIGHUP).unwrap();
    manager.hears("READY=1\n");
    server.has_read(2);
}
