//! `adit demo`: the main job, shown.

use std::{cell::Cell, io::IsTerminal as _, time::Instant};

use anstyle::{AnsiColor, Style};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    FAILED, OK,
    output::{self, Format, complain, say},
};
use crate::app::{DEMO_CHECKS, DemoEvent};

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
        adit demo\n\n\
        Needs root or unprivileged user namespaces, and the programs nft, ip, nginx and\n\
        curl (scripts/demo.sh installs them). It changes nothing on this machine: all\n\
        of it lives in network namespaces that end with it.")]
pub(super) struct DemoArgs {
    #[command(flatten)]
    format: Format,
}

const SKETCH: [&str; 7] = [
    "  node-a                                      node-b",
    "  ┌──────────────────────────┐                ┌──────────────────────────┐",
    "  │ web ──────┐              │                │              ┌────── api │",
    "  │           ├────── adit ══╪════════════════╪══ adit ──────┤           │",
    "  │ intruder ─┘              │                │              └──── batch │",
    "  └──────────────────────────┘                └──────────────────────────┘",
    "   ─── plain TCP of a pod        ═══ mutual TLS between nodes, port 15008",
];

/// How many lines of a log are shown after something failed.
const LAST_LINES: usize = 5;

pub(super) fn run(args: &DemoArgs) -> u8 {
    let screen = Screen::new(!args.format.is_json());
    screen.begin();
    let result = crate::app::demo(&|event| screen.tell(event));
    screen.spinner.finish_and_clear();
    match result {
        Ok(report) => {
            match args.format.is_json() {
                true => say!("{report:#}"),
                false => screen.end(),
            }
            OK
        }
        Err(error) => {
            screen.failed(&format!("{error:#}"));
            FAILED
        }
    }
}

/// Where the demonstration is shown.
struct Screen {
    /// For people, not for scripts.
    is_told: bool,
    columns: usize,
    colours: bool,
    start: Instant,
    shown: Cell<usize>,
    /// What is waited for, while it is.
    spinner: ProgressBar,
}

impl Screen {
    fn new(is_told: bool) -> Self {
        let spinner = match std::io::stderr().is_terminal() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} … {elapsed}") {
            spinner.set_style(style);
        }
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        Self {
            is_told,
            columns: output::columns(),
            colours: output::has_colours(&std::io::stdout()),
            start: Instant::now(),
            shown: Cell::new(0),
            spinner,
        }
    }

    fn begin(&self) {
        self.say("");
        self.paragraph(
            Style::new(),
            "This is a mesh of two nodes and four pods, made from network namespaces of this \
             machine. The pods run an ordinary nginx (api) and curl. An adit on each node gives \
             them identities and encryption, and decides who may call whom.",
        );
        self.say("");
        SKETCH.iter().for_each(|line| self.say(line));
    }

    fn tell(&self, event: DemoEvent<'_>) {
        match event {
            DemoEvent::Waiting(what) => match self.spinner.is_hidden() {
                true => complain!("· {what}"),
                false => self.spinner.set_message(what.to_owned()),
            },
            DemoEvent::Scene(about) => {
                self.say("");
                self.paragraph(Style::new().bold(), about);
            }
            DemoEvent::Log { of, text } => {
                let lines: Vec<_> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
                self.spinner.suspend(|| {
                    complain!("\nthe last lines of the log of {of}:");
                    last.iter().for_each(|line| complain!("{line}"));
                });
            }
            DemoEvent::Shown(what) => {
                self.shown.set(self.shown.get() + 1);
                self.marked("✓", AnsiColor::Green, what);
            }
        }
    }

    fn end(&self) {
        let (shown, seconds) = (self.shown.get(), self.start.elapsed().as_secs_f64().ceil());
        self.say("");
        self.paragraph(
            AnsiColor::Green.on_default().bold(),
            &format!(
                "{shown} of {DEMO_CHECKS} shown in {seconds} s: pods that know nothing of it were \
                 authenticated, authorised and encrypted; certificates and policies changed \
                 without a restart."
            ),
        );
        self.say("");
        self.paragraph(Style::new().bold(), "What to do next");
        for (command, what) in [
            ("adit guide mesh", "the same for your own pods"),
            ("adit guide standalone", "TLS in front of one service that has none"),
            ("adit --help", "all commands"),
        ] {
            self.say(&format!("  {command:<24}{what}"));
        }
    }

    fn failed(&self, error: &str) {
        self.say("");
        self.marked("✗", AnsiColor::Red, error);
        let shown = self.shown.get();
        complain!("adit demo: failed, {shown} of {DEMO_CHECKS} shown: {error}");
    }

    /// A line behind a mark.
    fn marked(&self, mark: &str, colour: AnsiColor, words: &str) {
        let mark = self.styled(colour.on_default().bold(), mark);
        let room = self.columns.saturating_sub(4).max(20);
        for (n, line) in textwrap::wrap(words, whole_words(room)).iter().enumerate() {
            match n {
                0 => self.say(&format!("  {mark} {line}")),
                _ => self.say(&format!("    {line}")),
            }
        }
    }

    fn paragraph(&self, style: Style, words: &str) {
        for line in textwrap::wrap(words, whole_words(self.columns)) {
            self.say(&self.styled(style, &line));
        }
    }

    fn styled(&self, style: Style, words: &str) -> String {
        match self.colours && style != Style::new() {
            true => format!("{style}{words}{style:#}"),
            false => words.to_owned(),
        }
    }

    fn say(&self, line: &str) {
        if self.is_told {
            self.spinner.suspend(|| say!("{line}"));
        }
    }
}

/// Lines end between words, not within `aws-lc`.
fn whole_words(columns: usize) -> textwrap::Options<'static> {
    textwrap::Options::new(columns).word_splitter(textwrap::WordSplitter::NoHyphenation)
}
