//! From the file's words to the domain type: what no single value can check about itself.

use std::{collections::BTreeMap, path::PathBuf};

use super::{Headline, RouteMethod, RouteScenario, RouteTrace, Speed, TraceSource, wire};
use crate::{
    predict::simulate::{EngineConfig, LinearTimes, Mixing},
    route::{
        GuardSpec, PolicySpec,
        experiment::{Arrivals, LoadPlan, NamedSkill, PoolPlan, Slo},
        world::{LengthShift, Skill},
    },
    scenario::{
        Trace, TraceFormat,
        check::{check_name, check_slo, named},
        error::{Fault, nearest},
        limit,
        value::{Ordered, Sp},
        workload,
    },
};

type Checked<T> = Result<T, Fault>;

/// Most simulations of one file.
const CELLS_MAX: usize = 100_000;

/// Turns a parsed file into an experiment, or says what is wrong with it first.
pub(super) fn scenario(file: &wire::File, text: &str) -> Checked<RouteScenario> {
    check_name(&file.name, "`name`")?;
    not_empty(file)?;
    let baseline = place(&file.baseline, &file.method, "method")?;
    let scenario = RouteScenario {
        name: file.name.value.clone(),
        text: text.to_owned(),
        seed: file.seed.0.unsigned_abs(),
        n_seeds: file.seeds.u32(),
        methods: named(&file.method, "method", |name, wire| {
            method(name, wire, &file.engine, name.value == file.baseline.value)
        })?,
        baseline,
        pools: named(&file.pool, "pool", |name, wire| pool(name, wire, file))?,
        traces: named(&file.trace, "trace", trace)?,
        loads: named(&file.load, "load", loads)?.into_iter().flatten().collect(),
        skills: named(&file.skill, "skill", |name, wire| Ok(skill(name, wire)))?,
        policies: named(&file.policy, "policy", |name, wire| Ok(policy(name, wire)))?,
        slo: file.slo.as_ref().map(slo).transpose()?,
        headline: Headline::default(),
    };
    have_times(&scenario, file)?;
    not_too_many(&scenario, file)?;
    Ok(RouteScenario { headline: headline(&scenario, &file.report)?, ..scenario })
}

fn not_empty(file: &wire::File) -> Checked<()> {
    let sections = [
        ("method", file.method.0.len()),
        ("pool", file.pool.0.len()),
        ("trace", file.trace.0.len()),
        ("load", file.load.0.len()),
        ("skill", file.skill.0.len()),
        ("policy", file.policy.0.len()),
    ];
    match sections.iter().find(|(_, n)| *n == 0) {
        None => Ok(()),
        Some((section, _)) => Err(Fault::new(
            file.name.at,
            format!("expected at least one table in [{section}], got none"),
            format!("add one, as in `[{section}.x]`"),
        )),
    }
}

/// Where a name stands among tables, or that it is not there and what is near it.
fn place<T>(name: &Sp<String>, tables: &Ordered<T>, section: &str) -> Checked<usize> {
    let names = tables.0.iter().map(|(known, _)| known.value.as_str());
    find(name, names, section)
}

fn find<'a>(
    name: &Sp<String>,
    names: impl Iterator<Item = &'a str> + Clone,
    what: &str,
) -> Checked<usize> {
    if let Some(place) = names.clone().position(|known| known == name.value) {
        return Ok(place);
    }
    let hint = match nearest(&name.value, names.clone()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("there are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Err(Fault::new(name.at, format!("expected the name of a {what}, got `{}`", name.value), hint))
}

fn method(
    name: &Sp<String>,
    wire: &wire::Method,
    engine: &wire::Engine,
    is_baseline: bool,
) -> Checked<RouteMethod> {
    if is_baseline {
        compares_with_itself(wire)?;
    } else {
        differs_from_baseline(name, wire)?;
    }
    let mut sources = Vec::new();
    let mut told = |what: &'static str, source: &Sp<String>| {
        sources.push((what, source.value.clone()));
        said(source)
    };
    if let wire::Speed::Linear(linear) = &wire.speed {
        told("step times", &linear.source)?;
    }
    if let Some(length) = &wire.length {
        told("lengths", &length.value.source)?;
    }
    if let Some(excess) = &wire.excess {
        told("negatives", &excess.value.source)?;
    }
    Ok(RouteMethod {
        name: name.value.clone(),
        speed: speed(name, &wire.speed)?,
        config: config(wire, engine)?,
        shift: shift(wire.length.as_ref()),
        excess: by_task(wire.excess.as_ref().map(|excess| &excess.value)),
        sources,
    })
}

/// A baseline is what others differ from.
fn compares_with_itself(wire: &wire::Method) -> Checked<()> {
    let length = wire.length.as_ref().map(|length| (length.at, "length"));
    let excess = wire.excess.as_ref().map(|excess| (excess.at, "excess"));
    match length.or(excess) {
        None => Ok(()),
        Some((at, key)) => Err(Fault::new(
            at,
            format!("expected no `{key}` of the baseline, got one"),
            "both say how a method differs from the baseline: remove it",
        )),
    }
}

/// What is not known of a method has to be assumed, and said to be.
fn differs_from_baseline(name: &Sp<String>, wire: &wire::Method) -> Checked<()> {
    let missing = match (&wire.length, &wire.excess) {
        (None, _) => "length = { mean_log = 0.0, sigma_log = 0.4, source = \"assumed\" }",
        (_, None) => "excess = { other = 0.0, source = \"assumed\" }",
        _ => return Ok(()),
    };
    let (key, _) = missing.split_once(' ').unwrap_or((missing, ""));
    Err(Fault::new(
        name.at,
        format!("expected `{key}` of every method but the baseline, got none of `{}`", name.value),
        format!("say how it differs from the baseline, for example `{missing}`"),
    ))
}

fn said(source: &Sp<String>) -> Checked<()> {
    if source.value.trim().is_empty() {
        let message = "expected `source` to say where the numbers are from, got an empty text";
        return Err(Fault::new(source.at, message, "for example `source = \"assumed\"`"));
    }
    Ok(())
}

fn speed(name: &Sp<String>, wire: &wire::Speed) -> Checked<Speed> {
    match wire {
        wire::Speed::Linear(linear) => Ok(Speed::Linear(times(name, linear)?)),
        wire::Speed::Model(model) => {
            check_path(&model.path, "model.json")?;
            Ok(Speed::Model {
                path: model.path.value.clone(),
                subject: model.subject.clone(),
                method: model.method.clone().unwrap_or_else(|| name.value.clone()),
            })
        }
    }
}

fn check_path(path: &Sp<PathBuf>, example: &str) -> Checked<()> {
    if path.value.as_os_str().is_empty() {
        let message = "expected `path` to name a file, got an empty text";
        return Err(Fault::new(path.at, message, format!("for example `{example}`")));
    }
    Ok(())
}

fn times(name: &Sp<String>, wire: &wire::Linear) -> Checked<LinearTimes> {
    let times = LinearTimes {
        step_s: wire.step_s.0,
        per_sequence_s: wire.per_sequence_s.0,
        per_kv_token_s: wire.per_kv_token_s.0,
        per_prompt_s: wire.per_prompt_s.0,
        per_prompt_token_s: wire.per_prompt_token_s.0,
        per_pair_s: wire.per_pair_s.0,
    };
    let prompt_s = times.step_s + times.per_prompt_s + times.per_prompt_token_s + times.per_pair_s;
    let token_s = times.step_s + times.per_sequence_s + times.per_kv_token_s;
    // A step of no time would let simulated engines answer everything at once.
    if prompt_s < 1e-9 || token_s < 1e-9 {
        return Err(Fault::new(
            name.at,
            format!("expected steps of `{}` to take time, got 0 s", name.value),
            "give `step_s`, or costs of a prompt and of a sequence",
        ));
    }
    Ok(times)
}

fn config(wire: &wire::Method, engine: &wire::Engine) -> Checked<EngineConfig> {
    let block_tokens = engine.block_tokens.0.unsigned_abs();
    let kv_tokens = wire.kv_tokens.or(engine.kv_tokens).map(|n| n.0.unsigned_abs());
    let config = EngineConfig {
        max_batched_tokens: engine.max_batched_tokens.map(|n| n.0.unsigned_abs()),
        chunked_prefill: engine.chunked_prefill,
        mixing: match engine.mixing {
            wire::Mixing::DecodeFirst => Mixing::DecodeFirst,
            wire::Mixing::PrefillFirst => Mixing::PrefillFirst,
            wire::Mixing::Slots => {
                Mixing::Slots { ubatch_tokens: engine.ubatch_tokens.0.unsigned_abs() }
            }
        },
        kv_blocks: kv_tokens.map(|tokens| tokens / block_tokens),
        block_tokens,
        kv_budget: wire.kv_budget.map(|n| n.0.unsigned_abs()),
        // Budgets are kept as the prompt goes in, contexts have no end: a scenario states neither.
        ..EngineConfig::unlimited(engine.max_num_seqs.value.usize())
    };
    config.check().map_err(|error| {
        let hint = "correct [engine]; `kv_tokens` holds at least one block of `block_tokens`";
        Fault::new(engine.max_num_seqs.at, error.to_string(), hint)
    })?;
    Ok(config)
}

fn shift(wire: Option<&Sp<wire::LengthShift>>) -> LengthShift {
    wire.map_or(LengthShift { mean_log: 0.0, sigma_log: 0.0 }, |wire| LengthShift {
        mean_log: wire.value.mean_log.0,
        sigma_log: wire.value.sigma_log.0,
    })
}

/// Of the baseline nothing: what others break beyond it is what counts.
fn by_task(wire: Option<&wire::Excess>) -> BTreeMap<String, f64> {
    let listed = wire.into_iter().flat_map(|wire| &wire.by_task.0);
    let listed = listed.map(|(task, share)| (task.value.clone(), share.0));
    listed.chain([(String::new(), wire.map_or(0.0, |wire| wire.other.0))]).collect()
}

fn pool(name: &Sp<String>, wire: &wire::Pool, file: &wire::File) -> Checked<PoolPlan> {
    let mut engines = Vec::new();
    for (method, count) in &wire.engines.0 {
        let place = place(method, &file.method, "method")?;
        let named = |n: usize| (format!("{}-{n}", method.value), place);
        engines.extend((1..=count.usize()).map(named));
    }
    if engines.is_empty() || engines.len() > 1024 {
        return Err(Fault::new(
            name.at,
            format!("expected 1 to 1024 engines in pool `{}`, got {}", name.value, engines.len()),
            "say how many of which method, as in `engines = { fp16 = 1, kivi = 3 }`",
        ));
    }
    Ok(PoolPlan { name: name.value.clone(), engines })
}

fn trace(name: &Sp<String>, wire: &wire::Trace) -> Checked<RouteTrace> {
    let (n_requests, source) = match wire {
        wire::Trace::Synthetic(wire) => (wire.n_requests, synthetic(wire)?),
        wire::Trace::File(wire) => (wire.n_requests.value, of_file(wire)?),
    };
    Ok(RouteTrace { name: name.value.clone(), n_requests: n_requests.usize(), source })
}

fn synthetic(wire: &wire::Synthetic) -> Checked<TraceSource> {
    Ok(TraceSource::Synthetic {
        prompt_tokens: workload::length(&wire.prompt_tokens)?,
        output_tokens: workload::length(&wire.output_tokens)?,
        tasks: wire.tasks.0.iter().map(|(task, share)| (task.value.clone(), share.0)).collect(),
    })
}

fn of_file(wire: &wire::TraceFile) -> Checked<TraceSource> {
    check_path(&wire.path, "trace.csv")?;
    let window = [wire.start_s.as_ref().map(|s| s.at), wire.duration_s.as_ref().map(|s| s.at)];
    if let (TraceFormat::Lengths, Some(at)) = (wire.format, window.into_iter().flatten().next()) {
        let message = "expected a format with times for `start_s` and `duration_s`, got `lengths`";
        return Err(Fault::new(at, message, "remove them: all rows are drawn from"));
    }
    Ok(TraceSource::File {
        trace: Trace {
            path: wire.path.value.clone(),
            format: wire.format,
            n_requests: None,
            start_s: wire.start_s.as_ref().map_or(0.0, |s| s.value.0),
            duration_s: wire.duration_s.as_ref().map(|s| s.value.0),
            tokens: None,
        },
        max_request_tokens: wire.max_request_tokens.map(|n| n.0.unsigned_abs()),
        is_sample: wire.order == wire::Order::Sample,
        task: wire.task.as_ref().map(|task| task.value.clone()),
    })
}

fn loads(name: &Sp<String>, wire: &wire::Load) -> Checked<Vec<LoadPlan>> {
    let called = |value: f64, arrivals: Arrivals| LoadPlan {
        name: format!("{}-{value}", name.value),
        arrivals,
    };
    Ok(match wire {
        wire::Load::Poisson(wire) => {
            let one = |rate: &f64| called(*rate, Arrivals::Poisson { rate: *rate });
            wire.rate.0.iter().map(|rate| one(&rate.0)).collect()
        }
        wire::Load::Utilisation(wire) => {
            let one = |rho: f64| called(rho, Arrivals::Utilisation { rho });
            wire.rho.0.iter().map(|rho| one(rho.0)).collect()
        }
        wire::Load::Recorded(wire) => {
            let one = |speed: f64| called(speed, Arrivals::Recorded { speed });
            wire.speed.0.iter().map(|speed| one(speed.0)).collect()
        }
    })
}

fn skill(name: &Sp<String>, wire: &wire::Skill) -> NamedSkill {
    NamedSkill {
        name: name.value.clone(),
        skill: Skill {
            length_sigma_log: wire.length_sigma_log.0,
            knows_shift: wire.knows_shift,
            speed_factor: wire.speed_factor.0,
            guard_answers: wire.guard_answers.0.unsigned_abs(),
        },
    }
}

fn policy(name: &Sp<String>, wire: &wire::Policy) -> PolicySpec {
    PolicySpec {
        name: name.value.clone(),
        rule: wire.rule,
        length: wire.length,
        speed: wire.speed,
        guard: wire
            .guard
            .as_ref()
            .map(|guard| GuardSpec { risk: guard.risk, epsilon: guard.epsilon.0 }),
    }
}

fn slo(wire: &Sp<crate::scenario::wire::Slo>) -> Checked<Slo> {
    let checked = check_slo(wire)?;
    let s = |ms: Option<f64>| ms.map(|ms| ms / 1e3);
    Ok(Slo { ttft_s: s(checked.ttft_ms), tpot_s: s(checked.tpot_ms), e2e_s: s(checked.e2e_ms) })
}

/// A recorded load takes its times from the trace, so each has to have some, in their order.
fn have_times(scenario: &RouteScenario, file: &wire::File) -> Checked<()> {
    let has_times = |source: &TraceSource| match source {
        TraceSource::Synthetic { .. } => false,
        TraceSource::File { trace, is_sample, .. } => {
            trace.format != TraceFormat::Lengths && !is_sample
        }
    };
    let Some(timeless) = scenario.traces.iter().find(|trace| !has_times(&trace.source)) else {
        return Ok(());
    };
    match file.load.0.iter().find(|(_, load)| matches!(load, wire::Load::Recorded(_))) {
        None => Ok(()),
        Some((name, _)) => Err(Fault::new(
            name.at,
            format!(
                "expected traces with times for the `recorded` load `{}`, got `{}`, which has none",
                name.value, timeless.name
            ),
            "files of other formats than `lengths` with `order = \"recorded\"` have times; put other traces into a file of their own",
        )),
    }
}

fn not_too_many(scenario: &RouteScenario, file: &wire::File) -> Checked<()> {
    let cells = scenario.n_cells();
    if cells > CELLS_MAX || scenario.loads.len() > limit::TABLES_MAX {
        let message = format!(
            "expected at most {CELLS_MAX} simulations and {} loads, got {cells} and {}",
            limit::TABLES_MAX,
            scenario.loads.len()
        );
        return Err(Fault::new(file.name.at, message, "shorten the lists, or split the file"));
    }
    Ok(())
}

fn headline(scenario: &RouteScenario, wire: &wire::Report) -> Checked<Headline> {
    fn of<'a>(
        name: Option<&Sp<String>>,
        names: impl Iterator<Item = &'a str> + Clone,
        what: &str,
    ) -> Checked<usize> {
        name.map_or(Ok(0), |name| find(name, names, what))
    }
    Ok(Headline {
        pool: of(wire.pool.as_ref(), scenario.pools.iter().map(|p| p.name.as_str()), "pool")?,
        trace: of(wire.trace.as_ref(), scenario.traces.iter().map(|t| t.name.as_str()), "trace")?,
        load: of(wire.load.as_ref(), scenario.loads.iter().map(|l| l.name.as_str()), "load")?,
        skill: of(wire.skill.as_ref(), scenario.skills.iter().map(|s| s.name.as_str()), "skill")?,
    })
}
