//! `adit proxy`: many services from one file.

use std::path::PathBuf;

use clap::Args;

use super::{BAD_CONFIG, FAILED, output::complain};
use crate::app::standalone::{Plan, StartError, run as run_plan};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit proxy -c /etc/adit/services.yaml\n\n\
        Runs until SIGTERM and then drains connections. Each service of the file is\n\
        like one `adit server` or `adit client`. Edits of the file take effect at once:\n\
        services that stay the same keep their connections; a changed or removed one is\n\
        drained. An edit with errors is logged and changes nothing: `adit check FILE`\n\
        finds them before.\n\n\
        `adit proxy ztunnel` is `adit node`.")]
pub(super) struct ProxyArgs {
    /// Path of the configuration file
    #[arg(short, long, value_name = "FILE", env = "ADIT_CONFIG")]
    config: PathBuf,
}

pub(super) fn run(args: &ProxyArgs) -> u8 {
    let plan = match Plan::of_file(&args.config) {
        Ok(plan) => plan,
        Err(error) => {
            complain!("{error}");
            return BAD_CONFIG;
        }
    };
    run_plan(plan).unwrap_or_else(|error| {
        complain!("adit: error: {error}");
        match error {
            StartError::Files(_) => BAD_CONFIG,
            StartError::Other(_) => FAILED,
        }
    })
}
