//! `kvbench supervise` (hidden): the parent of an engine, see [`crate::execute::supervise`].

use std::{process::ExitCode, time::Duration};

use crate::{execute::supervise::supervise, scenario::StopSignal};

/// What to run, and how to end it.
#[derive(clap::Args)]
pub struct SuperviseArgs {
    /// First signal.
    #[arg(long, value_enum)]
    signal: StopSignal,
    /// Milliseconds until SIGKILL.
    #[arg(long)]
    grace_ms: u64,
    /// The command.
    #[arg(last = true, required = true)]
    words: Vec<String>,
}

/// Runs it; the exit code is the engine's.
///
/// # Errors
/// The program cannot be started.
pub fn run(args: &SuperviseArgs) -> anyhow::Result<ExitCode> {
    let grace = Duration::from_millis(args.grace_ms);
    let code = supervise(&args.words, args.signal, grace, &mut std::io::stdout())?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
