//! The flags that `adit server` and `adit client` share.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    credential::CredentialArgs,
    values::{CloseNotify, KernelTls, QuietValue, REJECTED, TlsVersion, duration},
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

/// The service, if it is valid; else its first violation. `policies` are those of the file that it
/// names.
pub(super) fn valid(
    service: ServiceConfig,
    policies: Option<&Rules>,
) -> Result<ServiceConfig, String> {
    match service.violations(policies).first() {
        Some(violation) => Err(violation.message(ConfigSyntax::Flags, service.role)),
        None => Ok(service),
    }
}

const TLS: &str = "TLS";
const LOGS: &str = "Logs and metrics";
const PROCESS: &str = "Process and sandbox";

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts and limits")]
pub(super) struct CommonArgs {
    /// Drain time after SIGTERM
    ///
    /// Connections that are still open then are closed.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(super) shutdown_timeout: Duration,
    /// Time for handshake and dial
    ///
    /// Handshakes, the check of access rules and the connection to the target together must be
    /// done in this time.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) connect_timeout: Duration,
    /// Idle timeout of a half-closed connection
    ///
    /// After this time without a byte in either direction, both sides are reset; 0 closes both at
    /// once. (ghostunnel 1.11 counts from the moment one side closed, whether bytes move or not.)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(super) close_timeout: Duration,
    /// Idle timeout of a connection; 0 means none
    ///
    /// After this time without a byte in either direction, both sides are reset, and the record
    /// of the connection says idle_timeout. TCP keepalive finds peers that are gone; this is for
    /// peers that are there and silent. Choose more than the longest pause of the application, or
    /// let the application send heartbeats.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(super) idle_timeout: Duration,
    /// How long a connection may last; 0 means forever
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(super) max_conn_lifetime: Duration,
    /// Close connections this long after their peer's certificate has expired
    ///
    /// Without this flag they stay open, and only new connections are refused.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) peer_expiry_grace: Option<Duration>,
    /// File of banned SPIFFE IDs, one per line
    ///
    /// They are refused whatever else allows them, and their open connections are closed. The file
    /// is read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub(super) bans: Option<PathBuf>,
    /// Maximum number of connections; further ones wait; 0 means no limit
    ///
    /// A server counts a client from the moment it is authenticated.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) max_concurrent_conns: usize,
    /// Do not resolve the target's name at start
    #[arg(long)]
    pub(super) skip_resolve: bool,

    /// Minimum TLS version
    #[arg(
        long,
        value_name = "VERSION",
        default_value = "TLS1.2",
        alias = "tls-min-version",
        help_heading = TLS
    )]
    pub(super) min_tls_version: TlsVersion,
    /// Maximum TLS version
    #[arg(long, value_name = "VERSION", help_heading = TLS)]
    pub(super) max_tls_version: Option<TlsVersion>,
    /// Cipher suite groups for TLS 1.2, in order of preference: AES, CHACHA
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', help_heading = TLS)]
    pub(super) cipher_suites: Vec<CipherGroup>,
    /// ALPN protocol, such as h2; may be repeated, in order of preference
    ///
    /// A server refuses a client that offers none of them.
    #[arg(long, value_name = "PROTO", help_heading = TLS)]
    pub(super) alpn: Vec<Alpn>,
    /// Protocol that starts in plaintext and asks for TLS: postgres
    ///
    /// A server answers its SSLRequest, a client sends it. --alpn is postgresql then, if not given.
    #[arg(long, value_name = "PROTO", help_heading = TLS)]
    pub(super) starttls: Option<StartTls>,
    /// Whether a TLS peer must send close_notify
    ///
    /// Some peers just close the connection (nginx' stream proxy, Python). Accepting that allows an
    /// attacker who cuts the connection to make a part of the data look like all of it.
    #[arg(long, value_name = "RULE", default_value = "required", help_heading = TLS)]
    pub(super) close_notify: CloseNotify,
    /// Whether the kernel encrypts and decrypts TLS records, where it can
    ///
    /// Needs the kernel's module tls; TLS 1.3 needs Linux 6.14. Bytes are then spliced from socket
    /// to socket. tls.path in the log says which was used.
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = TLS)]
    pub(super) kernel_tls: KernelTls,
    /// Crypto library for TLS records: auto (the faster one on this CPU), aws-lc or ring
    #[arg(long, value_name = "LIBRARY", default_value = "auto", help_heading = TLS)]
    pub(super) aead: AeadSetting,

    /// Access log: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = LOGS)]
    pub(super) log_format: crate::observe::logging::LogFormat,
    /// Events that are not logged; may be repeated
    #[arg(long, value_name = "WHAT", help_heading = LOGS)]
    pub(super) quiet: Vec<QuietValue>,
    /// Log to syslog instead of stdout
    #[arg(long, help_heading = LOGS)]
    pub(super) syslog: bool,
    /// Serve /_status and /_metrics here
    ///
    /// HOST:PORT (with http:// or https:// before it), unix:PATH, or systemd:NAME.
    #[arg(long, value_name = "ADDR", help_heading = LOGS)]
    pub(super) status: Option<StatusAddress>,
    /// Allow POST /_shutdown on the status address
    #[arg(long, requires = "status", help_heading = LOGS)]
    pub(super) enable_shutdown: bool,
    /// Push metrics to Graphite (plaintext protocol over TCP)
    #[arg(long, value_name = "ADDR", help_heading = LOGS)]
    pub(super) metrics_graphite: Option<Address>,
    /// Push metrics as JSON to this URL (POST)
    #[arg(long, value_name = "URL", help_heading = LOGS)]
    pub(super) metrics_url: Option<HttpUrl>,
    /// Prefix of the names of pushed metrics
    #[arg(long, value_name = "PREFIX", default_value = "ghostunnel", help_heading = LOGS)]
    pub(super) metrics_prefix: String,
    /// How often to push metrics
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration,
        help_heading = LOGS
    )]
    pub(super) metrics_interval: Duration,

    /// Hot restart at this socket, unix:PATH
    ///
    /// adit takes the listening sockets over from the process that serves the socket, and later
    /// hands them to the next process; no connection is refused. SIGUSR2 starts the next process.
    #[arg(long, value_name = "ADDR", help_heading = PROCESS)]
    pub(super) takeover: Option<Address>,
    /// Disable Landlock, which limits the files and ports of the process
    #[arg(long, help_heading = PROCESS)]
    pub(super) disable_landlock: bool,
    /// Disable the seccomp filter, which blocks system calls a proxy never makes
    #[arg(long, help_heading = PROCESS)]
    pub(super) disable_seccomp: bool,
    /// Do not start if the kernel cannot provide the whole sandbox
    #[arg(
        long,
        conflicts_with_all = ["disable_landlock", "disable_seccomp"],
        help_heading = PROCESS
    )]
    pub(super) require_sandbox: bool,

    /// No effect: Landlock is on unless --disable-landlock is given
    #[arg(long, help_heading = REJECTED)]
    pub(super) use_landlock: bool,
    /// Rejected: for Windows; use --syslog
    #[arg(long, help_heading = REJECTED)]
    pub(super) eventlog: bool,
    /// Rejected: Go's profiler; use perf(1)
    #[arg(long, help_heading = REJECTED)]
    pub(super) enable_pprof: bool,
    /// Rejected: adit has no CBC cipher suites
    #[arg(long, help_heading = REJECTED)]
    pub(super) allow_unsafe_cipher_suites: bool,
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
