//! What is wrong with an environment.

use std::fmt;

use crate::{
    config::LoadError,
    identity::{without_keys, without_user},
};

/// The longest value that is quoted, in characters.
const QUOTED: usize = 200;

/// One thing that is wrong.
#[derive(Debug)]
pub enum EnvironmentFault {
    /// A variable.
    Variable {
        /// Its name.
        name: String,
        /// Its value; none where that is nobody's business.
        value: Option<String>,
        /// What would be right.
        expected: String,
    },
    /// A file of settings.
    File(LoadError),
}

impl fmt::Display for EnvironmentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable { name, value: Some(value), expected } => {
                let value = without_user(value).unwrap_or_else(|| value.clone());
                let short: String = value.chars().take(QUOTED).collect();
                let text = format!("{name}: {short:?}: expected {expected}");
                f.write_str(&without_keys(&text))
            }
            Self::Variable { name, value: None, expected } => {
                write!(f, "{name}: expected {expected}")
            }
            Self::File(error) => error.fmt(f),
        }
    }
}

/// All that is wrong with an environment.
#[derive(Debug)]
pub struct EnvironmentFaults(pub Vec<EnvironmentFault>);

impl fmt::Display for EnvironmentFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        write!(f, "{} in the environment", crate::identity::counted(self.0.len(), "error"))
    }
}

impl std::error::Error for EnvironmentFaults {}
