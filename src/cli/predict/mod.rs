//! `kvbench predict`: models fitted on what was measured, and how far to trust them.

use std::process::ExitCode;

use super::ui::Ui;

mod audit;
mod eval;
mod eval_files;
mod fit;
mod length;
mod replay;
mod source;
mod throughput;

/// Models of what a forward pass takes and of how long an answer will be.
#[derive(Debug, clap::Args)]
pub struct PredictArgs {
    #[command(subcommand)]
    command: PredictCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PredictCommand {
    /// Fit runs and write the models to a file.
    Fit(fit::FitArgs),
    /// What a pass takes, by a fitted file.
    Throughput(throughput::ThroughputArgs),
    /// Errors on what was held out, beside the null, a table and the noise, and whether choosing by predictions pays.
    Eval(eval::EvalArgs),
    /// Whether profiles are measurements of their own, or made from one another.
    Audit(audit::AuditArgs),
    /// A run's requests through a simulated engine, beside what was measured.
    Replay(replay::ReplayArgs),
    /// How long the answer to a prompt will be.
    Length(length::LengthArgs),
}

/// Runs a subcommand.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &PredictArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        PredictCommand::Fit(args) => fit::run(args, ui),
        PredictCommand::Throughput(args) => throughput::run(args, ui),
        PredictCommand::Eval(args) => eval::run(args, ui),
        PredictCommand::Audit(args) => audit::run(args, ui),
        PredictCommand::Replay(args) => replay::run(args, ui),
        PredictCommand::Length(args) => length::run(args, ui),
    }
}
