//! How help is laid out: the groups of `adit --help`, what each command's help shows at first and
//! what only its `--help-all` does, and what `adit` says without a command.

use std::ffi::OsString;

use anstyle::Style;
use clap::{Arg, ArgAction, Command};

use super::exit;

/// The commands, by what people look for.
pub(super) const GROUPS: [(&str, &[&str]); 5] = [
    ("Proxy", &["run", "node", "server", "client", "proxy", "redirect"]),
    ("Check and understand", &["check", "guide", "bench"]),
    ("Identity", &["svid", "workload-api", "ca", "cert"]),
    ("Get started", &["demo", "init", "import"]),
    ("Shell", &["completions", "man", "version"]),
];

/// The flags that people begin with, of the commands that have more of them than fit on a screen.
const FIRST_FLAGS: [(&str, &[&str]); 5] = [
    (
        "server",
        &[
            "listen",
            "target",
            "cert",
            "key",
            "cacert",
            "keystore",
            "use-workload-api",
            "allow-all",
            "allow-cn",
            "allow-dns",
            "allow-uri",
            "allow-id",
            "disable-authentication",
            "connect-timeout",
            "shutdown-timeout",
            "log-format",
            "status",
        ],
    ),
    (
        "client",
        &[
            "listen",
            "target",
            "override-server-name",
            "cert",
            "key",
            "cacert",
            "keystore",
            "use-workload-api",
            "verify-cn",
            "verify-dns",
            "verify-uri",
            "verify-id",
            "disable-authentication",
            "connect-timeout",
            "shutdown-timeout",
            "log-format",
            "status",
        ],
    ),
    ("bench run", &["mode", "connections", "seconds", "size", "rate", "verify", "json"]),
    ("svid lint", &["bundle", "trust-domain", "audience", "quiet", "json"]),
    ("workload-api check", &["socket", "audience", "quiet", "json"]),
];

/// Separates the text behind a command's flags: what follows this line is shown by `--help-all`
/// only.
const LATER: &str = "More:\n";

/// How much of the help is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    /// What people begin with.
    First,
    /// All of it.
    All,
}

impl Extent {
    /// What this command line asks for.
    pub(super) fn asked(args: &[OsString]) -> Self {
        if args.iter().any(|arg| arg == "--help-all") { Self::All } else { Self::First }
    }
}

/// The command and all below it, with `-h`, `--help` and `--help-all`.
pub(super) fn arranged(command: Command, extent: Extent) -> Command {
    let groups = groups(&command);
    let command = command
        .override_usage("adit COMMAND [FLAGS]    adit COMMAND --help    adit --version")
        .help_template(format!(
            "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}{}",
            exit::CODES
        ));
    below(command, "", extent)
}

/// One command and all below it; `path` is how it is called, without `adit`.
fn below(command: Command, path: &str, extent: Extent) -> Command {
    let first = FIRST_FLAGS.iter().find(|(name, _)| *name == path).map(|(_, flags)| *flags);
    let (text, has_more) = behind(&command, extent);
    let has_more = has_more || first.is_some();
    let shown = |arg: &Arg| {
        let first = first.is_none_or(|flags| arg.get_long().is_none_or(|l| flags.contains(&l)));
        first || extent == Extent::All
    };
    let command = command
        .disable_help_flag(true)
        .disable_help_subcommand(true)
        .mut_args(|arg| {
            let hidden = arg.is_hide_set() || !shown(&arg);
            arg.hide(hidden).hide_env(extent == Extent::First)
        })
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::HelpShort)
                .help_heading(None::<&str>)
                .help("Print this help"),
        )
        .arg(
            Arg::new("help-all")
                .long("help-all")
                .action(ArgAction::HelpLong)
                .hide(!has_more)
                .help_heading(None::<&str>)
                .help("Print help with all flags and details"),
        );
    let command = if text.is_empty() { command } else { command.after_help(text) };
    command.mut_subcommands(|below_it| {
        let path = match path {
            "" => below_it.get_name().to_owned(),
            path => format!("{path} {}", below_it.get_name()),
        };
        below(below_it, &path, extent)
    })
}

/// The text behind the flags, and whether there is more of it than is shown.
fn behind(command: &Command, extent: Extent) -> (String, bool) {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    match (text.split_once(LATER), extent) {
        (None, _) => (text, false),
        (Some((first, _)), Extent::First) => (first.trim_end().to_owned(), true),
        (Some((first, later)), Extent::All) => (format!("{first}{later}"), true),
    }
}

/// The commands that this build has, a line each.
fn groups(command: &Command) -> String {
    let mut text = String::new();
    for (heading, names) in GROUPS {
        let there: Vec<_> = names.iter().filter_map(|n| command.find_subcommand(n)).collect();
        if there.is_empty() {
            continue;
        }
        let bold = Style::new().bold().underline();
        text += &format!("{bold}{heading}:{bold:#}\n");
        for command in there {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            text += &format!("  {:<14}{about}\n", command.get_name());
        }
        text.push('\n');
    }
    text
}

/// `adit help ca rotate` and `adit ca help rotate` as `adit ca rotate --help`.
pub(super) fn help_last(mut args: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let mut at = command;
    for n in 1..args.len() {
        if args[n] == "help" && at.has_subcommands() {
            args.remove(n);
            args.push("--help".into());
            break;
        }
        match args[n].to_str().and_then(|name| at.find_subcommand(name)) {
            Some(below) => at = below,
            None => break,
        }
    }
    args
}

/// What `adit` says without a command.
pub(super) const WELCOME: &str = "\
adit authenticates and encrypts TCP (mutual TLS with SPIFFE identities): between
the pods of a mesh, or in front of one service. Applications stay as they are.

Three ways to begin:

  A mesh         adit guide mesh     from one file, or in place of Istio's ztunnel
                 adit init mesh      a commented file for `adit run`

  One service    adit cert dev       throw-away certificates
                 adit init server    a commented file for `adit proxy`
                 adit proxy -c server.yaml

  Just look      adit demo           two nodes, four pods, real traffic, here

All commands: adit --help     All guides: adit guide
";

#[cfg(test)]
mod tests;
