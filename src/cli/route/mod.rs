//! `kvbench route`: which engine a request goes to, simulated and live.

use std::process::ExitCode;

use super::ui::Ui;

pub mod serve;
mod simulate;

/// Routers in front of engines that compress the KV cache differently.
#[derive(Debug, clap::Args)]
pub struct RouteArgs {
    #[command(subcommand)]
    command: RouteCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RouteCommand {
    /// Run policies against simulated engines, and judge them.
    Simulate(simulate::SimulateArgs),
    /// Stand in front of real engines, and route what clients ask.
    Serve(serve::ServeArgs),
}

/// Runs a subcommand.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &RouteArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        RouteCommand::Simulate(args) => simulate::run(args, ui),
        RouteCommand::Serve(args) => serve::run(args, ui),
    }
}
