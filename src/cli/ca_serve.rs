//! `adit ca serve` and `adit ca token`: the embedded CA for others.

use std::{io::ErrorKind, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{complain, say},
};
use crate::{app::RunError, authority::serve::JoinTokens, identity::SpiffeId};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit ca serve -c /etc/adit/ca.yaml\n\n\
        Runs until SIGTERM. Clients trust bundle.pem of the CA's directory, which stays\n\
        valid across a rotation. RUST_LOG sets the log filter; each decision is logged\n\
        with target `ca`.")]
pub(super) struct ServeArgs {
    /// Path of the CA server's file
    #[arg(short, long, value_name = "FILE", env = "ADIT_CA_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Create a join token, which is good for one SVID, once
    #[command(after_help = "Example:\n  \
        adit ca token create --dir /var/lib/adit/join --ttl 10m \\\n    \
        --id spiffe://cluster.local/host/db1 > token\n\n\
        The token is printed; the CA keeps only a hash of it.")]
    Create {
        /// SPIFFE ID of the SVID
        #[arg(long, value_name = "SPIFFE-ID")]
        id: SpiffeId,
        /// How long the token is valid, at most 30d
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = ttl)]
        ttl: Duration,
        /// Directory of join tokens: attestors.joinTokens.dir of the CA server's file
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

pub(super) fn serve(args: &ServeArgs) -> u8 {
    match crate::app::ca_serve(&args.config) {
        Ok(()) => OK,
        Err(error) => {
            complain!("{error}");
            match error {
                RunError::Config(_) | RunError::Named(_) => BAD_CONFIG,
                RunError::Start(_) => FAILED,
            }
        }
    }
}

pub(super) fn token(args: &TokenArgs) -> u8 {
    let TokenCommand::Create { id, ttl, dir } = &args.command;
    match (JoinTokens { dir: dir.clone() }).create(id, *ttl) {
        Ok(token) => {
            say!("{}", *token);
            OK
        }
        Err(error) => {
            complain!("adit ca token create: {error}");
            match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FAILED,
                _ => BAD_CONFIG, // the directory that it was given
            }
        }
    }
}

/// No join token lives longer.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    match ttl {
        Duration::ZERO => Err("must be longer than 0s".to_owned()),
        _ if ttl > LONGEST => Err("must be at most 30d".to_owned()),
        _ => Ok(ttl),
    }
}
