//! What is wrong with certificates, in sentences, with the library's name for it behind.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use pki_types::UnixTime;
use webpki::Error;

/// A moment as people write it (RFC 3339); what lies outside of the years 1970 to 9999 is the
/// nearest of them.
#[must_use]
pub fn moment(at: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A moment of a certificate as people write it (RFC 3339).
#[must_use]
pub fn moment_of(at: UnixTime) -> String {
    moment(SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs().min(1 << 40)))
}

/// A length of time as people say it.
#[must_use]
pub fn length(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// A count with its noun: `1 policy`, `2 policies`.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    match noun.strip_suffix('y') {
        _ if count == 1 => format!("1 {noun}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

/// When something ends, for people: `until 2027-02-27 (89 days)`, and with the time of day if that
/// is less than two days away.
#[must_use]
pub fn until(end: SystemTime, now: SystemTime) -> String {
    let left = end.duration_since(now).unwrap_or_default().as_secs();
    let at = moment(end);
    match (left / 86_400, at.split_once('T')) {
        (days @ 2.., Some((date, _))) => format!("until {date} ({days} days)"),
        _ => format!("until {at} ({})", length(left)),
    }
}

/// The names of a certificate as the library lists them, `DnsName("a")`, for people.
pub(super) fn names(presented: &[String]) -> String {
    let one = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        inner.trim_end_matches(')').trim_matches('"').chars().take(256).collect::<String>()
    };
    match presented {
        [] => "no server name".into(),
        some => {
            let more = if some.len() > 8 { " and others" } else { "" };
            format!("{}{more}", some.iter().take(8).map(one).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The library's name for an error, without the values in it.
pub(super) fn name_of(error: &impl fmt::Debug) -> String {
    let name = format!("{error:?}");
    name.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

/// The library's name for an error in words: `missing key exchange` for `MissingKeyExchange`.
pub(super) fn name_in_words(error: &impl fmt::Debug) -> String {
    let mut words = String::new();
    for c in name_of(error).chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

/// Why a chain or a CRL is refused.
#[must_use]
pub fn chain_words(error: &Error) -> String {
    let fault = path_fault(error).or_else(|| certificate_fault(error)).or_else(|| crl_fault(error));
    let Some(why) = fault.map(ToOwned::to_owned).or_else(|| fault_with_values(error)) else {
        let (words, name) = (name_in_words(error), name_of(error));
        return format!("a certificate or CRL is not accepted: {words} ({name})");
    };
    format!("{why} ({})", name_of(error))
}

/// What is wrong with the path from the leaf to a trusted root.
fn path_fault(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::CaUsedAsEndEntity => {
            "the certificate is a CA certificate (CA:TRUE), which cannot identify a server or a \
             client: issue one without CA:TRUE"
        }
        Error::EndEntityUsedAsCa => {
            "a certificate above the leaf is not a CA certificate, so it cannot issue others: it \
             needs CA:TRUE"
        }
        Error::MaximumPathDepthExceeded => {
            "there are too many intermediates between the certificate and its root"
        }
        Error::MaximumPathBuildCallsExceeded
        | Error::MaximumSignatureChecksExceeded
        | Error::MaximumNameConstraintComparisonsExceeded => {
            "the chain takes more work to check than is allowed"
        }
        Error::PathLenConstraintViolated => {
            "there are more intermediates below a CA than its pathLen allows"
        }
        Error::NameConstraintViolation => {
            "a name in the certificate violates the name constraints of a CA above it"
        }
        Error::UnknownIssuer => {
            "its chain does not lead to a trusted root: the issuer is not trusted, or an \
             intermediate was not sent with it"
        }
        Error::InvalidSignatureForPublicKey => {
            "a signature in the chain does not match the key of the CA that it names: another CA \
             of the same name signed it, or the certificate was changed"
        }
        Error::RequiredEkuNotFoundContext(_) => {
            "the certificate's extended key usage does not allow this use: serverAuth is for \
             servers, clientAuth for clients"
        }
        Error::CertDistrusted => "a certificate is distrusted",
        _ => return None,
    })
}

/// What is wrong with one certificate.
fn certificate_fault(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => {
            "a certificate is not well-formed DER"
        }
        Error::MalformedExtensions | Error::ExtensionValueInvalid => {
            "an extension of a certificate is malformed"
        }
        Error::UnsupportedCertVersion => {
            "a certificate is of X.509 version 1, as `openssl x509 -req` makes one that has no \
             extensions: issue one of version 3, with -extfile or -copy_extensions copy"
        }
        Error::UnsupportedCriticalExtension => {
            "a certificate has a critical extension that adit does not support"
        }
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a certificate is signed with an algorithm or key that is not accepted, such as SHA-1 \
             or RSA below 2048 bits"
        }
        Error::InvalidCertValidity => "a certificate ends before it begins",
        Error::EmptyEkuExtension => "a certificate's extended key usage is empty",
        Error::InvalidSerialNumber => {
            "a certificate's serial number is negative, or longer than 20 bytes"
        }
        Error::SignatureAlgorithmMismatch => {
            "a certificate names two different algorithms for its one signature"
        }
        Error::MalformedDnsIdentifier | Error::UnsupportedNameType => {
            "a name in a certificate is not well-formed"
        }
        Error::MalformedNameConstraint | Error::InvalidNetworkMaskConstraint => {
            "a CA's name constraints are not well-formed"
        }
        _ => return None,
    })
}

/// What is wrong with a CRL, or what it says.
fn crl_fault(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::CertRevoked => "a CRL names the certificate or one above it: it is revoked",
        Error::UnknownRevocationStatus => "no CRL says whether the certificate is revoked",
        Error::InvalidCrlSignatureForPublicKey => {
            "a CRL is not signed by the key of the CA that it names as its issuer"
        }
        Error::IssuerNotCrlSigner => {
            "a CA whose key usage lacks cRLSign has signed a CRL: issue that CA with cRLSign"
        }
        Error::InvalidCrlNumber => "a CRL's number is not well-formed",
        Error::UnsupportedCrlVersion => "a CRL is not of version 2",
        Error::UnsupportedDeltaCrl => "a CRL is a delta CRL: adit reads only complete ones",
        Error::UnsupportedIndirectCrl => {
            "a CRL is indirect: adit reads only CRLs in which a CA revokes its own certificates"
        }
        Error::UnsupportedCrlIssuingDistributionPoint
        | Error::UnsupportedRevocationReasonsPartitioning => {
            "a CRL covers only a part of its CA's certificates, in a way that adit does not \
             support"
        }
        Error::UnsupportedRevocationReason => "a CRL names an unknown reason",
        Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            "a CRL is signed with an algorithm or key that is not accepted, such as SHA-1 or RSA \
             below 2048 bits"
        }
        _ => return None,
    })
}

/// What is wrong with a date or a name, which the sentence names.
fn fault_with_values(error: &Error) -> Option<String> {
    Some(match error {
        Error::CertExpired { time, not_after } => {
            let (end, now) = (moment_of(*not_after), moment_of(*time));
            format!("a certificate of the chain expired at {end}, and it is {now}")
        }
        Error::CertNotValidYet { time, not_before } => {
            let (start, now) = (moment_of(*not_before), moment_of(*time));
            format!("a certificate of the chain is not valid before {start}, and it is {now}")
        }
        Error::CrlExpired { time, next_update } => {
            let (end, now) = (moment_of(*next_update), moment_of(*time));
            format!("a CRL is out of date: its nextUpdate was {end}, and it is {now}")
        }
        Error::CertNotValidForName(context) => {
            let (called, names) = (context.expected.to_str(), names(&context.presented));
            format!(
                "the certificate is not valid for the requested name {called}: it is for {names}"
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_names_its_cause_and_keeps_the_librarys_name() {
        for (error, cause) in [
            (Error::CaUsedAsEndEntity, "is a CA certificate"),
            (Error::UnsupportedCertVersion, "X.509 version 1"),
            (Error::MaximumPathDepthExceeded, "too many intermediates"),
            (Error::UnknownIssuer, "does not lead to a trusted root"),
        ] {
            let said = chain_words(&error);
            assert!(said.contains(cause) && said.ends_with(&format!(" ({error:?})")), "{said}");
        }
    }

    #[test]
    fn times_are_times() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = chain_words(&Error::CertExpired { time: at(86_400), not_after: at(0) });
        assert!(said.contains("at 1970-01-01T00:00:00Z, and it is 1970-01-02T00:00:00Z"), "{said}");
        assert_eq!(moment_of(at(u64::MAX)), "9999-12-31T23:59:59Z");
        assert_eq!(length(90), "1m 30s");
        let start = SystemTime::UNIX_EPOCH;
        let until = |seconds| until(start + Duration::from_secs(seconds), start);
        assert_eq!(until(89 * 86_400 + 12), "until 1970-03-31 (89 days)");
        assert_eq!(until(86_400 + 60), "until 1970-01-02T00:01:00Z (1day 1m)");
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        for (count, noun, said) in [
            (0, "service", "0 services"),
            (1, "service", "1 service"),
            (1, "policy", "1 policy"),
            (2, "policy", "2 policies"),
            (2, "key", "2 keys"),
        ] {
            assert_eq!(counted(count, noun), said);
        }
    }
}
