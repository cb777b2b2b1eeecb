use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};

use super::*;

fn certificate() -> (String, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    (made.pem(), made.der().to_vec())
}

fn ders(text: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
    certificates(text.as_ref()).unwrap().iter().map(|der| der.to_vec()).collect()
}

#[test]
fn whatever_stands_around_an_item_all_of_the_file_is_read() {
    let ((a, a_der), (b, b_der)) = (certificate(), certificate());
    let both = [a_der.clone(), b_der];
    let glued = format!("{}{b}", a.trim_end());
    let indented: String = glued.lines().map(|l| format!("    {l}\t\n")).collect();
    for text in [
        format!("{a}{b}"),
        format!("{}\r\n{}", a.replace('\n', "\r\n"), b.replace('\n', "\r\n")),
        format!("{a}{b}").replace('\n', "\r"),
        format!("\u{feff}{a}{b}"),
        glued.clone(),
        indented,
        format!("# our roots\n{a}\n subject=CN = b -- END of a\n====\n{b}---\n"),
        format!("{a}{b}").replace("N CERT", "N X509 CERT").replace("D CERT", "D X509 CERT"),
        format!("{a}{b}").trim_end().to_owned(),
        format!("{a}\n\n{b}").replace("-----\nMII", "-----\n\nMII"),
    ] {
        assert_eq!(ders(&text), both, "{text}");
    }
    let key = KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(ders(format!("{key}{a}")), [a_der], "a keystore in PEM");
}

#[test]
fn what_cannot_be_read_whole_is_refused_with_its_line() {
    let (pem, _) = certificate();
    let lines = pem.lines().count();
    let without = |n: usize| {
        let kept = pem.lines().enumerate().filter(|(at, _)| at + 1 != n);
        kept.map(|(_, line)| format!("{line}\n")).collect::<String>()
    };
    let crl = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    let key = KeyPair::generate().unwrap().serialize_pem();
    for (text, line, fault) in [
        (without(lines), 1, PemFault::NotEnded),
        (format!("{}{pem}", without(lines)), 1, PemFault::NotEnded),
        (without(1), 1, PemFault::Outside),
        (without(2), 1, PemFault::NotDer),
        (format!("{pem}{}", without(1)), lines + 1, PemFault::Outside),
        ("-----END X509 CRL-----".into(), 1, PemFault::NotBegun),
        (pem.replace('\n', " "), 1, PemFault::NotAlone),
        (pem.replace('\n', ""), 1, PemFault::NotAlone),
        (pem.replace('\n', "\\n"), 1, PemFault::NotAlone),
        (pem.replace("\n-----END", "-----END"), lines - 1, PemFault::NotAlone),
        (pem.replace("-----BEGIN", "----BEGIN"), 1, PemFault::Boundary),
        (pem.replace("-----BEGIN", "\u{2014}BEGIN"), 1, PemFault::Boundary),
        (pem.replace("CATE-----", "CATE----"), 1, PemFault::Boundary),
        (pem.replace("END CERTIFICATE", "END X509 CERTIFICATE"), lines, PemFault::OtherEnd),
        (pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), 1, PemFault::Trusted),
        (pem.replace("CERTIFICATE", "Certificate"), 1, PemFault::UnknownLabel),
        (pem.replace("CERTIFICATE", "PKCS7"), 1, PemFault::UnknownLabel),
        (pem.replace("-----\nM", "-----\nComment: x\nM"), 2, PemFault::Header),
        (pem.replace("\nM", "\n*M"), 2, PemFault::Base64),
        (pem.replace("\nMI", "\nMJ"), 1, PemFault::NotDer),
        (
            pem.replace("-----END CERTIFICATE-----", "-----END CERTIFICATE-----x"),
            lines,
            PemFault::NotAlone,
        ),
        (format!("{pem}{crl}"), lines + 1, PemFault::Misplaced("CRL", "certificates")),
    ] {
        let refused = certificates(text.as_bytes()).unwrap_err();
        assert_eq!(refused, PemError { line, fault }, "{text}");
    }
    let utf16: Vec<u8> = "\u{feff}x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(certificates(&utf16).unwrap_err().fault, PemFault::NotUtf8);
    let misplaced = PemFault::Misplaced("private key", "CRLs");
    assert_eq!(crls(format!("{crl}{key}").as_bytes()).unwrap_err().fault, misplaced);
    assert_eq!(crls(crl.repeat(3).replace("-\n-", "--").as_bytes()).unwrap().len(), 3);
}

/// What was added to a file in another way than it was begun is not left out without a word.
#[test]
fn what_is_behind_an_item_and_is_no_remark_is_refused() {
    let (pem, der) = certificate();
    let utf16: Vec<u8> = pem.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let after = |more: &[u8]| [pem.as_bytes(), more].concat();
    for (text, fault) in [
        (after(&utf16), PemFault::NotUtf8),
        (after(&der), PemFault::NotUtf8),
        (after(pem.lines().nth(1).unwrap().as_bytes()), PemFault::Outside),
        (after(pem.replace("BEGIN CERT", "BEGINCERT").as_bytes()), PemFault::Boundary),
        (after(pem.to_lowercase().as_bytes()), PemFault::Boundary),
        (after(pem.replace("-----", "=====").as_bytes()), PemFault::Boundary),
    ] {
        let refused = certificates(&text).unwrap_err();
        assert_eq!(refused.fault, fault, "{}", String::from_utf8_lossy(&text));
        assert!(refused.line > pem.lines().count(), "{refused}");
    }
    let remarks =
        "# Root of the shop\nSubject: C=DE, O=caf\u{e9}\n====\nModulus=C0FFEE\n\tthe end\n";
    assert_eq!(certificates(&after(remarks.as_bytes())).unwrap().len(), 1);
}

#[test]
fn one_key_is_taken_and_an_encrypted_one_says_how_to_decrypt_it() {
    let key = KeyPair::generate().unwrap();
    let (pem, (certificate, _)) = (key.serialize_pem(), certificate());
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let found = private_key(format!("{certificate}{parameters}{pem}").as_bytes()).unwrap().unwrap();
    assert_eq!(found.secret_der(), key.serialize_der());
    assert_eq!(private_key(certificate.as_bytes()).unwrap(), None);
    let second = private_key(format!("{pem}{pem}").as_bytes()).unwrap_err();
    assert_eq!(second, PemError { line: pem.lines().count() + 1, fault: PemFault::SecondKey });
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\
               \nqSEC\n-----END RSA PRIVATE KEY-----\n";
    for text in [old.to_owned(), pem.replace("PRIVATE", "ENCRYPTED PRIVATE")] {
        let refused = private_key(text.as_bytes()).unwrap_err();
        assert_eq!(refused, PemError { line: 1, fault: PemFault::Encrypted });
        assert!(refused.to_string().contains("openssl pkey"), "{refused}");
    }
}

proptest! {
    /// No part of what was read is in an error, however the text was damaged.
    #[test]
    fn an_error_never_holds_what_was_read(
        at in 0usize..400, with in prop::sample::select(vec!["", " ", "-", "\n", "=", "é", "\0"]),
        taken in 0usize..80, join in prop::sample::select(vec!["\n", "", " ", "\\n", "\r"]),
    ) {
        let text = KeyPair::generate().unwrap().serialize_pem().replace('\n', join);
        let (at, end) = (at.min(text.len()), (at + taken).min(text.len()));
        let damaged = format!("{}{with}{}", &text[..at], &text[end..]);
        if let Err(error) = private_key(damaged.as_bytes()) {
            let said = format!("{error} {error:?}");
            for window in text.as_bytes().windows(8) {
                let part = std::str::from_utf8(window).unwrap();
                let public = "-----BEGIN PRIVATE KEY-----END".contains(part);
                prop_assert!(public || !said.contains(part), "{part} in {said}");
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = (certificates(&bytes), crls(&bytes), private_key(&bytes), request(&bytes));
        let text = [b"-----BEGIN X509 CRL-----\n", &bytes[..], b"\n-----END X509 CRL-----"].concat();
        let _ = crls(&text);
    }
}
