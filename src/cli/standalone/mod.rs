//! `adit server` and `adit client`: mTLS in front of one service. The flags are those of
//! ghostunnel, with their meaning; what cannot be honoured is an error that says so.

mod client;
mod common;
mod credential;
mod server;
mod values;

use std::ffi::OsString;

use clap::CommandFactory as _;

pub(super) use client::ClientArgs;
pub(super) use server::ServerArgs;

use super::{FAILED, output::complain};
use crate::app::standalone::{Plan, run};

pub(super) fn serve(plan: Result<Plan, String>) -> u8 {
    let ran = plan.and_then(|plan| run(plan).map_err(|error| error.to_string()));
    ran.unwrap_or_else(|error| {
        complain!("adit: error: {error}");
        FAILED
    })
}

/// Puts `server` or `client` in front of flags that were written before it.
pub(super) fn reordered(args: Vec<OsString>) -> Vec<OsString> {
    let command = super::Cli::command();
    let takes_value = |flag: &str| {
        let of =
            |name: &str| command.find_subcommand(name).into_iter().flat_map(|c| c.get_arguments());
        let mut all = of("server").chain(of("client"));
        all.any(|a| a.get_long() == Some(flag) && a.get_action().takes_values())
    };
    let mut at = 1;
    while let Some(text) = args.get(at).and_then(|a| a.to_str()) {
        match text.strip_prefix("--") {
            Some(flag) if !flag.contains('=') && takes_value(flag) => at += 2,
            Some(_) => at += 1,
            None if at > 1 && (text == "server" || text == "client") => {
                let mut args = args;
                let command = args.remove(at);
                args.insert(1, command);
                return args;
            }
            None => break,
        }
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_stand_behind_global_flags() {
        let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (written, read) in [
            ("adit server --listen a:1", "adit server --listen a:1"),
            (
                "adit --cert c --quiet=all server --listen a:1",
                "adit server --cert c --quiet=all --listen a:1",
            ),
            ("adit --storepass server --syslog client", "adit client --storepass server --syslog"),
            ("adit run -c server", "adit run -c server"),
            ("adit --version", "adit --version"),
        ] {
            assert_eq!(reordered(args(written)), args(read), "{written}");
        }
    }
}
