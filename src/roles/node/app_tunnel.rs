//! Applications that are told who calls: the PROXY protocol, version 2, in front of the bytes
//! (istio-ambient facts §3.11).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ppp::v2;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::{Node, Pod};
use crate::{identity::SpiffeId, net::PeerAddr, sys::sockets};

/// The TLV with the caller's SPIFFE ID.
const SPIFFE_ID: u8 = 0xD0;

/// What an application is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) from: PeerAddr,
    pub(super) meant: SocketAddr,
    pub(super) id: &'a SpiffeId,
}

/// The header.
///
/// # Errors
/// If it were longer than one may be.
pub(super) fn header(told: &Told<'_>) -> io::Result<Vec<u8>> {
    let addresses = alike(told.from.0, told.meant);
    let command = v2::Version::Two | v2::Command::Proxy;
    let builder = v2::Builder::with_addresses(command, v2::Protocol::Stream, addresses);
    builder.write_tlv(SPIFFE_ID, told.id.as_str().as_bytes())?.build()
}

/// Both of one family: the header knows no other.
fn alike(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |addr: SocketAddr| match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => addr,
    };
    match from.is_ipv4() == to.is_ipv4() {
        true => (from, to),
        false => (mapped(from), mapped(to)),
    }
}

impl Pod {
    /// Dials an application that is told who calls, on the loopback address of the pod where it is
    /// reached there only, and tells it.
    ///
    /// # Errors
    /// As connect(2), or if it does not take what it is told.
    pub(super) async fn dial_told(
        &self,
        node: &Node,
        app: SocketAddr,
        told: &Told<'_>,
    ) -> io::Result<TcpStream> {
        let mut socket = match node.config.localhost_app_tunnel {
            true => {
                let loopback = match app {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let addr = SocketAddr::new(loopback, app.port());
                let socket = sockets::local_socket(&self.netns, addr)?;
                sockets::connect(socket, addr, node.tunnel.connect).await?
            }
            false => self.dial_app(node, told.from, app).await?,
        };
        let header = header(told)?;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        timeout(node.tunnel.connect, socket.write_all(&header)).await.map_err(late)??;
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_told_who_calls_and_whom_that_one_meant() {
        let id = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        let read = |from: &str, meant: &str| {
            let (from, meant) = (PeerAddr(from.parse().unwrap()), meant.parse().unwrap());
            let bytes = header(&Told { from, meant, id: &id }).unwrap();
            let header = v2::Header::try_from(bytes.as_slice()).unwrap();
            let tlvs: Vec<_> = header.tlvs().map(|tlv| tlv.unwrap()).collect();
            assert_eq!((tlvs.len(), tlvs[0].kind), (1, SPIFFE_ID));
            assert_eq!(&*tlvs[0].value, id.as_str().as_bytes());
            format!("{:?}", header.addresses)
        };
        let v4 = read("10.0.0.1:999", "10.9.0.1:80");
        assert!(v4.contains("10.0.0.1") && v4.contains("10.9.0.1"), "{v4}");
        let mixed = read("10.0.0.1:999", "[fd00::9]:80");
        assert!(mixed.contains("::ffff:10.0.0.1") && mixed.contains("fd00::9"), "{mixed}");
    }
}
