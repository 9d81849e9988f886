//! `kvbench pareto`: quality, throughput and KV memory at once.

use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use regex::Regex;

use super::{
    plots::draw,
    rank::{open, printed},
    ui::Ui,
};
use crate::{
    analyse::pareto::{self, Limit},
    report::{Format, pareto as report, rank::left_out},
};

/// Quality, throughput and KV memory at once: who is on the front, who is best under an objective, and how sure that is.
#[derive(Debug, clap::Args)]
pub struct ParetoArgs {
    /// Folders that `kvbench run` made; scores of one serve the others where these have none.
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Limits that the best must keep, such as `ttft_due_ms_p99<=500`; several separated by commas.
    #[arg(long, value_name = "LIMIT", value_delimiter = ',')]
    slo: Vec<Limit>,
    /// Most that the best may lose of the baseline's quality, per cent.
    #[arg(long, value_name = "PERCENT")]
    quality_loss: Option<f64>,
    /// Only cells whose id matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Draw each front into this folder, as .svg and .png.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// Computes and prints. In JSON an object: `points`, `best` and `left_out`, each a list of rows.
///
/// # Errors
/// No run folder, runs of several baselines, no throughput anywhere, a bad option, or a picture that cannot be written.
pub fn run(args: &ParetoArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if let Some(loss) = args.quality_loss {
        ensure!(
            (0.0..=100.0).contains(&loss),
            "--quality-loss: expected per cent from 0 to 100, got {loss}"
        );
    }
    let runs = open(&args.runs)?;
    let (fronts, left) = pareto::fronts(&runs, &args.slo, args.filter.as_ref());
    ensure!(
        !fronts.is_empty(),
        "expected served requests or decode launches, got none\n  hint: `kvbench report RUN_DIR` shows what a run holds; check --filter"
    );
    let best = pareto::best(&fronts, &args.slo, args.quality_loss);
    let left = left_out(left.iter().map(|left| ("throughput", left)));
    let tables = [report::table(&fronts), report::answers(&best), left];
    if matches!(ui.format, Format::Text | Format::Md) {
        let [points, _, left] = tables;
        ui.out(&printed(&[points, left], ["points", "left_out"], ui))?;
        let said: Vec<String> = best.iter().map(|best| format!("\n{}\n", best.said)).collect();
        ui.out(&said.concat())?;
    } else {
        ui.out(&printed(&tables, ["points", "best", "left_out"], ui))?;
    }
    if let Some(folder) = &args.plots {
        let plots = report::plots(&fronts);
        draw(folder, &plots)?;
        ui.note(&format!("{} pictures in {}", plots.len(), folder.display()));
    }
    if fronts.iter().any(|front| (2..5).contains(&front.n_repeats)) {
        ui.note("few repeats: a bootstrap of k repeats sees only (k - 1) / k of their variance, so certainties are somewhat too sure below five");
    }
    Ok(ExitCode::SUCCESS)
}
