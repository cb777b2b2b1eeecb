//! `adit demo`: the main job on one machine, with real programs and real packets.
//!
//! Two nodes with an adit each; nginx in pod `api`, curl in the others. Everything lives in
//! namespaces of this process and ends with it.

mod lab;
mod wire;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use lab::{Lab, PODS};
use wire::Wire;

const SERVICE: &str = "10.96.0.10:80";

/// How many things [`demo`] shows.
pub const DEMO_CHECKS: usize = 11;

/// What happens in the demonstration, as it happens.
#[derive(Clone, Copy, Debug)]
pub enum DemoEvent<'a> {
    /// What is done or waited for now.
    Waiting(&'a str),
    /// What the next things are about.
    Scene(&'a str),
    /// One thing that was shown.
    Shown(&'a str),
    /// What a program has logged, after something failed.
    Log {
        /// Which program.
        of: &'a str,
        /// All of it.
        text: &'a str,
    },
}

/// Receives the events.
type Tell<'a> = &'a dyn Fn(DemoEvent<'_>);

/// Runs the demonstration and returns what it saw; `tell` is told each event.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn demo(tell: Tell<'_>) -> Result<Value> {
    crate::sys::sandbox::enter()?;
    tell(DemoEvent::Waiting("building two nodes and four pods from network namespaces"));
    let mut lab = Lab::build()?;
    let seen = scenes(&mut lab, tell);
    if seen.is_err() {
        for of in ["adit-a", "adit-b", "nginx"] {
            tell(DemoEvent::Log { of, text: &lab.log(of) });
        }
    }
    seen
}

/// All that is shown, in a lab that stands.
fn scenes(lab: &mut Lab, tell: Tell<'_>) -> Result<Value> {
    for node in ['a', 'b'] {
        write_mesh(lab, node, &["web", "batch"])?;
    }
    let adit = std::env::current_exe()?;
    for node in ['a', 'b'] {
        tell(DemoEvent::Waiting(&format!("waiting until adit on node-{node} is ready")));
        let file = lab.dir.join(format!("mesh-{node}.yaml"));
        let file = file.to_str().context("a UTF-8 temporary directory")?;
        lab.spawn(&format!("node-{node}"), &format!("adit-{node}"), &adit, &["run", "-c", file])?;
        lab.wait("adit to be ready", || ready(lab, node))?;
    }
    tell(DemoEvent::Waiting("waiting until nginx answers in pod api"));
    start_nginx(lab)?;
    let tap = wire::Tap::start(&lab.netns("node-a")?, "wire0")?;
    let call = allowed(lab, tell)?;
    let denied = refused(lab, tell)?;
    let mut web = hold(lab, "web")?;
    let rotation = renewed(lab, tell, &mut web)?;
    let edit = edited(lab, tell, &mut web)?;
    let wire = on_the_wire(tap, tell)?;
    Ok(json!({
        "call": call,
        "denied": denied,
        "rotation": rotation,
        "policyEdit": edit,
        "wire": wire,
    }))
}

/// A value of a record, as text.
fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or("?")
}

fn allowed(lab: &Lab, tell: Tell<'_>) -> Result<Value> {
    tell(DemoEvent::Scene("web calls api, which the policy allows"));
    tell(DemoEvent::Waiting("waiting for the answer of api"));
    let body = curl(lab, "web", &format!("http://{SERVICE}/"))?;
    ensure!(body.contains("hello from api"), "web got {body:?}");
    tell(DemoEvent::Shown(
        "curl in web got \"hello from api\" from nginx. Neither of them knows of TLS.",
    ));
    let call = record(lab, "adit-b", "web", "completed")?;
    let (from, to) = (text(&call, "src.identity"), text(&call, "dst.identity"));
    ensure!(from.ends_with("/sa/web") && to.ends_with("/sa/api"), "the record says {call}");
    let (version, group, cipher) =
        (text(&call, "tls.version"), text(&call, "tls.group"), text(&call, "tls.cipher"));
    tell(DemoEvent::Shown(&format!(
        "Both sides proved who they are, with certificates: {from} and {to}."
    )));
    tell(DemoEvent::Shown(&format!(
        "Allowed by policy {}; encrypted with {version} ({group}, {cipher}).",
        text(&call, "policy"),
    )));
    Ok(call)
}

fn refused(lab: &Lab, tell: Tell<'_>) -> Result<Value> {
    tell(DemoEvent::Scene("intruder calls api, which no policy allows"));
    tell(DemoEvent::Waiting("waiting for the refusal"));
    let answer = curl(lab, "intruder", &format!("http://{SERVICE}/"));
    ensure!(answer.is_err(), "the intruder got through");
    let denied = record(lab, "adit-b", "intruder", "policy_denied")?;
    tell(DemoEvent::Shown(&format!(
        "The call of {} was refused before a byte reached api.",
        text(&denied, "src.identity")
    )));
    Ok(denied)
}

fn renewed(lab: &Lab, tell: Tell<'_>, web: &mut TcpStream) -> Result<Value> {
    tell(DemoEvent::Scene("web gets a new certificate while a connection is open"));
    tell(DemoEvent::Waiting("waiting for the new certificate"));
    let rotated = rotate(lab)?;
    tell(DemoEvent::Shown(&format!(
        "web has another certificate: serial number {} before, {} now.",
        short(&rotated, "before"),
        short(&rotated, "after")
    )));
    ask(web).context("the running connection broke when the certificate was rotated")?;
    tell(DemoEvent::Shown("The open connection went on without an interruption."));
    curl(lab, "web", &format!("http://{SERVICE}/"))
        .context("no new connection after the rotation")?;
    tell(DemoEvent::Shown("A new connection was made with the new certificate."));
    Ok(rotated)
}

/// A serial number as it is told to people.
fn short<'a>(rotated: &'a Value, key: &str) -> std::borrow::Cow<'a, str> {
    match text(rotated, key) {
        long if long.len() > 8 => format!("{}…", long.chars().take(8).collect::<String>()).into(),
        whole => whole.into(),
    }
}

fn edited(lab: &Lab, tell: Tell<'_>, web: &mut TcpStream) -> Result<Value> {
    tell(DemoEvent::Scene("The policy is edited while connections are open: web only, not batch"));
    tell(DemoEvent::Waiting("waiting until the edit takes effect"));
    let mut batch = hold(lab, "batch")?;
    let start = Instant::now();
    write_mesh(lab, 'b', &["web"])?;
    let closed = record(lab, "adit-b", "batch", "policy_changed")?;
    let after = start.elapsed().as_millis();
    ensure!(ask(&mut batch).is_err(), "batch's connection survived the edit");
    tell(DemoEvent::Shown(&format!("The open connection of batch was closed {after} ms later.")));
    ask(web).context("web's connection was closed too")?;
    let count = records(lab, "adit-b").filter(|r| r["reason"] == "policy_changed").count();
    ensure!(count == 1, "{count} connections were closed instead of one");
    tell(DemoEvent::Shown("It was the only one: the open connection of web went on."));
    Ok(json!({ "closed": count, "record": closed, "otherConnectionsKept": true }))
}

fn on_the_wire(tap: wire::Tap, tell: Tell<'_>) -> Result<Wire> {
    tell(DemoEvent::Scene("All of that, as seen on the wire between the nodes"));
    tell(DemoEvent::Waiting("waiting until the wire is quiet"));
    let wire = tap.stop()?;
    ensure!(
        wire.tls_records > 0 && wire.plaintext_hits == 0 && wire.other_ports == 0,
        "the wire carried something else than TLS on port 15008: {wire:?}"
    );
    tell(DemoEvent::Shown(&format!(
        "All {} packets with data used port 15008, the port of HBONE.",
        wire.packets
    )));
    tell(DemoEvent::Shown(&format!(
        "None of their {} bytes could be read as HTTP: everything was encrypted.",
        wire.bytes
    )));
    Ok(wire)
}

fn write_mesh(lab: &Lab, node: char, callers: &[&str]) -> Result<()> {
    let ca = lab.dir.join("ca");
    let mut text = format!(
        "trustDomain: cluster.local\nnode: node-{node}\n\
         ca: {{ embedded: {{ dir: {}, svidLifetime: 1h }} }}\ncapture: {{ rules: nft }}\n\
         accessLog: {{ format: json }}\nworkloads:\n",
        ca.display()
    );
    for pod in &PODS {
        text += &format!(
            "- {{ name: {0}, namespace: shop, serviceAccount: {0}, addresses: [{1}], node: \
             node-{2}, netns: {0}, labels: {{ app: {0} }} }}\n",
            pod.name, pod.ip, pod.node
        );
    }
    let principals: Vec<_> =
        callers.iter().map(|c| format!("cluster.local/ns/shop/sa/{c}")).collect();
    text += &format!(
        "services:\n- {{ hostname: api.shop.svc.cluster.local, addresses: [10.96.0.10], ports: \
         [{{ port: 80, targetPort: 8080 }}], workloads: [shop/api] }}\n\
         policies:\n- metadata: {{ name: api-callers, namespace: shop }}\n  spec:\n    selector: \
         {{ matchLabels: {{ app: api }} }}\n    \
         rules: [{{ from: [{{ source: {{ principals: [{}] }} }}] }}]\n",
        principals.join(", ")
    );
    let (temp, file) = (lab.dir.join("mesh.tmp"), lab.dir.join(format!("mesh-{node}.yaml")));
    std::fs::write(&temp, text)?;
    Ok(std::fs::rename(temp, file)?)
}

fn http(lab: &Lab, netns: &str, at: &str, request: &str) -> Result<String> {
    let mut socket = lab.connect(netns, at)?;
    write!(socket, "{request} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ready(lab: &Lab, node: char) -> bool {
    let answer = http(lab, &format!("node-{node}"), "127.0.0.1:15021", "GET /healthz/ready");
    answer.is_ok_and(|a| a.contains("200 OK"))
}

fn start_nginx(lab: &mut Lab) -> Result<()> {
    let dir = lab.dir.display();
    let config = format!(
        "daemon off; master_process off; user root; pid {dir}/nginx.pid; error_log stderr;\n\
         events {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen 8080; location / {{\n\
         return 200 'hello from api to $remote_addr\\n'; }} }} }}\n"
    );
    let file = lab.dir.join("nginx.conf");
    std::fs::write(&file, config)?;
    let file = file.to_str().context("a UTF-8 temporary directory")?.to_owned();
    lab.spawn("api", "nginx", Path::new("nginx"), &["-e", "stderr", "-c", &file])
        .context("package nginx-light")?;
    lab.wait("nginx", || lab.connect("api", "127.0.0.1:8080").is_ok())
}

fn curl(lab: &Lab, pod: &str, url: &str) -> Result<String> {
    let done = lab.tool(pod, "curl", &["-sS", "-m", "5", url])?;
    ensure!(done.status.success(), "curl: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// An HTTP connection that stays open.
fn hold(lab: &Lab, pod: &str) -> Result<TcpStream> {
    let mut socket = lab.connect(pod, SERVICE)?;
    ask(&mut socket)?;
    Ok(socket)
}

fn ask(socket: &mut TcpStream) -> Result<()> {
    write!(socket, "GET / HTTP/1.1\r\nhost: api\r\n\r\n")?;
    let mut answer = [0; 4096];
    let n = loop {
        match socket.read(&mut answer) {
            // The process was stopped, and goes on.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    ensure!(answer[..n].starts_with(b"HTTP/1.1 200"), "no answer");
    Ok(())
}

fn rotate(lab: &Lab) -> Result<Value> {
    let id = "spiffe://cluster.local/ns/shop/sa/web";
    let serial = || -> Option<String> {
        let answer = http(lab, "node-a", "127.0.0.1:15000", "GET /certs").ok()?;
        let certs: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()?;
        let own = certs["certificates"].as_array()?.iter().find(|c| c["identity"] == id)?;
        Some(own["serialNumber"].as_str()?.to_owned())
    };
    let before = serial().context("no certificate of web in /certs")?;
    let answer = http(lab, "node-a", "127.0.0.1:15000", &format!("POST /certs/rotate?id={id}"))?;
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 ") || status.contains(" 202 "), "POST /certs/rotate: {status}");
    lab.wait("a new certificate", || serial().is_some_and(|s| s != before))?;
    Ok(json!({
        "identity": id,
        "before": before,
        "after": serial(),
        "runningConnectionKept": true
    }))
}

fn records(lab: &Lab, log: &str) -> impl Iterator<Item = Value> + use<> {
    let lines: Vec<Value> =
        lab.log(log).lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    lines.into_iter().filter(|r: &Value| r["target"] == "access")
}

fn record(lab: &Lab, log: &str, caller: &str, reason: &str) -> Result<Value> {
    let find = || records(lab, log).find(|r| r["src.workload"] == caller && r["reason"] == reason);
    lab.wait(&format!("the record of {caller}, {reason}"), || find().is_some())?;
    find().context("a record that was there is gone")
}
