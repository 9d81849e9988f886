//! What a live router recorded, against the same requests on the same engines simulated: how far the simulation can be trusted
//! before it says what another policy would have done.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::{
    predict::simulate::{Client, Engine, Load, Outcome, Request, replay},
    record::RouteRequestRow,
    route::world::MethodWorld,
    stats::{self, Sample},
    units::ns_to_s,
    workload::route::is_usable,
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
    /// Rows that nothing rests on: why, and how many. They took the engines' time all the same.
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
    let mut left_out = BTreeMap::new();
    let mut by_engine: BTreeMap<&str, Vec<&RouteRequestRow>> = BTreeMap::new();
    for row in rows {
        match &row.engine {
            Some(engine) if is_usable(row) => by_engine.entry(engine).or_default().push(row),
            _ => *left_out.entry(why(row)).or_insert(0) += 1,
        }
    }
    let (mut found, mut all) = (Vec::new(), Vec::new());
    for (name, mut rows) in by_engine {
        let world = engines.iter().find(|(known, _)| known == name).map(|(_, world)| *world);
        let world = world.with_context(|| {
            format!("expected rows of the configuration's engines, got one of `{name}`\n  hint: pass the configuration that ran with --config")
        })?;
        rows.sort_by_key(|row| (row.arrived_ns, row.request_id));
        let (twice, n_rejected) = simulated(&rows, world).with_context(|| name.to_owned())?;
        if n_rejected > 0 {
            let reason = format!("more than the simulated `{name}` can hold");
            *left_out.entry(reason).or_insert(0) += n_rejected;
        }
        found.extend(reproduced(Some((name, &world.name)), &twice));
        all.extend(twice);
    }
    found.extend(reproduced(None, &all));
    Ok(Fidelity { engines: found, left_out })
}

fn why(row: &RouteRequestRow) -> String {
    match (&row.err, row.finished_ns) {
        (Some(err), _) => format!("failed: {err}"),
        (None, None) => "unfinished".to_owned(),
        _ => "tokens that were not counted".to_owned(),
    }
}

fn simulated(
    rows: &[&RouteRequestRow],
    world: &MethodWorld,
) -> anyhow::Result<(Vec<Twice>, usize)> {
    let tokens = |tokens: Option<i64>| tokens.map_or(0, i64::unsigned_abs);
    let request = |(id, row): (usize, &&RouteRequestRow)| Request {
        id: id as u64,
        prompt_tokens: tokens(row.prompt_tokens),
        cached_tokens: 0,
        output_tokens: tokens(row.output_tokens),
    };
    let requests: Vec<Request> = rows.iter().enumerate().map(request).collect();
    let times = Load::Open(rows.iter().map(|row| row.arrived_ns).collect());
    let engine = Engine::new(world.config, world.times.clone())?;
    let replayed = replay(engine, &requests, &times, Client::default())?;
    let both = rows.iter().zip(&replayed.outcomes);
    let twice = both.filter_map(|(row, outcome)| twice(row, outcome.as_ref()?)).collect();
    Ok((twice, replayed.rejected.len()))
}

fn twice(row: &RouteRequestRow, outcome: &Outcome) -> Option<Twice> {
    let since = |ns: i64| ns_to_s(ns - row.arrived_ns);
    Some(Twice {
        e2e_s: (since(row.finished_ns?), outcome.e2e_s()),
        ttft_s: row.first_token_ns.map(|ns| (since(ns), outcome.ttft_s())),
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
        assert!(found.left_out.contains_key("failed: gone"), "{:?}", found.left_out);
        let slow = world(0.02);
        let found = fidelity(&rows, &[("a".to_owned(), &slow)]).unwrap();
        assert!((found.engines[0].e2e.ape_median_pct - 100.0).abs() < 1e-6, "{found:?}");
        let ttft = found.engines[0].ttft.unwrap();
        assert!((ttft.simulated_mean_s - 2.0 * ttft.observed_mean_s).abs() < 1e-9);
    }

    #[test]
    fn rows_of_another_engine_are_told() {
        let own = world(0.01);
        let error = fidelity(&[row(0, 3)], &[("b".to_owned(), &own)]).unwrap_err().to_string();
        assert!(error.contains("got one of `a`") && error.contains("--config"), "{error}");
    }
}
