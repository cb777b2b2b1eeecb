//! `adit client`: plaintext in, TLS out.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    common::{CommonArgs, health, rego, valid},
    credential::CredentialArgs,
    values::{BalanceValue, KernelTls, TunnelProtocol},
};
use crate::{
    app::standalone::Plan,
    identity::{SpiffeId, TrustDomain},
    net::Address,
    policy::{Access, UriPattern},
    roles::standalone::{ForwardProxy, Hbone, Role, ServiceConfig},
    tls::Pin,
};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit client --listen localhost:5432 --target db.example.org:8443 \\\n    \
        --cert tls.crt --key tls.key --cacert ca.crt\n\n\
        The target's certificate must have the target's name, and match any --verify-… flag.")]
pub(in crate::cli) struct ClientArgs {
    /// Where plaintext connections arrive: HOST:PORT, unix:PATH, unix:@NAME (abstract),
    /// systemd:NAME
    #[arg(long, value_name = "ADDR")]
    listen: Address,
    /// Where to connect with TLS: HOST:PORT, unix:PATH or unix:@NAME (whose certificate must be for
    /// localhost, unless --override-server-name says otherwise); may be repeated, the next is tried
    /// when one fails
    #[arg(long, value_name = "ADDR", required = true)]
    target: Vec<Address>,
    /// Which of several targets is tried first
    #[arg(long, value_name = "HOW", default_value = "first")]
    balance: BalanceValue,
    /// Allow plaintext connections from other hosts
    #[arg(long)]
    unsafe_listen: bool,
    /// Name for SNI and for the check of the target's certificate, instead of the target's
    #[arg(long, value_name = "NAME")]
    override_server_name: Option<String>,
    /// Connect through a proxy: http://HOST:PORT (CONNECT) or socks5://HOST:PORT USER:PASSWORD@
    /// before the host authenticates adit. The proxy resolves the target's name
    #[arg(long, value_name = "URL", alias = "connect-proxy")]
    proxy: Option<ForwardProxy>,
    /// Connect through an HBONE tunnel, as to pods of an ambient mesh; needs --verify-id
    #[arg(long, value_name = "PROTOCOL")]
    tunnel: Option<TunnelProtocol>,
    /// Address of the HBONE endpoint, HOST:PORT; port 15008 of the target if not given
    #[arg(long, value_name = "ADDR", requires = "tunnel")]
    tunnel_address: Option<Address>,
    #[command(flatten)]
    verify: VerifyArgs,
    #[command(flatten)]
    credential: CredentialArgs,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Target authentication (any of these, in addition to the name)")]
struct VerifyArgs {
    /// Accept this common name; may be repeated, as all below
    #[arg(long, value_name = "CN")]
    verify_cn: Vec<String>,
    /// Accept this organizational unit
    #[arg(long, value_name = "OU")]
    verify_ou: Vec<String>,
    /// Accept this DNS name
    #[arg(long, value_name = "NAME", alias = "verify-dns-san")]
    verify_dns: Vec<String>,
    /// Accept this URI; `*` is one segment, `**` at the end all that follow
    #[arg(long, value_name = "URI", alias = "verify-uri-san")]
    verify_uri: Vec<UriPattern>,
    /// Accept this IP address
    #[arg(long, value_name = "IP", alias = "verify-ip-san")]
    verify_ip: Vec<IpAddr>,
    /// Accept this SPIFFE ID
    #[arg(long, value_name = "SPIFFE-ID")]
    verify_id: Vec<SpiffeId>,
    /// Accept any SPIFFE ID of this trust domain
    #[arg(long, value_name = "DOMAIN")]
    verify_trust_domain: Vec<TrustDomain>,
    /// Accept this key, sha256:BASE64 of its SubjectPublicKeyInfo; replaces roots, names and expiry
    #[arg(long, value_name = "PIN")]
    verify_spki_pin: Vec<Pin>,
    /// A Rego policy: a bundle of Open Policy Agent (tar.gz), or one .rego file (Rego v0 unless it
    /// says `import rego.v1`). It sees input.certificate, as Go writes one, and input.spiffe_id
    #[arg(long, value_name = "BUNDLE", requires = "verify_query")]
    verify_policy: Option<PathBuf>,
    /// Query of the Rego policy, such as data.policy.allow; true admits the target
    #[arg(long, value_name = "QUERY", requires = "verify_policy")]
    verify_query: Option<String>,
    /// Present no certificate to the target
    #[arg(long)]
    disable_authentication: bool,
}

impl VerifyArgs {
    fn access(&self, within: Duration) -> Result<Access, String> {
        let access = Access {
            all: false,
            cn: self.verify_cn.clone(),
            ou: self.verify_ou.clone(),
            dns: self.verify_dns.clone(),
            uri: self.verify_uri.clone(),
            ip: self.verify_ip.clone(),
            ids: self.verify_id.clone(),
            trust_domains: self.verify_trust_domain.clone(),
            policies: None,
            rego: rego("--verify-policy", &self.verify_policy, &self.verify_query, within)?,
            bans: None,
        };
        Ok(access)
    }
}

impl ClientArgs {
    pub(in crate::cli) fn plan(self) -> Result<Plan, String> {
        let mut access = self.verify.access(self.common.connect_timeout)?;
        access.bans.clone_from(&self.common.bans);
        let hbone = self.tunnel.map(|TunnelProtocol::Hbone| Hbone {
            gateway: self.tunnel_address.clone(),
            expect: self.verify.verify_id.clone(),
            authorities: Vec::new(),
        });
        let globals = self.common.globals(&self.credential)?;
        let authenticate = !self.verify.disable_authentication;
        let credentials =
            self.credential.credentials(self.verify.verify_spki_pin.clone(), None, authenticate)?;
        let service = ServiceConfig {
            name: "client".into(),
            role: Role::Client,
            listen: self.listen,
            health: if hbone.is_some() { None } else { health(self.target.len(), None) },
            targets: self.target,
            balance: self.balance.into(),
            unsafe_target: false,
            unsafe_listen: self.unsafe_listen,
            credentials,
            proxy: self.proxy.clone(),
            access,
            tls: self.common.tls(authenticate),
            kernel_tls: self.common.kernel_tls == KernelTls::Auto,
            server_name: self.override_server_name,
            connect: self.common.connect_timeout,
            limits: self.common.limits(),
            lifetime: Some(self.common.max_conn_lifetime).filter(|l| !l.is_zero()),
            max_connections: Some(self.common.max_concurrent_conns).filter(|n| *n > 0),
            proxy_in: false,
            proxy_out: None,
            hbone,
            peer_expiry: self.common.peer_expiry(),
            quiet: self.common.quiet(),
            target_status: None,
        };
        let resolve = !self.common.skip_resolve && self.proxy.is_none();
        Ok(Plan { globals, services: vec![valid(service, None)?], resolve, file: None })
    }
}
