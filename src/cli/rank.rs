//! `kvbench rank`: methods by the geometric mean of their ratios over cells.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use regex::Regex;

use super::ui::Ui;
use crate::{
    analyse::{
        RunData,
        rank::{self, Metric, Ranking, Run},
    },
    report::{Format, Table, narrow, rank as report, render},
};

/// Methods ranked over cells: the geometric mean of ratios, to the best of each cell and to the baseline.
#[derive(Debug, clap::Args)]
pub struct RankArgs {
    /// Folders that `kvbench run` made. Runs of one machine add repeats to the cells that they share.
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// Metrics, separated by commas, such as `tpot_ms_p50` or `decode_ms_p90` [default: throughput, median TPOT and TTFT of servers, median decode and prefill times of kernels]
    #[arg(long, value_name = "METRIC", value_delimiter = ',')]
    metric: Vec<Metric>,
    /// Only cells whose id matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
}

/// Opens run folders for comparing the methods in them.
pub(super) fn open(paths: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    let one = |path: &PathBuf| {
        Run::of(RunData::load(path)?)
            .with_context(|| format!("{}: cannot be judged", path.display()))
    };
    let runs = paths.iter().map(one).collect::<anyhow::Result<Vec<Run>>>()?;
    rank::one_baseline(&runs)?;
    Ok(runs)
}

/// Ranks and prints. In JSON an object: `rank` and `left_out`, each a list of rows.
///
/// # Errors
/// No run folder, runs of several baselines, or no cell with a value.
pub fn run(args: &RankArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let runs = open(&args.runs)?;
    let asked = !args.metric.is_empty();
    let metrics = if asked { args.metric.clone() } else { Metric::usual() };
    let filter = args.filter.as_ref();
    let mut rankings: Vec<Ranking> =
        metrics.into_iter().filter_map(|metric| rank::rank(&runs, metric, filter)).collect();
    // Of the usual metrics some are of servers and some of kernels: who has none of one is not missing there.
    if !asked && rankings.iter().any(|ranking| !ranking.ranked.is_empty()) {
        rankings.retain(|r| !r.ranked.is_empty() || r.left.iter().any(|left| left.measured));
    }
    ensure!(
        !rankings.is_empty(),
        "expected cells with a value of the metric under two methods, got none\n  hint: `kvbench report RUN_DIR` shows what a run holds; check --metric and --filter"
    );
    let left =
        rankings.iter().flat_map(|r| r.left.iter().map(|left| (r.metric.name.as_str(), left)));
    let tables = [report::table(&rankings), report::left_out(left)];
    ui.out(&printed(&tables, ["rank", "left_out"], ui))?;
    report::told(&rankings).iter().for_each(|text| ui.note(text));
    let searches: usize = runs.iter().map(Run::n_searches).sum();
    if searches > 0 {
        ui.note(&format!(
            "{searches} cells are saturation searches, which have no one load, and are not ranked"
        ));
    }
    ui.note("left out or not, every planned cell is counted: `of` is the number of cells in which anybody has a value");
    Ok(ExitCode::SUCCESS)
}

/// Tables that hold something for people, an object of all of them in JSON, the first in CSV.
pub(super) fn printed<const N: usize>(tables: &[Table; N], keys: [&str; N], ui: &Ui) -> String {
    match ui.format {
        Format::Json => {
            let one = |(key, table): (&str, &Table)| {
                format!("\"{key}\": {}", render(table, Format::Json, false).trim_end())
            };
            let parts: Vec<String> = keys.into_iter().zip(tables).map(one).collect();
            format!("{{{}}}\n", parts.join(",\n"))
        }
        Format::Csv => ui.tables(tables),
        Format::Text | Format::Md => {
            let full = tables.iter().filter(|table| !table.rows.is_empty());
            let narrowed = |table: &Table| {
                if ui.format == Format::Text { narrow(table) } else { table.clone() }
            };
            ui.tables(&full.map(narrowed).collect::<Vec<_>>())
        }
    }
}
