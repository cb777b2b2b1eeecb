//! The JWT-SVID corpus ([`crate::jwt_corpus`]) put to a running Workload API, signed with its own
//! CA's key: nothing is wrong with any of them but what the line says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::rpc::workload::{
    ValidateJwtsvidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient as Client,
};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use pki_types::{PrivateKeyDer, pem::PemObject};
use tonic::Code;

use crate::{
    jwt_corpus::{AUDIENCE, CLAIMS, HEADER, KEY_ID, NOW, bad_claims, bad_headers, claims_of},
    served::{Served, with_header},
    spiffe_ids,
};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("the_whole_jwt_corpus_is_refused_by_the_served_api", corpus)];

/// The key of the running CA.
struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn of(served: &Served) -> Self {
        let named = std::fs::read_dir(served.file("ca")).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            let id = name.strip_prefix("jwt-")?.strip_suffix("-key.pem")?.to_owned();
            Some((id, path))
        });
        let (id, path) = named.expect("a JWT authority");
        let der = PrivateKeyDer::from_pem_file(path).unwrap();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        Self { id, pair: EcdsaKeyPair::from_pkcs8(algorithm, der.secret_der()).unwrap() }
    }

    /// The corpus speaks of its own key, trust domain and time: here it is of ours.
    fn token(&self, header: &str, claims: &str) -> String {
        let header = header.replace(KEY_ID, &self.id);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut claims = claims.replace("spiffe://td", "spiffe://example.org");
        // Far enough off that a slow machine changes no verdict.
        for (then, now) in
            [(NOW + 60, now + 600), (NOW + 1, now + 300), (NOW - 1, now - 1), (NOW, now)]
        {
            claims = claims.replace(&then.to_string(), &now.to_string());
        }
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

fn corpus() {
    let served = Served::start("  - { id: /one, selectors: { uid: 0 } }");
    let key = Key::of(&served);
    let mut refused: Vec<(String, String)> = Vec::new();
    for (header, _) in bad_headers() {
        refused.push((header.to_owned(), CLAIMS.to_owned()));
    }
    for (claims, _) in bad_claims() {
        refused.push((HEADER.to_owned(), claims));
    }
    for (id, _) in spiffe_ids::ids().into_iter().filter(|(_, valid)| !valid) {
        refused.push((HEADER.to_owned(), claims_of(std::str::from_utf8(&id).unwrap())));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::new(served.channel());
        let mut judge = async |header: &str, claims: &str| {
            let (audience, svid) = (AUDIENCE.into(), key.token(header, claims));
            let request = with_header(ValidateJwtsvidRequest { audience, svid }, &["true"]);
            let answer = client.validate_jwtsvid(request);
            tokio::time::timeout(Duration::from_secs(10), answer).await.expect("an answer")
        };
        let good = judge(HEADER, CLAIMS).await.unwrap().into_inner();
        assert_eq!(good.spiffe_id, "spiffe://example.org/a");
        assert!(refused.len() > 80, "{}", refused.len());
        for (header, claims) in &refused {
            let verdict = judge(header, claims).await;
            let status = verdict.expect_err(&format!("{header} {claims}"));
            assert_eq!(status.code(), Code::InvalidArgument, "{header} {claims}: {status}");
            assert!(status.message().starts_with("svid: "), "{header} {claims}: {status}");
        }
    });
}
