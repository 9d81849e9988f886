//! `kvbench route replay`: what a live router recorded, in simulated engines.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde_json::json;

use super::{judged, publish, simulate::simulate};
use crate::{
    analyse::route_replay::{self, Fidelity},
    cli::ui::Ui,
    record::{RouteDir, RouteKind, RouteManifest, RouteRequestRow, env},
    report::{
        Format,
        route::{as_json, replay as report},
    },
    route::{
        LengthKnowledge, PolicySpec, Rule, SpeedKnowledge,
        experiment::{self, Experiment, Plan},
    },
    scenario::proxy::Proxy,
    workload::route::recorded,
};

/// Run what a live router recorded through simulated engines: how well they reproduce it, and what other policies would have made of it.
///
/// Nobody knows how long an answer would have been under another method than the one that gave it: it is taken to be as long.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Folder that `kvbench route serve` made, finished or not.
    run_dir: PathBuf,
    /// Rules to compare with the policy that ran, beside round robin, join shortest queue, least memory and the oracles.
    #[arg(long, value_name = "RULE", value_delimiter = ',', default_value = "marginal_cost")]
    policy: Vec<Rule>,
    /// Configuration with the engines' step times, in the place of the one that ran.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Simulations of each policy, each with other draws of what is predicted.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Folder in which the run's own folder is made.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// Compares, simulates, writes a run folder with its report, and prints tables, or JSON.
///
/// # Errors
/// No folder of a live router, a configuration without step times, or a folder that cannot be written.
pub(super) fn run(args: &ReplayArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let place = || args.run_dir.display().to_string();
    let dir = RouteDir::open(&args.run_dir)?;
    ensure!(
        dir.manifest.kind == RouteKind::Live,
        "{}: expected the folder of `kvbench route serve`, got that of a simulation\n  hint: `kvbench route report` judges it again",
        args.run_dir.display()
    );
    let proxy = match &args.config {
        Some(path) => Proxy::load(path)?,
        None => Proxy::parse(&dir.manifest.text, &place())?,
    };
    let rows: Vec<RouteRequestRow> = dir.rows()?;
    let others: Vec<PolicySpec> = args.policy.iter().map(|rule| spec(*rule)).collect();
    let built = recorded(&proxy, &rows, &others, args.seeds).with_context(place)?;
    let fidelity = fidelity(&rows, &built.experiment).with_context(place)?;
    let plan = Plan::new(built.experiment).with_context(place)?;
    let mut manifest = RouteManifest::begun(
        RouteKind::Replayed,
        &format!("{}-replayed", proxy.name),
        &proxy.text,
        proxy.seed,
        env::rfc3339(env::wall_clock()?),
    );
    manifest.path = Some(place());
    manifest.inputs = built.inputs;
    let mut notes = report::said(&fidelity);
    notes.push(ASSUMED.to_owned());
    let cells = experiment::cells(&plan);
    let out = simulate(&plan, &cells, manifest, (&args.results, notes), ui)?;
    show(&out, &fidelity, ui)?;
    Ok(ExitCode::SUCCESS)
}

/// What no recording tells.
const ASSUMED: &str = "assumed: every answer would have been as long under another method, and no method breaks a prompt; predictors of lengths err \
                       without bias and with the spread that the live one had (of a live constant: with the spread of the answers, which \
                       knows more than a constant does). Seeds share the recorded requests: intervals hold predictors' noise and ties alone";

/// A policy of this rule that predicts lengths.
fn spec(rule: Rule) -> PolicySpec {
    let name = rule.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    PolicySpec {
        name,
        rule,
        length: LengthKnowledge::Predicted,
        speed: SpeedKnowledge::Predicted,
        guard: None,
    }
}

/// The engines of the experiment with the recorded requests of each.
fn fidelity(rows: &[RouteRequestRow], experiment: &Experiment) -> anyhow::Result<Fidelity> {
    let engines: Vec<_> = experiment
        .pools
        .iter()
        .flat_map(|pool| &pool.engines)
        .map(|(name, method)| (name.clone(), &experiment.methods[*method]))
        .collect();
    route_replay::fidelity(rows, &engines)
}

fn show(out: &std::path::Path, fidelity: &Fidelity, ui: &Ui) -> anyhow::Result<()> {
    let table = report::table(fidelity);
    if ui.format != Format::Json {
        ui.out(&ui.tables(&[table]))?;
        return publish(out, out, ui);
    }
    let judged = judged(out)?;
    let mut whole = as_json(&judged);
    whole["reproduced"] =
        serde_json::from_str(&crate::report::render(&table, Format::Json, false))?;
    whole["left_out"] = json!(fidelity.left_out);
    ui.out(&(serde_json::to_string_pretty(&whole)? + "\n"))
}
