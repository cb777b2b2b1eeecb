//! Reads variables by name and takes note of what is wrong with them on the way.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
    time::Duration,
};

use super::fault::{EnvironmentFault, EnvironmentFaults};
use crate::config::LoadError;

/// No duration is longer: ten years.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The variables, and what was found wrong with them.
pub(super) struct Variables {
    all: BTreeMap<String, String>,
    faults: RefCell<Vec<EnvironmentFault>>,
    warnings: RefCell<Vec<String>>,
}

impl Variables {
    pub(super) fn new(all: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            all: all.into_iter().collect(),
            faults: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.all.get(name).map(String::as_str)
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(ToOwned::to_owned)
    }

    /// All, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Those whose names begin so: what follows in the name, and the value.
    pub(super) fn beginning<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
    }

    /// A value in some format, which `expected` describes.
    pub(super) fn parse<T: FromStr>(&self, name: &str, expected: &str) -> Option<T> {
        let value = self.text(name)?;
        let parsed = value.parse().ok();
        if parsed.is_none() {
            self.fault(name, expected);
        }
        parsed
    }

    pub(super) fn flag_if_set(&self, name: &str) -> Option<bool> {
        self.parse(name, "true or false")
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.flag_if_set(name).unwrap_or(default)
    }

    /// Such as `10s`, `5m`, `24h`, `1h30m`; a number alone is seconds.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let value = self.text(name)?.trim();
        let seconds = value.parse().map(Duration::from_secs).ok();
        if seconds.is_some() {
            self.warn(format!("{name}={value} is {value} seconds; write the unit: {value}s"));
        }
        let duration = seconds.or_else(|| humantime::parse_duration(value).ok());
        match duration {
            Some(duration) if duration <= LONGEST => Some(duration),
            Some(_) => {
                self.fault(name, "at most ten years");
                None
            }
            None => {
                self.fault(name, "a duration, such as 10s, 5m or 24h");
                None
            }
        }
    }

    /// Adds an error about a variable, with its value if it is set.
    pub(super) fn fault(&self, name: &str, expected: &str) {
        self.faults.borrow_mut().push(EnvironmentFault::Variable {
            name: name.into(),
            value: self.owned(name),
            expected: expected.into(),
        });
    }

    /// Adds an error about a variable without its value, which may be a secret.
    pub(super) fn fault_of_secret(&self, name: &str, expected: &str) {
        let (name, expected) = (name.into(), expected.into());
        let fault = EnvironmentFault::Variable { name, value: None, expected };
        self.faults.borrow_mut().push(fault);
    }

    pub(super) fn fault_of_file(&self, error: LoadError) {
        self.faults.borrow_mut().push(EnvironmentFault::File(error));
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Warns that a variable has a value that is not valid; `instead` says what is used.
    pub(super) fn warn_of_value(&self, name: &str, instead: &str) {
        let value: String = self.text(name).unwrap_or_default().chars().take(100).collect();
        self.warn(format!("{name}={value:?}: {instead}"));
    }

    /// The beginnings of what Kubernetes itself sets for each service of the namespace, such as
    /// `ISTIO_INGRESSGATEWAY`.
    pub(super) fn service_links(&self) -> BTreeSet<&str> {
        self.all.keys().filter_map(|name| name.strip_suffix("_SERVICE_HOST")).collect()
    }

    /// The warnings, unless something is wrong.
    pub(super) fn done(self) -> Result<Vec<String>, EnvironmentFaults> {
        match self.faults.into_inner() {
            none if none.is_empty() => Ok(self.warnings.into_inner()),
            faults => Err(EnvironmentFaults(faults)),
        }
    }
}
