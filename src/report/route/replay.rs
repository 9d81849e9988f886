//! How well simulated engines reproduce what a live router recorded, and what policies come to under other step times.

use super::{Judged, is_oracle};
use crate::{
    analyse::{
        route::Summary,
        route_replay::{Fidelity, Pair, Reproduced},
    },
    report::{
        Table, Value,
        run::tables::{columns, estimate, text},
    },
    units::significant,
};

/// Observed beside simulated, each request on the engine that it was sent to. One entry for each source of step times, with its name.
pub fn table(all: &[(&str, &Fidelity)]) -> Table {
    let names = [
        ("step_times", ""),
        ("engine", ""),
        ("method", ""),
        ("requests", ""),
        ("e2e_observed", "s"),
        ("e2e_simulated", "s"),
        ("e2e_p99_observed", "s"),
        ("e2e_p99_simulated", "s"),
        ("e2e_off_median", "%"),
        ("ttft_observed", "s"),
        ("ttft_simulated", "s"),
        ("tau", ""),
    ];
    let title = "Recorded requests in simulated engines, each on the engine that it was sent to";
    let mut table = Table::new(title, columns(&names));
    let rows = |(source, fidelity): &(&str, &Fidelity)| {
        fidelity.engines.iter().map(|one| row(source, one)).collect::<Vec<_>>()
    };
    table.rows = all.iter().flat_map(rows).collect();
    table
}

fn row(source: &str, one: &Reproduced) -> Vec<Value> {
    let Pair { observed_mean_s, simulated_mean_s, observed_p99_s, simulated_p99_s, ape_median_pct } =
        one.e2e;
    let name = |name: &Option<String>| text(name.as_deref().unwrap_or("all"));
    vec![
        text(source),
        name(&one.engine),
        name(&one.method),
        Value::count(one.n),
        Value::Float(observed_mean_s),
        Value::Float(simulated_mean_s),
        Value::maybe(observed_p99_s),
        Value::maybe(simulated_p99_s),
        Value::Float(ape_median_pct),
        Value::maybe(one.ttft.map(|ttft| ttft.observed_mean_s)),
        Value::maybe(one.ttft.map(|ttft| ttft.simulated_mean_s)),
        Value::maybe(one.tau),
    ]
}

/// What it comes to, and what was left out.
pub fn said(fidelity: &Fidelity) -> Vec<String> {
    let all = fidelity.engines.iter().find(|one| one.engine.is_none());
    let off = all.map(|all| {
        let percent = 100.0 * (all.e2e.simulated_mean_s / all.e2e.observed_mean_s - 1.0);
        format!(
            "Simulated on the engines that they were sent to, {} requests have a mean E2E of {} s where {} s was observed ({} %): differences between policies smaller than that mean nothing.",
            all.n,
            significant(all.e2e.simulated_mean_s, 3),
            significant(all.e2e.observed_mean_s, 3),
            significant(percent, 2),
        )
    });
    let left = fidelity.left_out.iter().map(|(why, n)| format!("left out: {n} x {why}"));
    off.into_iter().chain(left).collect()
}

/// Policies under two sources of step times, each with its name. What is `x` is over join shortest queue under the same ones.
pub fn beside(first: (&str, &Judged), second: (&str, &Judged)) -> Table {
    let names = [
        ("policy", ""),
        ("e2e_mean", "s"),
        ("e2e_mean_against", "s"),
        ("vs_shortest_queue", "x"),
        ("vs_shortest_queue_against", "x"),
    ];
    let title =
        format!("Policies under step times of {}, and against them those of {}", first.0, second.0);
    let mut table = Table::new(&title, columns(&names));
    table.rows = first
        .1
        .at(&first.1.head)
        .map(|cell| {
            let other = second.1.at(&second.1.head).find(|o| o.key.policy == cell.key.policy);
            vec![
                text(&cell.key.policy),
                estimate(cell.e2e_mean_s),
                estimate(other.and_then(|other| other.e2e_mean_s)),
                estimate(cell.speedups.shortest_queue),
                estimate(other.and_then(|other| other.speedups.shortest_queue)),
            ]
        })
        .collect();
    table
}

/// Whether the two sources of step times agree on the policy with the least mean E2E. `None` where one of them has none.
pub fn agreement(first: (&str, &Judged), second: (&str, &Judged)) -> Option<String> {
    let (own, other) = (fastest(first.1)?, fastest(second.1)?);
    Some(if own == other {
        format!(
            "Step times of {} and of {} agree that `{own}` has the least mean E2E.",
            first.0, second.0
        )
    } else {
        format!(
            "Which policy has the least mean E2E depends on the step times: `{own}` under those of {}, `{other}` under those of {}.",
            first.0, second.0
        )
    })
}

fn fastest(judged: &Judged) -> Option<&str> {
    let mean = |cell: &Summary| cell.e2e_mean_s.map(|mean| mean.value);
    let usable = judged.at(&judged.head).filter(|cell| {
        judged.spec(&cell.key.policy).is_some_and(|spec| !is_oracle(spec)) && mean(cell).is_some()
    });
    let best =
        usable.min_by(|a, b| mean(a).unwrap_or(f64::NAN).total_cmp(&mean(b).unwrap_or(f64::NAN)));
    best.map(|cell| cell.key.policy.as_str())
}
