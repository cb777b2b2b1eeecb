//! `adit completions`: what a shell needs to complete commands, flags and values.

use clap::Command;
use clap_complete::Shell;

/// The script for a shell.
pub(super) fn script(shell: Shell, mut command: Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "adit", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Fish => script + &fish_arguments(&command),
        _ => script,
    }
}

/// The words that arguments without a flag can be: clap_complete's script for fish lacks them.
fn fish_arguments(command: &Command) -> String {
    let mut lines = String::new();
    for below in command.get_subcommands() {
        for arg in below.get_positionals() {
            let values = arg.get_possible_values();
            let words: Vec<_> = values.iter().map(|value| value.get_name()).collect();
            if !words.is_empty() {
                lines += &format!(
                    "complete -c adit -n \"__fish_adit_using_subcommand {}\" -f -a \"{}\"\n",
                    below.get_name(),
                    words.join(" ")
                );
            }
        }
    }
    lines
}
