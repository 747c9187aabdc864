//! `direct-puppet-server`: the reference server as a program.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
