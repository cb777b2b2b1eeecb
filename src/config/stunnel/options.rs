//! What becomes of the options that are not carried by [`super::service`].

use super::{Remark, text::Line};

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

fn fate(line: &Line) -> Fate {
    use Fate::{Carried, Grave, Lost, Needless};
    let value = line.value.to_ascii_lowercase();
    let (yes, no) = (value == "yes", value == "no");
    match line.option.to_ascii_lowercase().as_str() {
        "client" | "accept" | "connect" | "cert" | "key" | "cafile" | "crlfile" | "verify"
        | "verifychain" | "verifypeer" | "requirecert" | "checkhost" | "checkip" | "failover"
        | "timeoutclose" | "timeoutconnect" | "protocol" | "capath" => Carried,
        // `sni` of a client is a name; of a server it is one of several hosts behind one address.
        "sni" => Carried,
        "sslversion" => match value.as_str() {
            "all" | "tlsv1.2" | "tlsv1.3" | "" => version(&value),
            _ => Lost("adit speaks TLS 1.2 and 1.3, never less"),
        },
        "sslversionmin" if value == "tlsv1.3" => {
            Grave("adit would take TLS 1.2 as well; a file cannot forbid it")
        }
        "sslversionmin" if value == "tlsv1.2" => Needless,
        "sslversionmin" => Lost("adit speaks TLS 1.2 and 1.3, never less"),
        "sslversionmax" if value == "tlsv1.2" => Lost("adit speaks TLS 1.3 too"),
        "sslversionmax" if matches!(value.as_str(), "all" | "tlsv1.3") => Needless,
        "sslversionmax" => Lost("adit speaks TLS 1.2 and 1.3, never less"),
        "options" => ssl_option(&value),
        "ciphers" | "ciphersuites" | "curves" | "securitylevel" | "sigalgs" => {
            Lost("adit chooses itself: AEAD suites with forward secrecy, nothing else")
        }
        "fips" if no => Needless,
        "fips" => Grave("adit has no FIPS mode"),
        "checkemail" => Grave("adit does not look at mail addresses; name uris, dnsNames or pins"),
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
        "renegotiation"
        | "reset"
        | "session"
        | "sessioncachesize"
        | "sessioncachetimeout"
        | "sessionresume"
        | "ticketkeysecret"
        | "ticketmacsecret"
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
        _ => Grave("is no option that adit knows of"),
    }
}

fn version(value: &str) -> Fate {
    match value {
        "tlsv1.3" => Fate::Grave("adit would take TLS 1.2 as well; a file cannot forbid it"),
        "tlsv1.2" => Fate::Lost("adit speaks TLS 1.3 too"),
        _ => Fate::Needless,
    }
}

fn ssl_option(value: &str) -> Fate {
    match value {
        "no_tlsv1.2" | "no_tlsv1_2" => {
            Fate::Grave("adit would take TLS 1.2 as well; a file cannot forbid it")
        }
        "no_tlsv1.3" | "no_tlsv1_3" => Fate::Lost("adit speaks TLS 1.3 too"),
        _ => Fate::Needless,
    }
}
