//! Istio `AuthorizationPolicy` documents in front of one service.

use super::world::{Backend, Proxy, World, call_plain, free_port, run};
use crate::wait::{LIMIT, wait_until};

fn policy(name: &str, action: &str, source: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{ name: {name}, namespace: prod }}\n\
         spec: {{ action: {action}, rules: [{{ from: [{{ source: {{ {source} }} }}] }}] }}\n"
    )
}

fn world() -> World {
    let world = World::new();
    world.sign("web", "web", Some("spiffe://td/ns/shop/sa/web"));
    world.sign("job", "job", Some("spiffe://td/ns/shop/sa/job"));
    world
}

#[test]
fn an_allow_admits_a_deny_goes_first_and_edits_take_effect() {
    let world = world();
    let db = Backend::start("db");
    let allow_web = policy("web", "ALLOW", "principals: [td/ns/shop/sa/web]");
    let file = world.write("policies.yaml", &allow_web);
    let port = free_port();
    let allow = format!("allow: {{ policies: {}, commonNames: [job] }}", file.display());
    let mut adit = Proxy::start(&world, &world.server("s", port, db.addr, &allow));
    assert_eq!(world.call("web", port).unwrap().name, "db");
    let line = adit.wait("direction");
    assert!(line.contains("prod/web rule 0"), "{line}");
    let mut job = world.call("job", port).unwrap();
    assert_eq!(job.name, "db", "named beside the policies");
    let mut web = world.call("web", port).unwrap();

    let deny = policy("no-jobs", "DENY", "principals: ['td/ns/shop/sa/job']");
    world.write("policies.yaml", &format!("{allow_web}{deny}"));
    let line = adit.wait("no longer allowed by the policies");
    assert!(line.contains("connections=1"), "{line}");
    let line = adit.wait("changed policies reloaded");
    assert!(line.contains("policies.yaml"), "{line}");
    wait_until("what is open is closed", LIMIT, || job.echo("x").is_err());
    web.echo("others carry on").unwrap();
    assert!(world.call("job", port).is_err(), "denied, although it is named");
    let line = adit.wait("explicitly denied");
    let place = format!("explicitly denied by prod/no-jobs rule 0 ({}:10)", file.display());
    assert!(line.contains(&place), "the line of the file: {line}");
    assert!(line.contains("policy=\"prod/no-jobs rule 0\""), "the number alone: {line}");
    assert_eq!(world.call("web", port).unwrap().name, "db");

    world.write("policies.yaml", &allow_web.replace("principals", "requestPrincipals"));
    let line = adit.wait("rejected; keeping");
    assert!(line.contains("about HTTP"), "{line}");
    assert!(world.call("job", port).is_err(), "what was read before stays");
    adit.signal(nix::sys::signal::Signal::SIGHUP);
    let line = adit.wait("configuration rejected");
    assert!(line.contains("about HTTP"), "{line}");
}

#[test]
fn whoever_is_in_no_policy_is_refused() {
    let world = world();
    let db = Backend::start("db");
    let file = world.write("policies.yaml", &policy("p", "ALLOW", "namespaces: [shop]"));
    let port = free_port();
    let allow = format!("allow: {{ policies: {} }}", file.display());
    let mut adit = Proxy::start(&world, &world.server("s", port, db.addr, &allow));
    assert_eq!(world.call("web", port).unwrap().name, "db");
    world.sign("plain", "web", None);
    assert!(world.call("plain", port).is_err());
    let line = adit.wait("none allowed");
    let closest = format!("closest: prod/p rule 0 ({}:5): ", file.display());
    assert!(line.contains(&closest), "{line}");
    assert_eq!(db.calls.load(std::sync::atomic::Ordering::SeqCst), 1, "nothing reached it");
}

/// It has the same path in another trust domain, which this CA vouches for too.
#[test]
fn a_namesake_of_another_trust_domain_is_nobody_at_the_start_and_under_new_policies() {
    let world = world();
    world.sign("guest", "guest", Some("spiffe://other/ns/shop/sa/web"));
    let db = Backend::start("db");
    let of_shop = policy("p", "ALLOW", "namespaces: [shop]");
    let file = world.write("policies.yaml", &of_shop);
    let port = free_port();
    let allow = format!("allow: {{ policies: {} }}", file.display());
    let mut adit = Proxy::start(&world, &world.server("s", port, db.addr, &allow));
    assert!(world.call("guest", port).is_err());
    let line = adit.wait("none allowed");
    assert!(line.contains("of another trust domain"), "{line}");
    let named = "principals: [td/ns/shop/sa/web, other/ns/shop/sa/web]";
    world.write("policies.yaml", &policy("p", "ALLOW", named));
    wait_until("named by its principal", LIMIT, || world.call("guest", port).is_ok());
    let (mut web, mut guest) =
        (world.call("web", port).unwrap(), world.call("guest", port).unwrap());
    world.write("policies.yaml", &of_shop);
    wait_until("not of this shop", LIMIT, || guest.echo("x").is_err());
    web.echo("others carry on").unwrap();
}

#[test]
fn flags_name_the_file_and_its_faults_stop_the_start() {
    let world = world();
    let db = Backend::start("db");
    let file = world.write("p.yaml", &policy("p", "ALLOW", "principals: ['*/sa/web']"));
    let port = free_port();
    let (listen, target) = (format!("127.0.0.1:{port}"), db.addr.to_string());
    let [crt, key, ca] = ["server.crt", "server.key", "ca.crt"].map(|f| world.file(f));
    let args = [
        "server",
        "--listen",
        &listen,
        "--target",
        &target,
        "--allow-authorization-policy",
        file.to_str().unwrap(),
        "--cert",
        crt.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
        "--cacert",
        ca.to_str().unwrap(),
    ];
    let mut adit = Proxy::with(&args, &crt);
    adit.wait("listening");
    let mut web = world.call("web", port).unwrap();
    assert_eq!(web.name, "db");
    assert!(world.call("job", port).is_err());
    world.write("p.yaml", &policy("p", "ALLOW", "principals: ['*/sa/job']"));
    wait_until("the edit is taken", LIMIT, || world.call("job", port).is_ok());
    wait_until("who was allowed by what is gone is closed", LIMIT, || web.echo("x").is_err());
    drop(adit);
    world.write("p.yaml", &policy("p", "ALLOW", "remoteIpBlocks: [10.0.0.0/8]"));
    let (code, _, stderr) = run(&args);
    assert!(code == 1 && stderr.contains("about HTTP"), "{code} {stderr}");
    world.write("p.yaml", &policy("p", "DENY", "namespaces: [shop]"));
    let (code, _, stderr) = run(&args);
    assert!(code == 1 && stderr.contains("--allow-all allows those"), "{code} {stderr}");
}

#[test]
fn in_a_tunnel_ports_are_those_of_the_application() {
    let world = world();
    let db = Backend::start("db");
    let (hbone, plain) = (free_port(), free_port());
    let server = |port: u16| {
        let text = policy("p", "ALLOW", "principals: ['*/sa/web']");
        let rule = text.trim_end().strip_suffix("] }").unwrap().trim_end_matches('}');
        let file = world.write(
            "p.yaml",
            &format!("{rule}, to: [{{ operation: {{ ports: ['{port}'] }} }}] }}] }}\n"),
        );
        let allow =
            format!("tunnel: {{ protocol: hbone }}, allow: {{ policies: {} }}", file.display());
        world.server("in", hbone, db.addr, &allow)
    };
    let client = format!(
        "- {{ name: out, mode: client, listen: 'localhost:{plain}', target: '{}', {}, \
         tunnel: {{ protocol: hbone, address: '127.0.0.1:{hbone}' }}, \
         verify: {{ ids: ['spiffe://td/ns/prod/sa/server'] }} }}\n",
        db.addr,
        world.credential("web")
    );
    let mut adit = Proxy::start(&world, &(server(db.addr.port()) + &client));
    let mut call = call_plain(plain).unwrap();
    assert_eq!(call.name, "db");
    server(hbone);
    adit.wait("changed policies reloaded");
    wait_until("the port of the tunnel is not meant", LIMIT, || call.echo("x").is_err());
    assert!(call_plain(plain).is_err());
}
