//! The flags that `adit server` and `adit client` share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    credential::CredentialArgs,
    values::{CloseNotify, KernelTls, QuietValue, TlsVersion, duration},
};
use crate::{
    config::Globals,
    hbone::PeerExpiry,
    net::Address,
    policy::{RegoConfig, Rules},
    relay::Limits,
    roles::standalone::{
        Alpn, CipherGroup, ConfigSyntax, HealthConfig, HttpCheck, Quiet, ServiceConfig, StartTls,
        TlsOptions,
        status::{HttpUrl, StatusAddress, StatusConfig},
    },
    sys::confine::Sandbox,
    tls::record::AeadSetting,
};

/// Several targets are asked whether they are well, one only if it is said how.
pub(super) fn health(targets: usize, http: Option<HttpCheck>) -> Option<HealthConfig> {
    (targets > 1 || http.is_some()).then(|| HealthConfig { http, ..HealthConfig::default() })
}

/// The Rego policy that two flags name together.
pub(super) fn rego(
    flag: &str,
    file: &Option<PathBuf>,
    query: &Option<String>,
    within: Duration,
) -> Result<Option<RegoConfig>, String> {
    let (Some(file), Some(query)) = (file.clone(), query.clone()) else { return Ok(None) };
    let rego = RegoConfig { file, query, within };
    rego.check().map_err(|e| format!("{flag} {e}"))?;
    Ok(Some(rego))
}

/// The service, if it is valid; else its first violation. `policies` is what is in the file of
/// policies that it names.
pub(super) fn valid(
    service: ServiceConfig,
    policies: Option<&Rules>,
) -> Result<ServiceConfig, String> {
    match service.violations(policies).first() {
        Some(violation) => Err(violation.message(ConfigSyntax::Flags, service.role)),
        None => Ok(service),
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct CommonArgs {
    /// How long to drain open connections after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(super) shutdown_timeout: Duration,
    /// Timeout for handshake, access rules and dial together
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) connect_timeout: Duration,
    /// Idle time of a half-closed connection: without a byte in either direction for so long, both
    /// sides are reset; 0 closes both at once. (ghostunnel 1.11 counts from the end of the one
    /// side, moving bytes or not)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(super) close_timeout: Duration,
    /// Close a connection on which no byte has moved either way for so long; 0 for never. Both
    /// sides see a reset, and its record says idle_timeout. TCP keepalive finds peers that are
    /// gone: this is for those that are there and silent, so choose more than the longest pause of
    /// the application, or let it send heartbeats
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(super) idle_timeout: Duration,
    /// Whether a TLS peer must send close_notify, or may just close (nginx' stream proxy, Python):
    /// then an attacker who cuts the connection can make a part look like the whole
    #[arg(long, value_name = "RULE", default_value = "required")]
    pub(super) close_notify: CloseNotify,
    /// How long a connection may last; 0 for ever
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(super) max_conn_lifetime: Duration,
    /// Close connections whose peer's certificate expired so long ago; without it they stay, and
    /// only new ones are refused
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) peer_expiry_grace: Option<Duration>,
    /// A file of SPIFFE IDs, one per line, that are banned: refused whatever else allows them, and
    /// their open connections are closed. It is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(super) bans: Option<PathBuf>,
    /// Most connections at once, further ones wait; 0 for no limit. Clients of a server count once
    /// they are authenticated
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) max_concurrent_conns: usize,
    /// Do not resolve the target's name at start
    #[arg(long)]
    pub(super) skip_resolve: bool,
    /// Events that are not logged; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub(super) quiet: Vec<QuietValue>,
    /// Log to syslog instead of stdout
    #[arg(long)]
    pub(super) syslog: bool,
    /// Windows only: rejected; use --syslog
    #[arg(long)]
    pub(super) eventlog: bool,
    /// Serve /_status, /_metrics here: HOST:PORT (with http:// or https://), unix:, systemd:
    #[arg(long, value_name = "ADDR")]
    pub(super) status: Option<StatusAddress>,
    /// Go's profiler: rejected; use perf(1)
    #[arg(long)]
    pub(super) enable_pprof: bool,
    /// Allow POST /_shutdown on the status address
    #[arg(long, requires = "status")]
    pub(super) enable_shutdown: bool,
    /// Push metrics to Graphite, plaintext protocol over TCP
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics_graphite: Option<Address>,
    /// POST metrics as JSON to this URL
    #[arg(long, value_name = "URL")]
    pub(super) metrics_url: Option<HttpUrl>,
    /// Prefix of the names of pushed metrics
    #[arg(long, value_name = "PREFIX", default_value = "ghostunnel")]
    pub(super) metrics_prefix: String,
    /// How often metrics are pushed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) metrics_interval: Duration,
    /// Hot restart at this socket, unix:PATH: take the listening sockets over from the process that
    /// serves it, later hand them to the next one; no connection is refused. SIGUSR2 starts the
    /// next one
    #[arg(long, value_name = "ADDR")]
    pub(super) takeover: Option<Address>,
    /// Disable Landlock, which limits the files and ports of the process
    #[arg(long)]
    pub(super) disable_landlock: bool,
    /// Disable the seccomp filter, which blocks system calls a proxy never makes
    #[arg(long)]
    pub(super) disable_seccomp: bool,
    /// Do not start if the kernel cannot provide the whole sandbox
    #[arg(long, conflicts_with_all = ["disable_landlock", "disable_seccomp"])]
    pub(super) require_sandbox: bool,
    /// No effect: Landlock is on unless --disable-landlock is given
    #[arg(long)]
    pub(super) use_landlock: bool,
    /// Cipher suite groups for TLS 1.2, in order of preference: AES, CHACHA
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(super) cipher_suites: Vec<CipherGroup>,
    /// Protocol for ALPN, such as h2 or postgresql; may be repeated, in order of preference. A
    /// server refuses a client that offers none of them
    #[arg(long, value_name = "PROTO")]
    pub(super) alpn: Vec<Alpn>,
    /// Protocol that starts in plaintext and asks for TLS: postgres. A server answers its
    /// SSLRequest, a client sends it; --alpn is postgresql then, if not given
    #[arg(long, value_name = "PROTO")]
    pub(super) starttls: Option<StartTls>,
    /// CBC cipher suites: rejected, adit has none
    #[arg(long)]
    pub(super) allow_unsafe_cipher_suites: bool,
    /// Maximum TLS version
    #[arg(long, value_name = "VERSION")]
    pub(super) max_tls_version: Option<TlsVersion>,
    /// Minimum TLS version
    #[arg(long, value_name = "VERSION", default_value = "TLS1.2", alias = "tls-min-version")]
    pub(super) min_tls_version: TlsVersion,
    /// Whether the kernel makes the TLS records where it can (module tls; TLS 1.3 from Linux 6.14
    /// on): bytes are then spliced from socket to socket. tls.path in the log says which was used
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) kernel_tls: KernelTls,
    /// Crypto library for TLS records: auto (the faster one on this CPU), aws-lc or ring
    #[arg(long, value_name = "IMPLEMENTATION", default_value = "auto")]
    pub(super) aead: AeadSetting,
    /// Format of the access log: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: crate::observe::logging::LogFormat,
}

impl CommonArgs {
    /// How long a connection may be silent.
    pub(super) fn limits(&self) -> Limits {
        let idle = Some(self.idle_timeout).filter(|limit| !limit.is_zero());
        Limits { idle, half_closed: Some(self.close_timeout) }
    }

    /// What concerns the process.
    pub(super) fn globals(&self, credential: &CredentialArgs) -> Result<Globals, String> {
        for (given, why) in [
            (self.eventlog, "--eventlog is for Windows; use --syslog"),
            (self.enable_pprof, "--enable-pprof: adit has no Go profiler; use perf(1)"),
            (
                self.allow_unsafe_cipher_suites,
                "--allow-unsafe-cipher-suites: adit has no CBC suites",
            ),
        ] {
            if given {
                return Err(why.into());
            }
        }
        Ok(Globals {
            shutdown: self.shutdown_timeout,
            timed_reload: credential.timed_reload.filter(|every| !every.is_zero()),
            log_format: self.log_format,
            syslog: self.syslog,
            workers: None,
            aead: self.aead,
            sandbox: Sandbox {
                landlock: !self.disable_landlock,
                seccomp: !self.disable_seccomp,
                required: self.require_sandbox,
            },
            status: self.status(credential)?,
            takeover: match &self.takeover {
                None => None,
                Some(Address::Unix(path)) => Some(path.clone()),
                Some(other) => return Err(format!("--takeover {other}: must be unix:PATH")),
            },
        })
    }

    fn status(&self, credential: &CredentialArgs) -> Result<StatusConfig, String> {
        if self.metrics_url.is_some() && self.metrics_interval.is_zero() {
            return Err("--metrics-interval must not be 0".into());
        }
        if matches!(self.metrics_graphite, Some(Address::Systemd(_))) {
            return Err("--metrics-graphite must be HOST:PORT".into());
        }
        Ok(StatusConfig {
            address: self.status.clone(),
            shutdown: self.enable_shutdown,
            prefix: self.metrics_prefix.clone(),
            graphite: self.metrics_graphite.clone(),
            url: self.metrics_url.clone(),
            every: self.metrics_interval,
            roots: credential.cacert.clone(),
        })
    }

    pub(super) fn tls(&self, authenticate: bool) -> TlsOptions {
        TlsOptions {
            tls12_only: self.max_tls_version == Some(TlsVersion::Tls12),
            tls13_only: self.min_tls_version == TlsVersion::Tls13,
            ciphers: self.cipher_suites.clone(),
            authenticate,
            truncation: self.close_notify == CloseNotify::Optional,
            alpn: self.alpn.clone(),
            starttls: self.starttls,
        }
    }

    pub(super) fn peer_expiry(&self) -> PeerExpiry {
        self.peer_expiry_grace.map_or(PeerExpiry::Keep, PeerExpiry::Grace)
    }

    pub(super) fn quiet(&self) -> Quiet {
        let has = |v| self.quiet.contains(&v) || self.quiet.contains(&QuietValue::All);
        Quiet {
            conns: has(QuietValue::Conns),
            conn_errs: has(QuietValue::ConnErrs),
            handshake_errs: has(QuietValue::HandshakeErrs),
        }
    }
}
