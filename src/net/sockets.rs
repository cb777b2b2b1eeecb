//! Listening sockets, wherever they come from: systemd, a process before this one, or opened here.

use std::os::fd::OwnedFd;

use super::{Address, Listening};

/// The sockets that this process was given.
#[derive(Debug, Default)]
pub struct Sockets {
    /// By `FileDescriptorName=`.
    named: Vec<(String, OwnedFd)>,
    /// By the address that the process before this one had them for.
    inherited: Vec<(String, OwnedFd)>,
}

impl Sockets {
    /// Those of the service manager, by name, and those of a process before this one, by address.
    #[must_use]
    pub fn new(named: Vec<(String, OwnedFd)>, inherited: Vec<(String, OwnedFd)>) -> Self {
        Self { named, inherited }
    }

    /// The socket for `address`, which `key` has asked for: what was given for it, else a new one.
    ///
    /// # Errors
    /// Names the address and what to do; for `systemd:NAME`, unless exactly one socket has that
    /// name.
    pub fn open(&mut self, address: &Address, key: &str) -> Result<Listening, String> {
        let failed = |e: std::io::Error| format!("cannot listen on {address}: {e}");
        let text = address.to_string();
        let ours = self.inherited.extract_if(.., |(of, _)| *of == text);
        let ours: Vec<OwnedFd> = ours.map(|(_, fd)| fd).collect();
        if !ours.is_empty() {
            let mut listening = Listening::adopt_all(ours).map_err(failed)?;
            if let Address::Unix(path) = address {
                listening.inherit_path(path.clone());
            }
            return Ok(listening);
        }
        match address {
            Address::Systemd(name) if !self.named.is_empty() => {
                Listening::adopt(self.named(name, address)?).map_err(failed)
            }
            _ => Listening::open(address, key),
        }
    }

    fn named(&mut self, name: &str, address: &Address) -> Result<OwnedFd, String> {
        let mut with_name = self.named.iter().enumerate().filter(|(_, (n, _))| n == name);
        match (with_name.next(), with_name.count()) {
            (Some((at, _)), 0) => Ok(self.named.remove(at).1),
            (Some(_), others) => Err(format!(
                "{address}: systemd has passed {} sockets of this name; give each its own \
                 FileDescriptorName=",
                others + 1
            )),
            (None, _) => Err(format!(
                "{address}: no socket has this name; systemd has passed {}; FileDescriptorName= \
                 in the .socket unit sets it",
                self.unused().join(", ")
            )),
        }
    }

    /// Names and addresses of what nobody has asked for.
    #[must_use]
    pub fn unused(&self) -> Vec<&str> {
        self.named.iter().chain(&self.inherited).map(|(name, _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, os::fd::OwnedFd};

    fn socket(name: &str) -> (String, OwnedFd) {
        (name.to_owned(), TcpListener::bind("127.0.0.1:0").unwrap().into())
    }

    #[test]
    fn exactly_one_socket_must_have_the_name() {
        let given = vec![socket("tls"), socket("twice"), socket("twice")];
        let mut sockets = Sockets::new(given, vec![socket("unix:/run/x")]);
        for (address, says) in [
            ("systemd:tls", None),
            ("systemd:tls", Some("no socket has this name; systemd has passed twice, twice")),
            ("systemd:twice", Some("2 sockets of this name")),
            ("unix:/run/x", None),
            ("unix:/nowhere/x", Some("listen on unix:/nowhere/x")),
        ] {
            let opened = sockets.open(&address.parse().unwrap(), "");
            match (opened, says) {
                (Ok(_), None) => {}
                (Err(error), Some(says)) => assert!(error.contains(says), "{error}"),
                (opened, _) => panic!("{address}: {opened:?}"),
            }
        }
        let none = Sockets::default().open(&"systemd:tls".parse().unwrap(), "").unwrap_err();
        assert!(none.contains("systemd passed no sockets"), "{none}");
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sockets = Sockets::new(vec![("tls".into(), udp.into())], Vec::new());
        let error = sockets.open(&"systemd:tls".parse().unwrap(), "").unwrap_err();
        assert!(error.contains("listen on systemd:tls"), "{error}");
    }
}
