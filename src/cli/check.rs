//! `adit check`: is this mesh file right, or this file of `adit proxy`?

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{BAD_CONFIG, OK};
use crate::{
    config::{self, Checked, LoadError, StandaloneFile},
    standalone::Role,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  adit check mesh.yaml\n  adit check --json mesh.yaml | jq .faults"
)]
pub(super) struct CheckArgs {
    /// The mesh file, or the file of `adit proxy`
    file: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> u8 {
    if config::is_standalone(&args.file) {
        return standalone(args);
    }
    let loaded = config::load(&args.file);
    if args.json {
        println!("{:#}", as_json(&loaded));
    } else {
        match &loaded {
            Ok(checked) => print(args, checked),
            Err(error) => eprintln!("{error}"),
        }
    }
    if loaded.is_ok() { OK } else { BAD_CONFIG }
}

/// The same for services that stand in front of others.
fn standalone(args: &CheckArgs) -> u8 {
    let loaded = config::load_standalone(&args.file);
    if args.json {
        println!("{:#}", standalone_as_json(&loaded));
    } else {
        match &loaded {
            Ok(read) => {
                let (servers, all) = (servers(read), read.services.len());
                let file = args.file.display();
                println!(
                    "{file}: right. {all} services ({servers} servers, {} clients)",
                    all - servers
                );
            }
            Err(error) => eprintln!("{error}"),
        }
    }
    if loaded.is_ok() { OK } else { BAD_CONFIG }
}

fn servers(read: &StandaloneFile) -> usize {
    read.services.iter().filter(|service| service.role == Role::Server).count()
}

fn standalone_as_json(loaded: &Result<StandaloneFile, LoadError>) -> serde_json::Value {
    match loaded {
        Ok(read) => json!({
            "ok": true,
            "faults": [],
            "summary": { "services": read.services.len(), "servers": servers(read) },
        }),
        Err(LoadError::Faults(faults)) => json!({ "ok": false, "faults": faults.faults }),
        Err(error) => json!({ "ok": false, "error": error.to_string() }),
    }
}

fn print(args: &CheckArgs, checked: &Checked) {
    let file = args.file.display();
    checked.warnings.iter().for_each(|w| println!("{file}:{w} (warning)"));
    println!(
        "{file}: right. {} workloads ({} carried by this process), {} services, {} policies",
        checked.snapshot.workloads().count(),
        checked.local_workloads().len(),
        checked.snapshot.services().count(),
        checked.snapshot.policies().count(),
    );
}

fn as_json(loaded: &Result<Checked, LoadError>) -> serde_json::Value {
    match loaded {
        Ok(checked) => json!({
            "ok": true,
            "faults": [],
            "warnings": checked.warnings,
            "summary": {
                "workloads": checked.snapshot.workloads().count(),
                "carried": checked.local_workloads().len(),
                "services": checked.snapshot.services().count(),
                "policies": checked.snapshot.policies().count(),
            },
        }),
        Err(LoadError::Faults(faults)) => json!({ "ok": false, "faults": faults.faults }),
        Err(error) => json!({ "ok": false, "error": error.to_string() }),
    }
}
