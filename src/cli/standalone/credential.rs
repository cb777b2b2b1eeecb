//! The flags that say which certificate is shown and which roots are trusted.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use zeroize::Zeroizing;

use super::values::{REJECTED, Stale, duration};
use crate::{
    credentials::{
        Credential,
        acme::AcmeConfig,
        store::{CredentialSource, CredentialsConfig, Password, Token},
        workload_api::{Endpoint, client::ENDPOINT_VARIABLE},
    },
    roles::standalone::one_credential,
    tls::{Pin, StaleCrls},
};

const NO_KEY: &str =
    "--key is missing: the private key of --cert (or --pkcs11-module, if a token has it)";

#[derive(Debug, Args)]
#[command(next_help_heading = "Certificate and key")]
pub(super) struct CredentialArgs {
    /// Certificate and key in one file, PKCS#12 or PEM
    #[arg(long, value_name = "PATH", env = "KEYSTORE_PATH")]
    pub(super) keystore: Option<PathBuf>,
    /// Certificate chain, PEM, leaf first
    #[arg(long, value_name = "PATH", env = "CERT_PATH")]
    pub(super) cert: Option<PathBuf>,
    /// Private key, PEM
    #[arg(long, value_name = "PATH", env = "KEY_PATH")]
    pub(super) key: Option<PathBuf>,
    /// Password of the keystore
    #[arg(long, value_name = "PASS", env = "KEYSTORE_PASS", hide_env_values = true)]
    pub(super) storepass: Option<String>,
    /// Trusted roots, PEM [default: the system's]
    #[arg(long, value_name = "PATH", env = "CACERT_PATH")]
    pub(super) cacert: Option<PathBuf>,
    /// Certificate revocation list, PEM or DER; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(super) crl: Vec<PathBuf>,
    /// What to do with a CRL past its nextUpdate
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse")]
    crl_stale: Stale,
    /// Take SVID and roots from the Workload API
    ///
    /// SPIFFE's Workload API gives the certificate, key and roots. Its address is
    /// --use-workload-api-addr or SPIFFE_ENDPOINT_SOCKET.
    #[arg(long)]
    pub(super) use_workload_api: bool,
    /// Address of the Workload API; implies --use-workload-api
    ///
    /// unix:///PATH or tcp://IP:PORT.
    #[arg(long, value_name = "ADDR", env = "SPIFFE_ENDPOINT_SOCKET")]
    pub(super) use_workload_api_addr: Option<String>,
    /// How long to wait for the first SVID; 0 means forever
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub(super) use_workload_api_timeout: Duration,
    /// PKCS#11: the module of the token that has the key of --cert
    #[arg(long, value_name = "PATH", env = "PKCS11_MODULE")]
    pub(super) pkcs11_module: Option<PathBuf>,
    /// PKCS#11: the token's label, if the module has several tokens
    #[arg(long, value_name = "LABEL", env = "PKCS11_TOKEN_LABEL")]
    pub(super) pkcs11_token_label: Option<String>,
    /// PKCS#11: the PIN
    #[arg(long, value_name = "PIN", env = "PKCS11_PIN", hide_env_values = true)]
    pub(super) pkcs11_pin: Option<String>,
    /// PKCS#11: a file whose first line is the PIN, to keep it off the command line
    #[arg(long, value_name = "FILE", conflicts_with = "pkcs11_pin")]
    pub(super) pkcs11_pin_file: Option<PathBuf>,
    /// Rejected: for macOS and Windows
    #[arg(long, help_heading = REJECTED)]
    pub(super) keychain_identity: Option<String>,
    /// Rejected: for macOS and Windows
    #[arg(long, help_heading = REJECTED)]
    pub(super) keychain_issuer: Option<String>,
    /// Rejected: for macOS and Windows
    #[arg(long, help_heading = REJECTED)]
    pub(super) keychain_require_token: bool,
    /// Reload certificate, key, roots and policies at this interval
    ///
    /// The files are watched too, so that this is rarely needed.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) timed_reload: Option<Duration>,
}

impl CredentialArgs {
    /// Whether the Workload API is asked for.
    pub(super) fn workload_api(&self) -> bool {
        self.use_workload_api || self.use_workload_api_addr.is_some()
    }

    /// Whether a keychain is asked for.
    fn keychain(&self) -> bool {
        self.keychain_identity.is_some()
            || self.keychain_issuer.is_some()
            || self.keychain_require_token
    }

    /// The one source that is named. `needed` unless nothing need be shown.
    pub(super) fn credentials(
        &self,
        pins: Vec<Pin>,
        acme: Option<AcmeConfig>,
        needed: bool,
    ) -> Result<CredentialsConfig, String> {
        if self.keychain() {
            return Err("--keychain-…: keychains are for macOS and Windows".into());
        }
        match (&self.pkcs11_module, &self.cert, &self.key) {
            (Some(_), _, Some(_)) => {
                return Err("--key and --pkcs11-module exclude each other".into());
            }
            (Some(_), None, _) => {
                return Err("--pkcs11-module has only the key: give --cert too".into());
            }
            (None, ..) if self.pkcs11_pin_file.is_some() => {
                return Err("--pkcs11-pin-file needs --pkcs11-module".into());
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
                return Err(
                    "pins replace the roots, so they cannot be used with the Workload API".into()
                );
            }
            if !self.crl.is_empty() {
                return Err(
                    "--crl needs roots from a file, so it cannot be used with the Workload API"
                        .into(),
                );
            }
            let addr = self.use_workload_api_addr.clone();
            let addr = addr.ok_or_else(|| {
                format!("--use-workload-api needs --use-workload-api-addr or {ENDPOINT_VARIABLE}")
            })?;
            let endpoint: Endpoint =
                addr.parse().map_err(|e| format!("--use-workload-api-addr: {e}"))?;
            let within = self.use_workload_api_timeout;
            let within = (!within.is_zero()).then_some(within);
            return Ok(CredentialsConfig::WorkloadApi { endpoint, within, shown: needed });
        }
        let credential = self.shown(acme)?;
        Ok(CredentialsConfig::Files {
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

    /// What is shown to peers.
    fn shown(&self, acme: Option<AcmeConfig>) -> Result<Option<CredentialSource>, String> {
        Ok(match (self.keystore.clone(), self.cert.clone(), self.key.clone()) {
            (Some(keystore), ..) => {
                Some(CredentialSource::Files(Credential::Keystore { keystore, password: None }))
            }
            (None, Some(certificate), Some(private_key)) => {
                Some(CredentialSource::Files(Credential::Pem { certificate, private_key }))
            }
            (None, Some(certificate), None) if self.pkcs11_module.is_some() => {
                self.token().map(|token| CredentialSource::Token { certificate, token })
            }
            (None, None, None) => acme.map(CredentialSource::Acme),
            (None, Some(_), None) => {
                return Err(NO_KEY.into());
            }
            (None, None, Some(_)) => {
                return Err("--cert is missing: the certificate that belongs to --key".into());
            }
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
