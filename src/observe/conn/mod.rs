//! A connection as operators see it: who, where to, how it ended.
//!
//! [`crate::net::Flow`] is what decisions are made on; [`OpenConn`] is the record that is written
//! when the connection ends, whatever ended it; [`LiveTable`] lists the records still open.

mod events;
mod line;
mod live;
mod log_share;
mod metadata;
mod open;
mod tunnel_id;
mod view;

pub use events::{ConnectionEvent, EventKind, Events, Notification, Subscription};
pub use live::{LiveConn, LiveTable, Meter};
pub use metadata::{ConnMetadata, Names, PeerInfo, TlsFacts, TlsPath};
pub use open::OpenConn;
pub use tunnel_id::TunnelId;
pub use view::{ConnectionView, EndView};
