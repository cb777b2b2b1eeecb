//! The flags that `adit server` and `adit client` share.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use crate::{
    ca::{
        Credential,
        workload_api::{Endpoint, client::ENDPOINT_VARIABLE},
    },
    config::Globals,
    policy::Rules,
    standalone::{
        AcmeConfig, Address, Alpn, Balance, CipherGroup, ConfigSyntax, HealthConfig, HttpCheck,
        MaterialConfig, Password, Quiet, RegoConfig, ServiceConfig, Shown, StartTls, TlsOptions,
        Token, one_credential,
        status::{HttpUrl, StatusAddress, StatusConfig},
    },
    sys::confine::Sandbox,
    tls::{Pin, StaleCrls, record::AeadSetting},
};

/// `1h30m`, `500ms`, `0`: as Go writes durations.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.starts_with('-') {
        return Err("must not be negative".into());
    }
    humantime::parse_duration(text).map_err(|e| format!("{e}; for example 10s, 5m, 1h"))
}

/// What is not logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum QuietValue {
    /// Everything below
    All,
    /// Connections that ended in order
    Conns,
    /// Connections that failed
    ConnErrs,
    /// Handshakes that failed
    HandshakeErrs,
}

/// What a CRL past its nextUpdate means.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Stale {
    /// Whom its issuer certified is refused
    Refuse,
    /// It is used all the same
    Warn,
}

/// TLS 1.2 or 1.3.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum TlsVersion {
    #[value(name = "TLS1.2", alias = "1.2")]
    Tls12,
    #[value(name = "TLS1.3", alias = "1.3")]
    Tls13,
}

/// How a TLS peer must end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum CloseNotify {
    /// Without it the other side is reset
    Required,
    /// The end of TCP will do
    Optional,
}

/// Who makes TLS records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum KernelTls {
    /// The kernel, where it can
    Auto,
    /// This process
    Off,
}

/// What is on the wire beside TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Tunnel {
    /// HTTP/2 CONNECT over mutual TLS, the wire of Istio's ambient mode
    Hbone,
}

/// Which of several targets is tried first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum BalanceValue {
    /// The first that works
    First,
    /// Each in turn
    RoundRobin,
}

impl From<BalanceValue> for Balance {
    fn from(value: BalanceValue) -> Self {
        match value {
            BalanceValue::First => Self::First,
            BalanceValue::RoundRobin => Self::RoundRobin,
        }
    }
}

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
#[command(next_help_heading = "Certificate and key")]
pub(super) struct CredentialArgs {
    /// Certificate and key in one file: PKCS#12, or PEM
    #[arg(long, value_name = "PATH", env = "KEYSTORE_PATH")]
    pub(super) keystore: Option<PathBuf>,
    /// Certificate chain, PEM, leaf first
    #[arg(long, value_name = "PATH", env = "CERT_PATH")]
    pub(super) cert: Option<PathBuf>,
    /// Private key, PEM
    #[arg(long, value_name = "PATH", env = "KEY_PATH")]
    pub(super) key: Option<PathBuf>,
    /// The keystore's password
    #[arg(long, value_name = "PASS", env = "KEYSTORE_PASS", hide_env_values = true)]
    pub(super) storepass: Option<String>,
    /// Trusted roots, PEM; the system's if not given
    #[arg(long, value_name = "PATH", env = "CACERT_PATH")]
    pub(super) cacert: Option<PathBuf>,
    /// A CRL, PEM or DER: who is named there is refused. May be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) crl: Vec<PathBuf>,
    /// What a CRL past its nextUpdate means: refuse whom its issuer certified, or warn and use it
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse")]
    crl_stale: Stale,
    /// Certificate, key and roots from the SPIFFE Workload API
    #[arg(long)]
    pub(super) use_workload_api: bool,
    /// Its socket, unix:///PATH or tcp://IP:PORT; implies --use-workload-api
    #[arg(long, value_name = "ADDR", env = "SPIFFE_ENDPOINT_SOCKET")]
    pub(super) use_workload_api_addr: Option<String>,
    /// How long the first SVID is waited for; 0 for ever
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(super) use_workload_api_timeout: Duration,
    /// The key of --cert is on a PKCS#11 token: the module's path
    #[arg(long, value_name = "PATH", env = "PKCS11_MODULE")]
    pub(super) pkcs11_module: Option<PathBuf>,
    /// PKCS#11: the token's label, if the module has several
    #[arg(long, value_name = "LABEL", env = "PKCS11_TOKEN_LABEL")]
    pub(super) pkcs11_token_label: Option<String>,
    /// PKCS#11: the PIN
    #[arg(long, value_name = "PIN", env = "PKCS11_PIN", hide_env_values = true)]
    pub(super) pkcs11_pin: Option<String>,
    /// PKCS#11: a file whose first line is the PIN, which then is on no command line
    #[arg(long, value_name = "FILE", conflicts_with = "pkcs11_pin")]
    pub(super) pkcs11_pin_file: Option<PathBuf>,
    /// Of macOS and Windows: an error here
    #[arg(long)]
    pub(super) keychain_identity: Option<String>,
    /// Likewise
    #[arg(long)]
    pub(super) keychain_issuer: Option<String>,
    /// Likewise
    #[arg(long)]
    pub(super) keychain_require_token: bool,
    /// Read certificate, key, roots and policies anew every so often (they are also watched)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) timed_reload: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(super) struct CommonArgs {
    /// How long open connections may go on after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub(super) shutdown_timeout: Duration,
    /// Handshake, access rules and dial together
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(super) connect_timeout: Duration,
    /// How long a connection may be silent when one side has ended: no byte has moved either way.
    /// Each byte begins the time anew, and at its end both sides see a reset; 0 ends both at once.
    /// (ghostunnel 1.11 counts from the end of the one side, moving bytes or not)
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(super) close_timeout: Duration,
    /// Whether a TLS peer must say close_notify at its end, or may just close (nginx' stream proxy,
    /// Python): then whoever can cut the connection can make a part look like the whole
    #[arg(long, value_name = "RULE", default_value = "required")]
    pub(super) close_notify: CloseNotify,
    /// How long a connection may last; 0 for ever
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub(super) max_conn_lifetime: Duration,
    /// How many connections at once, the rest waits; 0 for any number. Callers of a server count
    /// when they have proven who they are
    #[arg(long, value_name = "N", default_value = "0")]
    pub(super) max_concurrent_conns: usize,
    /// Do not resolve the target's name at start
    #[arg(long)]
    pub(super) skip_resolve: bool,
    /// Do not log some events; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub(super) quiet: Vec<QuietValue>,
    /// Log to syslog instead of stdout
    #[arg(long)]
    pub(super) syslog: bool,
    /// Of Windows: an error here; --syslog is its like
    #[arg(long)]
    pub(super) eventlog: bool,
    /// Serve /_status, /_metrics here: HOST:PORT (with http:// or https://), unix:, systemd:
    #[arg(long, value_name = "ADDR")]
    pub(super) status: Option<StatusAddress>,
    /// Go's profiler: an error here; perf(1) is its like
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
    /// What the names of pushed metrics begin with
    #[arg(long, value_name = "PREFIX", default_value = "ghostunnel")]
    pub(super) metrics_prefix: String,
    /// How often metrics are pushed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) metrics_interval: Duration,
    /// Take the listening sockets over from the process that is found here, unix:PATH, and leave
    /// them to the next one: an upgrade refuses no connection. SIGUSR2 starts the next one
    #[arg(long, value_name = "ADDR")]
    pub(super) takeover: Option<Address>,
    /// Leave files and ports to which this process has no business open to it (Landlock)
    #[arg(long)]
    pub(super) disable_landlock: bool,
    /// Leave system calls that it never makes open to it (seccomp)
    #[arg(long)]
    pub(super) disable_seccomp: bool,
    /// Do not start on a kernel that cannot confine it so
    #[arg(long, conflicts_with_all = ["disable_landlock", "disable_seccomp"])]
    pub(super) require_sandbox: bool,
    /// Changes nothing: it is on unless --disable-landlock
    #[arg(long)]
    pub(super) use_landlock: bool,
    /// Groups of cipher suites for TLS 1.2, the best first: AES, CHACHA
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(super) cipher_suites: Vec<CipherGroup>,
    /// A protocol that is agreed on by ALPN, such as h2 or postgresql; may be repeated, the best
    /// first. A server refuses a client that offers others alone
    #[arg(long, value_name = "PROTO")]
    pub(super) alpn: Vec<Alpn>,
    /// A protocol that asks for TLS in the clear first: postgres. A server answers its SSLRequest,
    /// a client sends it; --alpn is postgresql then, if not given
    #[arg(long, value_name = "PROTO")]
    pub(super) starttls: Option<StartTls>,
    /// Suites with CBC: an error here, there are none
    #[arg(long)]
    pub(super) allow_unsafe_cipher_suites: bool,
    /// The newest version of TLS that is spoken
    #[arg(long, value_name = "VERSION")]
    pub(super) max_tls_version: Option<TlsVersion>,
    /// The oldest version of TLS that is spoken
    #[arg(long, value_name = "VERSION", default_value = "TLS1.2", alias = "tls-min-version")]
    pub(super) min_tls_version: TlsVersion,
    /// Whether the kernel makes the TLS records where it can (module tls; TLS 1.3 from Linux 6.14
    /// on): bytes are then spliced from socket to socket. tls.path in the log says who did
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(super) kernel_tls: KernelTls,
    /// Who seals and opens TLS records: auto (who is faster on this CPU), aws-lc or ring
    #[arg(long, value_name = "IMPLEMENTATION", default_value = "auto")]
    pub(super) aead: AeadSetting,
    /// How access-log lines look: text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: crate::observe::logging::LogFormat,
}

impl CommonArgs {
    /// What concerns the process.
    pub(super) fn globals(&self, credential: &CredentialArgs) -> Result<Globals, String> {
        for (given, why) in [
            (self.eventlog, "--eventlog is of Windows"),
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

    pub(super) fn quiet(&self) -> Quiet {
        let has = |v| self.quiet.contains(&v) || self.quiet.contains(&QuietValue::All);
        Quiet {
            conns: has(QuietValue::Conns),
            conn_errs: has(QuietValue::ConnErrs),
            handshake_errs: has(QuietValue::HandshakeErrs),
        }
    }
}

impl CredentialArgs {
    /// Whether the Workload API is asked for.
    pub(super) fn workload_api(&self) -> bool {
        self.use_workload_api || self.use_workload_api_addr.is_some()
    }

    /// The one source that is named. `needed` unless nothing need be shown.
    pub(super) fn material(
        &self,
        pins: Vec<Pin>,
        acme: Option<AcmeConfig>,
        needed: bool,
    ) -> Result<MaterialConfig, String> {
        if self.keychain_identity.is_some()
            || self.keychain_issuer.is_some()
            || self.keychain_require_token
        {
            return Err("--keychain-…: keychains are of macOS and Windows".into());
        }
        match (&self.pkcs11_module, &self.cert, &self.key) {
            (Some(_), _, Some(_)) => {
                return Err("--key and --pkcs11-module exclude each other".into());
            }
            (Some(_), None, _) => {
                return Err("--pkcs11-module has the key alone: name its --cert too".into());
            }
            (None, ..) if self.pkcs11_pin_file.is_some() => {
                return Err("--pkcs11-pin-file goes with --pkcs11-module".into());
            }
            _ => {}
        }
        let pem = self.cert.is_some() || self.key.is_some();
        let named = [self.keystore.is_some(), pem, self.workload_api(), acme.is_some()];
        let ways = [
            "--keystore",
            "--cert with --key or --pkcs11-module",
            "--use-workload-api",
            "--auto-acme-cert",
        ];
        let ways: Vec<(&str, bool)> = ways.into_iter().zip(named).collect();
        one_credential(&ways, needed)?;
        if self.workload_api() {
            if !pins.is_empty() {
                return Err("pins replace the trust in roots: not with the Workload API".into());
            }
            if !self.crl.is_empty() {
                return Err("--crl goes with roots from a file: not with the Workload API".into());
            }
            let addr = self.use_workload_api_addr.clone();
            let addr = addr.ok_or_else(|| {
                format!("--use-workload-api needs --use-workload-api-addr or {ENDPOINT_VARIABLE}")
            })?;
            let endpoint: Endpoint =
                addr.parse().map_err(|e| format!("--use-workload-api-addr: {e}"))?;
            let within = self.use_workload_api_timeout;
            let within = (!within.is_zero()).then_some(within);
            return Ok(MaterialConfig::WorkloadApi { endpoint, within, shown: needed });
        }
        let credential = match (self.keystore.clone(), self.cert.clone(), self.key.clone()) {
            (Some(keystore), ..) => {
                Some(Shown::Files(Credential::Keystore { keystore, password: None }))
            }
            (None, Some(certificate), Some(private_key)) => {
                Some(Shown::Files(Credential::Pem { certificate, private_key }))
            }
            (None, Some(certificate), None) if self.pkcs11_module.is_some() => {
                self.token().map(|token| Shown::Token { certificate, token })
            }
            (None, None, None) => acme.map(Shown::Acme),
            _ => return Err("--cert comes with --key, or --pkcs11-module that has the key".into()),
        };
        Ok(MaterialConfig::Files {
            credential,
            password: self.storepass.clone().map(|p| Password(Zeroizing::new(p))),
            roots: self.cacert.clone(),
            crls: self.crl.clone(),
            stale: match self.crl_stale {
                Stale::Refuse => StaleCrls::Refuse,
                Stale::Warn => StaleCrls::Warn,
            },
            pins,
        })
    }

    /// Where the key of `--cert` is, if it is not in a file.
    fn token(&self) -> Option<Token> {
        Some(Token {
            module: self.pkcs11_module.clone()?,
            label: self.pkcs11_token_label.clone(),
            pin: self.pkcs11_pin.clone().map(|pin| Password(Zeroizing::new(pin))),
            pin_file: self.pkcs11_pin_file.clone(),
        })
    }
}
