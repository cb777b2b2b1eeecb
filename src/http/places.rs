//! Places for the connections of one endpoint, where the process may be short of descriptors.

use std::{net::IpAddr, os::fd::AsFd};

use crate::{
    lifecycle::{Place, Places},
    sys::descriptors::is_reserved,
};

/// The places of one endpoint: where traffic has all descriptors it may have, a few of those that
/// are kept, and no more.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    all: Places<IpAddr>,
    reserved: Places<IpAddr>,
}

/// A place at such an endpoint, until dropped or given up for somebody else.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    place: Place<IpAddr>,
    reserved: Option<Place<IpAddr>>,
}

impl ConnectionLimits {
    /// At most `most`, and at most `of_one` for each source; of them `reserved` with descriptors
    /// that are kept from traffic.
    pub(super) fn new(most: usize, of_one: usize, reserved: usize) -> Self {
        Self { all: Places::new(most, of_one), reserved: Places::new(reserved, reserved) }
    }

    /// A place for `socket`, which `from` has connected; `None` where nobody can be asked to go.
    pub(super) fn take(&self, socket: &impl AsFd, from: IpAddr) -> Option<ConnectionPlace> {
        let reserved = match is_reserved(socket.as_fd()) {
            true => Some(self.reserved.take(from)?),
            false => None,
        };
        Some(ConnectionPlace { place: self.all.take(from)?, reserved })
    }
}

impl ConnectionPlace {
    /// Waits until somebody else needs the place: the connection is to be closed. Cancel safe.
    pub(super) async fn given_up(&self) {
        match &self.reserved {
            None => self.place.given_up().await,
            Some(reserved) => tokio::select! {
                () = self.place.given_up() => {}
                () = reserved.given_up() => {}
            },
        }
    }
}
