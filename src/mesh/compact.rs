//! What each workload of a large mesh has for itself, in as little room as it takes.

use std::{net::IpAddr, ops::Deref, slice};

/// The IP addresses of a workload: nearly always one, which has no list of its own.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Addresses(Stored);

/// One is never in a list, so that the same addresses are equal.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Stored {
    One(IpAddr),
    List(Box<[IpAddr]>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self(Stored::List(Box::default()))
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Stored::One(one) => slice::from_ref(one),
            Stored::List(list) => list,
        }
    }
}

impl From<Vec<IpAddr>> for Addresses {
    fn from(all: Vec<IpAddr>) -> Self {
        match all[..] {
            [one] => Self(Stored::One(one)),
            _ => Self(Stored::List(all.into())),
        }
    }
}

impl<const N: usize> From<[IpAddr; N]> for Addresses {
    fn from(all: [IpAddr; N]) -> Self {
        Vec::from(all).into()
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(all: I) -> Self {
        all.into_iter().collect::<Vec<_>>().into()
    }
}

/// What a workload is called. The store keeps no second copy of what its uid ends with, as the uid
/// of a pod ends with its name: [`Workload::name`](super::Workload::name) knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Name(
    /// In two steps, as few have one and all have room for it.
    Option<Box<Box<str>>>,
);

impl Name {
    /// Without what the uid has.
    pub(super) fn beside(self, uid: &str) -> Self {
        Self(self.0.filter(|own| ***own != *last_part(uid)))
    }

    /// The name of the workload with this uid.
    pub(super) fn of<'a>(&'a self, uid: &'a str) -> &'a str {
        match &self.0 {
            Some(own) => own,
            None => last_part(uid),
        }
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(Some(Box::new(text.into())))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(Some(Box::new(text.into())))
    }
}

fn last_part(uid: &str) -> &str {
    uid.rsplit('/').next().unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_same_however_they_came() {
        let [one, other] = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        for all in [vec![], vec![one], vec![one, other]] {
            let addresses: Addresses = all.iter().copied().collect();
            assert_eq!(addresses[..], all[..]);
            assert_eq!(addresses, all.into());
        }
        assert_ne!(Addresses::from([one]), Addresses::from([other]));
        assert!(size_of::<Addresses>() <= 24, "one stands in each of 100,000 workloads");
    }

    #[test]
    fn a_name_that_its_uid_ends_with_is_not_kept_and_is_known() {
        for (uid, name, kept) in [
            ("Kubernetes//Pod/shop/web-7f", "web-7f", false),
            ("shop/web", "web", false),
            ("web", "web", false),
            ("Kubernetes/networking.istio.io/ServiceEntry/shop/vm/10.0.0.1", "vm", true),
            ("Kubernetes//Pod/shop/web-7f", "7f", true),
            ("Kubernetes//Pod/shop/web-7f", "", true),
        ] {
            let beside = Name::from(name).beside(uid);
            assert_eq!((beside.of(uid), beside.0.is_some()), (name, kept), "{uid}");
            assert_eq!(Name::from(name).of(uid), name);
        }
        assert_eq!(size_of::<Name>(), 8, "one stands in each of 100,000 workloads");
    }
}
