//! `adit import`: another proxy's configuration as a file of `adit proxy`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{BAD_CONFIG, FAILED, OK};
use crate::{
    config::{check_standalone, import_stunnel},
    identity::key_files::certificates,
    tls::Pin,
};

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// A stunnel.conf
    #[command(
        after_help = "Example:\n  adit import stunnel /etc/stunnel/stunnel.conf > services.yaml && adit proxy -c services.yaml\n\nEvery line that is not carried is named, as a comment and on stderr. Exit codes: 0 carried,\n1 something that protects a service, or that it needs, was not; 2 usage; 3 the file cannot be read."
    )]
    Stunnel {
        /// The file
        file: PathBuf,
    },
}

pub(super) fn run(args: &ImportArgs) -> u8 {
    let From::Stunnel { file } = &args.from;
    let text = match read(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("adit: error: {}: {error}", file.display());
            return BAD_CONFIG;
        }
    };
    let imported = import_stunnel(&text, &pins_of);
    for remark in &imported.remarks {
        let weight = if remark.grave { "NOT CARRIED" } else { "note" };
        eprintln!("{}:{}: {weight}: {}", file.display(), remark.line, remark.message);
    }
    print!("{}", imported.yaml);
    let checked = check_standalone("imported", &imported.yaml);
    if let Err(faults) = &checked {
        eprintln!("{faults}");
    }
    if imported.is_grave() || checked.is_err() { FAILED } else { OK }
}

fn read(file: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn pins_of(file: &Path) -> Result<Vec<String>, String> {
    let certificates = certificates(file)?;
    let pin = |c| Pin::of(c).map(|pin| pin.to_string());
    let pins: Option<Vec<String>> = certificates.iter().map(pin).collect();
    pins.ok_or_else(|| format!("{}: a certificate cannot be read", file.display()))
}
