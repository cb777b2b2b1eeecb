//! `ca: { istiod: … }` of the mesh file.

use std::time::Duration;

use super::{reader::Item, svid_lifetime::svid_lifetime};
use crate::{
    credentials::{AuthToken, ControlPlane, IstiodConfig, Roots, Server},
    identity::{KeyUsageRule, TrustDomainAliases},
};

/// istiod's own default.
const DAY: Duration = Duration::from_secs(86_400);
const PORT: u16 = 15012;

/// Reads it.
pub(super) fn read(item: &Item<'_>) -> Option<IstiodConfig> {
    let istiod =
        item.map(&["address", "token", "roots", "clusterId", "serverName", "svidLifetime"]);
    let name = istiod.get("serverName").and_then(|n| n.text());
    let address = istiod.require("address").and_then(|item| {
        let text = item.text()?;
        let uri = text.parse().map_err(|e| format!("is not a valid URL: {e}"));
        let server = uri.and_then(|uri: http::Uri| match uri.path() {
            "" | "/" => Server::of(&uri, name.as_deref(), PORT),
            path => Err(format!("must not have a path, such as {path}")),
        });
        match server {
            Ok(server) => Some((text, server)),
            Err(why) => {
                item.fault(format!(
                    "{text:?} {why}; for example https://istiod.istio-system:15012"
                ));
                None
            }
        }
    });
    let [token, roots] = ["token", "roots"].map(|key| Some(istiod.require(key)?.text()?.into()));
    let cluster_id = istiod.get("clusterId").and_then(|c| {
        let id = c.text()?;
        let legal = id.len() <= 253 && id.bytes().all(|b| b.is_ascii_graphic());
        if !legal {
            c.fault("expected at most 253 ASCII characters without blanks");
        }
        legal.then_some(id)
    });
    let svid_lifetime = svid_lifetime(&istiod, DAY);
    let (address, server) = address?;
    let svid_lifetime = svid_lifetime?;
    let server = ControlPlane {
        address,
        server,
        alternative_name: None,
        roots: Roots::File(roots?),
        token: Some(AuthToken::File(token?)),
        cluster_id,
        headers: Vec::new(),
    };
    let (aliases, key_usage) = (TrustDomainAliases::default(), KeyUsageRule::Required);
    Some(IstiodConfig { server, svid_lifetime, aliases, key_usage })
}

#[cfg(test)]
mod tests {
    use super::Server;
    use crate::config::{CaConfig, parse};

    fn read(istiod: &str) -> Result<CaConfig, String> {
        let text = format!("trustDomain: td\nca: {{ istiod: {{ {istiod} }} }}\n");
        parse("mesh.yaml", &text).map(|checked| checked.ca).map_err(|f| f.to_string())
    }

    #[test]
    fn istiod_is_named_with_what_proves_both_sides() {
        let good = "address: 'https://istiod.test', token: /t, roots: /r, clusterId: one";
        let Ok(CaConfig::Istiod(config)) = read(good) else { panic!("{:?}", read(good)) };
        let Server { host, port, .. } = &config.server.server;
        assert_eq!((host.as_str(), *port), ("istiod.test", 15012));
        assert_eq!(config.svid_lifetime.as_secs(), 86_400);
        for (bad, says) in [
            ("token: /t, roots: /r", "address is missing"),
            ("address: 'https://a', roots: /r", "token is missing"),
            ("address: 'https://a', token: /t", "roots is missing"),
            ("address: 'http://a:1', token: /t, roots: /r", "must begin with https://"),
            ("address: 'https://a/b', token: /t, roots: /r", "must not have a path"),
            (
                "address: 'https://a', token: /t, roots: /r, serverName: 'a b'",
                "is not a valid name",
            ),
            ("address: 'https://a', token: /t, roots: /r, clusterId: 'a b'", "without blanks"),
            ("address: 'https://a', token: /t, roots: /r, svidLifetime: 1s", "at least 10s"),
            ("address: 'https://a', token: /t, roots: /r, tokn: /x", "did you mean token?"),
        ] {
            let faults = read(bad).unwrap_err();
            assert!(faults.contains(says), "{bad}: {faults}");
        }
    }
}
