//! Places for the connections of one endpoint, where the process may be short of descriptors.

use std::{
    future::pending,
    net::IpAddr,
    os::fd::AsFd,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    lifecycle::{Place, Places},
    sys::descriptors::is_reserved,
};

/// How many streams are read at a time, and how many by one source.
const STREAMS: usize = 8;
const STREAMS_OF_ONE: usize = 2;
/// How long a stream that is closed for a newer one has for its last piece.
const LAST_PIECE: Duration = Duration::from_millis(250);

/// The places of one endpoint: where traffic has all descriptors it may have, a few of those that
/// are kept, and no more. Streams, which have no end of their own, have other places: they go for
/// no connection that comes, and keep none away.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    all: Places<IpAddr>,
    reserved: Places<IpAddr>,
    streams: Places<IpAddr>,
}

/// A place at such an endpoint, until dropped or given up for somebody else.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    from: IpAddr,
    /// Until it is a stream.
    connection: Mutex<Option<Place<IpAddr>>>,
    /// Whether it has the place of a connection no longer.
    gone: CancellationToken,
    reserved: Option<Place<IpAddr>>,
    streams: Places<IpAddr>,
    stream: OnceLock<Place<IpAddr>>,
}

impl ConnectionLimits {
    /// At most `most`, and at most `of_one` for each source; of them `reserved` with descriptors
    /// that are kept from traffic.
    pub(super) fn new(most: usize, of_one: usize, reserved: usize) -> Self {
        Self {
            all: Places::new(most, of_one),
            reserved: Places::new(reserved, reserved),
            streams: Places::new(STREAMS, STREAMS_OF_ONE),
        }
    }

    /// A place for `socket`, which `from` has connected; `None` where nobody can be asked to go.
    pub(super) fn take(&self, socket: &impl AsFd, from: IpAddr) -> Option<ConnectionPlace> {
        let reserved = match is_reserved(socket.as_fd()) {
            true => Some(self.reserved.take(from)?),
            false => None,
        };
        let connection = self.all.take(from)?;
        Some(ConnectionPlace {
            from,
            gone: connection.gone(),
            connection: Mutex::new(Some(connection)),
            reserved,
            streams: self.streams.clone(),
            stream: OnceLock::new(),
        })
    }
}

impl ConnectionPlace {
    /// Takes the place of a stream from here on, not that of a connection; what ends when somebody
    /// else needs that place. The oldest stream of the same source goes for the newest, but one of
    /// another source only if that has more than its share: `None` if nobody can be asked to go.
    pub(super) fn begin_stream(&self) -> Option<CancellationToken> {
        let place = self.streams.take_from_oldest(self.from)?;
        place.prove();
        let gone = place.gone();
        let began = self.stream.set(place).is_ok();
        drop(self.connection.lock().unwrap_or_else(PoisonError::into_inner).take());
        began.then_some(gone)
    }

    /// Whether it has the place of a stream.
    pub(super) fn is_stream(&self) -> bool {
        self.stream.get().is_some()
    }

    /// Waits until somebody else needs the place: the connection is to be closed. Cancel safe.
    pub(super) async fn given_up(&self) {
        let place = async {
            self.gone.cancelled().await;
            if let Some(stream) = self.stream.get() {
                stream.given_up().await;
                sleep(LAST_PIECE).await;
            }
        };
        let reserved = async {
            match &self.reserved {
                Some(reserved) => reserved.given_up().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = place => {}
            () = reserved => {}
        }
    }
}
