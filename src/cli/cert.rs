//! `adit cert`: certificates for trying things out.

use std::{fs, io, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{complain, say},
};
use crate::{
    authority::{DevCertificateRequest, DevCertificates, dev_certificates},
    identity::{TrustDomain, counted, shown},
    sys::files,
};

#[derive(Debug, Args)]
pub(super) struct CertArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Make throw-away certificates: a CA, a server and clients
    #[command(after_help = "Examples:\n  \
        adit cert dev\n  \
        adit cert dev certs --server-name db.example --client web --client backup\n\n\
        Writes ca.crt, server.crt, server.key, client.crt, client.key and so on. Each\n\
        certificate has a SPIFFE ID, such as spiffe://dev.local/server. The CA's key is\n\
        not kept: to change something, make all of them again with --force. They are\n\
        for trying things out: use your own CA, SPIRE or `adit ca` later.")]
    Dev(DevArgs),
}

#[derive(Debug, Args)]
struct DevArgs {
    /// Directory to write them to; created if missing
    #[arg(default_value = "certs")]
    dir: PathBuf,
    /// DNS name or IP address of the server; may be repeated
    #[arg(long = "server-name", value_name = "NAME",
          default_values = ["localhost", "127.0.0.1", "::1"])]
    server_names: Vec<String>,
    /// Name of a client, for its files and its SPIFFE ID; may be repeated
    #[arg(long = "client", value_name = "NAME", default_values = ["client"])]
    clients: Vec<String>,
    /// Trust domain of the SPIFFE IDs
    #[arg(long, value_name = "NAME", default_value = "dev.local")]
    trust_domain: TrustDomain,
    /// How long they are valid
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &CertArgs) -> u8 {
    let Kind::Dev(args) = &args.kind;
    let wanted = DevCertificateRequest {
        trust_domain: &args.trust_domain,
        server_names: &args.server_names,
        clients: &args.clients,
        lifetime: args.ttl,
    };
    let made = match dev_certificates(&wanted) {
        Ok(made) => made,
        Err(error) => {
            complain!("adit: error: {error}");
            return FAILED;
        }
    };
    let all = contents(&made);
    if !args.force
        && let Some((there, ..)) = all.iter().find(|(name, ..)| args.dir.join(name).exists())
    {
        let there = shown(&args.dir.join(there)).to_string();
        complain!("adit: error: {there} exists already; --force replaces all of them");
        return BAD_CONFIG;
    }
    if let Err(error) = write(args, &all) {
        complain!("adit: error: {}: {error}", shown(&args.dir));
        return BAD_CONFIG;
    }
    say!("{}: written, valid for {}:", shown(&args.dir), in_words(args.ttl));
    say!("  ca.crt      the CA that both sides trust");
    for pair in &made.pairs {
        say!("  {:<11} {}, with {}.key", format!("{}.crt", pair.name), pair.id, pair.name);
    }
    OK
}

/// Whole days as such, other times as they are written: `7 days`, `1h 30m`.
fn in_words(time: Duration) -> String {
    const DAY: u64 = 86_400;
    match time.as_secs() {
        whole if whole >= DAY && whole % DAY == 0 => counted((whole / DAY) as usize, "day"),
        _ => humantime::format_duration(time).to_string(),
    }
}

/// `(file, content, mode)` of each.
fn contents(made: &DevCertificates) -> Vec<(String, &str, u32)> {
    let mut all = vec![("ca.crt".to_owned(), &*made.root, 0o644)];
    for pair in &made.pairs {
        all.push((format!("{}.key", pair.name), &pair.key, 0o600));
        all.push((format!("{}.crt", pair.name), &pair.certificate, 0o644));
    }
    all
}

fn write(args: &DevArgs, all: &[(String, &str, u32)]) -> io::Result<()> {
    fs::create_dir_all(&args.dir)?;
    all.iter().try_for_each(|(name, content, mode)| {
        files::replace(&args.dir.join(name), content.as_bytes(), *mode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_said_in_words() {
        for (seconds, words) in
            [(7 * 86_400, "7 days"), (86_400, "1 day"), (5_400, "1h 30m"), (90_000, "1day 1h")]
        {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }
}
