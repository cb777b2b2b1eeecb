//! The peer as a policy sees it: field by field what Go's `encoding/json` makes of an
//! `x509.Certificate`, which policies for ghostunnel are written against; names that Go leaves
//! empty are `null`.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use regorus::Value;
use serde_json::{Value as Json, json};
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{
    ASN1Time, FromDer as _, GeneralName, ParsedExtension, X509Certificate, X509Name,
};

use crate::identity::PeerCert;

/// RFC 5280 §4.1.2.2, and the byte that keeps it positive.
const MOST_SERIAL: usize = 21;

/// `{"certificate": …, "spiffe_id": …}`.
pub(super) fn of(peer: &PeerCert) -> Result<Value, String> {
    let (_, leaf) = X509Certificate::from_der(&peer.der).map_err(|e| e.to_string())?;
    if leaf.raw_serial().len() > MOST_SERIAL {
        return Err("its serial number is longer than 20 bytes".into());
    }
    // Go writes it as a number.
    let serial = Value::from_json_str(&leaf.tbs_certificate.serial.to_string());
    let serial = serial.map_err(|e| e.to_string())?;
    let mut certificate = Value::from(certificate(peer, &leaf));
    let fields = certificate.as_object_mut().map_err(|e| e.to_string())?;
    fields.insert("SerialNumber".into(), serial);
    let id = peer.id.as_ref().map(ToString::to_string);
    let mut input = Value::from(json!({ "spiffe_id": id }));
    let fields = input.as_object_mut().map_err(|e| e.to_string())?;
    fields.insert("certificate".into(), certificate);
    Ok(input)
}

fn certificate(peer: &PeerCert, leaf: &X509Certificate<'_>) -> Json {
    let tbs = &leaf.tbs_certificate;
    let emails: Vec<&str> = names(leaf)
        .filter_map(|name| match name {
            GeneralName::RFC822Name(mail) => Some(*mail),
            _ => None,
        })
        .collect();
    let usage = leaf.key_usage().ok().flatten().map_or(0, |usage| usage.value.flags);
    let constraints = leaf.basic_constraints().ok().flatten();
    json!({
        "Raw": BASE64.encode(&peer.der),
        "RawSubject": BASE64.encode(tbs.subject.as_raw()),
        "RawIssuer": BASE64.encode(tbs.issuer.as_raw()),
        "RawSubjectPublicKeyInfo": BASE64.encode(tbs.subject_pki.raw),
        "Version": tbs.version.0 + 1,
        "Subject": name(&tbs.subject),
        "Issuer": name(&tbs.issuer),
        "NotBefore": at(tbs.validity.not_before),
        "NotAfter": at(tbs.validity.not_after),
        "KeyUsage": usage,
        "ExtKeyUsage": list(&extended(leaf)),
        "BasicConstraintsValid": constraints.is_some(),
        "IsCA": constraints.is_some_and(|c| c.value.ca),
        "DNSNames": list(&peer.dns),
        "EmailAddresses": list(&emails),
        "IPAddresses": list(&peer.ips),
        "URIs": list(&peer.uris.iter().map(|uri| url(uri)).collect::<Vec<_>>()),
    })
}

fn names<'a>(leaf: &'a X509Certificate<'_>) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let names = leaf.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    names.into_iter().flatten()
}

/// Go's numbers of `x509.ExtKeyUsage`, for those that it has and TLS knows.
fn extended(leaf: &X509Certificate<'_>) -> Vec<u8> {
    let Ok(Some(usage)) = leaf.extended_key_usage() else { return Vec::new() };
    let usage = usage.value;
    let known = [
        (usage.any, 0),
        (usage.server_auth, 1),
        (usage.client_auth, 2),
        (usage.code_signing, 3),
        (usage.email_protection, 4),
        (usage.time_stamping, 8),
        (usage.ocsp_signing, 9),
    ];
    known.into_iter().filter_map(|(has, number)| has.then_some(number)).collect()
}

fn list<T: serde::Serialize>(items: &[T]) -> Json {
    if items.is_empty() { Json::Null } else { json!(items) }
}

fn at(time: ASN1Time) -> Json {
    time.to_datetime().format(&Rfc3339).map_or(Json::Null, Json::String)
}

/// Go's `pkix.Name`.
fn name(name: &X509Name<'_>) -> Json {
    let of = |oid: &str| -> Vec<String> {
        let with = name.iter_attributes().filter(|a| a.attr_type().to_id_string() == oid);
        with.filter_map(|a| a.as_str().ok().map(ToOwned::to_owned)).collect()
    };
    // Of several common names Go keeps the last.
    let last = |oid: &str| of(oid).pop().unwrap_or_default();
    let all: Vec<Json> = name
        .iter_attributes()
        .map(|a| {
            let oid: Vec<u64> =
                a.attr_type().to_id_string().split('.').filter_map(|n| n.parse().ok()).collect();
            json!({ "Type": oid, "Value": a.as_str().ok() })
        })
        .collect();
    json!({
        "Country": list(&of("2.5.4.6")),
        "Organization": list(&of("2.5.4.10")),
        "OrganizationalUnit": list(&of("2.5.4.11")),
        "Locality": list(&of("2.5.4.7")),
        "Province": list(&of("2.5.4.8")),
        "StreetAddress": list(&of("2.5.4.9")),
        "PostalCode": list(&of("2.5.4.17")),
        "SerialNumber": last("2.5.4.5"),
        "CommonName": last("2.5.4.3"),
        "Names": all,
        "ExtraNames": null,
    })
}

/// Go's `url.URL`, but for its user, which stays in `Host`, and %-escapes, which stay as they are
/// (a SPIFFE ID has neither).
fn url(uri: &str) -> Json {
    let (scheme, rest) = uri.split_once(':').unwrap_or(("", uri));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (opaque, host, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let at = rest.find('/').unwrap_or(rest.len());
            ("", &rest[..at], &rest[at..])
        }
        None if rest.starts_with('/') => ("", "", rest),
        None => (rest, "", ""),
    };
    json!({
        "Scheme": scheme.to_ascii_lowercase(),
        "Opaque": opaque,
        "User": null,
        "Host": host,
        "Path": path,
        "RawPath": "",
        "OmitHost": false,
        "ForceQuery": false,
        "RawQuery": query,
        "Fragment": fragment,
        "RawFragment": "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_is_taken_apart_as_go_does() {
        let parts = |uri: &str| {
            let url = url(uri);
            ["Scheme", "Opaque", "Host", "Path", "RawQuery"]
                .map(|k| url[k].as_str().unwrap().to_owned())
        };
        assert_eq!(parts("spiffe://td/ns/a"), ["spiffe", "", "td", "/ns/a", ""]);
        assert_eq!(parts("SPIFFE://td"), ["spiffe", "", "td", "", ""]);
        assert_eq!(parts("urn:x:y"), ["urn", "x:y", "", "", ""]);
        assert_eq!(parts("https://h:1/p?q#f"), ["https", "", "h:1", "/p", "q"]);
    }

    #[test]
    fn a_certificate_has_gos_names() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "app");
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "ops");
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x7f; 20]));
        let uri = "spiffe://td/app".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        // Go writes an IPv4 address as one, in 4 bytes or in 16.
        for ip in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8::1"] {
            params.subject_alt_names.push(rcgen::SanType::IpAddress(ip.parse().unwrap()));
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = params.self_signed(&key).unwrap();
        let peer = PeerCert::of(&[leaf.der().clone()]).unwrap();
        let input: Json = serde_json::from_str(&of(&peer).unwrap().to_json_str().unwrap()).unwrap();
        assert_eq!(input["spiffe_id"], "spiffe://td/app");
        let certificate = &input["certificate"];
        assert_eq!(certificate["Subject"]["CommonName"], "app");
        assert_eq!(certificate["Subject"]["OrganizationalUnit"], json!(["ops"]));
        assert_eq!(certificate["Subject"]["Organization"], Json::Null);
        assert_eq!(certificate["DNSNames"], json!(["a.example"]));
        assert_eq!(certificate["URIs"][0]["Host"], "td");
        let ips = json!(["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        assert_eq!(certificate["IPAddresses"], ips);
        assert_eq!(certificate["EmailAddresses"], Json::Null);
        assert!(certificate["SerialNumber"].is_number());
        assert!(certificate["NotAfter"].as_str().unwrap().ends_with('Z'));
    }
}
