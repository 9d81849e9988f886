//! The experiment that replays what a live router recorded: its engines as its configuration says they are, its requests at their times.
//!
//! What a recording does not tell is left unknown or said to be assumed:
//!
//! - Nobody knows how long an answer would have been under another method than the one that gave it: it is taken to be as long.
//! - Lengths that policies expect are those that the live router expected of each request when it came, with all their error: a predictor
//!   that says half too much says it here, and a constant stays one. Nothing is drawn around the true length, which would tell it to
//!   policies that could not know it.
//! - A request that failed, or whose tokens nobody counted, took its engine's time until it was gone. It is sent like the others and
//!   given up as long after it came as it was; in between its answer goes on. No time of it is in any result.
//! - Which answers a method breaks is unknown, unless counts of negatives are given: then it is drawn from them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};

use super::{Built, sha256_hex, step_times};
use crate::{
    predict::simulate::{Engine, Request, Times},
    record::{RouteRequestRow, manifest::Input},
    route::{
        LengthKnowledge, PolicySpec,
        experiment::{Arrivals, Experiment, LoadPlan, NamedSkill, PoolPlan, TracePlan},
        risk::{Counts, Risks},
        world::{LengthShift, MethodWorld, Skill, Traced},
    },
    scenario::proxy::{Proxy, ProxyEngine, ProxyLength, ProxySpeed},
    stats,
    units::significant,
};

/// Where the step times of the engines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepSource<'a> {
    /// The configuration.
    Configured,
    /// A file of `kvbench predict fit`, and a part of the name of the subject that is meant.
    File {
        /// The file.
        path: &'a Path,
        /// Part of the name; `""` for any.
        subject: &'a str,
    },
}

/// What is asked of a replay.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// Policies beside the one that ran.
    pub others: &'a [PolicySpec],
    /// Simulations of each policy.
    pub n_seeds: u32,
    /// File of `kvbench route risks`; where it is not given the one of the configuration, if it has one.
    pub risks: Option<&'a Path>,
    /// Step times.
    pub steps: StepSource<'a>,
}

/// The experiment of a recording. The policy that ran comes first, without others that do the same.
///
/// # Errors
/// An engine without step times, engines of one method that differ, a guard without counts, a file that cannot be read, or no request to
/// replay.
pub fn recorded(
    proxy: &Proxy,
    rows: &[RouteRequestRow],
    replay: &Replay<'_>,
) -> anyhow::Result<Built> {
    let mut inputs = Vec::new();
    let mut methods = (0..proxy.methods.len())
        .map(|method| world_of(proxy, method, replay.steps, &mut inputs))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut load = load(rows, &idle(&methods)?);
    ensure!(
        load.iter().any(|(row, _)| is_usable(row)),
        "expected requests that ended well and whose tokens were counted, got none\n  hint: ask engines to tell `usage`, and send some requests"
    );
    let policies = policies(proxy, replay.others);
    let risks = risks(proxy, replay.risks, &policies, &mut inputs)?;
    let mut notes = vec![expect(proxy, &mut load)];
    let knows_breaks = breaks(&load, &mut methods, proxy.baseline, risks.as_deref());
    notes.push(told_of_harm(knows_breaks, risks.as_deref()));
    inputs.sort_by(|a: &Input, b| a.path.cmp(&b.path));
    inputs.dedup();
    let engines = proxy.engines.iter().map(|engine| (engine.name.clone(), engine.method));
    let experiment = Experiment {
        name: proxy.name.clone(),
        seed: proxy.seed,
        n_seeds: replay.n_seeds,
        methods,
        baseline: proxy.baseline,
        pools: vec![PoolPlan { name: "live".to_owned(), engines: engines.collect() }],
        traces: vec![TracePlan {
            name: "recorded".to_owned(),
            n_requests: load.len(),
            rows: load.into_iter().map(|(_, traced)| traced).collect(),
            is_sample: false,
        }],
        loads: vec![LoadPlan {
            name: "recorded-1".to_owned(),
            arrivals: Arrivals::Recorded { speed: 1.0 },
        }],
        skills: vec![NamedSkill { name: "observed".to_owned(), skill: AS_RECORDED }],
        policies,
        slo: None,
        risks,
        knows_breaks,
    };
    Ok(Built { experiment, inputs, notes })
}

/// An engine of each method.
fn idle(methods: &[MethodWorld]) -> anyhow::Result<Vec<Engine>> {
    let one = |method: &MethodWorld| {
        Engine::new(method.config, Arc::clone(&method.times))
            .with_context(|| format!("method {}", method.name))
    };
    methods.iter().map(one).collect()
}

/// Nothing of it is drawn: what was expected is recorded, counts are given, and step times are taken for true.
const AS_RECORDED: Skill =
    Skill { length_sigma_log: 0.0, knows_shift: true, speed_factor: 1.0, guard_answers: 0 };

fn counted(tokens: Option<i64>) -> Option<u64> {
    tokens.and_then(|tokens| u64::try_from(tokens).ok()).filter(|tokens| *tokens > 0)
}

/// Whether a row tells all that comparing its times needs.
pub fn is_usable(row: &RouteRequestRow) -> bool {
    row.err.is_none()
        && row.finished_ns.is_some()
        && row.engine.is_some()
        && counted(row.prompt_tokens).is_some()
        && counted(row.output_tokens).is_some()
}

/// The load that a recording was, in the order in which it came and from its first request on: what is usable, and of the rest what took
/// an engine's time until a moment that is known. `engines` are idle ones, one of each kind.
pub fn load<'a>(
    rows: &'a [RouteRequestRow],
    engines: &[Engine],
) -> Vec<(&'a RouteRequestRow, Traced)> {
    let longest = rows.iter().filter(|row| is_usable(row));
    let longest = longest.filter_map(|row| counted(row.output_tokens)).max().unwrap_or(1);
    let mut found: Vec<(&RouteRequestRow, Traced)> =
        rows.iter().filter_map(|row| Some((row, traced(row, longest, engines)?))).collect();
    found.sort_by_key(|(row, _)| (row.arrived_ns, row.request_id));
    let start_ns = found.first().map_or(0, |(row, _)| row.arrived_ns);
    found.iter_mut().for_each(|(_, traced)| traced.at_ns -= start_ns);
    found
}

fn traced(row: &RouteRequestRow, longest: u64, engines: &[Engine]) -> Option<Traced> {
    row.engine.as_ref()?;
    let prompt_tokens = counted(row.prompt_tokens)?;
    let came = counted(row.output_tokens);
    let (output_tokens, patience_ns) = if is_usable(row) {
        (came?, None)
    } else {
        let gone_ns = row.gone_ns.or(row.finished_ns)?;
        // It goes on until it is given up: no answer of the recording is longer. Where an engine cannot hold that, as far as it came.
        let goes_on = fits(prompt_tokens, longest, engines).then_some(longest);
        (goes_on.or(came).unwrap_or(1), Some(gone_ns - row.arrived_ns))
    };
    Some(Traced {
        at_ns: row.arrived_ns,
        prompt_tokens,
        output_tokens,
        task: row.task.clone(),
        predicted_tokens: None,
        patience_ns,
    })
}

/// Whether all engines take such a request.
fn fits(prompt_tokens: u64, output_tokens: u64, engines: &[Engine]) -> bool {
    let request = Request { id: 0, prompt_tokens, cached_tokens: 0, output_tokens };
    engines.iter().all(|engine| engine.accepts(&request).is_ok())
}

/// The policy that ran and the others. What the live router expected stands with each request, a constant too, so whoever asks for lengths
/// is told that.
fn policies(proxy: &Proxy, others: &[PolicySpec]) -> Vec<PolicySpec> {
    let mut live = proxy.policy.clone();
    if live.rule.asks_lengths() {
        live.length = LengthKnowledge::Predicted;
    }
    let is_live =
        |other: &&PolicySpec| PolicySpec { name: live.name.clone(), ..(*other).clone() } == live;
    let rest: Vec<PolicySpec> = others.iter().filter(|other| !is_live(other)).cloned().collect();
    std::iter::once(live).chain(rest).collect()
}

/// Writes down what the live router expected of each request; in words how far off that was.
///
/// A row of a router says it. One that does not, of another version or of a request that nobody was asked for, has the configured constant,
/// or of a model the mean of what it said of the others, or of the answers where it said nothing at all.
fn expect(proxy: &Proxy, load: &mut [(&RouteRequestRow, Traced)]) -> String {
    let said = |row: &RouteRequestRow| row.predicted_output_tokens.filter(|tokens| *tokens >= 1.0);
    let all: Vec<f64> = load.iter().filter_map(|(row, _)| said(row)).collect();
    let answers: Vec<f64> = load
        .iter()
        .filter(|(row, _)| is_usable(row))
        .map(|(_, traced)| traced.output_tokens as f64)
        .collect();
    let else_tokens = match &proxy.length {
        ProxyLength::Constant(tokens) => *tokens,
        ProxyLength::Model(_) => stats::mean(&all).or(stats::mean(&answers)).unwrap_or(1.0),
    };
    for (row, traced) in load.iter_mut() {
        traced.predicted_tokens = Some(said(row).unwrap_or(else_tokens));
    }
    let n_silent = load.len() - all.len();
    let silent = if n_silent == 0 {
        String::new()
    } else {
        format!(
            "; of {n_silent} it is not recorded, and {} tokens are taken",
            significant(else_tokens, 3)
        )
    };
    told_of_lengths(load) + &silent
}

/// How far off what was expected lay.
fn told_of_lengths(load: &[(&RouteRequestRow, Traced)]) -> String {
    let usable = load.iter().filter(|(row, _)| is_usable(row));
    let error = |(_, traced): &(&RouteRequestRow, Traced)| {
        Some(traced.predicted_tokens?.ln() - (traced.output_tokens as f64).ln())
    };
    let errors: Vec<f64> = usable.filter_map(error).collect();
    let mean = stats::mean(&errors).unwrap_or(0.0);
    let square: Vec<f64> = errors.iter().map(|error| (error - mean).powi(2)).collect();
    let spread = stats::mean(&square).unwrap_or(0.0).sqrt();
    format!(
        "lengths: policies expect of each request what the live router expected of it, which was {} times its answer (geometric mean of {}; deviation of the logarithm {})",
        significant(mean.exp(), 3),
        errors.len(),
        significant(spread, 2)
    )
}

/// Counts for the guards among `policies`.
fn risks(
    proxy: &Proxy,
    given: Option<&Path>,
    policies: &[PolicySpec],
    inputs: &mut Vec<Input>,
) -> anyhow::Result<Option<Arc<Risks>>> {
    let Some(path) = given.or(proxy.risks.as_deref()) else {
        if let Some(policy) = policies.iter().find(|policy| policy.guard.is_some()) {
            bail!(
                "policy {}: expected counts of negatives for its guard, got none\n  hint: pass a file of `kvbench route risks` with --risks",
                policy.name
            );
        }
        return Ok(None);
    };
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{shown}: cannot be read\n  hint: write it with `kvbench route risks RUN --out {shown}`"
        )
    })?;
    let risks = Risks::from_json(&text, &shown)?;
    inputs.push(Input {
        path: shown,
        sha256: sha256_hex(text.as_bytes()),
        bytes: text.len() as u64,
    });
    Ok(Some(Arc::new(risks)))
}

/// Tells the methods what they break, from counts; whether those say it of every request.
fn breaks(
    load: &[(&RouteRequestRow, Traced)],
    methods: &mut [MethodWorld],
    baseline: usize,
    risks: Option<&Risks>,
) -> bool {
    let mut knows = risks.is_some();
    for method in methods.iter_mut().enumerate().filter(|(at, _)| *at != baseline).map(|(_, m)| m) {
        let excess = risks.map(|risks| excess(risks, &method.name)).unwrap_or_default();
        let has =
            |traced: &Traced| traced.task.as_ref().is_some_and(|task| excess.contains_key(task));
        knows &= load.iter().filter(|(_, t)| t.patience_ns.is_none()).all(|(_, t)| has(t));
        // Of other tasks nothing is known, and nothing will be told of what breaks.
        method.excess = excess;
        method.excess.insert(String::new(), 0.0);
    }
    knows
}

/// Excess of negatives by task, all lengths together; not below none.
fn excess(risks: &Risks, method: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<&str, [Counts; 2]> = BTreeMap::new();
    for cell in risks.cells().iter().filter(|cell| cell.method == method) {
        let sum = sums.entry(&cell.task).or_default();
        for (sum, more) in sum.iter_mut().zip([cell.own, cell.null]) {
            sum.n += more.n;
            sum.negatives += more.negatives;
        }
    }
    let share = |counts: Counts| {
        if counts.n == 0 { 0.0 } else { counts.negatives as f64 / counts.n as f64 }
    };
    let known = sums.into_iter().filter(|(_, [own, _])| own.n > 0);
    known
        .map(|(task, [own, null])| (task.to_owned(), (share(own) - share(null)).max(0.0)))
        .collect()
}

fn told_of_harm(knows_breaks: bool, risks: Option<&Risks>) -> String {
    match (knows_breaks, risks) {
        (true, Some(risks)) => format!(
            "harm: which answers a method would break is drawn for each seed, by task, from the excess of counted negatives ({})",
            risks.source()
        ),
        (_, Some(_)) => {
            "harm: not known, since the counts do not have the task of every request and method; a guard goes by them all the same"
                .to_owned()
        }
        (_, None) => "harm: not known, since no counts of negatives were given".to_owned(),
    }
}

/// A method as the configuration of a proxy has it.
fn world_of(
    proxy: &Proxy,
    method: usize,
    steps: StepSource<'_>,
    inputs: &mut Vec<Input>,
) -> anyhow::Result<MethodWorld> {
    let name = &proxy.methods[method];
    let mut engines = proxy.engines.iter().filter(|engine| engine.method == method);
    let first = engines
        .next()
        .with_context(|| format!("expected an engine with the method `{name}`, got none"))?;
    if let Some(other) =
        engines.find(|other| other.config != first.config || other.speed != first.speed)
    {
        bail!(
            "expected engines of one method to be alike, got `{}` and `{}` of `{name}`, which differ\n  hint: give them methods of different names in a copy of the configuration, and pass it with --config",
            first.name,
            other.name
        );
    }
    let times = times(first, name, steps, inputs)?;
    let shift = LengthShift { mean_log: 0.0, sigma_log: 0.0 };
    Ok(MethodWorld {
        name: name.clone(),
        times,
        config: first.config,
        shift,
        excess: BTreeMap::new(),
    })
}

/// Step times of an engine. A file calls its method as the configuration says, or by its name.
fn times(
    engine: &ProxyEngine,
    name: &str,
    steps: StepSource<'_>,
    inputs: &mut Vec<Input>,
) -> anyhow::Result<Times> {
    let budget = engine.config.kv_budget;
    let (times, input) = match (steps, &engine.speed) {
        (StepSource::Configured, Some(ProxySpeed::Linear(times))) => return Ok(Arc::new(*times)),
        (StepSource::Configured, Some(ProxySpeed::Model { path, subject, method })) => {
            step_times(path, subject, method, budget)?
        }
        (StepSource::Configured, None) => bail!(
            "expected step times of engine `{0}`, got none\n  hint: pass a file of `kvbench predict fit` with --against, or add `[engine.{0}.speed.model]` to a copy of the configuration and pass it with --config",
            engine.name
        ),
        (StepSource::File { path, subject }, Some(ProxySpeed::Model { method, .. })) => {
            step_times(path, subject, method, budget)?
        }
        (StepSource::File { path, subject }, _) => step_times(path, subject, name, budget)?,
    };
    inputs.push(input);
    Ok(times)
}

#[cfg(test)]
mod tests;
