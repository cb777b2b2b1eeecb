//! `adit node`, and `adit proxy ztunnel`: the node of an ambient mesh, which reads no file of its
//! own but the environment that Istio's chart gives to its container.

use std::ffi::OsString;

use super::{BAD_CONFIG, FAILED, OK, output::complain};
use crate::{
    app::{RunError, ambient},
    config::environment::Environment,
};

/// The names under which the program is the node's proxy without any argument.
const NODE_PROXY: &str = "ztunnel";

/// The arguments of an ambient node, if that is what was asked for: `proxy` and a word that is not
/// an option, or nothing but `proxy`, or nothing at all, where the program is called `ztunnel`.
pub(super) fn asked(args: &[OsString]) -> Option<Vec<String>> {
    let program = args.first().map(std::path::Path::new).and_then(|path| path.file_name());
    let words: Vec<String> =
        args.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    // What looks like a file was probably meant for --config.
    let is_role = |word: &str| !word.starts_with('-') && !word.contains(['.', '/']);
    let asked = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["proxy"] => program.is_some_and(|name| name == NODE_PROXY),
        ["proxy", role, ..] => is_role(role),
        _ => false,
    };
    asked.then_some(words)
}

/// Whether help is asked for behind the arguments of an ambient node.
pub(super) fn asks_for_help(arguments: &[String]) -> bool {
    arguments.iter().any(|word| matches!(&**word, "--help" | "-h"))
}

/// Runs it; `arguments` are what follows the program's name.
pub(super) fn run(arguments: &[String]) -> u8 {
    let environment = match Environment::of_process(arguments) {
        Ok(environment) => environment,
        Err(faults) => {
            complain!("{faults}");
            return BAD_CONFIG;
        }
    };
    for word in arguments.iter().skip(2) {
        complain!(
            "argument {word:?} is ignored: settings come from the environment (adit node --help)"
        );
    }
    match ambient::run(environment) {
        Ok(()) => OK,
        Err(error) => {
            complain!("adit: error: {error}");
            match error {
                RunError::Config(_) | RunError::Named(_) => BAD_CONFIG,
                RunError::Start(_) => FAILED,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_made_for_ztunnel_starts_a_node() {
        for (line, node) in [
            ("adit proxy ztunnel", true),
            ("/usr/local/bin/ztunnel proxy ztunnel", true),
            ("adit proxy anything", true),
            ("/usr/local/bin/ztunnel", true),
            ("ztunnel proxy", true),
            ("adit", false),
            ("adit proxy", false),
            ("adit proxy -c services.yaml", false),
            ("adit proxy services.yaml", false),
            ("adit proxy --help", false),
            ("ztunnel version", false),
            ("ztunnel nonsense", false),
            ("adit server proxy ztunnel", false),
        ] {
            let args: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(asked(&args).is_some(), node, "{line}");
        }
        let args = ["adit", "proxy", "ztunnel"].map(Into::into);
        assert_eq!(asked(&args).unwrap(), ["proxy", "ztunnel"]);
        for (line, help) in
            [("proxy ztunnel", false), ("proxy ztunnel --help", true), ("proxy ztunnel x -h", true)]
        {
            let words: Vec<String> = line.split(' ').map(Into::into).collect();
            assert_eq!(asks_for_help(&words), help, "{line}");
        }
    }
}
