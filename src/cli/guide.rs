//! `adit guide`: the guides, on the screen.

use clap::{Args, builder::PossibleValuesParser};

use super::{OK, output, output::say};
use crate::guide::{self, Guide};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        adit guide\n  \
        adit guide standalone | less")]
pub(super) struct GuideArgs {
    /// Name of the guide; without it, all are listed
    #[arg(value_parser = PossibleValuesParser::new(guide::ALL.map(|guide| guide.name)))]
    name: Option<String>,
}

pub(super) fn run(args: &GuideArgs) -> u8 {
    match &args.name {
        None => guide::ALL.iter().for_each(|guide| say!("{:<14} {}", guide.name, guide.about)),
        Some(name) => {
            let guide = guide::ALL.iter().find(|guide| guide.name == name);
            output::text(&guide.map(Guide::on_screen).unwrap_or_default());
        }
    }
    OK
}
