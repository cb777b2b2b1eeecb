//! No order at a CA: this build is without the cargo feature `acme`, and a configuration that asks
//! for one is refused before it comes to this.

use super::{challenge::Pending, config::AcmeConfig, storage::Storage};
use crate::observe::{Feature, NotBuilt};

/// Refuses.
pub(super) async fn place(_: &AcmeConfig, _: &Storage, _: &Pending) -> Result<String, String> {
    Err(NotBuilt(Feature::Acme).to_string())
}
