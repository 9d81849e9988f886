//! How well simulated engines reproduce what a live router recorded.

use crate::{
    analyse::route_replay::{Fidelity, Pair, Reproduced},
    report::{
        Table, Value,
        run::tables::{columns, text},
    },
    units::significant,
};

/// Observed beside simulated, each request on the engine that it was sent to.
pub fn table(fidelity: &Fidelity) -> Table {
    let names = [
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
    table.rows = fidelity.engines.iter().map(row).collect();
    table
}

fn row(one: &Reproduced) -> Vec<Value> {
    let Pair { observed_mean_s, simulated_mean_s, observed_p99_s, simulated_p99_s, ape_median_pct } =
        one.e2e;
    let name = |name: &Option<String>| text(name.as_deref().unwrap_or("all"));
    vec![
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
