//! `adit server`: TLS in, plaintext out.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    common::{CommonArgs, health, rego, valid},
    credential::CredentialArgs,
    values::{BalanceValue, KernelTls, TunnelProtocol, allowed_id, duration},
};
use crate::{
    app::standalone::Plan,
    config::load_policies,
    credentials::acme::{AcmeConfig, CHECK_EVERY, LETS_ENCRYPT, default_storage},
    identity::{SpiffeId, TrustDomain},
    net::Address,
    policy::{Access, UriPattern},
    roles::standalone::{Hbone, HttpCheck, ProxyMode, Role, ServiceConfig, status::HttpUrl},
    tls::Pin,
};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit server --listen :8443 --target localhost:5432 \\\n    \
        --cert tls.crt --key tls.key --cacert ca.crt --allow-cn app\n\n\
        More:\n\
        The flags are ghostunnel's. SIGHUP reloads certificates; SIGTERM drains\n\
        connections.")]
pub(in crate::cli) struct ServerArgs {
    /// Address on which to accept TLS, such as :8443
    ///
    /// HOST:PORT, unix:PATH, unix:@NAME (abstract), or systemd:NAME.
    #[arg(long, value_name = "ADDR")]
    listen: Address,
    /// Service to connect to in plaintext
    ///
    /// HOST:PORT, unix:PATH or unix:@NAME. May be repeated: the next one is tried when one fails.
    #[arg(long, value_name = "ADDR", required = true)]
    target: Vec<Address>,
    /// Which of several targets is tried first
    #[arg(long, value_name = "HOW", default_value = "first")]
    balance: BalanceValue,
    /// Allow a target on another host, which is reached in plaintext
    #[arg(long)]
    unsafe_target: bool,
    /// Health check of the target: 200 means healthy
    ///
    /// http://HOST:PORT/PATH, or the /PATH alone.
    #[arg(long, value_name = "URL")]
    target_status: Option<String>,
    /// Send the client's address to the target (PROXY protocol v2)
    #[arg(long, conflicts_with = "proxy_protocol_mode")]
    proxy_protocol: bool,
    /// PROXY protocol variant: conn, tls, tls-full or v1
    ///
    /// conn is version 2 with addresses; tls adds the TLS version, the cipher suite and names;
    /// tls-full adds the certificate; v1 is version 1.
    #[arg(long, value_name = "MODE")]
    proxy_protocol_mode: Option<ProxyMode>,
    /// Expect a PROXY header (version 1 or 2), as load balancers send it
    #[arg(long)]
    accept_proxy_protocol: bool,
    /// Accept HBONE tunnels, as pods of an ambient mesh open them
    ///
    /// --listen is usually :15008 then.
    #[arg(long, value_name = "PROTOCOL")]
    tunnel: Option<TunnelProtocol>,
    /// Another host name that tunnels may ask for; may be repeated
    ///
    /// Allowed without it: the DNS names of the certificate, and the names of target and listener.
    #[arg(long, value_name = "NAME", requires = "tunnel")]
    tunnel_authority: Vec<String>,
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
#[command(next_help_heading = "Allowed clients (one match is enough)")]
struct AllowArgs {
    /// Allow each client whose certificate is valid
    #[arg(long)]
    allow_all: bool,
    /// Allow a common name; may be repeated
    #[arg(long, value_name = "CN")]
    allow_cn: Vec<String>,
    /// Allow an organizational unit; may be repeated
    #[arg(long, value_name = "OU")]
    allow_ou: Vec<String>,
    /// Allow a DNS name; may be repeated
    #[arg(long, value_name = "NAME", alias = "allow-dns-san")]
    allow_dns: Vec<String>,
    /// Allow a URI; may be repeated
    ///
    /// `*` stands for one segment, `**` at the end for all that follow.
    #[arg(long, value_name = "URI", alias = "allow-uri-san")]
    allow_uri: Vec<UriPattern>,
    /// Allow an IP address; may be repeated
    #[arg(long, value_name = "IP", alias = "allow-ip-san")]
    allow_ip: Vec<IpAddr>,
    /// Allow a SPIFFE ID; may be repeated
    #[arg(long, value_name = "SPIFFE-ID", value_parser = allowed_id)]
    allow_id: Vec<SpiffeId>,
    /// Allow all SPIFFE IDs of a trust domain; may be repeated
    #[arg(long, value_name = "DOMAIN", alias = "allow-spiffe-td")]
    allow_trust_domain: Vec<TrustDomain>,
    /// Allow a public key, whatever certificate it is in; may be repeated
    ///
    /// sha256:BASE64 of its SubjectPublicKeyInfo. Roots, names and expiry are not checked then.
    #[arg(long, value_name = "PIN")]
    allow_spki_pin: Vec<Pin>,
    /// Allow clients by a Rego policy
    ///
    /// A bundle of Open Policy Agent (tar.gz), or one .rego file (Rego v0 unless it says `import
    /// rego.v1`). Its input is input.certificate, in Go's JSON form, and input.spiffe_id.
    #[arg(long, value_name = "BUNDLE", requires = "allow_query")]
    allow_policy: Option<PathBuf>,
    /// Query of the Rego policy, such as data.policy.allow; true allows the client
    #[arg(long, value_name = "QUERY", requires = "allow_policy")]
    allow_query: Option<String>,
    /// File of Istio AuthorizationPolicy documents; DENY rules win over all other --allow flags
    #[arg(long, value_name = "FILE")]
    allow_authorization_policy: Option<PathBuf>,
    /// Do not require a client certificate
    #[arg(long)]
    disable_authentication: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "ACME (TLS-ALPN-01)")]
struct AcmeArgs {
    /// Obtain and renew a certificate for this name
    ///
    /// The CA connects to port 443 of the name, which must lead to --listen.
    #[arg(long, value_name = "FQDN", requires = "auto_acme_email")]
    auto_acme_cert: Option<String>,
    /// Contact e-mail for the CA
    #[arg(long, value_name = "MAIL", requires = "auto_acme_cert")]
    auto_acme_email: Option<String>,
    /// Agree to the CA's terms of service
    #[arg(long, requires = "auto_acme_cert")]
    auto_acme_agree_to_tos: bool,
    /// ACME directory URL [default: Let's Encrypt's]
    #[arg(long, value_name = "URL", requires = "auto_acme_cert")]
    auto_acme_ca: Option<String>,
    /// ACME directory URL for tests; takes precedence over --auto-acme-ca
    #[arg(long, value_name = "URL", requires = "auto_acme_cert")]
    auto_acme_testca: Option<String>,
    /// Directory for the account and the certificates
    ///
    /// $STATE_DIRECTORY/acme, or ~/.local/share/adit/acme, if not given.
    #[arg(long, value_name = "DIR", requires = "auto_acme_cert")]
    auto_acme_storage: Option<PathBuf>,
    /// How often to check whether the certificate must be renewed
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "auto_acme_cert")]
    auto_acme_renew_check_interval: Option<Duration>,
    /// Port on which to answer the CA's challenges, if port 443 does not lead to --listen
    #[arg(long, value_name = "PORT", requires = "auto_acme_cert")]
    auto_acme_alt_tls_alpn_port: Option<u16>,
}

impl AcmeArgs {
    fn config(&self) -> Result<Option<AcmeConfig>, String> {
        let Some(name) = self.auto_acme_cert.clone() else { return Ok(None) };
        if !self.auto_acme_agree_to_tos {
            return Err(
                "--auto-acme-cert needs --auto-acme-agree-to-tos: read the CA's terms of service"
                    .into(),
            );
        }
        let storage = self.auto_acme_storage.clone().or_else(default_storage);
        let storage =
            storage.ok_or("--auto-acme-storage is missing: the directory of the certificates")?;
        let directory = self.auto_acme_testca.clone().or_else(|| self.auto_acme_ca.clone());
        let every = self.auto_acme_renew_check_interval.filter(|every| !every.is_zero());
        let config = AcmeConfig {
            name,
            email: self.auto_acme_email.clone(),
            directory: directory.unwrap_or_else(|| LETS_ENCRYPT.into()),
            storage,
            check_every: every.unwrap_or(CHECK_EVERY),
            challenge_port: self.auto_acme_alt_tls_alpn_port,
        };
        config.check().map_err(|why| format!("--auto-acme-…: {why}"))?;
        Ok(Some(config))
    }
}

impl AllowArgs {
    fn access(&self, within: Duration) -> Result<Access, String> {
        Ok(Access {
            all: self.allow_all,
            cn: self.allow_cn.clone(),
            ou: self.allow_ou.clone(),
            dns: self.allow_dns.clone(),
            uri: self.allow_uri.clone(),
            ip: self.allow_ip.clone(),
            ids: self.allow_id.clone(),
            trust_domains: self.allow_trust_domain.clone(),
            policies: self.allow_authorization_policy.clone(),
            rego: rego("--allow-policy", &self.allow_policy, &self.allow_query, within)?,
            bans: None,
        })
    }
}

impl ServerArgs {
    pub(in crate::cli) fn plan(self) -> Result<Plan, String> {
        let mut access = self.allow.access(self.common.connect_timeout)?;
        access.bans.clone_from(&self.common.bans);
        let wrong = |e: String| format!("--target-status: {e}");
        let status = self.target_status.as_deref();
        let whole = status.map(|text| match text.starts_with('/') {
            true => format!("http://localhost{text}"),
            false => text.to_owned(),
        });
        // Asked through the target, whatever host the URL names; in the background where another
        // target could take over.
        let asked: Option<HttpUrl> = whole.map(|url| url.parse()).transpose().map_err(wrong)?;
        let check = asked.as_ref().filter(|url| !url.tls && self.target.len() > 1);
        let check = check.map(|url| HttpCheck { at: None, path: url.path.clone() });
        let globals = self.common.globals(&self.credential)?;
        let credentials = self.credential.credentials(
            self.allow.allow_spki_pin.clone(),
            self.acme.config()?,
            true,
        )?;
        let authenticate = !self.allow.disable_authentication;
        let service = ServiceConfig {
            name: "server".into(),
            role: Role::Server,
            listen: self.listen,
            health: health(self.target.len(), check),
            targets: self.target,
            balance: self.balance.into(),
            unsafe_target: self.unsafe_target,
            unsafe_listen: false,
            credentials,
            proxy: None,
            access,
            tls: self.common.tls(authenticate),
            kernel_tls: self.common.kernel_tls == KernelTls::Auto,
            server_name: None,
            connect: self.common.connect_timeout,
            limits: self.common.limits(),
            lifetime: Some(self.common.max_conn_lifetime).filter(|l| !l.is_zero()),
            max_connections: Some(self.common.max_concurrent_conns).filter(|n| *n > 0),
            proxy_in: self.accept_proxy_protocol,
            proxy_out: self.proxy_protocol_mode.or(self.proxy_protocol.then_some(ProxyMode::Conn)),
            hbone: self.tunnel.map(|TunnelProtocol::Hbone| Hbone {
                authorities: self.tunnel_authority.clone(),
                ..Hbone::default()
            }),
            peer_expiry: self.common.peer_expiry(),
            quiet: self.common.quiet(),
            target_status: asked,
        };
        let policies = service.access.policies.as_deref().map(load_policies);
        let policies = policies.transpose().map_err(|e| e.to_string())?;
        let service = valid(service, policies.as_deref())?;
        Plan::of_flags(globals, service, !self.common.skip_resolve)
    }
}
