//! `adit demo`: the main job on one machine, with real programs and real packets.
//!
//! Two nodes with an adit each; nginx in pod `api`, curl in the others. Everything lives in
//! namespaces of this process and ends with it.

mod lab;
mod wire;

use std::{
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use lab::{Lab, PODS};

const SERVICE: &str = "10.96.0.10:80";

/// Runs the demonstration and returns what it saw; `say` is told each step.
///
/// # Errors
/// The first step that did not come out as it must.
pub fn demo(say: &dyn Fn(&str)) -> Result<Value> {
    crate::sys::sandbox::enter()?;
    say("building two nodes and four pods in namespaces of our own");
    let mut lab = Lab::build()?;
    for node in ['a', 'b'] {
        write_mesh(&lab, node, &["web", "batch"])?;
    }
    let adit = std::env::current_exe()?;
    for node in ['a', 'b'] {
        let file = lab.dir.join(format!("mesh-{node}.yaml"));
        let file = file.to_str().context("a UTF-8 temporary directory")?;
        lab.spawn(&format!("node-{node}"), &format!("adit-{node}"), &adit, &["run", "-c", file])?;
        lab.wait("adit to be ready", || ready(&lab, node))?;
    }
    start_nginx(&mut lab)?;
    let tap = wire::Tap::start(&lab.netns("node-a")?, "wire0")?;

    say("web calls api over the wire between the nodes");
    let url = format!("http://{SERVICE}/");
    let body = curl(&lab, "web", &url)?;
    ensure!(body.contains("hello from api"), "web got {body:?}");
    let call = record(&lab, "adit-b", "web", "completed")?;

    say("an intruder calls api");
    ensure!(curl(&lab, "intruder", &url).is_err(), "the intruder got through");
    let denied = record(&lab, "adit-b", "intruder", "policy_denied")?;

    say("web's certificate is rotated under a running connection");
    let mut web = hold(&lab, "web")?;
    let rotated = rotate(&lab)?;
    ask(&mut web).context("the running connection broke when the certificate was rotated")?;
    curl(&lab, "web", &url).context("no new connection after the rotation")?;

    say("the policy is edited live: batch is no longer allowed");
    let mut batch = hold(&lab, "batch")?;
    write_mesh(&lab, 'b', &["web"])?;
    let closed = record(&lab, "adit-b", "batch", "policy_changed")?;
    ensure!(ask(&mut batch).is_err(), "batch's connection survived the edit");
    ask(&mut web).context("web's connection was closed too")?;
    let closed_count = records(&lab, "adit-b").filter(|r| r["reason"] == "policy_changed").count();
    ensure!(closed_count == 1, "{closed_count} connections were closed instead of one");

    let wire = tap.stop()?;
    ensure!(
        wire.tls_records > 0 && wire.plaintext_hits == 0 && wire.other_ports == 0,
        "the wire carried something else than TLS on port 15008: {wire:?}"
    );
    Ok(json!({
        "call": call,
        "denied": denied,
        "rotation": rotated,
        "policyEdit": { "closed": closed_count, "record": closed, "otherConnectionsKept": true },
        "wire": wire,
    }))
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
fn hold(lab: &Lab, pod: &str) -> Result<std::net::TcpStream> {
    let mut socket = lab.connect(pod, SERVICE)?;
    ask(&mut socket)?;
    Ok(socket)
}

fn ask(socket: &mut std::net::TcpStream) -> Result<()> {
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
