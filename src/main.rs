//! The `adit` command: parse, call, map the result to an exit code.

fn main() -> std::process::ExitCode {
    adit::cli::main().into()
}
