//! Our records and handshakes against OpenSSL's, whose command line is the other end.
//!
//! `s_server` and `s_client` carry what they read to the peer and print what the peer says;
//! a `K` alone at the start of what they read makes them take their next key and ask for ours.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tokio::net::TcpStream;

use crate::{
    records::{We, ours, run},
    records_end::Ours,
    svids::ROOT,
    wait::{LIMIT, wait_for},
};

const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Around what we say: `s_server` prints much else.
const BEGIN: &[u8] = b"<<<<";
const END: &[u8] = b">>>>";

struct Openssl {
    child: Child,
    stdin: Option<ChildStdin>,
    printed: std::thread::JoinHandle<Vec<u8>>,
    _files: tempfile::TempDir,
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Openssl {
    fn start(what: &str, suite: &str, further: &[&str]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let leaf = ROOT.leaf("theirs");
        let file = |name: &str, text: &str| {
            std::fs::write(files.path().join(name), text).unwrap();
            files.path().join(name)
        };
        let started = Command::new("openssl")
            .args([what, "-tls1_3", "-alpn", "h2", "-verify_return_error", "-ciphersuites", suite])
            .arg("-cert")
            .arg(file("leaf.pem", &leaf.pem))
            .arg("-key")
            .arg(file("key.pem", &leaf.key_pem()))
            .arg("-CAfile")
            .arg(file("root.pem", &ROOT.pem))
            .args(further)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = started.unwrap_or_else(|e| {
            panic!("cannot run `openssl`: {e}; this test needs it: install the package `openssl`")
        });
        let printed = child.stdout.take().unwrap();
        let printed = std::thread::spawn(move || read_all(printed));
        let stdin = child.stdin.take();
        Self { child, stdin, printed, _files: files }
    }

    /// What it printed between the marks, once it has ended.
    fn said(mut self) -> Vec<u8> {
        drop(self.stdin.take());
        self.child.wait().unwrap();
        let printed = std::mem::replace(&mut self.printed, std::thread::spawn(Vec::new));
        let printed = printed.join().unwrap();
        let find = |mark: &[u8]| printed.windows(mark.len()).position(|w| w == mark);
        let (from, to) = (find(BEGIN).expect("a beginning"), find(END).expect("an end"));
        let said = String::from_utf8_lossy(&printed[from + BEGIN.len()..to]);
        // s_server tells of key updates in between.
        said.replace("Read BLOCK\n", "").replace("SSL_do_handshake -> 1\n", "").into_bytes()
    }
}

fn read_all(mut from: ChildStdout) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all);
    all
}

/// A connection with OpenSSL at the other end.
async fn connected(we: We, suite: &str) -> (Ours, Openssl) {
    let (tcp, openssl) = match we {
        We::Answer => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let openssl =
                Openssl::start("s_client", suite, &["-brief", "-connect", &addr.to_string()]);
            (listener.accept().unwrap().0, openssl)
        }
        We::Call => {
            let addr = crate::ports::free();
            let at = addr.to_string();
            let further = ["-accept", at.as_str(), "-Verify", "1", "-naccept", "1"];
            let openssl = Openssl::start("s_server", suite, &further);
            let dial = || std::net::TcpStream::connect(addr).ok();
            (wait_for("s_server listens", LIMIT, dial), openssl)
        }
    };
    tcp.set_nonblocking(true).unwrap();
    let session = ours(we, TcpStream::from_std(tcp).unwrap()).await;
    assert_eq!(session.peer.tls.cipher, suite);
    (Ours::new(session), openssl)
}

/// Digits only: letters at the start of a line are commands to OpenSSL.
fn digits(bytes: usize, seed: u64) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    (0..bytes)
        .map(|n| if n % 1000 == 999 { b'\n' } else { rng.random_range(b'0'..=b'9') })
        .collect()
}

#[test]
fn bytes_pass_both_ways_with_key_updates_on_both_sides() {
    for suite in SUITES {
        for we in [We::Call, We::Answer] {
            run(async {
                let (mut ours, mut openssl) = connected(we, suite).await;
                let (up, down) = (digits(2_000_000, 1), digits(2_000_000, 2));
                let mut stdin = openssl.stdin.take().unwrap();
                // It speaks, and updates keys three times when what it said has passed.
                let (say, said) = std::sync::mpsc::channel::<Vec<u8>>();
                let speaker = std::thread::spawn(move || {
                    for bytes in said.iter() {
                        stdin.write_all(&bytes).unwrap();
                    }
                    stdin
                });
                let mut came = Vec::new();
                let mut left = up.chunks(70_000);
                ours.records.sealer.append(BEGIN).unwrap();
                for (round, part) in down.chunks(down.len() / 4).enumerate() {
                    say.send(part.to_vec()).unwrap();
                    let wanted = came.len() + part.len();
                    while came.len() < wanted || left.len() > (3 - round) * 7 {
                        if ours.records.sealer.waiting() < 100_000
                            && let Some(bytes) = left.next()
                        {
                            ours.records.sealer.append(bytes).unwrap();
                            ours.records.update_key(left.len() % 2 == 0).unwrap();
                        }
                        ours.turn(&mut |data| came.extend_from_slice(data)).await.unwrap();
                    }
                    if round < 3 {
                        let before = ours.seen.requested;
                        say.send(b"K\n".to_vec()).unwrap();
                        while ours.seen.requested == before {
                            ours.turn(&mut |data| came.extend_from_slice(data)).await.unwrap();
                        }
                    }
                }
                assert!(came == down, "{we:?} {suite}: other bytes came");
                // Its answers to ours go out when it next speaks.
                say.send(b"0\n".to_vec()).unwrap();
                let all = down.len() + 2;
                while ours.seen.key_updates <= ours.seen.requested || came.len() < all {
                    ours.turn(&mut |data| came.extend_from_slice(data)).await.unwrap();
                }
                ours.records.sealer.append(END).unwrap();
                ours.records.sealer.close().unwrap();
                ours.flush().await;
                // It has our close_notify and answers it with its own.
                let end = ours.until(&mut |_| panic!("more data"), |_| false).await;
                assert_eq!(end, Ok(()), "{we:?} {suite}");
                drop((say, ours));
                drop(speaker.join().unwrap());
                assert!(openssl.said() == up, "{we:?} {suite}: other bytes arrived");
            });
        }
    }
}
