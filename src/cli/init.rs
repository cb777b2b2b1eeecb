//! `adit init`: a commented file to begin with.

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{
    BAD_CONFIG, OK,
    output::{self, complain, say},
};
use crate::identity::shown;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A mesh of two pods on this node, for `adit run`
    Mesh,
    /// TLS in front of one service, for `adit proxy`
    Server,
    /// TLS for one client, for `adit proxy`
    Client,
}

impl Kind {
    const fn text(self) -> &'static str {
        match self {
            Self::Mesh => include_str!("init/mesh.yaml"),
            Self::Server => include_str!("init/server.yaml"),
            Self::Client => include_str!("init/client.yaml"),
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Mesh => "mesh.yaml",
            Self::Server => "server.yaml",
            Self::Client => "client.yaml",
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit init server && adit cert dev && adit proxy -c server.yaml\n  \
        adit init mesh - | less\n\n\
        The file runs as it is, and its comments say what to change and how to try it.\n\
        Check your edits with `adit check FILE`. A file that exists is never replaced.")]
pub(super) struct InitArgs {
    /// What the file is for
    kind: Kind,
    /// File to write; - is standard output [default: mesh.yaml, server.yaml or client.yaml]
    file: Option<PathBuf>,
}

pub(super) fn run(args: &InitArgs) -> u8 {
    let file = args.file.clone().unwrap_or_else(|| args.kind.file().into());
    if file.as_os_str() == "-" {
        output::text(args.kind.text());
        return OK;
    }
    // Never over a file of somebody's.
    let written = OpenOptions::new().write(true).create_new(true).open(&file);
    let written = written.and_then(|mut open| open.write_all(args.kind.text().as_bytes()));
    if let Err(error) = written {
        complain!("adit: error: {}: {error}", shown(&file));
        return BAD_CONFIG;
    }
    say!("{}: written; its comments say what to change and how to try it", shown(&file));
    OK
}
