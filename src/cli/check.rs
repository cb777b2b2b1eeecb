//! `adit check`: is this file of `adit run`, `adit proxy` or `adit ca serve` right, and what it
//! names?

mod shown_line;
mod snippet;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use snippet::{Severity, rendered};

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{self, Format, complain, say},
};
use crate::{
    app::{opened_mesh, opened_services},
    config::{self, Checked, Fault, Faults, FileKind, Files, LoadError, StandaloneFile},
    identity::counted,
    roles::standalone::Role,
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit check mesh.yaml\n  \
        adit check --no-files services.yaml\n  \
        adit check ca.yaml\n  \
        adit check --json mesh.yaml | jq .errors\n\n\
        All errors of the file are reported at once, and nothing is changed. The files\n\
        that it names are checked too: certificates, keys, roots and CRLs.")]
pub(super) struct CheckArgs {
    /// The file to check; - is standard input
    file: PathBuf,
    /// Do not open the files that FILE names: they are on another machine
    #[arg(long)]
    no_files: bool,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    format: Format,
}

/// What was found.
#[derive(Default)]
struct CheckResult {
    faults: Option<LoadError>,
    warnings: Vec<Fault>,
    /// For people and for scripts, where nothing is wrong.
    summary: Option<(String, Value)>,
}

impl CheckResult {
    /// What a right file needs of other files.
    fn and(mut self, file: &str, opened: Vec<Fault>) -> Self {
        if !opened.is_empty() {
            self.faults = Some(Faults { file: file.into(), faults: opened, more: 0 }.into());
        }
        self
    }
}

impl From<LoadError> for CheckResult {
    fn from(error: LoadError) -> Self {
        Self { faults: Some(error), ..Self::default() }
    }
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    let file = crate::identity::shown(&args.file);
    let (found, text) = match config::read_text(&args.file) {
        Err(error) => (error.into(), String::new()),
        Ok(text) => {
            let kind = config::kind(&text);
            let found = match kind {
                Some(FileKind::Services) => standalone(args, &file, &text),
                Some(FileKind::CaServer) => ca_server(args, &file, &text),
                Some(FileKind::Mesh) | None => mesh(args, &file, &text),
            };
            // Of somebody else's file, which may be a file of passwords, no line is shown.
            (found, kind.map(|_| text).unwrap_or_default())
        }
    };
    if args.format.is_json() {
        say!("{:#}", as_json(&found));
    } else {
        print(&found, &file, &text);
    }
    match (&found.faults, args.strict && !found.warnings.is_empty()) {
        (Some(_), _) => BAD_CONFIG,
        (None, true) => FAILED,
        (None, false) => OK,
    }
}

/// For people.
fn print(found: &CheckResult, file: &str, text: &str) {
    let mut warnings: Vec<_> = found.warnings.iter().collect();
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    for warning in warnings {
        let colours = output::has_colours(&std::io::stdout());
        say!("{}\n", rendered(Severity::Warning, file, text, warning, colours));
    }
    match (&found.faults, &found.summary) {
        (Some(LoadError::Faults(faults)), _) => {
            let colours = output::has_colours(&std::io::stderr());
            for fault in &faults.faults {
                // Another file that it names has its own lines.
                let text = if faults.file == file { text } else { "" };
                complain!("{}\n", rendered(Severity::Error, &faults.file, text, fault, colours));
            }
            complain!("{}", faults.summary());
        }
        (Some(error), _) => complain!("adit: error: {error}"),
        (None, Some((summary, _))) => say!("{file}: OK: {summary}"),
        (None, None) => {}
    }
}

/// Services that stand in front of others.
fn standalone(args: &CheckArgs, file: &str, text: &str) -> CheckResult {
    let files = if args.no_files { Files::Elsewhere } else { Files::LookedAt };
    let read = match config::check_standalone_for(file, text, files) {
        Ok(read) => read,
        Err(faults) => return LoadError::from(faults).into(),
    };
    let (servers, all) = (servers(&read), read.services.len());
    let words = format!(
        "{} ({}, {})",
        counted(all, "service"),
        counted(servers, "server"),
        counted(all - servers, "client")
    );
    let summary = Some((words, json!({ "services": all, "servers": servers })));
    let placed = read.services.iter().zip(&read.credentials);
    let warnings = placed.filter_map(|(service, place)| {
        Some(Fault { message: service.warning()?.to_owned(), ..place.clone() })
    });
    let mut found = CheckResult { warnings: warnings.collect(), summary, ..CheckResult::default() };
    match args.no_files {
        true => found,
        false => {
            let failed =
                |error: anyhow::Error| (vec![Fault::at_start(error.to_string())], Vec::new());
            let (faults, warnings) = opened_services(&read).unwrap_or_else(failed);
            found.warnings.extend(warnings);
            found.and(file, faults)
        }
    }
}

fn servers(read: &StandaloneFile) -> usize {
    read.services.iter().filter(|service| service.role == Role::Server).count()
}

/// The CA of other nodes.
fn ca_server(args: &CheckArgs, file: &str, text: &str) -> CheckResult {
    let read = match config::check_ca_server(file, text) {
        Ok(read) => read,
        Err(faults) => return LoadError::from(faults).into(),
    };
    let domain = read.server.rules.trust_domain.to_string();
    let words = format!("a CA of trust domain {domain}");
    let summary = Some((words, json!({ "trustDomain": domain })));
    let pods = read.pods.filter(|_| !args.no_files);
    let faults = pods.map(|pods| config::load_pods(&pods)).and_then(Result::err);
    CheckResult { faults, summary, ..CheckResult::default() }
}

fn mesh(args: &CheckArgs, file: &str, text: &str) -> CheckResult {
    let mut checked = match config::parse(file, text) {
        Ok(checked) => checked,
        Err(faults) => return LoadError::from(faults).into(),
    };
    let warnings = std::mem::take(&mut checked.warnings);
    let mut found =
        CheckResult { warnings, summary: Some(summary(&checked)), ..CheckResult::default() };
    if args.no_files {
        return found;
    }
    let (faults, warnings) = opened_mesh(&checked);
    found.warnings.extend(warnings);
    found.and(file, faults)
}

fn summary(checked: &Checked) -> (String, Value) {
    let mesh = &checked.mesh;
    let (workloads, services) = (mesh.workloads.len(), mesh.services.len());
    let (local, policies) = (checked.local_workloads().len(), mesh.policies.len());
    let here = if local == workloads { String::new() } else { format!(" ({local} on this node)") };
    let words = format!(
        "{}{here}, {}, {}",
        counted(workloads, "workload"),
        counted(services, "service"),
        counted(policies, "policy")
    );
    let counts = json!({
        "workloads": workloads,
        "localWorkloads": local,
        "services": services,
        "policies": policies,
    });
    (words, counts)
}

fn as_json(found: &CheckResult) -> Value {
    match &found.faults {
        None => json!({
            "ok": true,
            "errors": [],
            "warnings": found.warnings,
            "summary": found.summary.as_ref().map(|(_, counts)| counts),
        }),
        Some(LoadError::Faults(faults)) => {
            json!({ "ok": false, "errors": faults.faults, "warnings": found.warnings })
        }
        Some(error) => json!({
            "ok": false,
            "error": error.to_string(),
            "errors": [Fault::at_start(error.to_string())],
            "warnings": found.warnings,
        }),
    }
}
