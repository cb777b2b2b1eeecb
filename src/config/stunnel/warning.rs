//! What the operator is told of a line.

/// A line that is not translated as it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// From 1.
    pub line: usize,
    /// The option and why it is not translated.
    pub message: String,
    /// Whether the service would protect less than before, or not work.
    pub grave: bool,
}
