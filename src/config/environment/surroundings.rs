//! What is looked up beside variables.

use std::path::Path;

use crate::config::LoadError;

/// What a machine knows beside the variables.
pub struct Surroundings<'a> {
    /// Its cores.
    pub cores: usize,
    /// Whether a path exists.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// The text of a file; none where there is no such file.
    pub read: &'a dyn Fn(&Path) -> Result<Option<String>, LoadError>,
}
