//! What each option is for adit.

use self::OptionSupport::{Grave, Imported, Lost, Needless};

/// What an option is for adit.
#[derive(Clone, Copy)]
pub(super) enum OptionSupport {
    /// [`super::service`] carries it.
    Imported,
    /// adit does it anyway, or has no use for it: nothing is lost.
    Needless,
    /// Not carried; nothing is protected less.
    Lost(&'static str),
    /// Not carried; the service would protect less, or not work.
    Grave(&'static str),
}

const UNKNOWN: &str = "is not a known option";

/// Whether adit knows what an option is for.
pub(super) fn is_known(option: &str) -> bool {
    !matches!(support(option, ""), Grave(UNKNOWN))
}

/// What an option with this value is for adit.
pub(super) fn support(option: &str, value: &str) -> OptionSupport {
    let (option, value) = (option.to_ascii_lowercase(), value.to_ascii_lowercase());
    let known = credentials(&option, &value)
        .or_else(|| tls(&option, &value))
        .or_else(|| connections(&option, &value))
        .or_else(|| process(&option));
    known.unwrap_or(Grave(UNKNOWN))
}

/// Certificates, keys, and who is admitted by them.
fn credentials(option: &str, value: &str) -> Option<OptionSupport> {
    let no = value == "no";
    Some(match option {
        "cert" | "key" | "cafile" | "capath" | "crlfile" | "verify" | "verifychain"
        | "verifypeer" | "requirecert" | "checkhost" | "checkip" | "checkemail" => Imported,
        "crlpath" => Grave("name the CRLs one by one under crls"),
        "ocsp" | "ocspflag" | "ocspnonce" => Grave("adit does not query OCSP responders; use crls"),
        "ocspaia" | "ocsprequire" if no => Needless,
        "ocspaia" | "ocsprequire" => Grave("adit does not query OCSP responders; use crls"),
        "timeoutocsp" => Needless,
        "psksecrets" | "pskidentity" | "pskidentityhint" => {
            Grave("adit has no pre-shared keys; it needs certificates")
        }
        "engine" | "enginectrl" | "enginedefault" | "engineid" | "enginenum" | "provider"
        | "providerparameter" => Grave("adit does not use OpenSSL engines"),
        "libwrap" | "ident" if no => Needless,
        "libwrap" => Grave("adit does not read hosts.allow and hosts.deny; use a firewall"),
        "ident" | "username" => Grave("adit does not query ident servers"),
        "redirect" => Lost("adit refuses clients that are not allowed; it does not redirect them"),
        _ => return None,
    })
}

/// What TLS agrees on.
fn tls(option: &str, value: &str) -> Option<OptionSupport> {
    let no = value == "no";
    Some(match option {
        // `sni` of a client is a name; of a server it is one of several hosts behind one address.
        "sni" => Imported,
        "sslversion" | "sslversionmin" | "sslversionmax" => Imported,
        "options" if switch(value).is_some() => Imported,
        "options" => openssl_option(value),
        "ciphers" | "ciphersuites" | "curves" | "securitylevel" | "sigalgs" => {
            Lost("adit always uses AEAD suites with forward secrecy; this is not configurable")
        }
        "dh" | "ecdh" => Needless,
        "fips" if no => Needless,
        "fips" => Grave("adit has no FIPS mode"),
        "config" => Grave("adit does not use OpenSSL, so its commands are ignored"),
        "sessiond" => Grave("adit does not resume sessions, so it shares none"),
        "session" | "sessioncachesize" | "sessioncachetimeout" | "sessionresume" => Needless,
        "ticketkeysecret" | "ticketmacsecret" => {
            Lost("adit does not resume sessions, so it has no tickets")
        }
        "compression" if value != "deflate" && value != "zlib" => Needless,
        "compression" => Lost("adit never compresses"),
        "renegotiation" if no => Needless,
        "renegotiation" => Lost("adit never renegotiates"),
        _ => return None,
    })
}

/// Where connections come from, where they go, and what travels on them.
fn connections(option: &str, value: &str) -> Option<OptionSupport> {
    let no = value == "no";
    Some(match option {
        "client" | "accept" | "connect" | "failover" | "timeoutclose" | "timeoutconnect"
        | "timeoutidle" | "protocol" => Imported,
        "protocolhost"
        | "protocolauthentication"
        | "protocolusername"
        | "protocolpassword"
        | "protocoldomain"
        | "protocolheader" => Grave("belongs to a protocol that adit does not support"),
        "xforwardedfor" => Needless,
        "exec" | "execargs" | "pty" => {
            Grave("adit does not start programs; let systemd start it, with socket activation")
        }
        "transparent" if no || value == "none" => Needless,
        "transparent" => Lost("the target sees adit's address; use proxyProtocol: { send: v1 }"),
        "local" | "source" => Lost("the kernel chooses the source address of connections"),
        "timeoutbusy" => Lost("timeouts.connect limits the handshake"),
        "delay" => Lost("adit always resolves targets' names for each connection"),
        "retry" => Lost("adit tries each target once for each connection"),
        "reset" if !no => Needless,
        "reset" => Lost(
            "adit always resets interrupted connections, so that a part is not mistaken for the \
             whole",
        ),
        "socket" => Lost("is not supported"),
        _ => return None,
    })
}

/// The process: its user, its logs, its other files.
fn process(option: &str) -> Option<OptionSupport> {
    Some(match option {
        "include" => Grave("adit does not read this directory; import each file"),
        "setuid" | "setgid" => Lost("adit needs no root: set User= in the systemd unit"),
        "chroot" => Lost("adit has its own sandbox; use systemd's RootDirectory= for more"),
        "log" | "output" | "syslog" | "debug" | "logid" => {
            Lost("logs go to stdout; RUST_LOG and accessLog control them")
        }
        "pid" | "foreground" | "service" => {
            Lost("adit runs in the foreground; systemd supervises it")
        }
        "setenv" => Lost("is not supported"),
        "rndbytes" | "rndfile" | "rndoverwrite" | "egd" | "iconactive" | "iconerror"
        | "iconidle" | "taskbar" | "stack" => Needless,
        _ => return None,
    })
}

/// Those that say what adit does anyway, or concern what it lacks.
const NEEDLESS: &[&str] = &[
    "no_sslv2",
    "no_sslv3",
    "no_tlsv1",
    "no_tlsv1.1",
    "no_tlsv1_1",
    "no_compression",
    "no_renegotiation",
    "no_ticket",
    "no_session_resumption_on_renegotiation",
    "no_encrypt_then_mac",
    "cipher_server_preference",
    "prioritize_chacha",
    "single_dh_use",
    "single_ecdh_use",
    "dont_insert_empty_fragments",
    "cryptopro_tlsext_bug",
    "tls_rollback_bug",
    "enable_middlebox_compat",
    "cookie_exchange",
    "microsoft_sess_id_bug",
    "netscape_challenge_bug",
    "netscape_reuse_cipher_change_bug",
    "sslref2_reuse_cert_type_bug",
    "microsoft_big_sslv3_buffer",
    "msie_sslv2_rsa_padding",
    "ssleay_080_client_dh_bug",
    "tls_d5_bug",
    "tls_block_padding_bug",
    "safari_ecdhe_ecdsa_bug",
    "ephemeral_rsa",
    "pkcs1_check_1",
    "pkcs1_check_2",
    "netscape_ca_dn_bug",
    "netscape_demo_cipher_change_bug",
];

/// A value of `options` that is not about versions.
fn openssl_option(value: &str) -> OptionSupport {
    // Older versions, compression, renegotiation and the like: adit has none of them to allow.
    match value.trim_start_matches('-') {
        "all" => OptionSupport::Needless,
        known if NEEDLESS.contains(&known) => OptionSupport::Needless,
        "allow_unsafe_legacy_renegotiation" | "legacy_server_connect" => {
            OptionSupport::Lost("adit never renegotiates")
        }
        _ => OptionSupport::Lost("is not an OpenSSL option that adit supports"),
    }
}

/// Whether a value of `options` is about TLS 1.2 or 1.3: which, and whether it is taken back.
pub(super) fn switch(value: &str) -> Option<(u8, bool)> {
    let (name, back) = value.strip_prefix('-').map_or((value, false), |name| (name, true));
    match name.to_ascii_lowercase().as_str() {
        "no_tlsv1.2" | "no_tlsv1_2" => Some((2, back)),
        "no_tlsv1.3" | "no_tlsv1_3" => Some((3, back)),
        _ => None,
    }
}
