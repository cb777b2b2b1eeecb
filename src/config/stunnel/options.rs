//! What becomes of the options that are not carried by [`super::service`].

use super::{Remark, text::Line, versions::switch};

/// What an option is for adit.
pub(super) enum Fate {
    /// [`super::service`] carries it.
    Carried,
    /// adit does it anyway, or has no use for it: nothing is lost.
    Needless,
    /// Not carried; nothing is protected less.
    Lost(&'static str),
    /// Not carried; the service would protect less, or not work.
    Grave(&'static str),
}

/// Those that only the part before the sections has.
const GLOBAL: &[&str] = &[
    "chroot",
    "debug",
    "egd",
    "engine",
    "enginectrl",
    "enginedefault",
    "fips",
    "foreground",
    "iconactive",
    "iconerror",
    "iconidle",
    "include",
    "log",
    "output",
    "pid",
    "provider",
    "providerparameter",
    "rndbytes",
    "rndfile",
    "rndoverwrite",
    "service",
    "setenv",
    "socket",
    "syslog",
    "taskbar",
    "compression",
];

/// A remark on a line that concerns the process; the rest is for the services.
pub(super) fn remark_on_global(line: &Line) -> Option<Remark> {
    let option = line.option.to_ascii_lowercase();
    GLOBAL.contains(&option.as_str()).then(|| remark(line)).flatten()
}

/// What is to be said of a line that is not carried.
pub(super) fn remark(line: &Line) -> Option<Remark> {
    match fate(line) {
        Fate::Carried | Fate::Needless => None,
        Fate::Lost(why) => Some(line.remark(false, why)),
        Fate::Grave(why) => Some(line.remark(true, why)),
    }
}

/// Whether a line of a service is one of the process.
pub(super) fn is_global(line: &Line) -> bool {
    GLOBAL.contains(&line.option.to_ascii_lowercase().as_str())
}

const UNKNOWN: &str = "is no option that adit knows of";

/// Whether adit knows what an option is for.
pub(super) fn is_known(option: &str) -> bool {
    let line = Line { line: 0, option: option.to_owned(), value: String::new() };
    !matches!(fate(&line), Fate::Grave(UNKNOWN))
}

fn fate(line: &Line) -> Fate {
    use Fate::{Carried, Grave, Lost, Needless};
    let value = line.value.to_ascii_lowercase();
    let (yes, no) = (value == "yes", value == "no");
    match line.option.to_ascii_lowercase().as_str() {
        "client" | "accept" | "connect" | "cert" | "key" | "cafile" | "crlfile" | "verify"
        | "verifychain" | "verifypeer" | "requirecert" | "checkhost" | "checkip" | "checkemail"
        | "failover" | "timeoutclose" | "timeoutconnect" | "protocol" | "capath" => Carried,
        // `sni` of a client is a name; of a server it is one of several hosts behind one address.
        "sni" => Carried,
        "sslversion" | "sslversionmin" | "sslversionmax" => Carried,
        "options" if switch(&value).is_some() => Carried,
        "options" => ssl_option(&value),
        "ciphers" | "ciphersuites" | "curves" | "securitylevel" | "sigalgs" => {
            Lost("adit chooses itself: AEAD suites with forward secrecy, nothing else")
        }
        "fips" if no => Needless,
        "fips" => Grave("adit has no FIPS mode"),
        "crlpath" => Grave("name the CRLs one by one under crls"),
        "ocsp" | "ocspflag" | "ocspnonce" => Grave("adit asks no OCSP responder; use crls"),
        "ocspaia" | "ocsprequire" if no => Needless,
        "ocspaia" | "ocsprequire" => Grave("adit asks no OCSP responder; use crls"),
        "psksecrets" | "pskidentity" | "pskidentityhint" => {
            Grave("adit has no pre-shared keys; it needs certificates")
        }
        "libwrap" | "ident" if !yes && no => Needless,
        "libwrap" => Grave("hosts.allow and hosts.deny are not read; use a firewall"),
        "ident" | "username" => Grave("adit asks no ident server"),
        "exec" | "execargs" | "pty" => Grave("adit starts no programs; let systemd listen for it"),
        "engine" | "enginectrl" | "enginedefault" | "engineid" | "enginenum" | "provider"
        | "providerparameter" => Grave("adit uses no OpenSSL engines"),
        "include" => Grave("the files of this folder are not read; import each"),
        "config" => Grave("commands for OpenSSL are not read"),
        "redirect" => Lost("who is not admitted is refused, not sent elsewhere"),
        "protocolhost"
        | "protocolauthentication"
        | "protocolusername"
        | "protocolpassword"
        | "protocoldomain"
        | "protocolheader" => Grave("belongs to a protocol that adit lacks"),
        "transparent" if no || value == "none" => Needless,
        "transparent" => Lost("the target sees adit's address; use proxyProtocol: { send: v1 }"),
        "local" | "source" => Lost("connections leave from the address that the kernel chooses"),
        "setuid" | "setgid" => Lost("adit needs no root: let systemd's User= say it"),
        "chroot" => Lost("adit confines itself; systemd's RootDirectory= does the rest"),
        "timeoutidle" => Lost("a connection that is idle stays open (TCP keepalive is on)"),
        "timeoutbusy" => Lost("the handshake has the time of timeouts.connect"),
        "timeoutocsp" => Needless,
        "delay" => Lost("targets' names are always looked up for each connection"),
        "retry" => Lost("each connection tries each target once"),
        "log" | "output" | "syslog" | "debug" | "logid" => {
            Lost("logs go to stdout; RUST_LOG and accessLog say what and how")
        }
        "pid" | "foreground" | "service" => Lost("adit stays in front; systemd knows its process"),
        "socket" | "setenv" => Lost("is not carried"),
        "sessiond" => Grave("sessions are not shared: adit does not resume"),
        "compression" if value != "deflate" && value != "zlib" => Needless,
        "compression" => Lost("adit never compresses"),
        "renegotiation" | "reset" if (value == "no") == (line.is("renegotiation")) => Needless,
        "renegotiation" => Lost("adit never renegotiates"),
        "reset" => Lost("what is cut is always reset, so that a part is not taken for the whole"),
        "ticketkeysecret" | "ticketmacsecret" => Lost("adit has no tickets: nothing is resumed"),
        "session"
        | "sessioncachesize"
        | "sessioncachetimeout"
        | "sessionresume"
        | "rndbytes"
        | "rndfile"
        | "rndoverwrite"
        | "egd"
        | "iconactive"
        | "iconerror"
        | "iconidle"
        | "taskbar"
        | "dh"
        | "ecdh"
        | "xforwardedfor"
        | "stack" => Needless,
        _ => Grave(UNKNOWN),
    }
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

fn ssl_option(value: &str) -> Fate {
    // Older versions, compression, renegotiation and the like: adit has none of them to allow.
    match value.trim_start_matches('-') {
        "all" => Fate::Needless,
        known if NEEDLESS.contains(&known) => Fate::Needless,
        "allow_unsafe_legacy_renegotiation" | "legacy_server_connect" => {
            Fate::Lost("adit never renegotiates")
        }
        _ => Fate::Lost("is no option of OpenSSL that adit has a use for"),
    }
}
