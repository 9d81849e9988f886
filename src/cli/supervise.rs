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
    /// Leave the command its standard output, instead of telling its process id there.
    #[arg(long)]
    keep_stdout: bool,
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
    let mut stdout = std::io::stdout();
    let out: Option<&mut dyn std::io::Write> =
        if args.keep_stdout { None } else { Some(&mut stdout) };
    let code = supervise(&args.words, args.signal, grace, out)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
