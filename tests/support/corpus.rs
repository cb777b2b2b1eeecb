//! The X.509-SVID corpus (X509-SVID §2–§5, SPIFFE-ID §2): certificates that differ from a good
//! one by one thing each, and what must come of them. One list for whoever judges: the verifier
//! by itself, and adit's live ends of a tunnel.

use std::time::Duration;

use adit::identity::{Purpose, TrustBundle};
use pki_types::{CertificateDer, PrivateKeyDer};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose as Ku,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SanType, SignatureAlgorithm,
};
use time::OffsetDateTime;

use crate::spiffe_ids;

/// The trust domain whose root is [`World::own`]; so are those of [`spiffe_ids::trust_domains`].
pub(crate) const OWN: &str = "cluster.local";
/// The one whose root is [`World::other`].
pub(crate) const OTHER: &str = "other.test";
/// The one whose bundle is empty.
pub(crate) const EMPTY: &str = "empty.test";

const URI_OF_SAN: u8 = 0x86;
const OID_SAN: &[u64] = &[2, 5, 29, 17];
const OID_KEY_USAGE: &[u64] = &[2, 5, 29, 15];

/// A CA.
pub(crate) struct Ca {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// A chain, leaf first, and the key that is shown to go with it.
pub(crate) struct Forged {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    #[allow(dead_code, reason = "only handshakes use it")]
    pub(crate) key: PrivateKeyDer<'static>,
}

/// One line of the corpus.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) shown: Forged,
    /// Whose it is, where it is taken.
    pub(crate) id: String,
    /// `(close reason, a part of what is said)`, where it is not.
    pub(crate) refused: Option<(&'static str, &'static str)>,
    /// Its certificates are in order: only a handshake shows what is wrong.
    pub(crate) by_handshake_only: bool,
}

/// The authorities, and the bundles that they are in.
pub(crate) struct World {
    pub(crate) own: Ca,
    pub(crate) other: Ca,
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

pub(crate) fn ca_params(constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "some CA");
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![Ku::KeyCertSign];
    params
}

pub(crate) fn root() -> Ca {
    let key = KeyPair::generate().expect("a key");
    let params = ca_params(BasicConstraints::Unconstrained);
    let der = params.self_signed(&key).expect("signed").der().clone();
    Ca { der, issuer: Issuer::new(params, key) }
}

pub(crate) fn intermediate(above: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let key = KeyPair::generate().expect("a key");
    let mut params = ca_params(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    change(&mut params);
    let der = params.signed_by(&key, &above.issuer).expect("signed").der().clone();
    Ca { der, issuer: Issuer::new(params, key) }
}

pub(crate) fn bundle(trust_domain: &str, roots: &[&Ca]) -> TrustBundle {
    let authorities = roots.iter().map(|r| r.der.clone()).collect();
    TrustBundle::new(trust_domain.parse().expect("a trust domain"), authorities)
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A leaf as it should be, but for `change`.
pub(crate) fn leaf(
    ca: &Ca,
    id: &str,
    algorithm: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Forged {
    let key = if *algorithm == PKCS_RSA_SHA256 {
        KeyPair::generate_rsa_for(algorithm, RsaKeySize::_2048)
    } else {
        KeyPair::generate_for(algorithm)
    };
    let key = key.expect("a key");
    let mut params = CertificateParams::default();
    params.not_before = now() - Duration::from_secs(10);
    params.not_after = now() + Duration::from_secs(3600);
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Ku::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    change(&mut params);
    let chain = vec![params.signed_by(&key, &ca.issuer).expect("signed").der().clone()];
    Forged { chain, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
}

/// A SAN of URIs of any bytes, which rcgen writes for text only.
fn san_of(uris: &[&[u8]], critical: bool) -> CustomExtension {
    let names: Vec<u8> = uris.iter().flat_map(|uri| tlv(URI_OF_SAN, uri)).collect();
    let mut san = CustomExtension::from_oid_content(OID_SAN, tlv(0x30, &names));
    san.set_criticality(critical);
    san
}

/// Tag, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(value.len()).expect("short").to_be_bytes();
    let length = match value.len() {
        0..=127 => vec![low],
        128..=255 => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], value].concat()
}

impl World {
    pub(crate) fn new() -> Self {
        Self { own: root(), other: root() }
    }

    /// Every bundle that whoever judges must have.
    pub(crate) fn bundles(&self) -> Vec<TrustBundle> {
        let own = std::iter::once(OWN.to_owned()).chain(spiffe_ids::trust_domains());
        let own = own.map(|trust_domain| bundle(&trust_domain, &[&self.own]));
        own.chain([bundle(OTHER, &[&self.other]), bundle(EMPTY, &[])]).collect()
    }

    /// The corpus for a peer that should be `id`, of [`OWN`], and is used as `purpose`.
    pub(crate) fn fixtures(&self, id: &str, purpose: Purpose) -> Vec<Fixture> {
        let mut all = self.good(id);
        all.extend(self.bad_leaves(id, purpose));
        all.extend(self.bad_chains(id));
        all.extend(self.ids());
        all
    }

    fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Forged {
        leaf(&self.own, id, &PKCS_ECDSA_P256_SHA256, change)
    }

    fn good(&self, id: &str) -> Vec<Fixture> {
        type Change = fn(&mut CertificateParams);
        let changes: [(&str, Change); 7] = [
            ("as it should be", |_| ()),
            ("DNS names beside the URI", |p| {
                p.subject_alt_names.push(SanType::DnsName("web.shop".try_into().expect("ASCII")));
            }),
            ("no extended key usage", |p| p.extended_key_usages.clear()),
            ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
            ("more key usages", |p| {
                p.key_usages.extend([Ku::KeyEncipherment, Ku::KeyAgreement]);
            }),
            ("key usage that is not critical", |p| {
                p.key_usages.clear();
                let usage = [3, 2, 7, 0x80].to_vec();
                let usage = CustomExtension::from_oid_content(OID_KEY_USAGE, usage);
                p.custom_extensions.push(usage);
            }),
            ("no subject", |p| p.distinguished_name = DistinguishedName::new()),
        ];
        let mut all: Vec<_> =
            changes.into_iter().map(|(name, change)| (name, self.leaf(id, change))).collect();
        let uri = id.as_bytes();
        all.push((
            "no subject, and a SAN that is not critical",
            self.leaf(id, |p| {
                p.distinguished_name = DistinguishedName::new();
                p.subject_alt_names.clear();
                p.custom_extensions.push(san_of(&[uri], false));
            }),
        ));
        for (name, algorithm) in [
            ("P-384", &PKCS_ECDSA_P384_SHA384),
            ("Ed25519", &PKCS_ED25519),
            ("RSA of 2048 bits", &PKCS_RSA_SHA256),
        ] {
            all.push((name, leaf(&self.own, id, algorithm, |_| ())));
        }
        let middle = intermediate(&self.own, |_| ());
        all.push(("an intermediate", self.under(id, &[&middle])));
        let good = |(name, shown): (&str, Forged)| Fixture {
            name: name.to_owned(),
            shown,
            id: id.to_owned(),
            refused: None,
            by_handshake_only: false,
        };
        all.into_iter().map(good).collect()
    }

    /// A good leaf under the first of `cas`, and all of them behind it.
    fn under(&self, id: &str, cas: &[&Ca]) -> Forged {
        let mut shown = leaf(cas[0], id, &PKCS_ECDSA_P256_SHA256, |_| ());
        shown.chain.extend(cas.iter().map(|ca| ca.der.clone()));
        shown
    }

    fn bad_leaves(&self, id: &str, purpose: Purpose) -> Vec<Fixture> {
        type Change = fn(&mut CertificateParams);
        let other_purpose: Change = match purpose {
            Purpose::Client => |p| p.extended_key_usages = vec![Eku::ServerAuth],
            Purpose::Server => |p| p.extended_key_usages = vec![Eku::ClientAuth],
        };
        let (invalid, many) = ("invalid_svid", "multiple_uri_sans");
        let cases: [(&str, Change, &'static str, &'static str); 19] = [
            ("no URI", |p| p.subject_alt_names.clear(), invalid, "no URI SAN"),
            (
                "a DNS name only",
                |p| {
                    p.subject_alt_names =
                        vec![SanType::DnsName("web.shop".try_into().expect("ASCII"))];
                },
                invalid,
                "no URI SAN",
            ),
            (
                "two SPIFFE IDs",
                |p| p.subject_alt_names.push(uri("spiffe://cluster.local/b")),
                many,
                "2 URI SANs",
            ),
            (
                "a SPIFFE ID and a page",
                |p| p.subject_alt_names.push(uri("https://cluster.local/b")),
                many,
                "2 URI SANs",
            ),
            (
                "the same twice",
                |p| p.subject_alt_names.push(p.subject_alt_names[0].clone()),
                many,
                "2 URI SANs",
            ),
            (
                "two SAN extensions",
                |p| p.custom_extensions.push(san_of(&[b"spiffe://cluster.local/b"], false)),
                many,
                "2 URI SANs",
            ),
            (
                "two, the second not ASCII",
                |p| {
                    p.subject_alt_names.clear();
                    let both: [&[u8]; 2] = [b"spiffe://cluster.local/ns/shop/sa/web", b"x:\xff"];
                    p.custom_extensions.push(san_of(&both, false));
                },
                invalid,
                "a URI SAN is not ASCII",
            ),
            (
                "not spiffe",
                |p| p.subject_alt_names = vec![uri("https://cluster.local/b")],
                invalid,
                "not a SPIFFE ID",
            ),
            (
                "no path",
                |p| p.subject_alt_names = vec![uri("spiffe://cluster.local")],
                invalid,
                "has no path",
            ),
            (
                "a CA",
                |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                "ca_as_leaf",
                "is a CA certificate",
            ),
            ("keyCertSign", |p| p.key_usages.push(Ku::KeyCertSign), invalid, "has keyCertSign"),
            ("cRLSign", |p| p.key_usages.push(Ku::CrlSign), invalid, "has cRLSign"),
            (
                "no digitalSignature",
                |p| p.key_usages = vec![Ku::KeyEncipherment],
                invalid,
                "lacks digitalSignature",
            ),
            ("no key usage", |p| p.key_usages.clear(), invalid, "key usage is missing"),
            (
                "expired",
                |p| p.not_after = now() - Duration::from_secs(2),
                "svid_expired",
                "expired",
            ),
            (
                "not yet valid",
                |p| p.not_before = now() + Duration::from_secs(600),
                "svid_expired",
                "not valid yet",
            ),
            (
                "for e-mail only",
                |p| p.extended_key_usages = vec![Eku::EmailProtection],
                invalid,
                "extended key usage",
            ),
            ("for the other end only", other_purpose, invalid, "extended key usage"),
            (
                "a critical extension that nobody knows",
                |p| {
                    let oid = &[1, 3, 6, 1, 4, 1, 99_999, 1];
                    let mut extension = CustomExtension::from_oid_content(oid, vec![5, 0]);
                    extension.set_criticality(true);
                    p.custom_extensions.push(extension);
                },
                "untrusted_svid",
                "does not lead to",
            ),
        ];
        let case = |(name, change, reason, why)| bad(name, self.leaf(id, change), reason, why);
        cases.into_iter().map(case).collect()
    }

    fn bad_chains(&self, id: &str) -> Vec<Fixture> {
        let (own, other) = (&self.own, &self.other);
        let (no_change, p256) = (|_: &mut CertificateParams| (), &PKCS_ECDSA_P256_SHA256);
        let path_of = |trust_domain: &str| id.replace(OWN, trust_domain);
        let stranger = root(); // of the same name as ours
        let middle = |change: fn(&mut CertificateParams)| intermediate(own, change);
        let behind = |der: CertificateDer<'static>, junk: bool| match junk {
            true => [&der, &[0_u8][..]].concat().into(),
            false => der,
        };
        let junk_after = |mut shown: Forged, at: usize| {
            shown.chain[at] = behind(shown.chain[at].clone(), true);
            shown
        };
        let first = middle(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let second = intermediate(&first, |_| ());
        let mut upside_down = self.under(id, &[&middle(|_| ())]);
        upside_down.chain.reverse();
        let mut by_a_leaf = {
            // A workload signs for somebody else with its own key.
            let (key, mut params) =
                (KeyPair::generate().expect("a key"), CertificateParams::default());
            params.subject_alt_names = vec![uri(&path_of(OWN))];
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![Ku::DigitalSignature];
            params.distinguished_name.push(DnType::CommonName, "a workload");
            let der = params.signed_by(&key, &own.issuer).expect("signed").der().clone();
            let workload = Ca { der, issuer: Issuer::new(params, key) };
            self.under(id, &[&workload])
        };
        by_a_leaf.chain.truncate(2);
        let mut long = self.leaf(id, |_| ());
        long.chain = vec![long.chain[0].clone(); 9];
        let mut no_certificate = self.leaf(id, |_| ());
        no_certificate.chain = vec![b"no certificate".to_vec().into()];
        let mut stolen = self.leaf(id, |_| ());
        stolen.chain = self.leaf(id, |_| ()).chain;
        let untrusted = "untrusted_svid";
        let mut all = vec![
            bad("signed by another domain's root", leaf(other, id, p256, no_change), untrusted, ""),
            bad(
                "of another domain, signed by our root",
                leaf(own, &path_of(OTHER), p256, no_change),
                untrusted,
                "",
            ),
            bad("signed by nobody we know", leaf(&stranger, id, p256, no_change), untrusted, ""),
            bad(
                "a trust domain without a bundle",
                leaf(own, &path_of("nobody.test"), p256, no_change),
                "unknown_trust_domain",
                "nobody.test has no bundle",
            ),
            bad(
                "a trust domain with an empty bundle",
                leaf(own, &path_of(EMPTY), p256, no_change),
                untrusted,
                "",
            ),
            bad(
                "an intermediate that is not a CA",
                self.under(id, &[&middle(|p| p.is_ca = IsCa::ExplicitNoCa)]),
                untrusted,
                "is not a CA",
            ),
            bad(
                "an intermediate without keyCertSign",
                self.under(id, &[&middle(|p| p.key_usages = vec![Ku::DigitalSignature])]),
                untrusted,
                "lacks keyCertSign",
            ),
            bad(
                "an intermediate that has expired",
                self.under(id, &[&middle(|p| p.not_after = now() - Duration::from_secs(60))]),
                untrusted,
                "",
            ),
            bad("a path that is too long", self.under(id, &[&second, &first]), untrusted, ""),
            bad(
                "the intermediate is missing",
                {
                    let mut shown = self.under(id, &[&middle(|_| ())]);
                    shown.chain.truncate(1);
                    shown
                },
                untrusted,
                "",
            ),
            bad("signed by a workload", by_a_leaf, untrusted, "is not a CA"),
            bad("the leaf comes last", upside_down, "invalid_svid", "no URI SAN"),
            bad("nine certificates", long, "invalid_svid", "9 certificates"),
            bad("no certificate", no_certificate, "invalid_svid", "not one DER"),
            bad(
                "a byte behind the leaf",
                junk_after(self.leaf(id, |_| ()), 0),
                "invalid_svid",
                "1 byte after the certificate",
            ),
            bad(
                "a byte behind the intermediate",
                junk_after(self.under(id, &[&middle(|_| ())]), 1),
                untrusted,
                "",
            ),
            bad("somebody else's key", stolen, untrusted, ""),
        ];
        all.last_mut().expect("the last").by_handshake_only = true;
        all
    }

    /// Each SPIFFE ID that is none, and each that is, as the only URI SAN.
    fn ids(&self) -> Vec<Fixture> {
        let bytes = spiffe_ids::every_bad_byte().into_iter().map(|id| (id, false));
        let fixture = |(id, valid): (Vec<u8>, bool)| {
            let shown = self.leaf("spiffe://td/x", |p| {
                p.subject_alt_names.clear();
                p.custom_extensions.push(san_of(&[&id], false));
            });
            let text = String::from_utf8_lossy(&id).into_owned();
            let names_a_workload = valid && text.trim_start_matches("spiffe://").contains('/');
            let refused = match (valid, names_a_workload) {
                (true, true) => None,
                (true, false) => Some(("invalid_svid", "has no path")),
                (false, _) => Some(("invalid_svid", "")),
            };
            let name = format!("URI {:?}", text.chars().take(60).collect::<String>());
            Fixture { name, shown, id: text, refused, by_handshake_only: false }
        };
        spiffe_ids::ids().into_iter().chain(bytes).map(fixture).collect()
    }
}

fn bad(name: &str, shown: Forged, reason: &'static str, why: &'static str) -> Fixture {
    let (name, id) = (name.to_owned(), String::new());
    Fixture { name, shown, id, refused: Some((reason, why)), by_handshake_only: false }
}
