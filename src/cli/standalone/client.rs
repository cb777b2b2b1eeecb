//! `adit client`: plaintext in, TLS out.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    common::{CommonArgs, health, rego, valid},
    credential::CredentialArgs,
    values::{BalanceValue, KernelTls, TunnelProtocol, verified_id},
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
        More:\n\
        The target's certificate must have the target's name. If there are --verify-…\n\
        flags, it must also match one of them.\n\n\
        The flags are ghostunnel's. SIGHUP reloads certificates; SIGTERM drains\n\
        connections.")]
pub(in crate::cli) struct ClientArgs {
    /// Address on which to accept plaintext
    ///
    /// HOST:PORT, such as localhost:5432, unix:PATH, unix:@NAME (abstract), or systemd:NAME.
    #[arg(long, value_name = "ADDR")]
    listen: Address,
    /// Service to connect to with TLS
    ///
    /// HOST:PORT, unix:PATH or unix:@NAME. The certificate behind a Unix socket must be for
    /// localhost, or for --override-server-name. May be repeated: the next one is tried when one
    /// fails.
    #[arg(long, value_name = "ADDR", required = true)]
    target: Vec<Address>,
    /// Which of several targets is tried first
    #[arg(long, value_name = "HOW", default_value = "first")]
    balance: BalanceValue,
    /// Allow plaintext connections from other hosts
    #[arg(long)]
    unsafe_listen: bool,
    /// Expected name in the target's certificate
    ///
    /// It is sent as SNI too. Without it, the name is the target's.
    #[arg(long, value_name = "NAME")]
    override_server_name: Option<String>,
    /// Connect through a forward proxy
    ///
    /// http://HOST:PORT (CONNECT) or socks5://HOST:PORT; USER:PASSWORD@ before the host
    /// authenticates adit. The proxy resolves the target's name.
    #[arg(long, value_name = "URL", alias = "connect-proxy")]
    proxy: Option<ForwardProxy>,
    /// Connect through an HBONE tunnel, as to pods of an ambient mesh; needs --verify-id
    #[arg(long, value_name = "PROTOCOL")]
    tunnel: Option<TunnelProtocol>,
    /// Address of the HBONE endpoint, HOST:PORT [default: port 15008 of the target]
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
#[command(
    next_help_heading = "Accepted targets (besides the name; if any are given, one must match)"
)]
struct VerifyArgs {
    /// Accept a common name; may be repeated
    #[arg(long, value_name = "CN")]
    verify_cn: Vec<String>,
    /// Accept an organizational unit; may be repeated
    #[arg(long, value_name = "OU")]
    verify_ou: Vec<String>,
    /// Accept a DNS name; may be repeated
    #[arg(long, value_name = "NAME", alias = "verify-dns-san")]
    verify_dns: Vec<String>,
    /// Accept a URI; may be repeated
    ///
    /// `*` stands for one segment, `**` at the end for all that follow.
    #[arg(long, value_name = "URI", alias = "verify-uri-san")]
    verify_uri: Vec<UriPattern>,
    /// Accept an IP address; may be repeated
    #[arg(long, value_name = "IP", alias = "verify-ip-san")]
    verify_ip: Vec<IpAddr>,
    /// Accept a SPIFFE ID; may be repeated
    #[arg(long, value_name = "SPIFFE-ID", value_parser = verified_id)]
    verify_id: Vec<SpiffeId>,
    /// Accept all SPIFFE IDs of a trust domain; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    verify_trust_domain: Vec<TrustDomain>,
    /// Accept a public key, whatever certificate it is in; may be repeated
    ///
    /// sha256:BASE64 of its SubjectPublicKeyInfo. Roots, names and expiry are not checked then.
    #[arg(long, value_name = "PIN")]
    verify_spki_pin: Vec<Pin>,
    /// Accept targets by a Rego policy
    ///
    /// A bundle of Open Policy Agent (tar.gz), or one .rego file (Rego v0 unless it says `import
    /// rego.v1`). Its input is input.certificate, in Go's JSON form, and input.spiffe_id.
    #[arg(long, value_name = "BUNDLE", requires = "verify_query")]
    verify_policy: Option<PathBuf>,
    /// Query of the Rego policy, such as data.policy.allow; true accepts the target
    #[arg(long, value_name = "QUERY", requires = "verify_policy")]
    verify_query: Option<String>,
    /// Do not present a certificate to the target
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
        Plan::of_flags(globals, valid(service, None)?, resolve)
    }
}
