//! Policies as programs read them in `/config_dump`, in Istio's shapes. The names of the fields are
//! an interface: one may come, none goes or changes.

use std::fmt::Display;

use serde::Serialize;

use super::{Action, FieldMatch, Policy, Rule, Scope, Source};

/// One policy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDump {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `Global`, `Namespace` or `WorkloadSelector`.
    pub scope: &'static str,
    /// `Allow` or `Deny`.
    pub action: &'static str,
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// In the order of the document.
    pub rules: Vec<RuleDump>,
}

/// One rule.
#[derive(Clone, Debug, Serialize)]
pub struct RuleDump {
    /// Who calls: any of these.
    pub from: Vec<SourceDump>,
    /// What is called: any of these.
    pub to: Vec<String>,
    /// And all of these.
    pub when: Vec<String>,
    /// `FILE:LINE`, if its source has lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// Who calls: all that are given.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceDump {
    /// SPIFFE IDs without `spiffe://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principals: Option<String>,
    /// Namespaces in SPIFFE IDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<String>,
    /// Service accounts in SPIFFE IDs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<String>,
    /// Addresses of TCP peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_blocks: Option<String>,
}

impl Policy {
    /// As `/config_dump` shows it.
    #[must_use]
    pub fn dump(&self) -> PolicyDump {
        PolicyDump {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            scope: match self.scope {
                Scope::Global => "Global",
                Scope::Namespace => "Namespace",
                Scope::Selector { .. } => "WorkloadSelector",
            },
            action: match self.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
            },
            dry_run: self.dry_run,
            rules: self.rules.iter().map(RuleDump::of).collect(),
        }
    }
}

impl RuleDump {
    fn of(rule: &Rule) -> Self {
        Self {
            from: rule.from.iter().map(SourceDump::of).collect(),
            to: rule.to.iter().map(|o| format!("port {}", o.ports)).collect(),
            when: rule.when.iter().map(|c| c.to_string()).collect(),
            place: rule.place.as_ref().map(ToString::to_string),
        }
    }
}

impl SourceDump {
    fn of(source: &Source) -> Self {
        fn given<T: Display>(field: &FieldMatch<T>) -> Option<String> {
            (!field.is_empty()).then(|| field.to_string())
        }
        Self {
            principals: given(&source.principals),
            namespaces: given(&source.namespaces),
            service_accounts: given(&source.service_accounts),
            ip_blocks: given(&source.ip_blocks),
        }
    }
}
