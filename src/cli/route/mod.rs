//! `kvbench route`: which engine a request goes to, simulated and live.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;

use super::{report::write, ui::Ui};
use crate::{
    analyse::route::read,
    report::{
        Format, narrow,
        route::{self as report, Judged},
    },
};

mod judge;
mod plan;
mod replay;
mod risks;
pub mod serve;
mod simulate;

pub(super) use plan::run as plan;

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
    /// What a live router recorded, in simulated engines: how well they reproduce it, and what other policies would have made of it.
    Replay(replay::ReplayArgs),
    /// Judge and draw a simulated run again.
    Report(judge::JudgeArgs),
    /// How often methods break answers, by task and length: what a guard goes by.
    Risks(risks::RisksArgs),
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
        RouteCommand::Replay(args) => replay::run(args, ui),
        RouteCommand::Report(args) => judge::run(args, ui),
        RouteCommand::Risks(args) => risks::run(args, ui),
        RouteCommand::Serve(args) => serve::run(args, ui),
    }
}

/// Judges a folder of simulated rows.
fn judged(dir: &Path) -> anyhow::Result<Judged> {
    let shown = || dir.display().to_string();
    let run = read(dir, None).with_context(shown)?;
    Judged::new(run).with_context(shown)?.with_context(|| {
        format!(
            "{}: expected simulated rows, got those of a live router\n  hint: `kvbench route replay` judges them",
            dir.display()
        )
    })
}

/// Judges a folder and writes its report into `out`.
fn written(dir: &Path, out: &Path, ui: &Ui) -> anyhow::Result<Judged> {
    let judged = judged(dir)?;
    write(out, &report::build(&judged)?)?;
    ui.note(&format!("report: {}", out.join("report.html").display()));
    Ok(judged)
}

/// What it comes to: sentences and tables, or JSON.
fn print(judged: &Judged, ui: &Ui) -> anyhow::Result<()> {
    if ui.format == Format::Json {
        return ui.out(&(serde_json::to_string_pretty(&report::as_json(judged))? + "\n"));
    }
    report::said(judged).iter().for_each(|said| ui.note(said));
    let shown = report::tables(judged).into_iter();
    let shown = shown.map(|t| if ui.format == Format::Text { narrow(&t) } else { t });
    ui.out(&ui.tables(&shown.collect::<Vec<_>>()))
}

/// Judges a folder, writes its report into `out`, and prints what it comes to: tables, or JSON.
///
/// # Errors
/// No folder of a simulated router, or one that cannot be written.
pub(super) fn publish(dir: &Path, out: &Path, ui: &Ui) -> anyhow::Result<()> {
    print(&written(dir, out, ui)?, ui)
}
