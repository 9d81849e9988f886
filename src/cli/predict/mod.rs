//! `kvbench predict`: models of what a pass takes, and how far to trust them.

use std::process::ExitCode;

use super::{predict_replay, ui::Ui};

/// Models of what a forward pass takes.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: PredictCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PredictCommand {
    /// A run's requests through a simulated engine, beside what was measured.
    Replay(predict_replay::ReplayArgs),
}

/// Runs a subcommand.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &PredictArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        PredictCommand::Replay(args) => predict_replay::run(args, ui),
    }
}
