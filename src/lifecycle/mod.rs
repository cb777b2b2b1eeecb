//! Tasks with owners, which can be drained and cut; a clock that may be set; what the service
//! manager is told; files that are watched; connecting to names ([`dial`]); leaving a peer that was
//! told something last; accept loops that back off; and listening sockets that go from one process
//! to the next ([`HandoffServer`]).

mod accept_backoff;
mod blocking;
mod changes;
mod clock;
pub mod dial;
mod handoff;
mod linger;
mod places;
mod reminder;
mod service_manager;
mod tasks;
mod watched_file;

pub use accept_backoff::{AcceptBackoff, is_of_one_connection};
pub use blocking::blocking;
pub use changes::{next_change, next_change_if_any};
pub use clock::{ClockStep, Clocks, watch_clock};
pub use handoff::{
    AwaitedHandoff, HandoffClient, HandoffServer, InheritedSockets, Listeners, Offered, Successor,
    endpoint,
};
pub use linger::{until_delivered, until_heard};
pub use places::{Place, Places, source};
pub use reminder::Reminder;
pub use service_manager::ServiceManager;
pub use tasks::{Tasks, behind_others};
pub use watched_file::{FileVersion, Found, Look, ReadTimeout, Versions, WatchedFile};
