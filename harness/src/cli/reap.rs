//! `hodei-e2e reap`: removes what runs left whose process is gone, by their journals.

use hodei_harness::failure::{EXIT_USAGE, FailureClass, Result};
use hodei_harness::journal::Journal;
use hodei_harness::reap::{Kept, RunReaped, reap};
use hodei_harness::run_dir::RunDir;

use super::Context;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this run, and also what it was asked to keep
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<u8> {
    let all = RunDir::all(context.paths.state())?;
    let chosen: Vec<_> = match &args.run {
        Some(id) => {
            all.into_iter().filter(|run| run.id.as_str() == id || run.id.short() == id).collect()
        }
        None => all,
    };
    if let (Some(id), true) = (&args.run, chosen.is_empty()) {
        eprintln!("there is no run {id} in {}", context.paths.state().join("runs").display());
        return Ok(EXIT_USAGE);
    }
    let kept = if args.run.is_some() { Kept::Remove } else { Kept::Spare };
    let (mut removed, mut failed) = (0, 0);
    for run in chosen {
        if Journal::read(&run.journal_path())?.outstanding().is_empty() {
            continue;
        }
        let reaped = match reap(&run, kept, args.dry_run).await? {
            RunReaped::Live => {
                println!("run {}: its process lives; not touched", run.id);
                continue;
            }
            RunReaped::Done(reaped) => reaped,
        };
        for one in reaped {
            match one.error {
                None if args.dry_run => println!("run {}: would remove {}", run.id, one.what),
                None => println!("run {}: removed {}", run.id, one.what),
                Some(error) => {
                    failed += 1;
                    println!(
                        "run {}: {} is still there: {error}: {}",
                        run.id, one.what, error.source
                    );
                    continue;
                }
            }
            removed += 1;
        }
    }
    let done = if args.dry_run { "would be removed" } else { "removed" };
    println!("{removed} thing(s) {done}, {failed} could not be");
    Ok(if failed == 0 { 0 } else { FailureClass::Infrastructure.exit_code() })
}
