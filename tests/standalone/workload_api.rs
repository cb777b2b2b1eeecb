//! Where the certificate is the Workload API's: what that takes back is used no more.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use adit::rpc::workload::{X509svid, X509svidResponse};
use tokio::{runtime::Runtime, sync::watch};
use tokio_stream::{StreamExt as _, wrappers::WatchStream};
use tonic::Status;

use crate::{
    agent,
    backends::{Backend, ask, nobody},
    peers::Caller,
    pki::{Leaf, Pki, as_app, as_server},
    probes::get,
    process::Adit,
    wait::{LIMIT, wait_until},
};

type Given = Option<X509svidResponse>;

/// An agent, which gives one SVID or denies that there is any.
struct Agent {
    given: watch::Sender<Given>,
    socket: PathBuf,
    _runtime: Runtime,
}

impl Agent {
    fn start(pki: &Pki, id: &str, leaf: &Leaf) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let (given, serving) = watch::channel(Some(answer(pki, id, leaf)));
        let socket = pki.path(&format!("{}.sock", id.rsplit('/').next().unwrap()));
        {
            let _inside = runtime.enter();
            agent::serve(&socket, Serving(serving));
        }
        Self { given, socket, _runtime: runtime }
    }

    fn flag(&self) -> String {
        format!("--use-workload-api-addr unix://{}", self.socket.display())
    }

    fn gives(&self, given: Given) {
        self.given.send_replace(given);
    }
}

fn answer(pki: &Pki, id: &str, leaf: &Leaf) -> X509svidResponse {
    let svid = X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: leaf.chain[0].to_vec(),
        x509_svid_key: leaf.key().secret_der().to_vec(),
        bundle: pki.ca.root.to_vec(),
        hint: String::new(),
    };
    X509svidResponse { svids: vec![svid], ..Default::default() }
}

struct Serving(watch::Receiver<Given>);

impl agent::Agent for Serving {
    fn x509_svids(&self) -> Result<agent::Said<X509svidResponse>, Status> {
        let denied = || Status::permission_denied("no identity issued");
        let given = WatchStream::new(self.0.clone());
        Ok(Box::pin(given.map(move |given| given.ok_or_else(denied))))
    }
}

const DB: &str = "spiffe://td.test/db";
const APP: &str = "spiffe://td.test/apps/billing/7";
const WARNING: &str = "the SVID was withdrawn: new connections are refused";

/// What the status address says, without white space.
fn said(status: SocketAddr) -> String {
    get(status, "/_status").split_whitespace().collect()
}

#[test]
fn a_server_uses_no_svid_that_was_taken_back() {
    let (pki, echo, status) = (Pki::new(), Backend::echo(), nobody());
    let agent = Agent::start(&pki, DB, &pki.server);
    let adit = Adit::start(format!(
        "server --listen 127.0.0.1:0 --target {} --allow-all --status http://{status} {}",
        echo.addr,
        agent.flag()
    ));
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    assert!(said(status).contains("\"taken_back\":null"), "{}", said(status));

    let begun = Instant::now();
    agent.gives(None);
    let line = adit.logs(WARNING);
    assert!(line.contains("WARN") && line.contains("db.sock"), "{line}");
    assert!(begun.elapsed() < LIMIT / 2, "{:?}", begun.elapsed());
    let taken = echo.taken();
    caller.says(adit.addr, "hello").unwrap_err();
    assert_eq!(echo.taken(), taken);
    adit.logs("no_identity … no identity issued");
    let said_now = get(status, "/_status");
    let compact = said(status);
    assert!(said_now.starts_with("HTTP/1.1 503"), "{said_now}");
    assert!(compact.contains("\"ok\":false") && !compact.contains("\"taken_back\":null"));
    assert!(said_now.contains("no identity issued"), "{said_now}");

    let new = pki.ca.leaf("server", as_server);
    agent.gives(Some(answer(&pki, DB, &new)));
    adit.logs("an SVID is available again");
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
    let session = caller.dial(adit.addr).unwrap();
    assert_eq!(session.conn.peer_certificates().unwrap()[0], new.chain[0]);
    assert!(said(status).contains("\"taken_back\":null"), "{}", said(status));
    assert_eq!(adit.count(WARNING), 1);
}

/// The last good SVID serves on, as old as it is.
#[test]
fn an_agent_that_is_away_is_told_of_and_makes_nothing_newer() {
    let (pki, echo, status) = (Pki::new(), Backend::echo(), nobody());
    let agent = Agent::start(&pki, DB, &pki.server);
    let adit = Adit::start(format!(
        "server --listen 127.0.0.1:0 --target {} --allow-all --status http://{status} {}",
        echo.addr,
        agent.flag()
    ));
    let obtained = || {
        let said = said(status);
        said.split_once("\"last_reload\":").unwrap().1.split(',').next().unwrap().to_owned()
    };
    assert!(said(status).contains("\"last_reload_error\":null"), "{}", said(status));
    let first = obtained();
    drop(agent);
    wait_until("it is told", LIMIT, || !said(status).contains("\"last_reload_error\":null"));
    std::thread::sleep(Duration::from_secs(2)); // it is asked a few times more
    assert_eq!(obtained(), first);
    assert!(said(status).contains("\"ok\":true"), "{}", said(status));
    let caller = Caller::new(&pki.ca, Some(&pki.app));
    assert_eq!(caller.says(adit.addr, "hello").unwrap(), "hello");
}

#[test]
fn a_client_uses_no_svid_that_was_taken_back() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let agent = Agent::start(&pki, APP, &pki.app);
    let server = Adit::start(pki.server(echo.addr) + "--allow-cn app");
    let client = Adit::start(format!(
        "client --listen 127.0.0.1:0 --target {} --verify-uri {DB} {}",
        server.addr,
        agent.flag()
    ));
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
    agent.gives(None);
    client.logs(WARNING);
    let taken = echo.taken();
    assert!(ask(client.addr, b"hello").is_err());
    assert_eq!(echo.taken(), taken);
    agent.gives(Some(answer(&pki, APP, &pki.ca.leaf("app", as_app))));
    wait_until("it is served again", LIMIT, || {
        ask(client.addr, b"hello").is_ok_and(|h| h == b"hello")
    });
}

/// A stream is a new connection, though its tunnel is an old one.
#[test]
fn an_open_tunnel_takes_no_stream_when_the_svid_was_taken_back() {
    let (pki, echo) = (Pki::new(), Backend::echo());
    let agent = Agent::start(&pki, DB, &pki.server);
    let server = Adit::start(format!(
        "server --listen 127.0.0.1:0 --target {} --allow-all --tunnel hbone {}",
        echo.addr,
        agent.flag()
    ));
    let client = Adit::start(format!(
        "{} --tunnel hbone --tunnel-address {} --verify-id {DB}",
        pki.client(echo.addr),
        server.addr
    ));
    assert_eq!(ask(client.addr, b"hello").unwrap(), b"hello");
    agent.gives(None);
    server.logs(WARNING);
    let taken = echo.taken();
    assert!(!ask(client.addr, b"hello").is_ok_and(|heard| heard == b"hello"));
    assert_eq!(echo.taken(), taken);
    agent.gives(Some(answer(&pki, DB, &pki.ca.leaf("server", as_server))));
    wait_until("it is served again", LIMIT, || {
        ask(client.addr, b"hello").is_ok_and(|h| h == b"hello")
    });
}
