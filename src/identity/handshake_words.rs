//! Why a handshake failed, in sentences, with the library's name for it behind.

use std::io;

use rustls::{
    AlertDescription, CertRevocationListError, CertificateError, Error, InvalidMessage,
    PeerIncompatible,
};

use super::{
    chain_words, moment_of,
    words::{name_in_words, name_of, names},
};

/// What a person can do something about. Every text about TLS goes through here.
#[must_use]
pub fn handshake_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => certificate_words(why),
        Error::PeerIncompatible(why) => incompatible(why),
        Error::AlertReceived(alert) => {
            format!("the peer ended the TLS handshake with alert {}", alert_words(*alert))
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what the peer sent is not TLS; it may speak plaintext (InvalidContentType)".into()
        }
        Error::InvalidMessage(why) => {
            format!("the peer sent malformed TLS: {} ({})", name_in_words(why), name_of(why))
        }
        Error::PeerMisbehaved(why) => {
            format!("the peer violated the TLS protocol: {} ({})", name_in_words(why), name_of(why))
        }
        Error::NoApplicationProtocol => {
            "the two sides have no application protocol (ALPN) in common (NoApplicationProtocol)"
                .into()
        }
        Error::DecryptError => {
            "a record of the handshake could not be decrypted (DecryptError)".into()
        }
        Error::NoCertificatesPresented => {
            "the peer presented no certificate (NoCertificatesPresented)".into()
        }
        Error::InvalidCertRevocationList(why) => crl_words(why),
        Error::PeerSentOversizedRecord => {
            "the peer sent a longer record than TLS allows (PeerSentOversizedRecord)".into()
        }
        Error::InappropriateMessage { got_type, .. } => {
            let got = name_in_words(got_type);
            format!("the peer sent a TLS record at the wrong time: {got} (InappropriateMessage)")
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            let got = name_in_words(got_type);
            format!(
                "the peer sent a handshake message at the wrong time: {got} \
                 (InappropriateHandshakeMessage)"
            )
        }
        Error::InconsistentKeys(_) => {
            "our private key does not belong to our certificate (InconsistentKeys)".into()
        }
        Error::General(why) => why.clone(),
        Error::Other(why) => why.0.to_string(),
        Error::EncryptError | Error::HandshakeNotComplete | Error::BadMaxFragmentSize => {
            format!(
                "the TLS library of this side failed: {} ({})",
                name_in_words(error),
                name_of(error)
            )
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// Puts the error of a stream over TLS into words: TLS errors as [`handshake_words`] does, others
/// as they are.
#[must_use]
pub fn stream_words(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => handshake_words(tls),
        None => error.to_string(),
    }
}

/// An alert, and what it means where that helps.
#[must_use]
pub fn alert_words(alert: AlertDescription) -> String {
    let means = match alert {
        AlertDescription::HandshakeFailure => {
            "the two sides have no cipher, key exchange or version in common"
        }
        AlertDescription::ProtocolVersion => "the two sides have no TLS version in common",
        AlertDescription::UnknownCA => "it does not trust the CA of our certificate",
        AlertDescription::CertificateExpired => "our certificate has expired by its clock",
        AlertDescription::CertificateRevoked => "our certificate is revoked",
        AlertDescription::CertificateRequired => "it requires a certificate from adit",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "it does not accept our certificate",
        AlertDescription::AccessDenied => "it does not allow the identity of our certificate",
        AlertDescription::UnrecognisedName => "it has no certificate for the requested name",
        AlertDescription::Unknown(number) => return format!("number {number}"),
        _ => return format!("{alert:?}"), // the name of RFC 8446 §6
    };
    format!("{alert:?}: {means}")
}

fn incompatible(why: &PeerIncompatible) -> String {
    let said = match why {
        PeerIncompatible::NoKxGroupsInCommon => {
            "the peer offers no key exchange that adit accepts: X25519MLKEM768, X25519, P-256 or \
             P-384"
        }
        PeerIncompatible::NoCipherSuitesInCommon => "the two sides have no cipher suite in common",
        PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "the peer offers no signature algorithms, so its TLS is older than 1.2"
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => {
            "the two sides have no signature algorithm in common: one side does not support the \
             kind of key in the other's certificate"
        }
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "the two sides have no TLS version in common"
        }
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => {
            "the peer speaks TLS 1.2 without the extended master secret (RFC 7627), which is unsafe"
        }
        _ => "the peer's TLS lacks something that adit needs",
    };
    format!("{said} ({})", name_of(why))
}

fn certificate_words(why: &CertificateError) -> String {
    let said = match why {
        CertificateError::Other(other) => match other.0.downcast_ref::<webpki::Error>() {
            Some(webpki) => return chain_words(webpki),
            None => return other.0.to_string(),
        },
        CertificateError::ExpiredContext { time, not_after } => {
            let (end, now) = (moment_of(*not_after), moment_of(*time));
            return format!(
                "the peer's certificate expired at {end}, and it is {now} (CertExpired)"
            );
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let (start, now) = (moment_of(*not_before), moment_of(*time));
            return format!(
                "the peer's certificate is not valid before {start}, and it is {now} \
                 (CertNotValidYet)"
            );
        }
        CertificateError::ExpiredRevocationListContext { time, next_update } => {
            let (end, now) = (moment_of(*next_update), moment_of(*time));
            return format!(
                "a CRL is out of date: its nextUpdate was {end}, and it is {now} (CrlExpired)"
            );
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            return format!(
                "the peer's certificate is not valid for the requested name {}: it is for {} \
                 (NotValidForName)",
                expected.to_str(),
                names(presented)
            );
        }
        CertificateError::Expired => return "the peer's certificate has expired (Expired)".into(),
        CertificateError::NotValidYet => {
            return "the peer's certificate is not valid yet (NotValidYet)".into();
        }
        CertificateError::UnknownIssuer => return chain_words(&webpki::Error::UnknownIssuer),
        CertificateError::BadEncoding => return chain_words(&webpki::Error::BadDer),
        CertificateError::Revoked => return chain_words(&webpki::Error::CertRevoked),
        CertificateError::UnknownRevocationStatus => {
            return chain_words(&webpki::Error::UnknownRevocationStatus);
        }
        CertificateError::UnhandledCriticalExtension => {
            return chain_words(&webpki::Error::UnsupportedCriticalExtension);
        }
        CertificateError::BadSignature => {
            "a signature of the peer, or in its chain, does not match its key: a certificate was \
             changed, or another CA of the same name signed it"
        }
        CertificateError::InvalidPurposeContext { required, presented } => {
            let has: Vec<_> = presented.iter().map(ToString::to_string).collect();
            let has = if has.is_empty() { "nothing".to_owned() } else { has.join(", ") };
            return format!(
                "the extended key usage of a certificate in the peer's chain does not allow this \
                 use: it has {has}, but needs {required} (InvalidPurpose)"
            );
        }
        CertificateError::InvalidPurpose => {
            "the extended key usage of a certificate in the peer's chain does not allow this use: \
             serverAuth is for servers, clientAuth for clients"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "a certificate of the peer's chain is signed with an algorithm or key that is not \
             accepted, such as SHA-1 or RSA below 2048 bits"
        }
        CertificateError::ExpiredRevocationList => "a CRL is out of date: its nextUpdate passed",
        CertificateError::InvalidOcspResponse => "the peer sent an OCSP answer that is not valid",
        CertificateError::ApplicationVerificationFailure => {
            "the peer's key is not one of the pinned keys"
        }
        CertificateError::NotValidForName => {
            "the peer's certificate is not valid for the requested name"
        }
        other => return format!("the peer's certificate is not accepted: {other}"),
    };
    format!("{said} ({})", name_of(why))
}

/// Why a CRL cannot be used.
#[must_use]
pub fn crl_words(error: &CertRevocationListError) -> String {
    use CertRevocationListError as Crl;
    chain_words(&match error {
        Crl::BadSignature => webpki::Error::InvalidCrlSignatureForPublicKey,
        Crl::InvalidCrlNumber => webpki::Error::InvalidCrlNumber,
        Crl::InvalidRevokedCertSerialNumber => webpki::Error::InvalidSerialNumber,
        Crl::IssuerInvalidForCrl => webpki::Error::IssuerNotCrlSigner,
        Crl::UnsupportedCrlVersion => webpki::Error::UnsupportedCrlVersion,
        Crl::UnsupportedCriticalExtension => webpki::Error::UnsupportedCriticalExtension,
        Crl::UnsupportedDeltaCrl => webpki::Error::UnsupportedDeltaCrl,
        Crl::UnsupportedIndirectCrl => webpki::Error::UnsupportedIndirectCrl,
        Crl::UnsupportedRevocationReason => webpki::Error::UnsupportedRevocationReason,
        Crl::ParseError => return "a CRL is not well-formed DER (ParseError)".into(),
        Crl::UnsupportedSignatureAlgorithmContext { .. }
        | Crl::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            return "a CRL is signed with an algorithm or key that is not accepted, such as SHA-1 \
                    or RSA below 2048 bits (UnsupportedSignatureAlgorithm)"
                .into();
        }
        Crl::Other(other) => return format!("a CRL cannot be used: {}", other.0),
        other => {
            let (words, name) = (name_in_words(other), name_of(other));
            return format!("a CRL cannot be used: {words} ({name})");
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[test]
    fn causes_are_named() {
        let webpki = |error: webpki::Error| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        for (error, cause, name) in [
            (
                PeerIncompatible::NoKxGroupsInCommon.into(),
                "no key exchange that adit accepts",
                "NoKxGroupsInCommon",
            ),
            (
                PeerIncompatible::SignatureAlgorithmsExtensionRequired.into(),
                "its TLS is older than 1.2",
                "SignatureAlgorithmsExtensionRequired",
            ),
            (webpki(webpki::Error::CaUsedAsEndEntity), "is a CA certificate", "CaUsedAsEndEntity"),
            (
                webpki(webpki::Error::UnsupportedCertVersion),
                "X.509 version 1",
                "UnsupportedCertVersion",
            ),
            (
                webpki(webpki::Error::MaximumPathDepthExceeded),
                "too many intermediates",
                "MaximumPathDepthExceeded",
            ),
            (
                Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "does not lead to a trusted root",
                "UnknownIssuer",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "is not TLS",
                "InvalidContentType",
            ),
            (Error::AlertReceived(AlertDescription::UnknownCA), "does not trust", "UnknownCA"),
        ] {
            let said = handshake_words(&error);
            assert!(said.contains(cause) && said.contains(name), "{said}");
        }
    }

    /// No name of the library's alone, and no debug form of it.
    #[test]
    fn what_else_reaches_people_is_said_in_sentences() {
        use rustls::{CertRevocationListError as Crl, ExtendedKeyPurpose as Eku};
        let called = CertificateError::NotValidForNameContext {
            expected: "db.example".try_into().unwrap(),
            presented: vec!["DnsName(\"web.example\")".into()],
        };
        let purpose = CertificateError::InvalidPurposeContext {
            required: Eku::ServerAuth,
            presented: vec![Eku::ClientAuth],
        };
        for (error, says) in [
            (called.into(), "for the requested name db.example: it is for web.example ("),
            (purpose.into(), "it has client authentication, but needs server authentication"),
            (CertificateError::InvalidPurpose.into(), "serverAuth is for servers"),
            (Crl::IssuerInvalidForCrl.into(), "lacks cRLSign has signed a CRL"),
            (Crl::BadSignature.into(), "a CRL is not signed by the key of the CA"),
            (Crl::UnsupportedDeltaCrl.into(), "reads only complete ones"),
            (Crl::ParseError.into(), "a CRL is not well-formed"),
            (Error::NoCertificatesPresented, "the peer presented no certificate"),
            (Error::PeerSentOversizedRecord, "a longer record than TLS allows"),
            (
                InvalidMessage::MissingData("Random").into(),
                "the peer sent malformed TLS: missing data (MissingData)",
            ),
            (
                Error::InappropriateMessage {
                    expect_types: Vec::new(),
                    got_type: rustls::ContentType::ApplicationData,
                },
                "at the wrong time: application data (",
            ),
            (Error::AlertReceived(AlertDescription::Unknown(200)), "with alert number 200"),
        ] {
            let said = handshake_words(&error);
            assert!(said.contains(says), "{said}");
        }
        for error in [
            webpki::Error::InvalidSerialNumber,
            webpki::Error::EmptyEkuExtension,
            webpki::Error::SignatureAlgorithmMismatch,
            webpki::Error::InvalidCertValidity,
        ] {
            let said = chain_words(&error);
            assert!(said.starts_with("a certificate") && said.len() > 40, "{said}");
        }
    }

    #[test]
    fn a_certificates_end_is_a_time() {
        let at = |seconds| {
            pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
        };
        let ended = CertificateError::ExpiredContext { time: at(1_700_000_000), not_after: at(0) };
        let said = handshake_words(&Error::InvalidCertificate(ended));
        assert!(said.contains("1970-01-01T00:00:00Z, and it is 2023-11-14T22:13:20Z"), "{said}");
    }
}
