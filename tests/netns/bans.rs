//! Who is banned at `adit ca serve` is cut off on every node that asks it, and is told so.

use std::fs;

use crate::{
    ca_server::{asks, start_ca, write_tokens},
    forge::{forge, request, uncaptured},
    lab::Lab,
    mesh::{PODS, allow, held, still_answers},
    process::{Adit, command_of},
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("bans::a_ban_at_the_ca_cuts_an_identity_off_on_every_node_and_nobody_else", banned)];

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const SPY: &str = "spiffe://cluster.local/ns/shop/sa/spy";

/// The node of db, beside that of the lab.
fn second(lab: &Lab, body: &str) -> Adit {
    let file = lab.file("second.yaml");
    let text = format!(
        "trustDomain: cluster.local\nca: {}\ncapture: {{ rules: nft }}\n\
         accessLog: {{ format: json }}\nadmin: {{ address: '127.0.0.1:15100' }}\n\
         metrics: {{ address: '127.0.0.1:15120' }}\n\
         readiness: {{ address: '127.0.0.1:15121' }}\nnode: n2\n{body}",
        asks(lab, "n2")
    );
    fs::write(&file, text).unwrap();
    let mut adit = command_of(["run".as_ref(), "-c".as_ref(), file.as_os_str()]);
    adit::sys::process::die_with_parent(&mut adit);
    Adit::launch(adit)
}

fn ca(lab: &Lab, verb: &str) {
    let mut adit = command_of(["ca", verb, WEB, "--dir"]);
    let done = adit.arg(lab.file("ca")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What the node of db answers to whoever shows this identity, whatever the caller's node does.
fn dialled(lab: &Lab, identity: &str) -> Result<u16, String> {
    let connect = http::Request::builder().method(http::Method::CONNECT).uri("10.77.0.2:8080");
    let forged = forge(lab, &[identity], |_| ());
    request(uncaptured(lab, "10.77.0.2:15008"), forged, connect.body(()).unwrap())
}

fn banned() {
    let mut lab = Lab::new(PODS);
    lab.echo("db", 8080);
    write_tokens(&lab, &["n1", "n2"]);
    let pods = "pods:
- { namespace: shop, serviceAccount: web, node: n1, name: web, uid: w }
- { namespace: shop, serviceAccount: spy, node: n1, name: spy, uid: s }
- { namespace: shop, serviceAccount: db, node: n2, name: db, uid: d }
";
    fs::write(lab.file("pods"), pods).unwrap();
    let _ca = start_ca(&lab);
    lab.ca = Some(asks(&lab, "n1"));
    let body = [("web", "n1"), ("spy", "n1"), ("db", "n2")].iter().fold(
        allow(&["web", "spy"]),
        |body, (pod, node)| {
            body.replace(&format!("netns: {pod}"), &format!("node: {node}, netns: {pod}"))
        },
    );
    let second = second(&lab, &body);
    lab.start(&format!("node: n1\n{body}"));
    lab.wait("the second is ready", || {
        lab.admin("127.0.0.1:15121", "GET /healthz/ready").contains("200 OK")
    });
    let (mut web, mut spy) = (held(&lab, "web"), held(&lab, "spy"));
    assert_eq!([dialled(&lab, WEB), dialled(&lab, SPY)], [Ok(200), Ok(200)]);

    ca(&lab, "ban");
    lab.wait("cut by the node of db", || {
        second.log().lines().any(|l| l.contains("identity_banned") && l.contains(WEB))
    });
    assert!(!still_answers(&mut web));
    assert!(still_answers(&mut spy));
    assert!(lab.ask("web", "10.96.0.10:80").is_err());
    let answer = dialled(&lab, WEB);
    assert!(!matches!(answer, Ok(200)), "the other node refuses it too: {answer:?}");
    assert_eq!(dialled(&lab, SPY), Ok(200));
    // Its own node uses it no more, and says so; the CA is not said to be away.
    let certs = || lab.admin("127.0.0.1:15000", "GET /certs");
    lab.wait("told", || certs().contains("is banned"));
    let certs = certs();
    let told = certs.lines().find(|line| line.contains("is banned")).unwrap();
    assert!(
        told.contains("not used until") && !told.to_lowercase().contains("unavailable"),
        "{told}"
    );
    assert!(lab.ask("spy", "10.96.0.10:80").is_ok());
    assert!(still_answers(&mut spy));
    let log = second.log();
    let mut cut = log.lines().filter(|line| line.contains("identity_banned"));
    assert!(cut.all(|line| !line.contains(SPY)), "{log}");

    ca(&lab, "unban");
    lab.wait("let in again", || lab.ask("web", "10.96.0.10:80").is_ok());
}
