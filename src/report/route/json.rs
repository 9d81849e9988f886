//! A judged run as JSON. Keys are stable; an estimate is `{"value", "ci_low", "ci_high"}`, or `null` where it cannot be known.

use serde_json::{Map, Value as Json, json};

use super::{Judged, words};
use crate::analyse::{Estimate, route::Summary};

/// `{"run", "name", "headline", "policies", "cells", "gains", "finding", "notes"}`: `policies` by name at the headline's pool, trace,
/// load and skill; `cells` all of them in a list.
///
/// `speedup_vs_all_fp16` is over join shortest queue on as many engines of the baseline, whatever its name;
/// `speedup_vs_own_least_memory` over least memory on as many engines of the one other method.
pub fn as_json(judged: &Judged) -> Json {
    let head = &judged.head;
    let policies: Map<String, Json> =
        judged.at(head).map(|cell| (cell.key.policy.clone(), numbers(cell))).collect();
    json!({
        "run": judged.manifest.run_id,
        "name": judged.manifest.name,
        "headline": {"pool": head.pool, "trace": head.trace, "load": head.load, "skill": head.skill},
        "policies": policies,
        "cells": judged.cells.iter().map(cell).collect::<Vec<_>>(),
        "gains": judged.gains.iter().map(gain).collect::<Vec<_>>(),
        "finding": words::finding(judged),
        "notes": words::notes(judged),
    })
}

fn estimate(estimate: Option<Estimate>) -> Json {
    estimate.map_or(Json::Null, |estimate| {
        let (low, high) = estimate.interval.unzip();
        json!({"value": estimate.value, "ci_low": low, "ci_high": high})
    })
}

fn percent(share: Option<Estimate>) -> Json {
    estimate(share.map(|share| Estimate {
        value: 100.0 * share.value,
        interval: share.interval.map(|(low, high)| (100.0 * low, 100.0 * high)),
        n: share.n,
    }))
}

fn numbers(cell: &Summary) -> Json {
    let shares: Map<String, Json> =
        cell.by_method.iter().map(|(name, share)| (name.clone(), percent(Some(*share)))).collect();
    let busy: Map<String, Json> =
        cell.busy.iter().map(|(name, share)| (name.clone(), percent(Some(*share)))).collect();
    json!({
        "e2e_mean_s": estimate(cell.e2e_mean_s),
        "e2e_p50_s": estimate(cell.e2e_p50_s),
        "e2e_p99_s": estimate(cell.e2e_p99_s),
        "ttft_mean_s": estimate(cell.ttft_mean_s),
        "ttft_p99_s": estimate(cell.ttft_p99_s),
        "tpot_mean_s": estimate(cell.tpot_mean_s),
        "normalised_mean_s": estimate(cell.normalised_mean_s),
        "on_time_pct": percent(cell.on_time),
        "goodput_per_s": estimate(cell.goodput_per_s),
        "speedup_vs_round_robin": estimate(cell.speedups.round_robin),
        "speedup_vs_shortest_queue": estimate(cell.speedups.shortest_queue),
        "speedup_vs_all_fp16": estimate(cell.speedups.all_baseline),
        "speedup_vs_all_fp16_least_memory": estimate(cell.speedups.all_baseline_least_memory),
        "speedup_vs_own_least_memory": estimate(cell.speedups.own_pool_least_memory),
        "harmed_pct": percent(cell.harmed),
        "excess_negatives": estimate(cell.excess_negatives),
        "regret_pct": {
            "speed": percent(cell.regrets.speed),
            "length": percent(cell.regrets.length),
            "fragility": percent(cell.regrets.fragility),
        },
        "share_pct": shares,
        "busy_pct": busy,
        "rho": cell.world.and_then(|world| world.rho),
        "rate_per_s": cell.world.and_then(|world| world.rate_per_s),
        "bound_e2e_mean_s": cell.world.map(|world| world.bound_e2e_mean_s),
        "steadiness": cell.steadiness.name(),
        "growth_pct": percent(cell.growth),
        "n_seeds": cell.n_seeds,
        "n_requests": cell.n_requests,
        "n_failed": cell.n_failed,
    })
}

fn cell(cell: &Summary) -> Json {
    let key = &cell.key;
    let mut out = json!({
        "pool": key.pool,
        "trace": key.trace,
        "load": key.load,
        "skill": key.skill,
        "policy": key.policy,
    });
    if let (Json::Object(out), Json::Object(more)) = (&mut out, numbers(cell)) {
        out.extend(more);
    }
    out
}

fn gain(gain: &crate::analyse::route::Gain) -> Json {
    let key = &gain.key;
    json!({
        "pool": key.pool,
        "trace": key.trace,
        "load": key.load,
        "skill": key.skill,
        "policy": key.policy,
        "total": estimate(Some(gain.total)),
        "mix": estimate(Some(gain.mix)),
        "policy_alone": estimate(Some(gain.policy)),
        "rule": estimate(gain.parts.as_ref().map(|parts| parts.rule)),
        "length_predictor": estimate(gain.parts.as_ref().map(|parts| parts.lengths)),
        "policy_share_pct": percent(gain.policy_share),
    })
}
