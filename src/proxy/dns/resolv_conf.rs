//! The name servers of resolv.conf(5), which is read again when it changes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::lifecycle::{Look, Tasks, WatchedFile};

/// As many as the C library asks.
const MOST: usize = 3;
const EVERY: Duration = Duration::from_secs(2);

/// The name servers that questions are forwarded to.
#[derive(Clone, Debug)]
pub(super) struct NameServers(Arc<ArcSwap<Vec<SocketAddr>>>);

impl NameServers {
    /// Those of a file, as long as `tasks` run. None while there is no such file.
    pub(super) fn of(path: PathBuf, tasks: &Tasks) -> Self {
        let mut file = WatchedFile::new(&path);
        let servers = read(&path).unwrap_or_else(|error| {
            tracing::warn!(
                file = %path.display(), %error,
                "no name servers: names outside the mesh are not resolved until the file can be \
                 read"
            );
            Vec::new()
        });
        let servers = Self(Arc::new(ArcSwap::from_pointee(servers)));
        let current = servers.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(EVERY).await;
                if file.look() != Look::Settled {
                    continue;
                }
                let path = path.clone();
                match file.read_beside(move || read(&path)).await {
                    Ok(Some(Ok(servers))) => {
                        tracing::info!(?servers, "name servers changed");
                        current.0.store(Arc::new(servers));
                    }
                    Ok(Some(Err(error))) => {
                        tracing::warn!(
                            %error,
                            "resolv.conf cannot be read; keeping the previous name servers"
                        );
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            "resolv.conf cannot be read; keeping the previous name servers"
                        );
                    }
                }
            }
        });
        servers
    }

    /// In their order.
    pub(super) fn now(&self) -> Arc<Vec<SocketAddr>> {
        self.0.load_full()
    }
}

fn read(path: &Path) -> io::Result<Vec<SocketAddr>> {
    Ok(parse(&std::fs::read_to_string(path)?))
}

/// What is not an address is passed over, as the C library does; so is a zone (`%eth0`), which
/// names an interface of another namespace. `[ADDRESS]:PORT` is OpenBSD's way to say a port.
fn parse(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        let (address, port) = match address.strip_prefix('[').and_then(|a| a.split_once("]:")) {
            Some((address, port)) => (address, port.parse().ok()?),
            None => (address, 53),
        };
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?.to_canonical(), port))
    });
    servers.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# a comment\nsearch a b\nnameserver 10.96.0.10\n nameserver\t::ffff:10.0.0.1 x\n\
                    nameserver fe80::1%eth0\nnameserver\nnameserver 2001:db8::1\n\
                    options ndots:5\nnameserver 10.0.0.9\n";
        let found: Vec<_> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.96.0.10:53", "10.0.0.1:53", "[2001:db8::1]:53"]);
        assert!(parse("nameserver [10.0.0.1\nnameserver [::1]:x").is_empty());
        let with_port = parse("nameserver [127.0.0.1]:5353");
        assert_eq!(with_port, ["127.0.0.1:5353".parse().unwrap()]);
    }
}
