//! `adit man`: the manual pages of all commands.

use std::{fs, path::PathBuf};

use clap::{Args, Command};

use super::{
    BAD_CONFIG, OK,
    output::{complain, say},
};
use crate::identity::shown;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit man /usr/local/share/man/man1 && man adit-server\n\n\
        Exit codes: 0 written, 2 usage, 3 the directory cannot be written")]
pub(super) struct ManArgs {
    /// Directory to write adit.1, adit-run.1 and so on to; created if missing
    dir: PathBuf,
}

pub(super) fn run(args: &ManArgs, command: Command) -> u8 {
    let written = fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(command.disable_help_subcommand(true), &args.dir));
    if let Err(error) = written {
        complain!("adit: error: {}: {error}", shown(&args.dir));
        return BAD_CONFIG;
    }
    say!("{}: written", shown(&args.dir));
    OK
}
