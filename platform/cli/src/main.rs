//! `hodei`: the command a person types to run jobs and see what became of them.
//!
//! Jobs go over gRPC ([`server`], [`follow`], [`run`], [`job`]), providers and workers over REST
//! ([`rest`], [`provider`], [`pool`]). Output of jobs is raw bytes ([`screen`]); all else is said on stderr.

mod args;
mod context;
mod failure;
mod follow;
mod gap;
mod job;
mod patience;
mod pool;
mod provider;
mod rest;
mod run;
mod screen;
mod server;
mod view;
mod waiting;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{
    args::{Cli, Command, ContextCommand, Format, JobCommand},
    context::Context,
    failure::Failure,
};

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    // Of a job that is run, the exit code is the command's own: 125 says that Hodei failed.
    let runs = matches!(cli.command, Command::Job(JobCommand::Run(_)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread can be started");
    let ended = runtime.block_on(execute(cli, &matches));
    // A thread that waits for a slow reader must not keep an interrupted command.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let code = match &failure {
                Failure::OutputClosed => failure.exit_code(),
                _ if runs => run::HODEI_FAILED,
                _ => failure.exit_code(),
            };
            if !matches!(failure, Failure::OutputClosed) {
                screen::report(failure);
            }
            ExitCode::from(code)
        }
    }
}

async fn execute(cli: Cli, matches: &clap::ArgMatches) -> Result<u8, Failure> {
    // reqwest comes without a crypto provider; a second installation of the same one is no matter.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Found by those that need it: a broken context file is no obstacle to the others.
    let context = || Context::find(&cli.connection, matches);
    match cli.command {
        Command::Job(command) => return job::execute(&context()?, command).await,
        Command::Provider(command) => {
            return provider::execute(&rest::Rest::new(&context()?)?, command).await;
        }
        Command::Worker(command) => {
            provider::execute_worker(&rest::Rest::new(&context()?)?, command).await?;
        }
        Command::Context(ContextCommand::Show { output }) => {
            let context = context()?;
            screen::print(&match output.format {
                Format::Json => view::json(&context),
                Format::Table => context.describe(),
            })?;
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "hodei", &mut script);
            screen::print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(0)
}
