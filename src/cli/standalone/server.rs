//! `adit server`: TLS in, plaintext out.

use std::{net::IpAddr, path::PathBuf};

use clap::Args;

use super::common::{CommonArgs, CredentialArgs, TlsVersion, Tunnel};
use crate::{
    app::standalone::Plan,
    identity::{SpiffeId, TrustDomain},
    standalone::{
        Access, Address, Hbone, ProxyMode, Role, ServiceConfig, TlsOptions, UriPattern,
        status::HttpUrl,
    },
    tls::Pin,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  adit server --listen :8443 --target localhost:5432 --cert tls.crt --key tls.key --cacert ca.crt --allow-cn app\n\nFlags are ghostunnel's; each --allow-… is enough alone. SIGHUP reads certificates anew,\nSIGTERM drains."
)]
pub(in crate::cli) struct ServerArgs {
    /// Where TLS comes in: HOST:PORT, unix:PATH, systemd:NAME
    #[arg(long, value_name = "ADDR")]
    listen: Address,
    /// Where plaintext goes: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    target: Address,
    /// Allow a target on another host, which plaintext then travels to
    #[arg(long)]
    unsafe_target: bool,
    /// A URL on the target that /_status asks: 200 means healthy
    #[arg(long, value_name = "URL")]
    target_status: Option<HttpUrl>,
    /// Tell the target who connects: PROXY protocol v2
    #[arg(long, conflicts_with = "proxy_protocol_mode")]
    proxy_protocol: bool,
    /// The same with conn, tls (and what TLS agreed on), tls-full (and the certificate), or v1
    #[arg(long, value_name = "MODE")]
    proxy_protocol_mode: Option<ProxyMode>,
    /// A PROXY header, version 1 or 2, comes first on each connection: a balancer sends it
    #[arg(long)]
    accept_proxy_protocol: bool,
    /// Take connections out of HBONE tunnels, as pods of an ambient mesh make them; then
    /// --listen is usually :15008
    #[arg(long, value_name = "PROTOCOL")]
    tunnel: Option<Tunnel>,
    #[command(flatten)]
    allow: AllowArgs,
    #[command(flatten)]
    credential: CredentialArgs,
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    acme: AcmeArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Who may call (any of these)")]
struct AllowArgs {
    /// Anybody whose certificate verifies
    #[arg(long)]
    allow_all: bool,
    /// This common name; may be repeated, as all below
    #[arg(long, value_name = "CN")]
    allow_cn: Vec<String>,
    /// This organizational unit
    #[arg(long, value_name = "OU")]
    allow_ou: Vec<String>,
    /// This DNS name
    #[arg(long, value_name = "NAME", alias = "allow-dns-san")]
    allow_dns: Vec<String>,
    /// This URI; `*` is one segment, `**` at the end all that follow
    #[arg(long, value_name = "URI", alias = "allow-uri-san")]
    allow_uri: Vec<UriPattern>,
    #[arg(long, value_name = "IP", hide = true, alias = "allow-ip-san")]
    allow_ip: Vec<IpAddr>,
    /// This SPIFFE ID
    #[arg(long, value_name = "SPIFFE-ID")]
    allow_id: Vec<SpiffeId>,
    /// Any SPIFFE ID of this trust domain
    #[arg(long, value_name = "DOMAIN", alias = "allow-spiffe-td")]
    allow_trust_domain: Vec<TrustDomain>,
    /// This key, sha256:BASE64 of its SubjectPublicKeyInfo; replaces roots, names and expiry
    #[arg(long, value_name = "PIN")]
    allow_spki_pin: Vec<Pin>,
    /// Rego, as a bundle or a file
    #[arg(long, value_name = "BUNDLE", requires = "allow_query")]
    allow_policy: Option<PathBuf>,
    /// What is asked of it, such as data.policy.allow
    #[arg(long, value_name = "QUERY", requires = "allow_policy")]
    allow_query: Option<String>,
    /// Ask no certificate of clients
    #[arg(long)]
    disable_authentication: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "ACME (TLS-ALPN-01)")]
struct AcmeArgs {
    /// Obtain a certificate for this name
    #[arg(long, value_name = "FQDN")]
    auto_acme_cert: Option<String>,
    /// Whom the CA may write to
    #[arg(long, value_name = "MAIL")]
    auto_acme_email: Option<String>,
    /// You agree to the CA's terms
    #[arg(long)]
    auto_acme_agree_to_tos: bool,
    /// The CA's directory
    #[arg(long, value_name = "URL")]
    auto_acme_ca: Option<String>,
    /// The CA's directory for tests; goes before --auto-acme-ca
    #[arg(long, value_name = "URL")]
    auto_acme_testca: Option<String>,
}

impl AllowArgs {
    fn access(&self) -> Result<Access, String> {
        let pinned = !self.allow_spki_pin.is_empty();
        let access = Access {
            all: self.allow_all || pinned,
            cn: self.allow_cn.clone(),
            ou: self.allow_ou.clone(),
            dns: self.allow_dns.clone(),
            uri: self.allow_uri.clone(),
            ip: self.allow_ip.clone(),
            ids: self.allow_id.clone(),
            trust_domains: self.allow_trust_domain.clone(),
            policies: None,
            judge: None,
        };
        if self.allow_policy.is_some() {
            return Err("--allow-policy cannot be honoured yet".into());
        }
        let named = !Access { all: self.allow_all, ..access.clone() }.is_empty();
        if pinned && named {
            return Err("--allow-spki-pin replaces all other --allow flags".into());
        }
        match (self.disable_authentication, named || pinned) {
            (true, true) => Err("--disable-authentication excludes all --allow flags".into()),
            (false, false) => Err(
                "who may call? name at least one --allow flag, --allow-all, or --disable-authentication"
                    .into(),
            ),
            _ => Ok(access),
        }
    }
}

impl ServerArgs {
    pub(in crate::cli) fn plan(self) -> Result<Plan, String> {
        let access = self.allow.access()?;
        if matches!(self.target, Address::Systemd(_)) {
            return Err("--target: systemd:NAME is for --listen".into());
        }
        if !self.target.is_local() && !self.unsafe_target {
            return Err(format!(
                "--target {}: plaintext would leave this host; name localhost, a unix: path, or \
                 --unsafe-target",
                self.target
            ));
        }
        for (given, flag) in [(self.acme.auto_acme_cert.is_some(), "--auto-acme-cert")] {
            if given {
                return Err(format!("{flag} cannot be honoured yet"));
            }
        }
        let tls12_only = self.common.max_tls_version == Some(TlsVersion::Tls12);
        // Mutual TLS 1.3 between X.509-SVIDs, and the caller's address is that of its tunnel.
        for (given, flag) in [
            (self.accept_proxy_protocol, "--accept-proxy-protocol"),
            (!self.allow.allow_spki_pin.is_empty(), "--allow-spki-pin"),
            (self.allow.disable_authentication, "--disable-authentication"),
            (tls12_only, "--max-tls-version TLS1.2"),
        ] {
            if given && self.tunnel.is_some() {
                return Err(format!("{flag} does not go with --tunnel hbone"));
            }
        }
        let globals = self.common.globals(&self.credential)?;
        let material = self.credential.material(self.allow.allow_spki_pin.clone(), true)?;
        let authenticate = !self.allow.disable_authentication;
        let service = ServiceConfig {
            name: "server".into(),
            role: Role::Server,
            listen: self.listen,
            targets: vec![self.target],
            material,
            access,
            tls: TlsOptions { tls12_only, authenticate },
            server_name: None,
            connect: self.common.connect_timeout,
            close: self.common.close_timeout,
            lifetime: Some(self.common.max_conn_lifetime).filter(|l| !l.is_zero()),
            max_connections: Some(self.common.max_concurrent_conns).filter(|n| *n > 0),
            proxy_in: self.accept_proxy_protocol,
            proxy_out: self.proxy_protocol_mode.or(self.proxy_protocol.then_some(ProxyMode::Conn)),
            hbone: self.tunnel.map(|Tunnel::Hbone| Hbone::default()),
            quiet: self.common.quiet(),
            target_status: self.target_status,
        };
        Ok(Plan { globals, services: vec![service], resolve: !self.common.skip_resolve })
    }
}
