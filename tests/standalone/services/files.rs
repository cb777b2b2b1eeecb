//! Files without running them: `adit check`, `adit import stunnel`.

use super::world::{Backend, Proxy, World, call_plain, free_port, run};
use crate::wait::{LIMIT, wait_until};

#[test]
fn check_knows_both_kinds_and_names_every_fault() {
    let world = World::new();
    let db = Backend::start("db");
    let good = world.server("s", 8443, db.addr, "allow: { all: true }");
    let file = world.write("f.yaml", &format!("services:\n{good}"));
    let path = file.to_str().unwrap();
    let (code, stdout, _) = run(&["check", path]);
    assert!(code == 0 && stdout.contains("1 service (1 server, 0 clients)"), "{stdout}");
    world.write("f.yaml", &format!("services:\n{}drian: 5s\n", good.replace("all", "al")));
    let (code, _, stderr) = run(&["check", path]);
    assert_eq!(code, 3);
    assert!(stderr.contains("did you mean drain?") && stderr.contains("2:"), "{stderr}");
    let (code, stdout, _) = run(&["check", "--json", path]);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(code == 3 && json["errors"].as_array().unwrap().len() >= 2, "{json}");
    let (code, _, _) = run(&["proxy", "-c", path]);
    assert_eq!(code, 3, "and is not run");
    let mesh = "trustDomain: td\nca: { embedded: { dir: /ca } }\nservices: []\n";
    world.write("f.yaml", mesh);
    let (code, stdout, stderr) = run(&["check", path]);
    assert!(code == 0 && stdout.contains("0 workloads"), "a mesh: {stdout} {stderr}");
}

#[test]
fn an_imported_stunnel_conf_runs_as_it_is() {
    let world = World::new();
    world.sign("app", "app", None);
    let db = Backend::start("db");
    let (tls, plain) = (free_port(), free_port());
    let at = |file: &str| world.file(file).display().to_string();
    let conf = format!(
        "pid = /run/stunnel.pid\nCAfile = {ca}\n\n[db]\naccept = 127.0.0.1:{tls}\n\
         connect = {target}\n\
         cert = {crt}\nkey = {key}\nverifyPeer = yes\nCAfile = {app}\n\n\
         [out]\nclient = yes\naccept = 127.0.0.1:{plain}\nconnect = localhost:{tls}\n\
         verifyChain = yes\ncheckHost = localhost\ncert = {app}\nkey = {app_key}\n",
        ca = at("ca.crt"),
        target = db.addr,
        crt = at("server.crt"),
        key = at("server.key"),
        app = at("app.crt"),
        app_key = at("app.key"),
    );
    let file = world.write("stunnel.conf", &conf);
    let (code, yaml, stderr) = run(&["import", "stunnel", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("stunnel.conf:1: note: pid"), "{stderr}");
    let services = yaml.split_once("services:\n").unwrap().1;
    let services: String =
        services.lines().map(|line| format!("{}\n", line.trim_start_matches("  # "))).collect();
    assert!(services.contains("pins: [\"sha256:"), "{yaml}");
    let imported = world.write("imported.yaml", &yaml);
    let mut adit = Proxy::with(&["proxy", "-c", imported.to_str().unwrap()], &imported);
    adit.wait("listening");
    adit.wait("listening");
    assert_eq!(call_plain(plain).unwrap().name, "db");
    world.sign("other", "app", None);
    assert!(world.call("other", tls).is_err(), "another key of the same name");
    assert_eq!(adit.stop(), 0);
}

#[test]
fn what_would_protect_less_is_said_and_fails() {
    let world = World::new();
    let conf = "[s]\naccept = 1\nconnect = 2\ncert = c\nverifyChain = yes\nCApath = /my/cas\n\
                libwrap = yes\n";
    let file = world.write("stunnel.conf", conf);
    let (code, yaml, stderr) = run(&["import", "stunnel", file.to_str().unwrap()]);
    assert_eq!(code, 1);
    for line in ["6: NOT TRANSLATED: CApath", "7: NOT TRANSLATED: libwrap"] {
        assert!(stderr.contains(line), "{stderr}");
    }
    assert!(yaml.contains("# line 6: CApath"), "{yaml}");
    let (code, ..) = run(&["import", "stunnel", "/nowhere"]);
    assert_eq!(code, 3);
}

#[test]
fn standard_input_is_imported_under_the_name_of_a_dash() {
    use std::{io::Write as _, process::Stdio};
    let mut adit = std::process::Command::new(env!("CARGO_BIN_EXE_adit"))
        .args(["import", "stunnel", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let conf = "pid = /x\n[s]\naccept = 1\nconnect = 2\ncert = c\nsslVersionMin = TLSv1.3\n";
    adit.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
    let done = adit.wait_with_output().unwrap();
    let (yaml, told) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{told}");
    assert!(
        yaml.contains("minVersion: TLS1.3") && told.contains("-:1: note: pid"),
        "{yaml} {told}"
    );
}

#[test]
fn files_are_read_whole_and_what_is_in_the_certificates_they_name_is_said() {
    let world = World::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "mail.example");
    let alone = world.write("alone.crt", &params.self_signed(&key).unwrap().pem());
    let conf = format!(
        "; caf\u{e9}\n[s]\nclient = yes\naccept = localhost:1\nconnect = mail.example:2\n\
         verifyChain = yes\nCAfile = {}\n",
        alone.display()
    );
    let latin: Vec<u8> = conf.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    std::fs::write(world.file("stunnel.conf"), latin).unwrap();
    let path = world.file("stunnel.conf");
    let (code, yaml, stderr) = run(&["import", "stunnel", path.to_str().unwrap()]);
    assert!(code == 1 && yaml.contains("target: \"mail.example:2\""), "{yaml}");
    let said = "7: NOT TRANSLATED: CAfile";
    assert!(stderr.contains(said) && stderr.contains("CN=mail.example is self-signed"), "{stderr}");
    std::fs::write(&path, "; padding of a comment\n".repeat(60_000)).unwrap();
    let (code, yaml, stderr) = run(&["import", "stunnel", path.to_str().unwrap()]);
    assert!(code == 3 && yaml.is_empty() && stderr.contains("more than"), "{code} {stderr}");
}

proptest::proptest! {
    /// Whatever a stunnel.conf says, what is printed is YAML with our keys, and faults name lines.
    #[test]
    fn any_stunnel_conf_becomes_yaml_that_we_can_read(
        lines in proptest::collection::vec(
            ("(accept|connect|cert|key|CAfile|verify|checkHost|sni|protocol|client|nonsense|\\[a|;)",
             "(=| = |\\]|)", "[ -~]{0,20}|yes|443|127.0.0.1:1|\u{e9}\\PC{0,4}"),
            0..30)
    ) {
        let conf: String = lines.iter().map(|(o, eq, v)| format!("{o}{eq}{v}\n")).collect();
        let imported = adit::config::import_stunnel(&conf, &|_| Err("unread".into()));
        if let Err(faults) = adit::config::check_standalone("f", &imported.yaml) {
            let text = faults.to_string();
            proptest::prop_assert!(!text.contains("not YAML"), "{}\n{}", text, imported.yaml);
            proptest::prop_assert!(!text.contains("unknown key"), "{}\n{}", text, imported.yaml);
        }
    }

    /// Any text is read without a panic.
    #[test]
    fn any_text_is_a_file_or_has_faults(
        text in "(services:\n- \\{ )?[a-z\\[\\]{}:,' \n-]{0,200}"
    ) {
        let _ = adit::config::check_standalone("f", &text);
    }
}

#[test]
fn a_file_may_ask_for_the_status_endpoint() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    let db = Backend::start("db");
    let (port, status) = (free_port(), free_port());
    let server = world.server("s", port, db.addr, "allow: { all: true }");
    let text = format!("{server}status: {{ listen: 'http://127.0.0.1:{status}' }}\n");
    let _adit = Proxy::start(&world, &text);
    let asked = || {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", status)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        socket
            .write_all(b"GET /_status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut heard = String::new();
        socket.read_to_string(&mut heard).unwrap();
        heard
    };
    wait_until("it listens, and looks at its target", LIMIT, || {
        let heard = asked();
        heard.contains("\"listening\"") && heard.contains("backend_ok")
    });
}
