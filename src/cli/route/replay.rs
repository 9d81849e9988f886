//! `kvbench route replay`: what a live router recorded, in simulated engines.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;
use serde_json::{Value, json};

use super::{print, simulate::simulate, written};
use crate::{
    analyse::route_replay::{self, Fidelity},
    cli::ui::Ui,
    record::{RouteDir, RouteKind, RouteManifest, RouteRequestRow, env},
    report::{
        Format, Table, render,
        route::{Judged, as_json, replay as report},
    },
    route::{
        GuardSpec, LengthKnowledge, PolicySpec, RiskKnowledge, Rule, SpeedKnowledge,
        experiment::{self, Experiment, Plan},
    },
    scenario::proxy::Proxy,
    workload::route::recorded::{Replay, StepSource, recorded},
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
    /// File of `kvbench predict fit` whose step times are set against those of the configuration: everything is replayed under both.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Part of the name of the subject that is meant, where that file has several.
    #[arg(long, value_name = "TEXT", default_value = "", requires = "against")]
    subject: String,
    /// File of `kvbench route risks`: what guards go by, and which answers methods break; without it that of the configuration.
    #[arg(long, value_name = "FILE")]
    risks: Option<PathBuf>,
    /// Also each rule of --policy with a guard that lets a method pass up to this bound of its excess of negatives, of one.
    #[arg(long, value_name = "SHARE")]
    epsilon: Option<f64>,
    /// Simulations of each policy, each with other ties and, with risks, other answers that break.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Folder in which the run's own folder is made, and with --against a second one.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// A recording under one source of step times.
struct Replayed {
    /// What the source is called.
    source: String,
    fidelity: Fidelity,
    judged: Judged,
}

/// Compares, simulates, writes run folders with their reports, and prints tables, or JSON.
///
/// # Errors
/// No folder of a live router, a configuration without step times, a guard without counts, or a folder that cannot be written.
pub(super) fn run(args: &ReplayArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let place = || args.run_dir.display().to_string();
    let dir = RouteDir::open(&args.run_dir)?;
    ensure!(
        dir.manifest.kind == RouteKind::Live,
        "{}: expected the folder of `kvbench route serve`, got that of a simulation\n  hint: `kvbench route report` judges it again",
        args.run_dir.display()
    );
    if let Some(epsilon) = args.epsilon {
        ensure!(
            (0.0..1.0).contains(&epsilon),
            "--epsilon: expected a share of at least 0 and below 1, got {epsilon}"
        );
    }
    let proxy = match &args.config {
        Some(path) => Proxy::load(path)?,
        None => Proxy::parse(&dir.manifest.text, &place())?,
    };
    let rows: Vec<RouteRequestRow> = dir.rows()?;
    let replayed = sources(args, &proxy)
        .into_iter()
        .map(|source| replay(args, (&proxy, &rows), source, ui).with_context(place))
        .collect::<anyhow::Result<Vec<_>>>()?;
    show(&replayed, ui)?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration, unless it has no step times and a file has; and that file.
fn sources<'a>(args: &'a ReplayArgs, proxy: &Proxy) -> Vec<(String, StepSource<'a>)> {
    let file = args.against.as_ref().map(|path| {
        (path.display().to_string(), StepSource::File { path, subject: &args.subject })
    });
    let is_silent = proxy.engines.iter().all(|engine| engine.speed.is_none());
    let configured = ("the configuration".to_owned(), StepSource::Configured);
    let own = (!(is_silent && file.is_some())).then_some(configured);
    own.into_iter().chain(file).collect()
}

fn replay(
    args: &ReplayArgs,
    (proxy, rows): (&Proxy, &[RouteRequestRow]),
    (source, steps): (String, StepSource<'_>),
    ui: &Ui,
) -> anyhow::Result<Replayed> {
    let others = others(args);
    let asked =
        Replay { others: &others, n_seeds: args.seeds, risks: args.risks.as_deref(), steps };
    let built = recorded(proxy, rows, &asked)?;
    let fidelity = fidelity(rows, &built.experiment)?;
    let plan = Plan::new(built.experiment)?;
    let name = match steps {
        StepSource::Configured => format!("{}-replayed", proxy.name),
        StepSource::File { .. } => format!("{}-replayed-against", proxy.name),
    };
    let origin = env::rfc3339(env::wall_clock()?);
    let mut manifest =
        RouteManifest::begun(RouteKind::Replayed, &name, &proxy.text, proxy.seed, origin);
    manifest.path = Some(args.run_dir.display().to_string());
    manifest.inputs = built.inputs;
    let mut notes = vec![format!("step times: those of {source}")];
    notes.extend(report::said(&fidelity));
    notes.push(ASSUMED.to_owned());
    notes.extend(built.notes);
    let cells = experiment::cells(&plan);
    let out = simulate(&plan, &cells, manifest, (&args.results, notes), ui)?;
    let judged = written(&out, &out, ui)?;
    Ok(Replayed { source, fidelity, judged })
}

/// What no recording tells.
const ASSUMED: &str = "assumed: every answer would have been as long under another method, and what was given up would have been given up as long after it \
                       came. Seeds share the recorded requests and what was expected of them: intervals hold ties, and with risks what breaks, alone";

/// A policy for each rule, and with `--epsilon` one with a guard beside it.
fn others(args: &ReplayArgs) -> Vec<PolicySpec> {
    let named = |rule: Rule, guard: Option<GuardSpec>| {
        let name = rule.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        PolicySpec {
            name: if guard.is_some() { format!("{name}_guarded") } else { name },
            rule,
            length: LengthKnowledge::Predicted,
            speed: SpeedKnowledge::Predicted,
            guard,
        }
    };
    let guard = |epsilon: f64| GuardSpec { risk: RiskKnowledge::Learned, epsilon };
    let with = |rule: &Rule| args.epsilon.map(|epsilon| named(*rule, Some(guard(epsilon))));
    args.policy
        .iter()
        .flat_map(|rule| std::iter::once(named(*rule, None)).chain(with(rule)))
        .collect()
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

impl Replayed {
    fn named(&self) -> (&str, &Judged) {
        (&self.source, &self.judged)
    }
}

fn show(all: &[Replayed], ui: &Ui) -> anyhow::Result<()> {
    let Some((first, rest)) = all.split_first() else { return Ok(()) };
    let sources: Vec<_> = all.iter().map(|one| (one.source.as_str(), &one.fidelity)).collect();
    let table = report::table(&sources);
    if ui.format == Format::Json {
        let whole = whole(first, rest, &table)?;
        return ui.out(&(serde_json::to_string_pretty(&whole)? + "\n"));
    }
    ui.out(&ui.tables(&[table]))?;
    print(&first.judged, ui)?;
    let Some(second) = rest.first() else { return Ok(()) };
    report::agreement(first.named(), second.named()).iter().for_each(|said| ui.note(said));
    ui.out(&ui.tables(&[report::beside(first.named(), second.named())]))
}

/// The JSON of a simulated run, with how well it reproduces the recording, and under `against` that of the other step times.
fn whole(first: &Replayed, rest: &[Replayed], table: &Table) -> anyhow::Result<Value> {
    let mut whole = as_json(&first.judged);
    whole["step_times"] = json!(first.source);
    whole["reproduced"] = serde_json::from_str(&render(table, Format::Json, false))?;
    whole["left_out"] = json!(first.fidelity.left_out);
    if let Some(second) = rest.first() {
        whole["against"] = as_json(&second.judged);
        whole["against"]["step_times"] = json!(second.source);
        whole["agreement"] = json!(report::agreement(first.named(), second.named()));
    }
    Ok(whole)
}
