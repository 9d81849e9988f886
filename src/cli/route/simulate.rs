//! `kvbench route simulate`: policies against simulated engines.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rayon::prelude::*;
use regex::Regex;

use super::publish;
use crate::{
    cli::ui::Ui,
    record::{
        RouteKind, RouteLog, RouteManifest, RouteWorldRow,
        env::{self, Machine},
        manifest::Status,
    },
    route::experiment::{self, Cell, Plan},
    scenario::RouteScenario,
    workload::{
        dataset::sha256_hex,
        route::{Built, build},
    },
};

/// Cells that are simulated before their rows are written, in their order.
const TOGETHER: usize = 256;

/// Run the policies of a scenario against simulated engines, write every request as a row, and judge the policies.
#[derive(Debug, clap::Args)]
pub(super) struct SimulateArgs {
    /// Scenario of the router, as scenarios/route-paper.toml.
    scenario: PathBuf,
    /// Only cells whose id, pool/trace/load/skill/policy/seed, matches this regular expression, and those that they are compared with.
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Folder in which the run's own folder is made.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// Simulates, writes a run folder with its report, and prints tables, or JSON.
///
/// # Errors
/// A scenario that is not valid, a file that it names, a policy that does not go with a pool, or a folder that cannot be written.
pub(super) fn run(args: &SimulateArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let place = || args.scenario.display().to_string();
    let scenario = RouteScenario::load(&args.scenario)?;
    let built = build(&scenario).with_context(place)?;
    let manifest = manifest(&scenario, &built, &args.scenario)?;
    let plan = Plan::new(built.experiment).with_context(place)?;
    let cells = selected(&plan, args.filter.as_ref())?;
    let dir = simulate(&plan, &cells, manifest, (&args.results, built.notes), ui)?;
    publish(&dir, &dir, ui)?;
    Ok(ExitCode::SUCCESS)
}

fn manifest(scenario: &RouteScenario, built: &Built, path: &Path) -> anyhow::Result<RouteManifest> {
    let origin = env::rfc3339(env::wall_clock()?);
    let mut manifest = RouteManifest::begun(
        RouteKind::Simulated,
        &scenario.name,
        &scenario.text,
        scenario.seed,
        origin,
    );
    manifest.path = Some(path.display().to_string());
    manifest.inputs.clone_from(&built.inputs);
    Ok(manifest)
}

/// Runs cells and writes their rows, those of a world beside each other; the folder. The same plan and cells give the same rows,
/// however many threads there are.
///
/// # Errors
/// A cell that cannot be simulated, or a folder that cannot be written.
pub(super) fn simulate(
    plan: &Plan,
    cells: &[Cell],
    mut manifest: RouteManifest,
    (results, notes): (&Path, Vec<String>),
    ui: &Ui,
) -> anyhow::Result<PathBuf> {
    let now = env::wall_clock()?;
    manifest.kvbench_git_revision =
        Some(env!("KVBENCH_GIT_REV").to_owned()).filter(|revision| !revision.is_empty());
    manifest.command_line =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    manifest.machine = Machine::read();
    manifest.design = serde_json::to_value(&plan.design)?;
    manifest.notices = notes;
    manifest.notices.extend(plan.notices.iter().cloned());
    manifest.notices.iter().for_each(|notice| ui.note(&format!("note: {notice}")));
    let id = sha256_hex(format!("{}{}", manifest.text, manifest.origin).as_bytes());
    let short = id.get(..6).unwrap_or("000000");
    let mut log = RouteLog::create(results, &env::stamp(now), short, &mut manifest)?;
    let done = write_cells(plan, cells, &mut log, ui);
    manifest.status = if done.is_ok() { Status::Complete } else { Status::Failed };
    manifest.ended = Some(env::rfc3339(env::wall_clock()?));
    let path = log.finish(&manifest)?;
    done.map(|()| path)
}

fn write_cells(plan: &Plan, cells: &[Cell], log: &mut RouteLog, ui: &Ui) -> anyhow::Result<()> {
    let bar = bar(cells.len(), ui);
    for some in cells.chunks(TOGETHER) {
        let rows: Vec<_> = some
            .par_iter()
            .map(|cell| {
                let rows = experiment::run_cell(plan, cell);
                bar.inc(1);
                rows
            })
            .collect();
        for rows in rows {
            let rows = rows?;
            log.requests(rows.requests)?;
            log.engines(rows.engines)?;
        }
    }
    bar.finish_and_clear();
    let worlds: BTreeSet<(&str, &str, &str)> = cells
        .iter()
        .map(|cell| {
            let all = &plan.experiment;
            let pool = all.pools[cell.pool].name.as_str();
            (pool, all.traces[cell.trace].name.as_str(), all.loads[cell.load].name.as_str())
        })
        .collect();
    let of_cells = |row: &RouteWorldRow| {
        worlds.contains(&(row.pool.as_str(), row.trace.as_str(), row.load.as_str()))
    };
    log.worlds(experiment::worlds(plan).into_iter().filter(of_cells))
}

fn bar(n_cells: usize, ui: &Ui) -> ProgressBar {
    let target =
        if ui.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(n_cells as u64), target);
    let template = "{bar:30} {pos}/{len} simulations  {elapsed} elapsed, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Cells whose id matches, and of the same trace, load and seed those that they are compared with.
fn selected(plan: &Plan, filter: Option<&Regex>) -> anyhow::Result<Vec<Cell>> {
    let all = experiment::cells(plan);
    let Some(pattern) = filter else { return Ok(all) };
    let meant: Vec<Cell> =
        all.iter().copied().filter(|cell| pattern.is_match(&cell.id(plan))).collect();
    if meant.is_empty() {
        let example = all.first().map(|cell| cell.id(plan)).unwrap_or_default();
        bail!(
            "--filter: expected a pattern that matches a cell id, got none of {}\n  hint: ids look like `{example}`",
            all.len()
        );
    }
    let wanted: BTreeSet<Cell> = meant.iter().copied().collect();
    let worlds: BTreeSet<_> = meant
        .iter()
        .flat_map(|cell| compared(plan, cell.pool).map(|pool| at(cell, pool)))
        .collect();
    let is_control = |cell: &Cell| {
        let name = &plan.experiment.policies[cell.policy].name;
        let design = &plan.design;
        [&design.round_robin, &design.shortest_queue, &design.least_memory].contains(&name)
    };
    let stays = |cell: &Cell| {
        wanted.contains(cell) || is_control(cell) && worlds.contains(&at(cell, cell.pool))
    };
    Ok(all.into_iter().filter(stays).collect())
}

/// Pool, trace, load and seed.
fn at(cell: &Cell, pool: usize) -> (usize, usize, usize, u32) {
    (pool, cell.trace, cell.load, cell.seed)
}

/// A pool and those that it is compared with.
fn compared(plan: &Plan, pool: usize) -> impl Iterator<Item = usize> + '_ {
    let own = &plan.experiment.pools[pool].name;
    let beside = plan.design.pool(own);
    let names = beside
        .into_iter()
        .flat_map(|pool| std::iter::once(&pool.baseline_pool).chain(&pool.own_pool));
    let place = |name: &String| plan.experiment.pools.iter().position(|pool| pool.name == *name);
    std::iter::once(pool).chain(names.filter_map(place))
}
