//! `kvbench predict`: models fitted on what was measured.

use std::process::ExitCode;

use super::{predict_length, ui::Ui};

/// Fit a model on runs, judge it on what it has not seen, and ask it.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: PredictCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PredictCommand {
    /// How long the answer to a prompt will be.
    Length(predict_length::LengthArgs),
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &PredictArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        PredictCommand::Length(args) => predict_length::run(args, ui),
    }
}
