//! `hodei-e2e`: parses the command line, runs one command, prints one error, exits with the
//! code of its class.

mod cli;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    cli::run().await
}
