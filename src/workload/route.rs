//! A router's scenario becomes the experiment that is simulated: its files are read and its lengths drawn here.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};

use super::{
    dataset::sha256_hex,
    draw::{Stream, stream, unit},
    synthetic, trace,
};
use crate::{
    predict::{Model, ModelFile, Phase, Source, StepTimes, Steps, Work, simulate::Times},
    record::manifest::Input,
    route::{
        experiment::{Experiment, TracePlan},
        world::{MethodWorld, Traced},
    },
    scenario::{
        Trace,
        route::{RouteMethod, RouteScenario, RouteTrace, Speed, TraceSource},
    },
    stats,
    units::NS_PER_S,
};

pub mod recorded;

/// Fewest rows that are drawn of a synthetic trace, and most.
const DRAWN: (usize, usize) = (10_000, 1_000_000);

/// An experiment and what went into it.
#[derive(Debug, Clone)]
pub struct Built {
    /// What is simulated.
    pub experiment: Experiment,
    /// Files that were read.
    pub inputs: Vec<Input>,
    /// What the user should know of them.
    pub notes: Vec<String>,
}

/// Reads the files that a scenario names and draws the lengths that it does not take from files.
///
/// # Errors
/// A file that cannot be read or holds nothing usable, or a model file without the method.
pub fn build(scenario: &RouteScenario) -> anyhow::Result<Built> {
    let (mut inputs, mut notes) = (Vec::new(), Vec::new());
    let methods = scenario
        .methods
        .iter()
        .map(|method| world(method, &mut inputs))
        .collect::<anyhow::Result<_>>()?;
    let traces = scenario
        .traces
        .iter()
        .map(|plan| traced(plan, scenario, &mut inputs, &mut notes))
        .collect::<anyhow::Result<_>>()?;
    // A file that several methods or traces name went in once.
    inputs.sort_by(|a: &Input, b| a.path.cmp(&b.path));
    inputs.dedup();
    let experiment = Experiment {
        name: scenario.name.clone(),
        seed: scenario.seed,
        n_seeds: scenario.n_seeds,
        methods,
        baseline: scenario.baseline,
        pools: scenario.pools.clone(),
        traces,
        loads: scenario.loads.clone(),
        skills: scenario.skills.clone(),
        policies: scenario.policies.clone(),
        slo: scenario.slo,
        risks: None,
        knows_breaks: true,
    };
    Ok(Built { experiment, inputs, notes })
}

fn world(method: &RouteMethod, inputs: &mut Vec<Input>) -> anyhow::Result<MethodWorld> {
    let times: Times = match &method.speed {
        Speed::Linear(times) => Arc::new(*times),
        Speed::Model { path, subject, method: called } => {
            let (times, input) = step_times(path, subject, called, method.config.kv_budget)?;
            inputs.push(input);
            times
        }
    };
    Ok(MethodWorld {
        name: method.name.clone(),
        times,
        config: method.config,
        shift: method.shift,
        excess: method.excess.clone(),
    })
}

/// Step times of a method that keeps so many tokens of a sequence, of the one subject of a file of `kvbench predict fit` whose name
/// holds `subject`.
///
/// # Errors
/// The file cannot be read, or has not exactly one such model a phase.
pub fn step_times(
    path: &Path,
    subject: &str,
    method: &str,
    budget: Option<u64>,
) -> anyhow::Result<(Times, Input)> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{shown}: cannot be read\n  hint: write it with `kvbench predict fit RUN --out {shown}`"
        )
    })?;
    let file = ModelFile::parse(&text, &shown)?;
    let of =
        |phase: Phase| one(&file, subject, method, phase, budget).with_context(|| shown.clone());
    let times = Fitted { prefill: of(Phase::Prefill)?, decode: of(Phase::Decode)? };
    ensure!(
        times.prefill.subject == times.decode.subject,
        "{shown}: expected prefill and decode of `{method}` on one subject, got {} and {}\n  hint: say which with `subject`",
        times.prefill.subject.full(),
        times.decode.subject.full()
    );
    let input =
        Input { path: shown, sha256: sha256_hex(text.as_bytes()), bytes: text.len() as u64 };
    Ok((Arc::new(times), input))
}

/// The one model that is meant.
fn one(
    file: &ModelFile,
    subject: &str,
    method: &str,
    phase: Phase,
    budget: Option<u64>,
) -> anyhow::Result<Model> {
    // Prefill has no budget: what a method evicts is evicted after it. A kernel's subject is one layer, and no engine's step.
    let kept = |model: &&Model| match (phase, model.budget, budget) {
        (Phase::Prefill, ..) | (_, None, None) => true,
        (_, Some(own), Some(asked)) => (own - asked as f64).abs() < 0.5,
        _ => false,
    };
    let mut found = file
        .models
        .iter()
        .filter(|model| model.method == method && model.phase == phase)
        .filter(|model| model.subject.source != Source::Kernel && model.subject.is_called(subject))
        .filter(kept);
    match (found.next(), found.next()) {
        (Some(model), None) => Ok(model.clone()),
        (None, _) => bail!(
            "expected {} of `{method}` on an engine{}, got none\n  hint: it has {}",
            phase.name(),
            budget.map_or(String::new(), |most| format!(" that keeps {most} tokens")),
            listed(file)
        ),
        (Some(_), Some(_)) => bail!(
            "expected one subject with {} of `{method}`, got several\n  hint: say which with `subject`: {}",
            phase.name(),
            listed(file)
        ),
    }
}

fn listed(file: &ModelFile) -> String {
    let words = |model: &Model| {
        let kept = model.budget.map_or(String::new(), |most| format!(", budget {most}"));
        format!("{} {} ({}{kept})", model.method, model.phase.name(), model.subject.full())
    };
    let all: std::collections::BTreeSet<String> = file.models.iter().map(words).collect();
    all.into_iter().collect::<Vec<_>>().join("; ")
}

/// [`Steps`] that own their models.
struct Fitted {
    prefill: Model,
    decode: Model,
}

impl StepTimes for Fitted {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        Steps { prefill: &self.prefill, decode: &self.decode }.step_s(prefill, decode)
    }
}

fn traced(
    plan: &RouteTrace,
    scenario: &RouteScenario,
    inputs: &mut Vec<Input>,
    notes: &mut Vec<String>,
) -> anyhow::Result<TracePlan> {
    let (rows, is_sample) = match &plan.source {
        TraceSource::Synthetic { .. } => (drawn(plan, scenario), true),
        TraceSource::File { trace, max_request_tokens, is_sample, task } => {
            let (rows, input) = of_file(trace, task.as_deref())?;
            inputs.push(input);
            let rows = not_longer(rows, *max_request_tokens, &plan.name, notes);
            let needed = if *is_sample { 1 } else { plan.n_requests };
            ensure!(
                rows.len() >= needed,
                "{}: expected at least {needed} requests for trace `{}`, got {}\n  hint: lower `n_requests`, or widen the window and `max_request_tokens`",
                trace.path.display(),
                plan.name,
                rows.len()
            );
            (rows, *is_sample)
        }
    };
    Ok(TracePlan { name: plan.name.clone(), rows, n_requests: plan.n_requests, is_sample })
}

/// Lengths and tasks of a synthetic trace: of every name another sequence, so that a trace stays the same when others are added.
fn drawn(plan: &RouteTrace, scenario: &RouteScenario) -> Vec<Traced> {
    let TraceSource::Synthetic { prompt_tokens, output_tokens, tasks } = &plan.source else {
        return Vec::new();
    };
    let key = sha256_hex(plan.name.as_bytes());
    let own = u64::from_str_radix(key.get(..16).unwrap_or("0"), 16).unwrap_or(0);
    let seed = stats::mixed(scenario.seed, own);
    let (mut lengths, mut which) = (stream(seed, Stream::Length), stream(seed, Stream::Sample));
    let n = (plan.n_requests * scenario.n_seeds as usize).clamp(DRAWN.0, DRAWN.1);
    let mut row = |_| Traced {
        at_ns: 0,
        prompt_tokens: u64::from(synthetic::length(prompt_tokens, &mut lengths)),
        output_tokens: u64::from(synthetic::length(output_tokens, &mut lengths)),
        task: task(tasks, unit(&mut which)),
        predicted_tokens: None,
        patience_ns: None,
    };
    (0..n).map(&mut row).collect()
}

/// The task at this share of all weights.
fn task(tasks: &[(String, f64)], share: f64) -> Option<String> {
    let mut left = share * tasks.iter().map(|(_, weight)| weight).sum::<f64>();
    let found = tasks.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    found.or(tasks.last()).map(|(name, _)| name.clone())
}

/// Rows of the window. Files without times have all at 0.
fn of_file(trace: &Trace, task: Option<&str>) -> anyhow::Result<(Vec<Traced>, Input)> {
    let (rows, report) = trace::read(&trace.path, trace.format)?;
    let start_ns = (trace.start_s * NS_PER_S).round() as i64;
    let end_ns = trace.duration_s.map_or(i64::MAX, |s| start_ns + (s * NS_PER_S).round() as i64);
    let rows = rows
        .iter()
        .filter(|row| row.at_ns.is_none_or(|at| (start_ns..end_ns).contains(&at)))
        .map(|row| Traced {
            at_ns: row.at_ns.map_or(0, |at| at - start_ns),
            prompt_tokens: u64::from(row.prompt_tokens),
            output_tokens: u64::from(row.answer_tokens),
            task: task.map(str::to_owned),
            predicted_tokens: None,
            patience_ns: None,
        });
    let input = Input {
        path: trace.path.display().to_string(),
        sha256: report.sha256,
        bytes: report.n_bytes,
    };
    Ok((rows.collect(), input))
}

fn not_longer(
    mut rows: Vec<Traced>,
    most: Option<u64>,
    name: &str,
    notes: &mut Vec<String>,
) -> Vec<Traced> {
    let Some(most) = most else { return rows };
    let all = rows.len();
    rows.retain(|row| row.prompt_tokens + row.output_tokens <= most);
    let left_out = all - rows.len();
    if left_out > 0 {
        notes.push(format!(
            "trace `{name}`: {left_out} of {all} requests are longer than {most} tokens and left out"
        ));
    }
    rows
}

#[cfg(test)]
mod tests;
