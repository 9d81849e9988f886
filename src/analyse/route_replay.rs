//! What a live router recorded, against the same requests on the same engines simulated: how far the simulation can be trusted
//! before it says what another policy would have done.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;

use crate::{
    predict::simulate::{Engine, EngineConfig, Times},
    record::RouteRequestRow,
    route::{
        Decision, EngineState, Member, Pool, Predicted, Reason,
        cluster::{self, Arrival, Cluster, Fared, LengthsSeen, Ran},
        world::{MethodWorld, Traced},
    },
    stats::{self, Sample},
    units::ns_to_s,
    workload::route::recorded::{is_usable, load},
};

/// Observed and simulated times of one engine's requests, each sent to the engine and at the time that were recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Reproduced {
    /// The engine; `None` for all together.
    pub engine: Option<String>,
    /// Its method.
    pub method: Option<String>,
    /// Requests with both times.
    pub n: usize,
    /// From arrival at the router to the last token.
    pub e2e: Pair,
    /// From arrival at the router to the first token; `None` where no row tells.
    pub ttft: Option<Pair>,
    /// Kendall's tau-b of observed and simulated E2E; `None` where all are equal.
    pub tau: Option<f64>,
}

/// Observed times beside simulated ones, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Mean.
    pub observed_mean_s: f64,
    /// Mean.
    pub simulated_mean_s: f64,
    /// 99th percentile; `None` below 368 requests, see [`crate::stats::needed_for`].
    pub observed_p99_s: Option<f64>,
    /// 99th percentile; `None` below 368 requests, see [`crate::stats::needed_for`].
    pub simulated_p99_s: Option<f64>,
    /// Median over requests of how far the simulated time is off, percent of the observed one.
    pub ape_median_pct: f64,
}

/// How well a simulation reproduces what was observed.
#[derive(Debug, Clone, PartialEq)]
pub struct Fidelity {
    /// By engine, then all together.
    pub engines: Vec<Reproduced>,
    /// Rows that nothing rests on: why, and how many. Where it is known until when, they took the engines' time all the same.
    pub left_out: BTreeMap<String, usize>,
}

/// A request as seen and as simulated.
#[derive(Debug, Clone, Copy)]
struct Twice {
    e2e_s: (f64, f64),
    ttft_s: Option<(f64, f64)>,
}

/// Sends each request to the engine that it was sent to, at its time. `engines` are their names and what runs on them.
///
/// # Errors
/// A row of an engine that is not among `engines`, rules of an engine that are none, or step times that are no times.
pub fn fidelity(
    rows: &[RouteRequestRow],
    engines: &[(String, &MethodWorld)],
) -> anyhow::Result<Fidelity> {
    let idle = cluster::engines(members(engines))?;
    let load = load(rows, &idle);
    let mut left_out = BTreeMap::new();
    for row in rows.iter().filter(|row| !is_usable(row)) {
        *left_out.entry(why(row)).or_insert(0) += 1;
    }
    let places = load.iter().map(|(row, _)| place(row, engines));
    let places = places.collect::<anyhow::Result<Vec<usize>>>()?;
    let ran = simulated(&load, &places, engines, idle)?;
    let mut by_engine: BTreeMap<usize, Vec<Twice>> = BTreeMap::new();
    for (((row, _), fared), engine) in load.iter().zip(&ran.fared).zip(places) {
        if let (Some(err), true) = (&fared.err, is_usable(row)) {
            *left_out.entry(format!("more than is simulated to fit: {err}")).or_insert(0) += 1;
        } else if is_usable(row) {
            by_engine.entry(engine).or_default().extend(twice(row, ran_ns(&load, fared)));
        }
    }
    let all: Vec<Twice> = by_engine.values().flatten().copied().collect();
    let name = |at: usize| Some((engines[at].0.as_str(), engines[at].1.name.as_str()));
    let each = by_engine.iter().filter_map(|(at, twice)| reproduced(name(*at), twice));
    let found: Vec<Reproduced> = each.chain(reproduced(None, &all)).collect();
    Ok(Fidelity { engines: found, left_out })
}

fn why(row: &RouteRequestRow) -> String {
    match (&row.err, row.finished_ns) {
        (Some(err), _) if row.engine.is_some() && row.gone_ns.is_none() => {
            format!("failed at a time that is not known: {err}")
        }
        (Some(err), _) => format!("failed: {err}"),
        (None, None) => "unfinished".to_owned(),
        _ => "tokens that were not counted".to_owned(),
    }
}

fn place(row: &RouteRequestRow, engines: &[(String, &MethodWorld)]) -> anyhow::Result<usize> {
    let name = row.engine.as_deref().unwrap_or_default();
    engines.iter().position(|(known, _)| known == name).with_context(|| {
        format!("expected rows of the configuration's engines, got one of `{name}`\n  hint: pass the configuration that ran with --config")
    })
}

/// Names, rules and step times of engines.
fn members<'a>(
    engines: &'a [(String, &MethodWorld)],
) -> impl Iterator<Item = (&'a str, EngineConfig, Times)> {
    engines.iter().map(|(name, world)| (name.as_str(), world.config, Arc::clone(&world.times)))
}

/// All engines side by side, each with what it was sent.
fn simulated(
    load: &[(&RouteRequestRow, Traced)],
    places: &[usize],
    engines: &[(String, &MethodWorld)],
    idle: Vec<Engine>,
) -> anyhow::Result<Ran> {
    let member = |(at, (name, world)): (usize, &(String, &MethodWorld))| Member {
        name: name.clone(),
        method: at,
        config: world.config,
        times: Arc::clone(&world.times),
    };
    let pool = Pool {
        methods: engines.iter().map(|(name, _)| name.clone()).collect(),
        baseline: 0,
        engines: engines.iter().enumerate().map(member).collect(),
    };
    let arrivals: Vec<Arrival> = load
        .iter()
        .enumerate()
        .map(|(id, (_, traced))| arrival(id as u64, traced, engines.len()))
        .collect();
    let cluster =
        Cluster { pool: &pool, engines: idle, lengths: LengthsSeen::True, sees_breaks: false };
    let to = |ask: &crate::route::Ask<'_>, _: &Pool, seen: &[EngineState]| {
        let engine = places[ask.id as usize];
        Decision {
            engine: Some(engine).filter(|at| seen[*at].is_up),
            reason: Reason::Rule,
            predicted: Predicted::default(),
            n_candidates: 1,
        }
    };
    Ok(cluster::run(cluster, &arrivals, to)?)
}

fn arrival(id: u64, traced: &Traced, n_engines: usize) -> Arrival {
    Arrival {
        id,
        at_ns: traced.at_ns,
        prompt_tokens: traced.prompt_tokens,
        task: None,
        output_tokens: vec![traced.output_tokens; n_engines],
        predicted_tokens: vec![traced.output_tokens as f64; n_engines],
        breaks: vec![false; n_engines],
        leaves_ns: traced.patience_ns.map(|patience_ns| traced.at_ns + patience_ns),
    }
}

/// Simulated first and last token, from the arrival on.
fn ran_ns(load: &[(&RouteRequestRow, Traced)], fared: &Fared) -> Option<(i64, i64)> {
    let at_ns = load[fared.arrival].1.at_ns;
    Some((fared.first_token_ns? - at_ns, fared.finished_ns? - at_ns))
}

fn twice(row: &RouteRequestRow, simulated: Option<(i64, i64)>) -> Option<Twice> {
    let since = |ns: i64| ns_to_s(ns - row.arrived_ns);
    let (first_ns, last_ns) = simulated?;
    Some(Twice {
        e2e_s: (since(row.finished_ns?), ns_to_s(last_ns)),
        ttft_s: row.first_token_ns.map(|ns| (since(ns), ns_to_s(first_ns))),
    })
}

fn reproduced(engine: Option<(&str, &str)>, twice: &[Twice]) -> Option<Reproduced> {
    let mut e2e: Vec<(f64, f64)> = twice.iter().map(|both| both.e2e_s).collect();
    let ttft: Vec<(f64, f64)> = twice.iter().filter_map(|both| both.ttft_s).collect();
    Some(Reproduced {
        engine: engine.map(|(name, _)| name.to_owned()),
        method: engine.map(|(_, method)| method.to_owned()),
        n: twice.len(),
        e2e: pair(&e2e)?,
        ttft: pair(&ttft),
        tau: stats::tau_b(&mut e2e),
    })
}

/// Fewest values of a 99th percentile.
const P99_MIN: usize = 100;

fn pair(both: &[(f64, f64)]) -> Option<Pair> {
    let (observed, simulated): (Vec<f64>, Vec<f64>) = both.iter().copied().unzip();
    let off = both.iter().filter(|(seen, _)| *seen > 0.0);
    let mut off: Vec<f64> = off.map(|(seen, said)| 100.0 * (said / seen - 1.0).abs()).collect();
    let (observed, simulated) = (Sample::new(observed).ok()?, Sample::new(simulated).ok()?);
    let p99 = |sample: &Sample| {
        (sample.len() >= P99_MIN).then(|| stats::quantile_sorted(sample.sorted(), 0.99)).flatten()
    };
    Some(Pair {
        observed_mean_s: observed.mean(),
        simulated_mean_s: simulated.mean(),
        observed_p99_s: p99(&observed),
        simulated_p99_s: p99(&simulated),
        ape_median_pct: stats::median(&mut off)?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        predict::simulate::{EngineConfig, LinearTimes},
        route::world::LengthShift,
    };

    fn world(step_s: f64) -> MethodWorld {
        let times = LinearTimes {
            step_s,
            per_sequence_s: 0.0,
            per_kv_token_s: 0.0,
            per_prompt_s: 0.0,
            per_prompt_token_s: 0.0,
            per_pair_s: 0.0,
        };
        MethodWorld {
            name: "f16".to_owned(),
            times: Arc::new(times),
            config: EngineConfig::unlimited(8),
            shift: LengthShift { mean_log: 0.0, sigma_log: 0.0 },
            excess: BTreeMap::new(),
        }
    }

    /// A request that took 10 ms a token, alone.
    fn row(id: i64, tokens: i64) -> RouteRequestRow {
        let arrived_ns = id * 10_000_000_000;
        RouteRequestRow {
            request_id: id,
            arrived_ns,
            first_token_ns: Some(arrived_ns + 10_000_000),
            finished_ns: Some(arrived_ns + tokens * 10_000_000),
            prompt_tokens: Some(5),
            output_tokens: Some(tokens),
            engine: Some("a".to_owned()),
            attempt: 1,
            ..RouteRequestRow::default()
        }
    }

    #[test]
    fn an_engine_that_is_known_is_reproduced_and_a_slower_one_by_its_factor() {
        let mut rows: Vec<RouteRequestRow> = (0..120).map(|id| row(id, 1 + id % 50)).collect();
        rows.push(RouteRequestRow { err: Some("gone".to_owned()), ..row(200, 3) });
        rows.push(RouteRequestRow { output_tokens: None, ..row(201, 3) });
        let own = world(0.01);
        let found = fidelity(&rows, &[("a".to_owned(), &own)]).unwrap();
        let [engine, all] = found.engines.as_slice() else { panic!("{found:?}") };
        assert_eq!((engine.n, all.n, all.engine.as_deref()), (120, 120, None));
        assert!(engine.e2e.ape_median_pct < 1e-6, "{engine:?}");
        assert!((engine.tau.unwrap() - 1.0).abs() < 1e-9);
        assert!(engine.e2e.observed_p99_s.is_some());
        assert_eq!(found.left_out.values().sum::<usize>(), 2);
        let unknown = "failed at a time that is not known: gone";
        assert!(found.left_out.contains_key(unknown), "{:?}", found.left_out);
        let slow = world(0.02);
        let found = fidelity(&rows, &[("a".to_owned(), &slow)]).unwrap();
        assert!((found.engines[0].e2e.ape_median_pct - 100.0).abs() < 1e-6, "{found:?}");
        let ttft = found.engines[0].ttft.unwrap();
        assert!((ttft.simulated_mean_s - 2.0 * ttft.observed_mean_s).abs() < 1e-9);
    }

    /// One sequence at a time: a request that failed after half a second holds up the one behind it.
    #[test]
    fn what_failed_was_a_load_until_it_failed() {
        let own = MethodWorld { config: EngineConfig::unlimited(1), ..world(0.01) };
        let failed = RouteRequestRow {
            finished_ns: None,
            output_tokens: None,
            gone_ns: Some(500_000_000),
            err: Some("broken off".to_owned()),
            ..row(0, 3)
        };
        let behind = RouteRequestRow {
            arrived_ns: 10_000_000,
            first_token_ns: None,
            finished_ns: Some(1_500_000_000),
            output_tokens: Some(100),
            ..row(1, 100)
        };
        let e2e_s = |failed: RouteRequestRow| {
            let found = fidelity(&[failed, behind.clone()], &[("a".to_owned(), &own)]).unwrap();
            assert_eq!(found.left_out.values().sum::<usize>(), 1);
            found.engines[0].e2e.simulated_mean_s
        };
        assert!((e2e_s(failed.clone()) - 1.49).abs() < 1e-9, "{}", e2e_s(failed.clone()));
        // Of one whose end is not known, or that nobody was asked for, nothing can be said.
        let never = RouteRequestRow { gone_ns: None, ..failed.clone() };
        let nowhere = RouteRequestRow { engine: None, ..failed };
        for alone in [never, nowhere] {
            assert!((e2e_s(alone) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn rows_of_another_engine_are_told() {
        let own = world(0.01);
        let error = fidelity(&[row(0, 3)], &[("b".to_owned(), &own)]).unwrap_err().to_string();
        assert!(error.contains("got one of `a`") && error.contains("--config"), "{error}");
    }
}
