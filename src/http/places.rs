//! Places for those who ask a process how it is, where it may be short of descriptors.

use std::{net::IpAddr, os::fd::AsFd};

use crate::{
    lifecycle::{Place, Places},
    sys::descriptors::is_reserved,
};

/// How many connections each endpoint has of descriptors that are kept for other things.
const FEW: usize = 8;

/// The places of one endpoint for operators: where traffic has all descriptors it may have, a few
/// of those that are kept, and no more.
#[derive(Debug)]
pub struct EndpointPlaces {
    all: Places<IpAddr>,
    last: Places<IpAddr>,
}

/// A place at such an endpoint, until dropped or given up for somebody else.
#[derive(Debug)]
pub struct EndpointPlace {
    place: Place<IpAddr>,
    last: Option<Place<IpAddr>>,
}

impl EndpointPlaces {
    /// At most `most`, and at most `of_one` for each source.
    #[must_use]
    pub fn new(most: usize, of_one: usize) -> Self {
        Self { all: Places::new(most, of_one), last: Places::new(FEW, FEW) }
    }

    /// A place for `socket`, which `from` has connected; `None` where nobody can be asked to go.
    #[must_use]
    pub fn take(&self, socket: &impl AsFd, from: IpAddr) -> Option<EndpointPlace> {
        let place = self.all.take(from)?;
        let last = match is_reserved(socket.as_fd()) {
            true => Some(self.last.take(from)?),
            false => None,
        };
        Some(EndpointPlace { place, last })
    }
}

impl EndpointPlace {
    /// Waits until somebody else needs the place: the connection is to be closed. Cancel safe.
    pub async fn given_up(&self) {
        match &self.last {
            None => self.place.given_up().await,
            Some(last) => tokio::select! {
                () = self.place.given_up() => {}
                () = last.given_up() => {}
            },
        }
    }
}
