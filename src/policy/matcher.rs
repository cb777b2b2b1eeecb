//! How one field is compared (Istio security API; istio-ambient facts §10).

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::identity::SpiffeId;

/// A string field: case-sensitive, `*` only at one end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StringMatch {
    /// The same text.
    Exact(String),
    /// `x*`
    Prefix(String),
    /// `*x`
    Suffix(String),
    /// `*`: anything but the empty text.
    Presence,
}

impl StringMatch {
    /// Reads Istio's notation. `None` for the empty text and for a `*` in the middle.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let stars = text.matches('*').count();
        match (text, stars) {
            ("", _) => None,
            ("*", _) => Some(Self::Presence),
            (_, 0) => Some(Self::Exact(text.into())),
            (_, 1) if text.starts_with('*') => Some(Self::Suffix(text[1..].into())),
            (_, 1) if text.ends_with('*') => Some(Self::Prefix(text[..text.len() - 1].into())),
            _ => None,
        }
    }

    /// Whether `value` is meant.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::Suffix(text) => value.ends_with(text.as_str()),
            Self::Presence => !value.is_empty(),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence => f.write_str("*"),
        }
    }
}

/// A Kubernetes service account; the trust domain plays no part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAccountMatch {
    /// Namespace.
    pub namespace: String,
    /// Service account.
    pub account: String,
}

impl ServiceAccountMatch {
    /// Whether the ID is this service account's.
    #[must_use]
    pub fn matches(&self, id: Option<&SpiffeId>) -> bool {
        let pair = id.and_then(SpiffeId::kubernetes);
        pair == Some((self.namespace.as_str(), self.account.as_str()))
    }
}

impl fmt::Display for ServiceAccountMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.account)
    }
}

/// A block of IPv4 addresses that is written in IPv6, as what it is.
#[must_use]
pub fn canonical_block(net: IpNet) -> IpNet {
    let IpAddr::V4(ip) = net.addr().to_canonical() else { return net };
    let length = match net {
        IpNet::V4(_) => return net,
        IpNet::V6(six) => six.prefix_len().checked_sub(96),
    };
    length.and_then(|length| Ipv4Net::new(ip, length).ok()).map_or(net, IpNet::V4)
}

/// Whether an address is in a block, in whichever way either is written.
pub(super) fn within(net: &IpNet, ip: IpAddr) -> bool {
    let net = canonical_block(*net);
    let ip = ip.to_canonical();
    // A wider block of IPv6 may hold all that is IPv4, if it says so: `::ffff:0:0/90`.
    let wide = match (net, ip) {
        (IpNet::V6(six), IpAddr::V4(four)) if six.prefix_len() > 64 => {
            six.contains(&four.to_ipv6_mapped())
        }
        _ => false,
    };
    wide || net.contains(&ip)
}

/// One field with its `not*` twin: any of the first (or none given), and none of the second.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldMatch<T> {
    /// One of these, if there are any.
    pub any: Vec<T>,
    /// None of these.
    pub none: Vec<T>,
}

impl<T> Default for FieldMatch<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<T> FieldMatch<T> {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }

    pub(super) fn holds(&self, hit: impl Fn(&T) -> bool) -> bool {
        self.matches(&hit, &hit)
    }

    /// With a reading of its own for each of the twins.
    pub(super) fn matches(&self, any: impl Fn(&T) -> bool, none: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(any)) && !self.none.iter().any(none)
    }
}

/// So many values of a field are written down.
const MOST_LISTED: usize = 10;

impl<T: fmt::Display> fmt::Display for FieldMatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[T]| {
            let mut listed = items.iter().take(MOST_LISTED).map(T::to_string).collect::<Vec<_>>();
            let more = items.len().saturating_sub(MOST_LISTED);
            listed.extend((more > 0).then(|| format!("{more} more")));
            listed.join(", ")
        };
        match (self.any.is_empty(), self.none.is_empty()) {
            (false, true) => write!(f, "one of [{}]", list(&self.any)),
            (true, _) => write!(f, "none of [{}]", list(&self.none)),
            (false, false) => {
                write!(f, "one of [{}] and none of [{}]", list(&self.any), list(&self.none))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_one_spelling() {
        for (net, ip, is) in [
            ("127.0.0.0/8", "::ffff:127.0.0.1", true),
            ("127.0.0.0/8", "127.0.0.1", true),
            ("127.0.0.0/8", "::ffff:10.0.0.1", false),
            ("::ffff:10.0.0.0/120", "10.0.0.9", true),
            ("::ffff:10.0.0.0/120", "::ffff:10.0.0.9", true),
            ("::ffff:10.0.0.0/120", "10.0.1.9", false),
            ("::ffff:10.0.0.1/128", "10.0.0.1", true),
            ("::ffff:0:0/96", "203.0.113.1", true),
            ("::ffff:0:0/90", "203.0.113.1", true),
            ("::/0", "203.0.113.1", false),
            ("2001:db8::/32", "2001:db8::1", true),
        ] {
            let (net, ip) = (net.parse().unwrap(), ip.parse().unwrap());
            assert_eq!(within(&net, ip), is, "{ip} in {net}");
        }
        let block = canonical_block("::ffff:10.0.0.0/120".parse().unwrap());
        assert_eq!(block.to_string(), "10.0.0.0/24");
    }
}
