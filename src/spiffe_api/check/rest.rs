//! What is not one of the five calls: WIT-SVIDs, unknown methods, reflection.

use tokio_stream::once;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::call::{RIGHT, RawClient, refused, said};
use crate::identity::lint::Report;

pub(super) async fn check(report: &mut Report, wire: &RawClient) {
    for (rpc, path) in [
        ("FetchWITSVID", "/SpiffeWorkloadAPI/FetchWITSVID"),
        ("FetchWITBundles", "/SpiffeWorkloadAPI/FetchWITBundles"),
    ] {
        // What is in the answer is not looked at: the profile is incubating.
        let rule = format!("{rpc} is answered or Unimplemented");
        let found = match wire.first::<(), ()>(path, (), RIGHT).await {
            Ok(_) => Ok("it is answered".to_owned()),
            Err(s) if matches!(s.code(), Code::Unimplemented | Code::PermissionDenied) => {
                Ok(said(&s))
            }
            Err(status) => Err(said(&status)),
        };
        let advice = "answer Unimplemented if the profile is not supported";
        report.judge(&rule, "Workload API §7", found, advice);
    }
    for (what, path) in [
        ("an unknown method", "/SpiffeWorkloadAPI/NoSuchMethod"),
        ("an unknown service", "/NoSuchService/NoSuchMethod"),
    ] {
        let answer = wire.unary::<(), ()>(path, (), RIGHT).await;
        let found = refused(answer, Code::Unimplemented);
        let rule = format!("{what} is Unimplemented");
        let advice = "return Unimplemented: clients of newer profiles rely on it";
        report.judge(&rule, "Workload Endpoint §6", found, advice);
    }
    reflection(report, wire).await;
}

async fn reflection(report: &mut Report, wire: &RawClient) {
    let (rule, clause) = ("reflection is offered", "Workload Endpoint §7");
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(once(ask));
    let right = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", right);
    let answer = wire.bounded(async {
        let mut client = ServerReflectionClient::new(wire.channel());
        client.server_reflection_info(request).await?.into_inner().message().await
    });
    let found = match answer.await {
        Ok(Some(answer)) => match answer.message_response {
            Some(MessageResponse::ListServicesResponse(list)) => {
                let names: Vec<_> = list.service.into_iter().take(16).map(|s| s.name).collect();
                let named = names.iter().any(|name| name == "SpiffeWorkloadAPI");
                let names = names.join(", ");
                if named {
                    Ok(names)
                } else {
                    Err(format!("it does not list SpiffeWorkloadAPI, only: {names}"))
                }
            }
            _ => Err("it lists no services".to_owned()),
        },
        Ok(None) => Err("no answer".to_owned()),
        Err(status) => Err(said(&status)),
    };
    match found {
        Ok(names) => report.ok(rule, clause, names),
        Err(why) => report.warn(
            rule,
            clause,
            why,
            "it SHOULD be there, so that tools can list the services",
        ),
    }
}
