//! `adit man`: the manual pages of all commands, from the same texts as their help.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use roff::{Roff, bold, roman};
use time::OffsetDateTime;

use super::{
    BAD_CONFIG, OK, exit,
    output::{complain, say},
};
use crate::identity::shown;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit man /usr/local/share/man/man1 && man adit-server")]
pub(super) struct ManArgs {
    /// Directory to write adit.1, adit-run.1 and so on to; created if missing
    dir: PathBuf,
}

pub(super) fn run(args: &ManArgs, mut command: Command) -> u8 {
    command.build();
    let written = fs::create_dir_all(&args.dir).and_then(|()| write(&command, "adit", &args.dir));
    if let Err(error) = written {
        complain!("adit: error: {}: {error}", shown(&args.dir));
        return BAD_CONFIG;
    }
    say!("{}: manual pages written", shown(&args.dir));
    OK
}

/// Writes the page of a command, and of all below it; `name` is `adit-ca-rotate`.
fn write(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(format!("{name}.1")), page(command, name)?)?;
    command
        .get_subcommands()
        .try_for_each(|below| write(below, &format!("{name}-{}", below.get_name()), dir))
}

fn page(command: &Command, name: &str) -> io::Result<Vec<u8>> {
    // A plain one of its arguments: the texts behind them have sections of their own.
    let mut of = Command::new("adit")
        .version(env!("CARGO_PKG_VERSION"))
        .bin_name(command.get_bin_name().unwrap_or(name))
        .display_name(name.to_owned())
        .override_usage(usage(command))
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .disable_help_flag(true)
        .disable_version_flag(true);
    of.build();
    let rendered = clap_mangen::Man::new(of)
        .title(name.to_uppercase())
        .date(date())
        .manual("adit manual")
        .source(concat!("adit ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    rendered.render_title(&mut page)?;
    rendered.render_name_section(&mut page)?;
    rendered.render_synopsis_section(&mut page)?;
    let text = Text::of(command);
    description(command, &text).to_writer(&mut page)?;
    rendered.render_options_section(&mut page)?;
    behind(command, name, &text).to_writer(&mut page)?;
    // Breaks beside an empty line break nothing, and mandoc complains of them.
    let page = String::from_utf8_lossy(&page).replace("\n.br\n\n.br\n", "\n\n");
    Ok(page.into_bytes())
}

/// How the command is called, as its help says.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    // Each of several ways on a line of its own.
    usage.trim_start_matches("Usage: ").replace("    ", "\n")
}

/// The day on which the pages are made; of a package, that of its source.
fn date() -> String {
    let of_source = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let of_source = of_source.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    of_source.unwrap_or_else(OffsetDateTime::now_utc).date().to_string()
}

/// The text behind the flags of a help, in its parts.
struct Text {
    examples: Vec<String>,
    notes: Vec<String>,
}

impl Text {
    fn of(command: &Command) -> Self {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let (examples, notes) = text
            .split("\n\n")
            .map(str::trim_end)
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .partition(|part| part.starts_with("Example"));
        Self { examples, notes }
    }
}

fn description(command: &Command, text: &Text) -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["DESCRIPTION"]);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.text([roman(format!("{}.", about.trim_end_matches('.')))]);
    for part in &text.notes {
        page.control("PP", []);
        // A list keeps its lines; a paragraph is filled.
        if part.lines().any(|line| line.starts_with(' ')) {
            lines(&mut page, part.lines());
        } else {
            page.text([roman(part.replace('\n', " "))]);
        }
    }
    page
}

/// Lines as they are.
fn lines<'a>(page: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    page.control("nf", []);
    for line in lines {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}

/// What stands behind the options.
fn behind(command: &Command, name: &str, text: &Text) -> Roff {
    let mut page = Roff::new();
    if command.has_subcommands() {
        page.control("SH", ["COMMANDS"]);
        for below in command.get_subcommands() {
            page.control("TP", []);
            page.text([bold(format!("{name}-{}", below.get_name())), roman("(1)")]);
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            page.text([roman(about)]);
        }
    }
    if !text.examples.is_empty() {
        page.control("SH", ["EXAMPLES"]);
        let examples = text.examples.iter().flat_map(|part| part.lines().skip(1));
        lines(&mut page, examples.map(|line| line.strip_prefix("  ").unwrap_or(line)));
    }
    page.control("SH", ["EXIT STATUS"]);
    let ghostunnel = matches!(name, "adit-server" | "adit-client");
    for (code, meaning) in if ghostunnel { &exit::AS_GHOSTUNNEL[..] } else { &exit::MEANINGS[..] } {
        page.control("TP", []);
        page.text([bold(*code)]);
        page.text([roman(*meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    let above = name.rsplit_once('-').map_or("adit", |(above, _)| above);
    if name != "adit" {
        page.text([bold(above), roman("(1),")]);
    }
    page.text([bold("adit-guide"), roman("(1)")]);
    page
}
