//! The mesh as istiod, or another that speaks delta ADS, tells it.
//!
//! [`DeltaAds`] is the protocol, without a socket; [`Xds`] runs it over a connection that is made
//! again for ever, and hands each [`Push`] to the owner of the store. Not here: what a policy means
//! ([`crate::policy`]).

mod absent;
pub mod address;
mod apply;
pub mod authorization;
mod config;
mod connection;
mod delta_ads;
mod demands;
mod driver;
mod ended;
mod held;
mod message;
mod nack;
mod node;
mod refused;
mod status;
mod subscription;
mod type_url;
mod waiting;

pub use self::{
    apply::{apply_addresses, apply_authorizations},
    config::XdsConfig,
    delta_ads::{Applied, DeltaAds, Opening, Pending, Received, TooMuch},
    driver::{Push, Xds},
    message::{
        Answer, Delta, LeftOut, LongNonce, MAX_NAME, MAX_NONCE, MAX_RESOURCES, MAX_VERSION,
        Upserted,
    },
    nack::RejectedResource,
    node::NodeIdentity,
    status::XdsStatus,
    subscription::TypeStatus,
    type_url::TypeUrl,
};
