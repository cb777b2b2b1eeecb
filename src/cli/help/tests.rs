//! Every help fits on a screen and a half, says how to call the command, and has no empty part.

use clap::CommandFactory as _;

use super::*;
use crate::cli::Cli;

/// Lines of a screen and a half.
const HEIGHT: usize = 36;

/// The help of each command below `adit` at 80 columns, with how it is called.
fn all(extent: Extent) -> Vec<(String, Command, String)> {
    fn walk(command: &Command, path: &str, all: &mut Vec<(String, Command, String)>) {
        for below in command.get_subcommands() {
            let path = format!("{path} {}", below.get_name());
            let mut printed = below.clone().term_width(80);
            all.push((path.clone(), below.clone(), printed.render_help().to_string()));
            walk(below, &path, all);
        }
    }
    let mut command = arranged(Cli::command(), extent).term_width(80);
    command.build();
    let mut all = vec![("adit".to_owned(), command.clone(), command.render_help().to_string())];
    walk(&command, "adit", &mut all);
    all
}

#[test]
fn no_help_is_higher_than_a_screen_and_a_half() {
    let too_high: Vec<_> = all(Extent::First)
        .into_iter()
        .map(|(path, _, help)| (path, help.lines().count()))
        .filter(|(_, lines)| *lines > HEIGHT)
        .collect();
    assert!(too_high.is_empty(), "more than {HEIGHT} lines: {too_high:?}");
    for (path, _, help) in all(Extent::First) {
        let wide = help.lines().find(|line| line.chars().count() > 80);
        assert!(wide.is_none(), "{path}: more than 80 columns: {wide:?}");
    }
    // Nor is a line broken that was to be one.
    for (path, command, _) in all(Extent::All) {
        let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let wide = text.lines().find(|line| line.chars().count() > 80);
        assert!(wide.is_none(), "{path}: more than 80 columns: {wide:?}");
    }
}

#[test]
fn a_command_with_arguments_has_an_example() {
    for (path, command, help) in all(Extent::First) {
        let own = |arg: &&Arg| !["help", "help-all", "version"].contains(&arg.get_id().as_str());
        if command.get_arguments().any(|arg| own(&arg)) {
            assert!(help.contains(&format!("\n  {path}")), "{path}: no example in\n{help}");
        }
    }
}

#[test]
fn no_heading_of_a_help_is_empty() {
    for extent in [Extent::First, Extent::All] {
        for (path, _, help) in all(extent) {
            let lines: Vec<_> = help.lines().collect();
            for (n, line) in lines.iter().enumerate() {
                let is_alone = n == 0 || lines[n - 1].is_empty();
                let heading = is_alone && line.ends_with(':') && !line.starts_with(' ');
                let next = lines.get(n + 1).copied().unwrap_or_default();
                assert!(!heading || next.starts_with(' '), "{path}: nothing below {line}");
            }
        }
    }
}

#[test]
fn each_command_stands_in_one_group() {
    let command = Cli::command();
    let listed: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter()).collect();
    for below in command.get_subcommands() {
        let times = listed.iter().filter(|name| ***name == below.get_name()).count();
        assert_eq!(times, 1, "{}", below.get_name());
    }
}

#[test]
fn each_first_flag_is_a_flag_and_all_of_them_are_shown_when_asked_for() {
    let named = all(Extent::First);
    for (path, flags) in FIRST_FLAGS {
        let Some((.., help)) = named.iter().find(|(p, ..)| *p == format!("adit {path}")) else {
            let built = Cli::command();
            let of = path.split(' ').next().unwrap_or_default();
            assert!(built.find_subcommand(of).is_none(), "there is no command {path}");
            continue;
        };
        for flag in flags {
            assert!(help.contains(&format!("--{flag}")), "{path}: {flag}");
        }
        let mut whole = arranged(Cli::command(), Extent::All);
        whole.build();
        let below = |at: Command, name| at.find_subcommand(name).expect("it is there").clone();
        let whole = path.split(' ').fold(whole, below).render_long_help().to_string();
        let declared = path.split(' ').fold(Cli::command(), below);
        let shown = declared.get_arguments().filter(|arg| !arg.is_hide_set());
        for flag in shown.filter_map(Arg::get_long) {
            assert!(whole.contains(&format!("--{flag}")), "{path}: --help-all lacks --{flag}");
        }
    }
}

#[test]
fn help_may_stand_before_a_command_or_behind_it() {
    let command = Cli::command();
    let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    for (written, read) in [
        ("adit help", "adit --help"),
        ("adit help ca rotate", "adit ca rotate --help"),
        ("adit ca help", "adit ca --help"),
        ("adit ca help rotate", "adit ca rotate --help"),
        ("adit check help", "adit check help"),
        ("adit run -c help", "adit run -c help"),
    ] {
        assert_eq!(help_last(args(written), &command), args(read), "{written}");
    }
}
