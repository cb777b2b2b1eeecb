//! Addresses as stunnel has them.

use crate::net::Address;

/// What an address without a host means.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Host {
    /// All interfaces.
    Any,
    /// All interfaces, IPv4.
    Any4,
    /// This host.
    Local,
}

/// `[host:]port`, or the path of a socket.
pub(super) fn address(text: &str, host: Host) -> Result<Address, String> {
    if text.starts_with('/') {
        return format!("unix:{text}").parse().map_err(|e| format!("{e}"));
    }
    let (name, port) = text.rsplit_once(':').map_or((None, text), |(h, p)| (Some(h), p));
    let port = match port.parse::<u16>() {
        Ok(port) => port,
        Err(_) => PORTS
            .iter()
            .find(|(known, _)| *known == port)
            .map(|(_, port)| *port)
            .ok_or_else(|| format!("{port:?} is not a port number"))?,
    };
    let host = match (name.map(|n| n.trim_matches(['[', ']'])), host) {
        (None | Some(""), Host::Local) => "localhost",
        (None | Some(""), Host::Any) => "",
        (None | Some(""), Host::Any4) => "0.0.0.0",
        (Some("*"), _) => "",
        (Some(host), _) => host,
    };
    let address = Address::Tcp { host: host.to_owned(), port };
    address.to_string().parse().map_err(|e| format!("{e}"))
}

/// Ports that such files call by name (services(5)).
const PORTS: &[(&str, u16)] = &[
    ("http", 80),
    ("https", 443),
    ("smtp", 25),
    ("smtps", 465),
    ("ssmtp", 465),
    ("submission", 587),
    ("submissions", 465),
    ("pop3", 110),
    ("pop3s", 995),
    ("imap", 143),
    ("imap2", 143),
    ("imaps", 993),
    ("ldap", 389),
    ("ldaps", 636),
    ("nntp", 119),
    ("nntps", 563),
    ("telnet", 23),
    ("telnets", 992),
    ("ftps", 990),
    ("mysql", 3306),
    ("postgresql", 5432),
    ("redis", 6379),
    ("rsync", 873),
    ("syslog-tls", 6514),
];
