//! `kvbench route simulate`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use regex::Regex;

use crate::cli::ui::Ui;

/// Run the policies of a scenario against simulated engines.
#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// Scenario of the router.
    scenario: PathBuf,
    /// Only cells whose id matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Folder in which the run's own folder is made.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

pub(super) fn run(args: &SimulateArgs, _ui: &Ui) -> anyhow::Result<ExitCode> {
    bail!("{}: expected a scenario of the router, got none", args.scenario.display())
}
