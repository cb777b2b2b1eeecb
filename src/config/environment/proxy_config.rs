//! `ProxyConfig`, of the mesh's file and of the variable `PROXY_CONFIG`, which wins key by key.

use std::{collections::BTreeMap, path::Path};

use super::{surroundings::Surroundings, variables::Variables};
use crate::config::{
    Faults, Files, LoadError,
    reader::{Item, Notes, documents},
};

const FILE: &str = "./etc/istio/config/mesh";
const VARIABLE: &str = "PROXY_CONFIG";

/// What of it is honoured.
#[derive(Debug, Default)]
pub(super) struct ProxyConfig {
    pub(super) discovery_address: Option<String>,
    pub(super) admin_port: Option<u16>,
    pub(super) stats_port: Option<u16>,
    pub(super) concurrency: Option<usize>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl ProxyConfig {
    pub(super) fn read(vars: &Variables, around: &Surroundings<'_>) -> Self {
        let of_file = match (around.read)(Path::new(FILE)) {
            Ok(text) => text.map(|text| Self::parse(FILE, &text, Some("defaultConfig"))),
            Err(error) => Some(Err(error)),
        };
        let of_variable = vars.text(VARIABLE).map(|text| Self::parse(VARIABLE, text, None));
        let mut both = [of_file, of_variable].map(|parsed| {
            parsed.transpose().unwrap_or_else(|error| {
                vars.fault_of_file(error);
                None
            })
        });
        let [file, variable] = each_taken(&mut both);
        Self {
            discovery_address: variable.discovery_address.or(file.discovery_address),
            admin_port: variable.admin_port.or(file.admin_port),
            stats_port: variable.stats_port.or(file.stats_port),
            concurrency: variable.concurrency.or(file.concurrency),
            metadata: file.metadata.into_iter().chain(variable.metadata).collect(),
        }
    }

    /// The keys of a document, or of what it has under `key`. Others are Envoy's.
    fn parse(name: &str, text: &str, key: Option<&str>) -> Result<Self, LoadError> {
        let documents = documents(text).map_err(|fault| Faults::one(name, fault))?;
        let notes = Notes::of(Files::Elsewhere);
        let mut config = Self::default();
        if let Some(document) = documents.first() {
            let root = Item::root(document, &notes);
            let of = match key {
                Some(key) => root.find(key),
                None => Some(root),
            };
            if let Some(of) = of {
                config.take(&of);
            }
        }
        match notes.is_clean() {
            true => Ok(config),
            false => Err(notes.into_faults(name).into()),
        }
    }

    fn take(&mut self, config: &Item<'_>) {
        self.discovery_address = config.find("discoveryAddress").and_then(|a| a.text());
        self.admin_port = config.find("proxyAdminPort").and_then(|p| p.parse("15000"));
        self.stats_port = config.find("statsPort").and_then(|p| p.parse("15020"));
        self.concurrency = config.find("concurrency").and_then(|n| n.parse("2"));
        if let Some(metadata) = config.find("proxyMetadata") {
            self.metadata = metadata.texts().into_iter().collect();
        }
    }
}

fn each_taken(both: &mut [Option<ProxyConfig>; 2]) -> [ProxyConfig; 2] {
    both.each_mut().map(|config| config.take().unwrap_or_default())
}
