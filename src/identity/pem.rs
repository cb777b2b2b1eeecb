//! PEM (RFC 7468) as one strict reader for everything that security depends on: each line is part
//! of an item or of the text around items, or the whole is refused with its number. What an item
//! holds is never part of an error: it may be a key.
//!
//! Read as RFC 7468 §2 and common tools write it: a byte order mark, indentation, any line ending,
//! blank lines, explanatory text around items, and an item that begins on the line on which the
//! one before it ends, as `cat` leaves them. Refused: an item that does not end, a boundary that is
//! damaged, a character that is not base64, bytes after the DER, a label nobody here knows.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use pki_types::{
    CertificateDer, CertificateRevocationListDer, CertificateSigningRequestDer, PrivateKeyDer,
    PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use zeroize::Zeroizing;

/// Where a PEM text is wrong, and how; never what is in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct PemError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: PemFault,
}

/// What can be wrong with a PEM text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemFault {
    /// UTF-16 or UTF-32, or DER.
    #[error("the file, or a part of it, is not UTF-8 text; save it as UTF-8")]
    NotUtf8,
    /// An item on a line with its boundary.
    #[error(
        "something follows the boundary on its line; if the line breaks were lost, as in an \
         environment variable or a folded YAML scalar, write the file with them"
    )]
    NotAlone,
    /// A boundary with too few dashes or an unreadable label.
    #[error("a BEGIN or END line is damaged")]
    Boundary,
    /// What stands in items, outside of them.
    #[error("base64 outside of BEGIN and END lines")]
    Outside,
    /// A label that is not read.
    #[error("an item of a kind that adit does not read")]
    UnknownLabel,
    /// OpenSSL's form of a certificate with trust settings.
    #[error(
        "a TRUSTED CERTIFICATE, whose trust settings adit does not support; `openssl x509 -in \
         FILE -out NEW` writes a plain CERTIFICATE"
    )]
    Trusted,
    /// END without BEGIN.
    #[error("an END line without its BEGIN line")]
    NotBegun,
    /// END of another label.
    #[error("the END line is of another kind than its BEGIN line")]
    OtherEnd,
    /// BEGIN within an item, or no END.
    #[error("the item that begins here does not end")]
    NotEnded,
    /// Characters that are not base64.
    #[error("not base64")]
    Base64,
    /// Header lines in an item.
    #[error("header lines in an item, which only encrypted keys have")]
    Header,
    /// Not one DER value.
    #[error("the item that begins here is not exactly one DER value")]
    NotDer,
    /// A key with a password.
    #[error(
        "the private key is encrypted; `openssl pkey -in KEY -out NEW` decrypts it, or put \
         certificate and key into a PKCS#12 keystore, which takes a password"
    )]
    Encrypted,
    /// Two keys where one is used.
    #[error("a second private key; keep only the one to use in the file")]
    SecondKey,
    /// A kind of item that is not used in this place.
    #[error("a {0} in a file that is read for {1} only")]
    Misplaced(&'static str, &'static str),
}

/// What an item is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PemKind {
    Certificate,
    Crl,
    Request,
    Pkcs8,
    Sec1,
    Pkcs1,
    EncryptedKey,
    /// Of a curve or of Diffie-Hellman, beside a key; public, and not needed.
    Parameters,
}

impl PemKind {
    fn of(label: &str) -> Result<Self, PemFault> {
        Ok(match label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "TRUSTED CERTIFICATE" => return Err(PemFault::Trusted),
            "X509 CRL" | "CRL" => Self::Crl,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::Request,
            "PRIVATE KEY" => Self::Pkcs8,
            "EC PRIVATE KEY" => Self::Sec1,
            "RSA PRIVATE KEY" => Self::Pkcs1,
            "ENCRYPTED PRIVATE KEY" => Self::EncryptedKey,
            "EC PARAMETERS" | "DH PARAMETERS" | "X9.42 DH PARAMETERS" => Self::Parameters,
            _ => return Err(PemFault::UnknownLabel),
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Crl => "CRL",
            Self::Request => "certificate request",
            Self::Parameters => "set of parameters",
            Self::Pkcs8 | Self::Sec1 | Self::Pkcs1 | Self::EncryptedKey => "private key",
        }
    }
}

/// One item.
struct PemItem {
    kind: PemKind,
    line: usize,
    der: Zeroizing<Vec<u8>>,
}

/// An item that has begun.
struct Open<'a> {
    kind: PemKind,
    label: &'a str,
    line: usize,
    base64: Zeroizing<Vec<u8>>,
    encrypted: bool,
}

/// The certificates of a text, in its order. Keys and their parameters beside them are passed over,
/// as a keystore in PEM has both.
///
/// # Errors
/// The first line that is wrong.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut all = Vec::new();
    for item in items(text)? {
        match item.kind {
            PemKind::Certificate => all.push(CertificateDer::from(item.der.to_vec())),
            PemKind::Crl | PemKind::Request => return Err(item.misplaced("certificates")),
            _ => {}
        }
    }
    Ok(all)
}

/// The CRLs of a text, in its order.
///
/// # Errors
/// The first line that is wrong.
pub fn crls(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let one = |item: PemItem| match item.kind {
        PemKind::Crl => Ok(CertificateRevocationListDer::from(item.der.to_vec())),
        _ => Err(item.misplaced("CRLs")),
    };
    items(text)?.into_iter().map(one).collect()
}

/// The certificate request of a text; `None` if there is not exactly one item.
///
/// # Errors
/// The first line that is wrong.
pub fn request(text: &[u8]) -> Result<Option<CertificateSigningRequestDer<'static>>, PemError> {
    let mut all = items(text)?;
    match (all.pop(), all.is_empty()) {
        (Some(item), true) if item.kind == PemKind::Request => {
            Ok(Some(CertificateSigningRequestDer::from(item.der.to_vec())))
        }
        (Some(item), true) => Err(item.misplaced("a certificate request")),
        _ => Ok(None),
    }
}

/// The private key of a text, if there is one; certificates and parameters beside it are passed
/// over.
///
/// # Errors
/// The first line that is wrong, an encrypted key, a second key.
pub fn private_key(text: &[u8]) -> Result<Option<PrivateKeyDer<'static>>, PemError> {
    let mut found = None;
    for item in items(text)? {
        let der = || item.der.to_vec();
        let key = match item.kind {
            PemKind::Pkcs8 => PrivatePkcs8KeyDer::from(der()).into(),
            PemKind::Sec1 => PrivateSec1KeyDer::from(der()).into(),
            PemKind::Pkcs1 => PrivatePkcs1KeyDer::from(der()).into(),
            PemKind::EncryptedKey => {
                return Err(PemError { line: item.line, fault: PemFault::Encrypted });
            }
            PemKind::Crl | PemKind::Request => return Err(item.misplaced("a private key")),
            PemKind::Certificate | PemKind::Parameters => continue,
        };
        if found.replace(key).is_some() {
            return Err(PemError { line: item.line, fault: PemFault::SecondKey });
        }
    }
    Ok(found)
}

impl PemItem {
    fn misplaced(&self, wanted: &'static str) -> PemError {
        PemError { line: self.line, fault: PemFault::Misplaced(self.kind.name(), wanted) }
    }
}

fn items(text: &[u8]) -> Result<Vec<PemItem>, PemError> {
    if text.starts_with(&[0xFF, 0xFE]) || text.starts_with(&[0xFE, 0xFF]) {
        return Err(PemError { line: 1, fault: PemFault::NotUtf8 });
    }
    let text = text.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(text);
    let (mut all, mut open) = (Vec::new(), None);
    for (n, whole) in text.split(|b| *b == b'\n').enumerate() {
        for line in whole.split(|b| *b == b'\r') {
            let wrong = |fault| PemError { line: n + 1, fault };
            take(line.trim_ascii(), n + 1, &mut open, &mut all).map_err(|e| match e {
                // The item is named by where it began.
                (Some(line), fault) => PemError { line, fault },
                (None, fault) => wrong(fault),
            })?;
        }
    }
    match open {
        Some(Open { line, .. }) => Err(PemError { line, fault: PemFault::NotEnded }),
        None => Ok(all),
    }
}

/// One line, without the space around it.
fn take<'a>(
    line: &'a [u8],
    number: usize,
    open: &mut Option<Open<'a>>,
    all: &mut Vec<PemItem>,
) -> Result<(), (Option<usize>, PemFault)> {
    let here = |fault| (None, fault);
    if let Some((label, rest)) = boundary(line, b"-----BEGIN ").map_err(here)? {
        if let Some(item) = open {
            return Err((Some(item.line), PemFault::NotEnded));
        }
        let kind = PemKind::of(label).map_err(here)?;
        if !rest.is_empty() {
            return Err(here(PemFault::NotAlone));
        }
        let base64 = Zeroizing::new(Vec::new());
        *open = Some(Open { kind, label, line: number, base64, encrypted: false });
        return Ok(());
    }
    if let Some((label, rest)) = boundary(line, b"-----END ").map_err(here)? {
        let item = open.take().ok_or(here(PemFault::NotBegun))?;
        if item.label != label {
            return Err(here(PemFault::OtherEnd));
        }
        let begun = Some(item.line);
        all.push(item.finish().map_err(|fault| (begun, fault))?);
        return match rest.trim_ascii() {
            [] => Ok(()),
            next if next.starts_with(b"-----BEGIN ") => take(next, number, open, all),
            _ => Err(here(PemFault::NotAlone)),
        };
    }
    match open {
        Some(item) => item.add(line).map_err(here),
        None if is_damaged(line) => Err(here(PemFault::Boundary)),
        None if !is_text(line) => Err(here(PemFault::NotUtf8)),
        None if is_base64(line) => Err(here(PemFault::Outside)),
        None => Ok(()),
    }
}

impl Open<'_> {
    fn add(&mut self, line: &[u8]) -> Result<(), PemFault> {
        let is_key = matches!(self.kind, PemKind::Pkcs8 | PemKind::Sec1 | PemKind::Pkcs1);
        if is_key && self.base64.is_empty() && line.starts_with(b"Proc-Type: 4,ENCRYPTED") {
            self.encrypted = true;
        } else if self.base64.is_empty() && line.contains(&b':') {
            // DEK-Info follows Proc-Type (RFC 1421 §4.6).
            return if self.encrypted { Ok(()) } else { Err(PemFault::Header) };
        } else if line.contains(&b'-') {
            return Err(PemFault::NotAlone);
        } else if line.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b)) {
            self.base64.extend_from_slice(line);
        } else {
            return Err(PemFault::Base64);
        }
        Ok(())
    }

    fn finish(self) -> Result<PemItem, PemFault> {
        let kind = if self.encrypted { PemKind::EncryptedKey } else { self.kind };
        let der = BASE64.decode(&*self.base64).map_err(|_| PemFault::Base64)?;
        let der = Zeroizing::new(der);
        // What is encrypted the old way is not DER.
        if !self.encrypted && !is_one_der_value(&der) {
            return Err(PemFault::NotDer);
        }
        Ok(PemItem { kind, line: self.line, der })
    }
}

/// The label of a boundary that the line begins with, and what follows it on the line.
fn boundary<'a>(line: &'a [u8], start: &[u8]) -> Result<Option<(&'a str, &'a [u8])>, PemFault> {
    let Some(after) = line.strip_prefix(start) else { return Ok(None) };
    let end = after.windows(5).position(|w| w == b"-----").ok_or(PemFault::Boundary)?;
    let label = std::str::from_utf8(&after[..end]).map_err(|_| PemFault::Boundary)?;
    Ok(Some((label, &after[end + 5..])))
}

/// Whether a line outside of items looks as if it had been a boundary.
fn is_damaged(line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line).to_ascii_lowercase();
    ["begin", "end"].iter().any(|word| {
        line.match_indices(word)
            .any(|(at, _)| line[..at].ends_with(['-', '=', '\u{2013}', '\u{2014}']))
    })
}

/// Whether a line outside of items may be a remark: DER and UTF-16 behind an item are none.
fn is_text(line: &[u8]) -> bool {
    line.iter().all(|b| *b >= b' ' && *b != 0x7F || *b == b'\t')
}

/// Whether a line outside of items is what is inside one.
fn is_base64(line: &[u8]) -> bool {
    let end = line.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
    let is = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    line.len() >= 60 && line.len() - end <= 2 && line[..end].iter().all(is)
}

/// One tag and length (X.690 §8.1), and exactly as many bytes as that says.
fn is_one_der_value(der: &[u8]) -> bool {
    let Some((&[_, first], rest)) = der.split_first_chunk::<2>() else { return false };
    let (length, content) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let Some((bytes, content)) = rest.split_at_checked(usize::from(first & 0x7F)) else {
                return false;
            };
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), content)
        }
        _ => return false,
    };
    length == content.len()
}

#[cfg(test)]
mod tests;
