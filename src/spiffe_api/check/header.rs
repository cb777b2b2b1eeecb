//! The security header, for every rpc (Workload Endpoint §3, §6).

use tonic::{Code, Status};

use super::{
    Options,
    call::{RawClient, refused},
};
use crate::{
    identity::lint::Report,
    rpc::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svidRequest, X509svidResponse,
    },
};

const CLAUSE: &str = "Workload Endpoint §3, §6";
const RPCS: [&str; 5] =
    ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"];

pub(super) async fn check(
    report: &mut Report,
    wire: &RawClient,
    options: &Options,
    token: Option<&str>,
) {
    for rpc in RPCS {
        let wrong: [(&str, &[&'static str]); 4] = [
            ("without the header", &[]),
            ("with the header `True`", &["True"]),
            ("with the header `1`", &["1"]),
            ("with the header twice", &["true", "true"]),
        ];
        for (what, values) in wrong {
            let rule = format!("{rpc} {what}");
            if rpc == "ValidateJWTSVID" && token.is_none() {
                // A bad token is refused with the same code.
                report.not_checked(&rule, CLAUSE, "there is no token to validate");
                continue;
            }
            let answer = call(wire, rpc, options, token.unwrap_or_default(), values).await;
            match refused(answer, Code::InvalidArgument) {
                Ok(found) => report.ok(&rule, CLAUSE, found),
                Err(found) if values.len() > 1 => {
                    let advice = "the specification does not say; SPIRE requires it once";
                    report.warn(&rule, CLAUSE, found, advice);
                }
                Err(found) => {
                    let advice = "refuse each request without workload.spiffe.io: true, before \
                                  anything else: it keeps forged requests (SSRF) out";
                    report.fail(&rule, CLAUSE, found, advice);
                }
            }
        }
    }
}

async fn call(
    wire: &RawClient,
    rpc: &str,
    options: &Options,
    token: &str,
    header: &[&'static str],
) -> Result<(), Status> {
    let audience = options.audience.clone();
    match rpc {
        "FetchX509SVID" => {
            let path = "/SpiffeWorkloadAPI/FetchX509SVID";
            wire.first::<_, X509svidResponse>(path, X509svidRequest {}, header).await.map(drop)
        }
        "FetchX509Bundles" => {
            let path = "/SpiffeWorkloadAPI/FetchX509Bundles";
            let request = X509BundlesRequest {};
            wire.first::<_, X509BundlesResponse>(path, request, header).await.map(drop)
        }
        "FetchJWTBundles" => {
            let path = "/SpiffeWorkloadAPI/FetchJWTBundles";
            let request = JwtBundlesRequest {};
            wire.first::<_, JwtBundlesResponse>(path, request, header).await.map(drop)
        }
        "FetchJWTSVID" => {
            let path = "/SpiffeWorkloadAPI/FetchJWTSVID";
            let request = JwtsvidRequest { audience: vec![audience], spiffe_id: String::new() };
            wire.unary::<_, JwtsvidResponse>(path, request, header).await.map(drop)
        }
        _ => {
            let path = "/SpiffeWorkloadAPI/ValidateJWTSVID";
            let request = ValidateJwtsvidRequest { audience, svid: token.to_owned() };
            wire.unary::<_, ValidateJwtsvidResponse>(path, request, header).await.map(drop)
        }
    }
}
