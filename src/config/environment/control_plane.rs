//! istiod, or whoever stands for it: where the mesh and SVIDs come from, and what both sides show.

use std::path::Path;

use http::Uri;
use pki_types::ServerName;
use zeroize::Zeroizing;

use super::{proxy_config::ProxyConfig, surroundings::Surroundings, variables::Variables};
use crate::credentials::{AuthToken, ControlPlane, Header, Roots, Server};

const ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
/// What an address looks like.
const LIKE: &str = "https://HOST:PORT, such as https://istiod.istio-system.svc:15012";
/// That of `https`.
const PORT: u16 = 443;

/// A path if there is such a file, else the token itself; by default the mounted file, if there is
/// one.
fn token(vars: &Variables, around: &Surroundings<'_>) -> Option<AuthToken> {
    let Some(given) = vars.text("AUTH_TOKEN") else {
        return (around.exists)(Path::new(TOKEN)).then(|| AuthToken::File(TOKEN.into()));
    };
    match given {
        "" => None,
        path if (around.exists)(Path::new(path)) => Some(AuthToken::File(path.into())),
        path if path.starts_with(['/', '.']) => {
            vars.warn("the file of AUTH_TOKEN does not exist yet".into());
            Some(AuthToken::File(path.into()))
        }
        text => Some(AuthToken::Text(Zeroizing::new(text.into()))),
    }
}

/// Where the mesh comes from, and where SVIDs come from.
pub(super) fn read(
    vars: &Variables,
    config: &ProxyConfig,
    around: &Surroundings<'_>,
    cluster_id: &str,
) -> (Option<ControlPlane>, Option<ControlPlane>) {
    let local = match vars.text("KUBERNETES_SERVICE_HOST") {
        Some(_) => "https://istiod.istio-system.svc:15012",
        None => "https://localhost:15012",
    };
    let default = config.discovery_address.as_deref().unwrap_or(local);
    let token = token(vars, around);
    let of = |family: &'static str| {
        let found = server(family, vars, (default, lacking(family, vars)), around)?;
        let (token, cluster_id) = (token.clone(), Some(cluster_id.to_owned()));
        Some(ControlPlane { token, cluster_id, ..found })
    };
    (of("XDS"), of("CA"))
}

/// What else there is to say where an address is empty; none where that is well.
fn lacking(family: &str, vars: &Variables) -> Option<&'static str> {
    match (family, vars.text("ADIT_SVID_SOURCE")) {
        ("XDS", _) => Some("adit has no other source of the mesh"),
        (_, None | Some("" | "istiod")) => Some("or choose another source with ADIT_SVID_SOURCE"),
        _ => None,
    }
}

/// `family` is `XDS` or `CA`: the variables of both have the same names otherwise.
fn server(
    family: &str,
    vars: &Variables,
    (default, lacking): (&str, Option<&str>),
    around: &Surroundings<'_>,
) -> Option<ControlPlane> {
    let name = format!("{family}_ADDRESS");
    let headers = headers(vars, &format!("{family}_HEADER_"));
    let roots = roots(vars, &format!("{family}_ROOT_CA"), around);
    let given = vars.text(&name).unwrap_or(default);
    if given.is_empty() {
        if let Some(lacking) = lacking {
            vars.fault(&name, &format!("{LIKE}; {lacking}"));
        }
        return None;
    }
    let address = match given.contains("://") {
        true => given.to_owned(),
        false => format!("https://{given}"),
    };
    let uri = address.parse::<Uri>().ok().filter(|uri| matches!(uri.path(), "" | "/"));
    let uri = uri.ok_or_else(|| "is not a valid server address".to_owned());
    let server = match uri.and_then(|uri| Server::of(&uri, None, PORT)) {
        Ok(server) => server,
        Err(why) => {
            vars.fault(&name, &format!("{LIKE}; it {why}"));
            return None;
        }
    };
    let alternative = format!("ALT_{family}_HOSTNAME");
    let alternative_name = vars.owned(&alternative).filter(|name| !name.is_empty());
    let alternative_name = alternative_name.and_then(|name| {
        let name = ServerName::try_from(name).ok();
        if name.is_none() {
            vars.fault(&alternative, "a host name that can be in a certificate");
        }
        name
    });
    let (token, cluster_id) = (None, None);
    Some(ControlPlane { address, server, alternative_name, roots, token, cluster_id, headers })
}

fn roots(vars: &Variables, name: &str, around: &Surroundings<'_>) -> Roots {
    match vars.text(name).unwrap_or(ROOTS) {
        "SYSTEM" => Roots::System,
        path if (around.exists)(Path::new(path)) => Roots::File(path.into()),
        pem if pem.contains("-----BEGIN") => Roots::Pem(pem.into()),
        path => {
            // It is read for each connection, so it may come.
            vars.warn(format!("the file of roots of {name} does not exist yet: {path:.200}"));
            Roots::File(path.into())
        }
    }
}

fn headers(vars: &Variables, prefix: &str) -> Vec<Header> {
    let header = |(name, value): (&str, &str)| {
        let header: Option<Header> = name.to_ascii_lowercase().parse().ok().zip(value.parse().ok());
        if header.is_none() {
            vars.fault_of_secret(
                &format!("{prefix}{name}"),
                "a header name after the prefix, and printable ASCII as the value",
            );
        }
        header.map(|(name, mut value)| {
            value.set_sensitive(true);
            (name, value)
        })
    };
    vars.beginning(prefix).filter_map(header).collect()
}
