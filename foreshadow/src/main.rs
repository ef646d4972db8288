//! The one binary.

use std::process::ExitCode;

use clap::Parser;
use foreshadow::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match foreshadow::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("foreshadow: {failure}");
            failure.exit_code()
        }
    }
}
