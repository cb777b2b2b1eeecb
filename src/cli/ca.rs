//! `adit ca`: the authorities of an embedded CA, and who is banned, while processes run on it;
//! and the CA as a server ([`super::ca_serve`]).

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    BAD_CONFIG, FAILED, OK, USAGE, ca_serve,
    output::{Format, complain, say},
};
use crate::{
    authority::{AuthorityKind, AuthorityStatus, CaDirectory, Overview},
    identity::{SpiffeId, counted},
};

/// Running processes check the directory every second: by then all have seen a change.
const SEEN: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    verb: CaVerb,
}

#[derive(Debug, Subcommand)]
enum CaVerb {
    /// Issue SVIDs to other nodes and proxies (Istio CA API)
    Serve(ca_serve::ServeArgs),
    /// Join tokens, for hosts without Kubernetes
    Token(ca_serve::TokenArgs),
    /// List the authorities, and what each is used for
    #[command(after_help = "Example:\n  adit ca show --dir /var/lib/adit/ca")]
    Show {
        #[command(flatten)]
        at: CaDirArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Create the next authority: trusted from now on, not used yet
    #[command(after_help = "Example:\n  adit ca prepare --dir /var/lib/adit/ca")]
    Prepare(AuthorityArgs),
    /// Sign with the prepared authority from now on
    #[command(after_help = "Example:\n  adit ca activate --dir /var/lib/adit/ca")]
    Activate(AuthorityArgs),
    /// Mark the old authority as about to be revoked
    #[command(after_help = "Example:\n  adit ca taint --dir /var/lib/adit/ca")]
    Taint(NamedAuthority),
    /// Remove the tainted authority from the bundle
    #[command(after_help = "Example:\n  adit ca revoke --dir /var/lib/adit/ca")]
    Revoke {
        #[command(flatten)]
        named: NamedAuthority,
        /// Revoke it even if identities have SVIDs from no other authority
        #[arg(long)]
        force: bool,
    },
    /// Rotate the CA: prepare, activate, taint, revoke; no new connection fails
    #[command(after_help = "Example:\n  \
        adit ca rotate --dir /var/lib/adit/ca --overlap 5s\n\n\
        Processes that share the directory see a change within a second. Peers\n\
        elsewhere (federation, and adit's nodes under `adit ca serve`) check every\n\
        60 s, so that the default allows for three checks. Other clients of `adit ca\n\
        serve` see the new authority when they renew: for them, choose half the\n\
        lifetime of an SVID.\n\n\
        The last step, revoke, closes the connections that began under the old\n\
        authority. With --no-revoke they continue; run `adit ca revoke` when they have\n\
        ended.")]
    Rotate {
        #[command(flatten)]
        which: AuthorityArgs,
        /// How long to wait until all peers know a new authority, at least 3s
        #[arg(long, default_value = "180s", value_parser = humantime::parse_duration)]
        overlap: Duration,
        /// Keep trusting the old authority, which signs nothing any more
        #[arg(long)]
        no_revoke: bool,
    },
    /// Ban an identity: revoke its SVIDs and issue no more
    #[command(after_help = "Example:\n  \
        adit ca ban spiffe://cluster.local/ns/shop/sa/web --dir /var/lib/adit/ca")]
    Ban(BannedIdentity),
    /// Lift a ban
    #[command(after_help = "Example:\n  \
        adit ca unban spiffe://cluster.local/ns/shop/sa/web --dir /var/lib/adit/ca")]
    Unban(BannedIdentity),
}

#[derive(Debug, Args)]
struct CaDirArgs {
    /// The CA's directory, as `ca.embedded.dir` in the mesh file
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct AuthorityArgs {
    #[command(flatten)]
    at: CaDirArgs,
    /// The authority for JWT-SVIDs instead of X.509-SVIDs
    #[arg(long)]
    jwt: bool,
}

#[derive(Debug, Args)]
struct NamedAuthority {
    #[command(flatten)]
    which: AuthorityArgs,
    /// ID of the authority, if there are several
    id: Option<String>,
}

#[derive(Debug, Args)]
struct BannedIdentity {
    /// SPIFFE ID of the identity
    #[arg(value_name = "SPIFFE-ID")]
    id: SpiffeId,
    #[command(flatten)]
    at: CaDirArgs,
}

impl AuthorityArgs {
    fn kind(&self) -> AuthorityKind {
        if self.jwt { AuthorityKind::Jwt } else { AuthorityKind::X509 }
    }
}

impl CaVerb {
    /// The CA's directory; `None` where there is a file of the CA server instead.
    fn dir(&self) -> Option<&Path> {
        let at = match self {
            Self::Serve(_) | Self::Token(_) => return None,
            Self::Show { at, .. } => at,
            Self::Prepare(which) | Self::Activate(which) | Self::Rotate { which, .. } => &which.at,
            Self::Taint(named) | Self::Revoke { named, .. } => &named.which.at,
            Self::Ban(who) | Self::Unban(who) => &who.at,
        };
        Some(&at.dir)
    }
}

pub(super) fn run(args: &CaArgs) -> u8 {
    match &args.verb {
        CaVerb::Serve(args) => return ca_serve::serve(args),
        CaVerb::Token(args) => return ca_serve::token(args),
        _ => {}
    }
    let Some(opened) = args.verb.dir().map(CaDirectory::open) else { return USAGE };
    let ca = match opened {
        Ok(ca) => ca,
        Err(error) => {
            complain!("{error:#}");
            return BAD_CONFIG;
        }
    };
    match act(&args.verb, &ca) {
        Ok(()) => OK,
        Err(error) => {
            complain!("{error:#}");
            FAILED
        }
    }
}

fn act(verb: &CaVerb, ca: &CaDirectory) -> anyhow::Result<()> {
    match verb {
        CaVerb::Serve(_) | CaVerb::Token(_) => {} // done before
        CaVerb::Show { format, .. } => show(&ca.show()?, format.is_json()),
        CaVerb::Prepare(which) => say!("prepared {}", ca.prepare(which.kind())?),
        CaVerb::Activate(which) => say!("activated {}", ca.activate(which.kind(), SEEN)?),
        CaVerb::Taint(NamedAuthority { which, id }) => {
            say!("tainted {}", ca.taint(which.kind(), id.as_deref())?);
        }
        CaVerb::Revoke { named: NamedAuthority { which, id }, force } => {
            say!("revoked {}", ca.revoke(which.kind(), id.as_deref(), *force)?);
        }
        CaVerb::Rotate { which, overlap, no_revoke } => {
            rotate(ca, which.kind(), *overlap, !no_revoke)?;
        }
        CaVerb::Ban(who) => {
            let revoked = ca.ban(&who.id)?;
            say!("banned {}; {} revoked", who.id, counted(revoked, "SVID"));
        }
        CaVerb::Unban(who) => {
            let was = ca.unban(&who.id)?;
            say!("{} {}", who.id, if was { "is no longer banned" } else { "was not banned" });
        }
    }
    Ok(())
}

fn show(found: &Overview, json: bool) {
    if json {
        let text = json!({
            "trustDomain": found.trust_domain.as_str(),
            "sequence": found.sequence,
            "upstream": found.upstream,
            "x509": found.x509,
            "jwt": found.jwt,
            "banned": found.banned,
            "revokedSerials": found.revoked,
        });
        return say!("{text:#}");
    }
    say!("{} (sequence {})", found.trust_domain, found.sequence);
    if found.upstream {
        say!("x509  signed by the upstream's intermediate");
    }
    for (kind, all) in [("x509", &found.x509), ("jwt ", &found.jwt)] {
        for authority in all {
            let status = match authority.status {
                AuthorityStatus::Prepared => "prepared",
                AuthorityStatus::Active => "active",
                AuthorityStatus::Old => "old",
                AuthorityStatus::Tainted => "tainted",
            };
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(authority.not_after);
            let end = humantime::format_rfc3339_seconds(end);
            say!("{kind}  {}  {status:<8}  until {end}", authority.id);
        }
    }
    found.banned.iter().for_each(|id| say!("banned  {id}"));
    say!("{} revoked", counted(found.revoked, "serial number"));
}

/// A new authority is trusted before it signs, and an old one stops signing before trust in it ends.
fn rotate(
    ca: &CaDirectory,
    kind: AuthorityKind,
    overlap: Duration,
    revoke: bool,
) -> anyhow::Result<()> {
    let overlap = overlap.max(SEEN);
    let shown = ca.show()?;
    let all = if kind == AuthorityKind::Jwt { &shown.jwt } else { &shown.x509 };
    let prepared = all.iter().find(|a| a.status == AuthorityStatus::Prepared).map(|a| a.id.clone());
    complain!(
        "this takes {}{}. You can interrupt it at any time (Ctrl-C), as the CA works after every \
         step: `adit ca rotate` then continues with the prepared authority, and `adit ca revoke` \
         removes the tainted one",
        humantime::format_duration(2 * overlap),
        match kind {
            AuthorityKind::X509 => ", and then until no identity depends on the old authority",
            AuthorityKind::Jwt => "",
        }
    );
    let next = match prepared {
        Some(prepared) => prepared,
        None => ca.prepare(kind)?,
    };
    say!("prepared {next}; waiting {overlap:?} until peers trust it");
    wait(overlap);
    ca.activate(kind, SEEN)?;
    say!("activated {next}");
    let old = ca.taint(kind, None)?;
    say!("tainted {old}; waiting {overlap:?} until SVIDs are renewed");
    wait(overlap);
    if kind == AuthorityKind::X509 {
        until_unused(ca, &old)?;
    }
    if !revoke {
        say!("{old} stays trusted until `adit ca revoke`, for connections that began under it");
        return Ok(());
    }
    say!("revoked {}", ca.revoke(kind, Some(&old), false)?);
    Ok(())
}

/// How often the time that is left is printed.
const TOLD_EVERY: Duration = Duration::from_secs(15);

fn wait(overlap: Duration) {
    let end = Instant::now() + overlap;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let whole = Duration::from_secs(left.as_secs_f64().round() as u64);
        complain!("  {} to go", humantime::format_duration(whole));
        std::thread::sleep(left.min(TOLD_EVERY));
    }
}

/// Ends: each SVID under the old authority expires, and there are no new ones.
fn until_unused(ca: &CaDirectory, old: &str) -> anyhow::Result<()> {
    let mut said = usize::MAX;
    loop {
        let left = ca.dependents(old)?.identities.len();
        if left == 0 {
            return Ok(());
        }
        if left != said {
            say!("waiting for {} whose only SVIDs are signed by {old}", counted(left, "identity"));
            said = left;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
