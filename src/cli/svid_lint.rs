//! `adit svid lint`: what is right and wrong with anybody's SVIDs and bundles.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, bail};
use clap::Args;
use pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    BAD_CONFIG,
    findings::{self, LEGEND},
    output::{Format, complain},
};
use crate::identity::{
    BundleSet, JwtAuthority, TrustBundle, TrustDomain,
    lint::{self, Given, Report},
    pem::{self, PemError},
};

/// The largest file that is read, bytes.
const MAX_FILE: u64 = 4 << 20;
/// As many certificates as a file may have.
const MOST: usize = 1000;

const EXAMPLES: &str = "\
Examples:
  adit svid lint svid.pem
  adit svid lint svid.pem --bundle ca.pem
  adit svid lint token.jwt --bundle bundle.json --audience db
  adit svid lint --authority ca.pem
  openssl s_client -showcerts -connect db:8443 </dev/null | adit svid lint -
  adit svid lint *.pem --json | jq '.reports[].findings'

FILE is a certificate chain (PEM or DER, leaf first), a JWT-SVID, or a bundle
document (JSON). Its content tells which.
";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\nMore:\n{LEGEND}"))]
pub(super) struct LintArgs {
    /// Files to check; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Bundle to validate against
    ///
    /// A bundle document, a JWK Set, or certificates (PEM or DER).
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Trust domain of the bundle and of each FILE
    ///
    /// Without it, the bundle counts for the trust domain that each FILE names.
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// Audience that a JWT-SVID must name
    #[arg(long)]
    audience: Option<String>,
    /// Treat each FILE as a JWT-SVID
    #[arg(long, conflicts_with = "authority")]
    jwt: bool,
    /// Treat each certificate as a signing certificate (a CA), not an SVID
    #[arg(long)]
    authority: bool,
    /// Show only rules that are broken or not checked
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &LintArgs) -> u8 {
    match lint(args) {
        Ok(reports) => findings::print(args.format, &reports, args.quiet),
        Err(error) => {
            complain!("adit svid lint: {error:#}");
            BAD_CONFIG
        }
    }
}

fn lint(args: &LintArgs) -> anyhow::Result<Vec<(String, Report)>> {
    let bundle = args.bundle.as_deref().map(read).transpose()?;
    let now = SystemTime::now();
    let mut reports = Vec::new();
    for path in &args.files {
        let bytes = read(path)?;
        let of = crate::identity::shown(path);
        let subject =
            if args.jwt { LintSubject::Jwt(token(&bytes)) } else { LintSubject::of(&bytes) };
        let domain = args.trust_domain.clone().or_else(|| subject.claims());
        let bundles = match (&bundle, domain) {
            (None, _) => None,
            (Some(bytes), Some(domain)) => {
                let path = args.bundle.as_deref().unwrap_or(Path::new("-"));
                let bundle =
                    trusted(domain, bytes).with_context(|| crate::identity::shown(path))?;
                Some(BundleSet::from_iter([bundle]))
            }
            (Some(_), None) => Some(BundleSet::default()),
        };
        let given = Given {
            now,
            bundles: bundles.as_ref(),
            trust_domain: args.trust_domain.as_ref(),
            audience: args.audience.as_deref(),
        };
        match subject {
            LintSubject::Chain(chain) if args.authority => {
                for (n, der) in chain.iter().enumerate() {
                    let of = format!("{of} ({})", n + 1);
                    reports.push((of, lint::authority(der, &given)));
                }
            }
            LintSubject::Chain(chain) => reports.push((of, lint::x509_svid(&chain, &given))),
            LintSubject::Jwt(token) => reports.push((of, lint::jwt_svid(&token, &given))),
            LintSubject::Bundle => reports.push((of, lint::bundle_document(&bytes, &given))),
            LintSubject::Broken(error) => reports.push((of, lint::broken_pem(error))),
        }
    }
    Ok(reports)
}

/// What a file holds, by its looks.
enum LintSubject {
    Chain(Vec<CertificateDer<'static>>),
    Jwt(String),
    Bundle,
    /// PEM that is not read whole.
    Broken(PemError),
}

impl LintSubject {
    fn of(bytes: &[u8]) -> Self {
        let text = bytes.trim_ascii_start();
        match text.first() {
            Some(b'{') if contains(text, b"\"payload\"") => Self::Jwt(token(bytes)),
            Some(b'{' | b'[') => Self::Bundle,
            Some(0x30) if !text.is_ascii() => Self::Chain(der(bytes)),
            _ if contains(text, b"-----BEGIN") => match pem::certificates(bytes) {
                Ok(all) => Self::Chain(all),
                Err(error) => Self::Broken(error),
            },
            Some(_) if text.is_ascii() && contains(text, b".") => Self::Jwt(token(bytes)),
            _ => Self::Chain(der(bytes)),
        }
    }

    fn claims(&self) -> Option<TrustDomain> {
        match self {
            Self::Chain(chain) => lint::claimed_by_certificate(chain.first()?),
            Self::Jwt(token) => lint::claimed_by_token(token),
            Self::Bundle | Self::Broken(_) => None,
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A token as in a file, where an editor ends the line.
fn token(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

/// Concatenated DER; what cannot be read stays with the last, to be judged.
fn der(bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    let (mut rest, mut all) = (bytes, Vec::new());
    while all.len() < MOST && !rest.is_empty() {
        let (here, after) = match X509Certificate::from_der(rest) {
            Ok((after, _)) if after.first() == Some(&0x30) => {
                (&rest[..rest.len() - after.len()], after)
            }
            _ => (rest, &[][..]),
        };
        all.push(CertificateDer::from(here.to_vec()));
        rest = after;
    }
    all
}

/// A bundle in any of its forms.
fn trusted(domain: TrustDomain, bytes: &[u8]) -> anyhow::Result<TrustBundle> {
    match LintSubject::of(bytes) {
        LintSubject::Bundle => {
            let mut bundle = TrustBundle::from_document(domain, bytes)?;
            // A JWK Set of the Workload API or an OIDC provider names no use of SPIFFE's.
            if bundle.jwt_authorities.is_empty() {
                bundle.jwt_authorities = JwtAuthority::from_jwks(bytes)?;
            }
            Ok(bundle)
        }
        LintSubject::Chain(authorities) => {
            if authorities.is_empty() {
                bail!("contains no PEM certificate");
            }
            for (n, der) in authorities.iter().enumerate() {
                webpki::anchor_from_trusted_cert(der)
                    .with_context(|| format!("certificate {} is not a trust anchor", n + 1))?;
            }
            Ok(TrustBundle::new(domain, authorities))
        }
        LintSubject::Broken(error) => Err(error.into()),
        LintSubject::Jwt(_) => bail!("is not a bundle: neither certificates nor a JWK Set"),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).with_context(|| crate::identity::shown(path))?),
    };
    let mut bytes = Vec::new();
    let read = input.take(MAX_FILE + 1).read_to_end(&mut bytes);
    read.with_context(|| crate::identity::shown(path))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} is larger than {MAX_FILE} bytes", crate::identity::shown(path));
    }
    if bytes.trim_ascii().is_empty() {
        bail!("{} is empty", crate::identity::shown(path));
    }
    Ok(bytes)
}
