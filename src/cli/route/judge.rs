//! `kvbench route report`.

use std::{path::PathBuf, process::ExitCode};

use super::publish;
use crate::cli::ui::Ui;

/// Judge and draw the rows of `kvbench route simulate` or `replay` again.
#[derive(Debug, clap::Args)]
pub(super) struct JudgeArgs {
    /// Folder that one of them made.
    run_dir: PathBuf,
    /// Where to write the report; the run folder unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes the report and prints tables, or JSON.
///
/// # Errors
/// No such folder, a live router's, or one that cannot be written.
pub(super) fn run(args: &JudgeArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    publish(&args.run_dir, args.out.as_deref().unwrap_or(&args.run_dir), ui)?;
    Ok(ExitCode::SUCCESS)
}
