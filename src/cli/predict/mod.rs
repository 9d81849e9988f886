//! `kvbench predict`: models of what a pass takes, held against what was measured.

use std::process::ExitCode;

use clap::Subcommand;

use super::ui::Ui;

pub mod audit;
pub mod eval;
pub mod eval_files;

/// Predict what a pass takes, and check what predictions rest on.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: Predict,
}

#[derive(Debug, Subcommand)]
enum Predict {
    /// Predictions against measurements.
    Eval(eval::EvalArgs),
    /// Whether profiles are measurements of their own, or made from one another.
    Audit(audit::AuditArgs),
}

/// Runs the subcommand.
///
/// # Errors
/// As the subcommand's.
pub fn run(args: &PredictArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        Predict::Eval(args) => eval::run(args, ui),
        Predict::Audit(args) => audit::run(args, ui),
    }
}
