//! `adit svid`: a workload's own SVIDs, from anybody's Workload API.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{self, Format, complain, say},
    svid_lint,
};
use crate::{
    credentials::workload_api::{
        Endpoint,
        client::{Client, ENDPOINT_VARIABLE, HintedSvid, X509Context},
    },
    identity::{
        SpiffeId,
        lint::{printable, printable_json},
    },
};

/// How long the first answer may take.
const FIRST: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(super) struct SvidArgs {
    #[command(subcommand)]
    command: SvidCommand,
}

#[derive(Debug, Subcommand)]
enum SvidCommand {
    /// Fetch SVIDs of this process
    #[command(
        subcommand,
        after_help = "Examples:\n  \
        adit svid fetch x509 --write /run/tls\n  \
        adit svid fetch jwt --audience db --json"
    )]
    Fetch(Fetch),
    /// Validate a token with the Workload API
    #[command(subcommand)]
    Validate(Validate),
    /// Print each X.509 update as it arrives
    #[command(after_help = "Example:\n  adit svid watch")]
    Watch(WorkloadApiArgs),
    /// Check SVIDs and bundles of any issuer against the specification
    Lint(svid_lint::LintArgs),
}

#[derive(Debug, Subcommand)]
enum Fetch {
    /// Fetch X.509-SVIDs and bundles
    #[command(after_help = "Example:\n  adit svid fetch x509 --write /run/tls")]
    X509 {
        #[command(flatten)]
        at: WorkloadApiArgs,
        /// Directory to write them to
        ///
        /// svid.N.pem, svid.N.key (mode 0600) and bundle.TRUST-DOMAIN.pem.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// Fetch JWT-SVIDs
    #[command(after_help = "Example:\n  adit svid fetch jwt --audience db --json")]
    Jwt {
        #[command(flatten)]
        at: WorkloadApiArgs,
        /// Audience of the token; may be repeated
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// Fetch the SVID of this identity only
        #[arg(long, value_name = "ID")]
        spiffe_id: Option<SpiffeId>,
    },
}

#[derive(Debug, Subcommand)]
enum Validate {
    /// Validate a JWT-SVID
    #[command(after_help = "Example:\n  adit svid validate jwt --audience db \"$TOKEN\"")]
    Jwt {
        #[command(flatten)]
        at: WorkloadApiArgs,
        /// Audience that the token must name
        #[arg(long, value_name = "AUD")]
        audience: String,
        /// The token, in JWS Compact Serialization
        token: String,
    },
}

#[derive(Debug, Args)]
struct WorkloadApiArgs {
    /// Address of the Workload API: unix:///PATH, tcp://IP:PORT, or a path
    #[arg(long, value_name = "ADDR", env = ENDPOINT_VARIABLE)]
    socket: Endpoint,
    #[command(flatten)]
    format: Format,
}

impl SvidCommand {
    /// Whether the socket that it was given is there, as far as a file tells, and the directory to
    /// write to.
    fn given(&self) -> Result<(), String> {
        let at = match self {
            Self::Fetch(Fetch::X509 { at, .. } | Fetch::Jwt { at, .. })
            | Self::Validate(Validate::Jwt { at, .. })
            | Self::Watch(at) => at,
            Self::Lint(_) => return Ok(()),
        };
        is_there(&at.socket)?;
        match self {
            Self::Fetch(Fetch::X509 { write: Some(dir), .. }) => fs::create_dir_all(dir)
                .map_err(|error| format!("{}: {error}", crate::identity::shown(dir))),
            _ => Ok(()),
        }
    }
}

/// Whether an endpoint that is a Unix socket exists and is a socket: the exit code says so.
pub(super) fn is_there(endpoint: &Endpoint) -> Result<(), String> {
    let Endpoint::Unix(path) = endpoint else { return Ok(()) };
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => Ok(()),
        Ok(_) => Err(format!("{} is not a socket", crate::identity::shown(path))),
        Err(error) => Err(format!("{}: {error}", crate::identity::shown(path))),
    }
}

impl WorkloadApiArgs {
    fn named(&self) -> String {
        format!("the Workload API at {}", self.socket)
    }
}

pub(super) fn run(args: SvidArgs) -> u8 {
    if let SvidCommand::Lint(args) = &args.command {
        return svid_lint::run(args);
    }
    if let Err(error) = args.command.given() {
        complain!("adit svid: {error}");
        return BAD_CONFIG;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|r| r.block_on(act(args.command)));
    match done {
        Ok(()) => OK,
        Err(error) => {
            complain!("adit svid: {}", printable(&format!("{error:#}")));
            FAILED
        }
    }
}

async fn act(command: SvidCommand) -> anyhow::Result<()> {
    match command {
        SvidCommand::Lint(_) => {} // needs no runtime, and was done before
        SvidCommand::Fetch(Fetch::X509 { at, write }) => {
            let first = async { Client::new(&at.socket).x509().await?.next().await };
            let context = tokio::time::timeout(FIRST, first).await.context("no answer in 15 s");
            let context = context.and_then(|c| Ok(c?)).with_context(|| at.named())?;
            if let Some(dir) = &write {
                write_all(dir, &context)?;
            }
            print(at.format, &described(&context));
        }
        SvidCommand::Fetch(Fetch::Jwt { at, audience, spiffe_id }) => {
            let tokens = Client::new(&at.socket).jwt(&audience, spiffe_id.as_ref()).await;
            let tokens = tokens.with_context(|| at.named())?;
            let svids = tokens.iter();
            let svids =
                svids.map(|t| json!({ "id": t.id.as_str(), "hint": t.hint, "token": t.token }));
            print(at.format, &json!({ "svids": svids.collect::<Vec<_>>() }));
        }
        SvidCommand::Validate(Validate::Jwt { at, audience, token }) => {
            let judged = Client::new(&at.socket).validate_jwt(&audience, &token).await;
            let (id, claims) = judged.with_context(|| at.named())?;
            print(at.format, &json!({ "id": id.as_str(), "claims": claims }));
        }
        SvidCommand::Watch(at) => {
            let updates = Client::new(&at.socket).x509().await;
            let mut updates = updates.with_context(|| at.named())?;
            loop {
                let context = updates.next().await.with_context(|| at.named())?;
                say!("{}", printable_json(&described(&context).to_string()));
                if output::is_lost() {
                    break;
                }
            }
        }
    }
    Ok(())
}

fn print(how: Format, value: &Value) {
    let list = value["svids"].as_array().filter(|_| !how.is_json());
    let Some(list) = list else {
        return say!("{}", printable_json(&format!("{value:#}")));
    };
    for svid in list {
        let text = |key: &str| printable(svid[key].as_str().unwrap_or_default());
        let rest = if text("token").is_empty() {
            format!("serial {} until {}", text("serial"), text("notAfter"))
        } else {
            text("token")
        };
        let hint = text("hint");
        let hint = if hint.is_empty() { hint } else { format!(" ({hint})") };
        say!("{}{hint} {rest}", text("id"));
    }
}

/// An update without its keys.
fn described(context: &X509Context) -> Value {
    let rfc3339 = |t: SystemTime| OffsetDateTime::from(t).format(&Rfc3339).unwrap_or_default();
    let svid = |s: &HintedSvid| {
        json!({
            "id": s.svid.id.as_str(),
            "hint": s.hint,
            "serial": s.svid.serial,
            "notBefore": rfc3339(s.svid.not_before),
            "notAfter": rfc3339(s.svid.not_after),
        })
    };
    let bundle = |b: &crate::identity::TrustBundle| {
        json!({
            "trustDomain": b.trust_domain.as_str(),
            "authorities": b.authorities.len(),
            "crls": b.crls.len(),
        })
    };
    json!({
        "svids": context.svids.iter().map(svid).collect::<Vec<_>>(),
        "bundles": context.bundles.iter().map(bundle).collect::<Vec<_>>(),
    })
}

fn write_all(dir: &Path, context: &X509Context) -> anyhow::Result<()> {
    for (n, HintedSvid { svid, .. }) in context.svids.iter().enumerate() {
        let key = Zeroizing::new(pem("PRIVATE KEY", svid.key.pkcs8()));
        write(&dir.join(format!("svid.{n}.key")), &key, 0o600)?;
        let chain: String = svid.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        write(&dir.join(format!("svid.{n}.pem")), &chain, 0o644)?;
    }
    for bundle in context.bundles.iter() {
        let all: String = bundle.authorities.iter().map(|der| pem("CERTIFICATE", der)).collect();
        write(&dir.join(format!("bundle.{}.pem", bundle.trust_domain)), &all, 0o644)?;
    }
    Ok(())
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(der));
    let mut all = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        all.extend(line.iter().map(|b| char::from(*b)));
        all.push('\n');
    }
    all + &format!("-----END {label}-----\n")
}

/// Writes another file and renames it, so that no reader sees half of it.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".tmp{}", std::process::id()));
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&temp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    written().with_context(|| crate::identity::shown(path))
}
