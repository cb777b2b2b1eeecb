//! `adit import`: another proxy's configuration as a file of `adit proxy`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{
    BAD_CONFIG, FAILED, OK,
    output::{self, complain},
};
use crate::{
    config::{ImportedCertificate, check_standalone, import_stunnel},
    identity::{key_files::certificates, shown},
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
    /// Translate a stunnel.conf
    #[command(after_help = "Example:\n  \
        adit import stunnel /etc/stunnel/stunnel.conf > services.yaml\n  \
        adit proxy -c services.yaml\n\n\
        Each line that is not translated is reported, in a comment of the result and on\n\
        standard error. The exit code is 1 if one of them protects a service, or if a\n\
        service needs it.")]
    Stunnel {
        /// The file; - is standard input
        file: PathBuf,
    },
}

pub(super) fn run(args: &ImportArgs) -> u8 {
    let From::Stunnel { file } = &args.from;
    let text = match read(file) {
        Ok(text) => text,
        Err(error) => {
            complain!("adit: error: {}: {error}", shown(file));
            return BAD_CONFIG;
        }
    };
    let imported = import_stunnel(&text, &certificates_of);
    for remark in &imported.warnings {
        let weight = if remark.grave { "NOT TRANSLATED" } else { "note" };
        complain!("{}:{}: {weight}: {}", shown(file), remark.line, remark.message);
    }
    output::text(&imported.yaml);
    let checked = check_standalone("imported", &imported.yaml);
    if let Err(faults) = &checked {
        complain!("{faults}");
    }
    if imported.is_grave() || checked.is_err() { FAILED } else { OK }
}

/// The whole file. Comments may be in any encoding.
fn read(file: &Path) -> std::io::Result<String> {
    use std::io::{Error, Read as _};
    let mut bytes = Vec::new();
    match file.as_os_str() == "-" {
        true => std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes)?,
        false => std::fs::File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::other(format!("has more than {MAX_FILE} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn certificates_of(file: &Path) -> Result<Vec<ImportedCertificate>, String> {
    let all: Option<Vec<_>> = certificates(file)?.iter().map(ImportedCertificate::of).collect();
    all.ok_or_else(|| format!("{}: a certificate cannot be read", shown(file)))
}
