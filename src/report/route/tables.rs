//! Tables of policies.

use super::{Head, Judged, is_oracle, paper};
use crate::{
    analyse::{
        Estimate,
        route::{Steadiness, Summary},
    },
    report::{
        Table, Value,
        run::tables::{columns, estimate, text},
    },
    route::{LengthKnowledge, PolicySpec},
};

/// All tables of a report, the first ones at what is reported first; empty ones are left out.
pub fn tables(judged: &Judged) -> Vec<Table> {
    let mut all = vec![latency(judged), against(judged), shares(judged), busy(judged)];
    all.extend([sweep(judged), table_8(judged), gains(judged), skills(judged)]);
    all.retain(|table| !table.rows.is_empty());
    all
}

/// What a table is of.
fn place(head: &Head) -> String {
    format!("pool {}, trace {}, load {}, skill {}", head.pool, head.trace, head.load, head.skill)
}

fn hundred(share: Option<Estimate>) -> Value {
    estimate(share.map(|share| Estimate {
        value: 100.0 * share.value,
        interval: share.interval.map(|(low, high)| (100.0 * low, 100.0 * high)),
        n: share.n,
    }))
}

fn remark(judged: &Judged, cell: &Summary) -> Value {
    let mut said = Vec::new();
    if judged.spec(&cell.key.policy).is_some_and(is_oracle) {
        said.push("oracle".to_owned());
    }
    if cell.steadiness != Steadiness::Steady {
        let said_of = match cell.steadiness {
            Steadiness::CannotTell => "steady? cannot tell",
            other => other.name(),
        };
        said.push(said_of.to_owned());
    }
    if cell.n_failed > 0 {
        said.push(format!("{} of {} not served", cell.n_failed, cell.n_requests));
    }
    Value::Text(said.join(", "))
}

/// Times by policy.
fn latency(judged: &Judged) -> Table {
    let names = [
        ("policy", ""),
        ("e2e_mean", "s"),
        ("e2e_p50", "s"),
        ("e2e_p99", "s"),
        ("ttft_mean", "s"),
        ("ttft_p99", "s"),
        ("tpot_mean", "s"),
        ("on_time", "%"),
        ("goodput", "1/s"),
        ("remark", ""),
    ];
    let head = &judged.head;
    let world = judged.at(head).find_map(|cell| cell.world);
    let rho = world.and_then(|world| world.rho);
    let bound = world.map(|world| world.bound_e2e_mean_s);
    let mut title = format!("Policies at {}", place(head));
    if let Some(rho) = rho {
        title += &format!(", rho {}", crate::units::significant(rho, 2));
    }
    if let Some(bound) = bound {
        let bound = crate::units::significant(bound, 3);
        title += &format!("; no router can have a mean E2E below {bound} s");
    }
    let mut table = Table::new(&title, columns(&names));
    table.rows = judged
        .at(head)
        .map(|cell| {
            vec![
                text(&cell.key.policy),
                estimate(cell.e2e_mean_s),
                estimate(cell.e2e_p50_s),
                estimate(cell.e2e_p99_s),
                estimate(cell.ttft_mean_s),
                estimate(cell.ttft_p99_s),
                estimate(cell.tpot_mean_s),
                hundred(cell.on_time),
                estimate(cell.goodput_per_s),
                remark(judged, cell),
            ]
        })
        .collect();
    table
}

/// Speed-ups, harm and regret by policy.
fn against(judged: &Judged) -> Table {
    let names = [
        ("policy", ""),
        ("vs_round_robin", "x"),
        ("vs_shortest_queue", "x"),
        ("vs_all_baseline", "x"),
        ("harmed", "%"),
        ("excess_negatives", ""),
        ("regret_speed", "%"),
        ("regret_length", "%"),
        ("regret_fragility", "%"),
        ("remark", ""),
    ];
    let title = format!("Speed-ups of mean E2E, harm and regret at {}", place(&judged.head));
    let mut table = Table::new(&title, columns(&names));
    table.rows = judged
        .at(&judged.head)
        .map(|cell| {
            vec![
                text(&cell.key.policy),
                estimate(cell.speedups.round_robin),
                estimate(cell.speedups.shortest_queue),
                estimate(cell.speedups.all_baseline),
                hundred(cell.harmed),
                estimate(cell.excess_negatives),
                hundred(cell.regrets.speed),
                hundred(cell.regrets.length),
                hundred(cell.regrets.fragility),
                remark(judged, cell),
            ]
        })
        .collect();
    table
}

/// Shares of requests by method.
fn shares(judged: &Judged) -> Table {
    let methods = names(judged.at(&judged.head), |cell| cell.by_method.keys());
    let title = format!("Share of requests by method at {}", place(&judged.head));
    by_name(judged, &title, &methods, |cell, name| cell.by_method.get(name).copied())
}

/// Utilisation by engine.
fn busy(judged: &Judged) -> Table {
    let engines = names(judged.at(&judged.head), |cell| cell.busy.keys());
    let title =
        format!("Share of the time in which a step ran, by engine, at {}", place(&judged.head));
    by_name(judged, &title, &engines, |cell, name| cell.busy.get(name).copied())
}

fn names<'a, I: Iterator<Item = &'a String>>(
    cells: impl Iterator<Item = &'a Summary>,
    of: impl Fn(&'a Summary) -> I,
) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = cells.flat_map(of).collect();
    all.into_iter().cloned().collect()
}

fn by_name(
    judged: &Judged,
    title: &str,
    names: &[String],
    of: impl Fn(&Summary, &str) -> Option<Estimate>,
) -> Table {
    let heads = names.iter().map(|name| (name.as_str(), "%"));
    let heads: Vec<_> = std::iter::once(("policy", "")).chain(heads).collect();
    let mut table = Table::new(title, columns(&heads));
    if !names.is_empty() {
        let row = |cell: &Summary| {
            let shares = names.iter().map(|name| hundred(of(cell, name)));
            std::iter::once(text(&cell.key.policy)).chain(shares).collect()
        };
        table.rows = judged.at(&judged.head).map(row).collect();
    }
    table
}

/// All loads at the head's pool, trace and skill.
fn sweep(judged: &Judged) -> Table {
    let names = [
        ("load", ""),
        ("rho", ""),
        ("policy", ""),
        ("e2e_mean", "s"),
        ("e2e_p99", "s"),
        ("vs_round_robin", "x"),
        ("vs_shortest_queue", "x"),
        ("harmed", "%"),
        ("remark", ""),
    ];
    let Head { pool, trace, skill, .. } = &judged.head;
    let title = format!("All loads of pool {pool}, trace {trace}, skill {skill}");
    let mut table = Table::new(&title, columns(&names));
    if judged.design.loads.len() < 2 {
        return table;
    }
    table.rows = judged
        .sweep()
        .map(|cell| {
            vec![
                text(&cell.key.load),
                Value::maybe(cell.world.and_then(|world| world.rho)),
                text(&cell.key.policy),
                estimate(cell.e2e_mean_s),
                estimate(cell.e2e_p99_s),
                estimate(cell.speedups.round_robin),
                estimate(cell.speedups.shortest_queue),
                hundred(cell.harmed),
                remark(judged, cell),
            ]
        })
        .collect();
    table
}

/// The other method of a pool that mixes the baseline with one.
pub(super) fn other_method<'a>(judged: &'a Judged, pool: &str) -> Option<&'a str> {
    let pool = judged.design.pool(pool)?;
    pool.own_pool.as_ref()?;
    let is_other = |(_, method): &&(String, String)| *method != judged.design.baseline;
    pool.engines.iter().find(is_other).map(|(_, method)| method.as_str())
}

/// Cells of every pool that mixes the baseline with one method, at the head's trace, load and skill.
pub(super) fn mixed(judged: &Judged) -> impl Iterator<Item = (&str, &Summary)> {
    let head = &judged.head;
    judged.cells.iter().filter_map(move |cell| {
        let key = &cell.key;
        let here = (&key.trace, &key.load, &key.skill) == (&head.trace, &head.load, &head.skill);
        here.then(|| other_method(judged, &key.pool)).flatten().map(|method| (method, cell))
    })
}

/// The paper's column of a mixed pool, where it is the paper's mix at the paper's rate.
pub(super) fn of_paper(judged: &Judged, pool: &str, method: &str) -> Option<paper::Column> {
    let engines = &judged.design.pool(pool)?.engines;
    let n_baseline = engines.iter().filter(|(_, of)| *of == judged.design.baseline).count();
    let rate = judged.poisson_rate(&judged.head.load)?;
    let is_its = (n_baseline, engines.len()) == (1, 4) && (rate - paper::RATE_PER_S).abs() < 0.01;
    is_its.then(|| paper::column(method)).flatten()
}

/// Table 8 of the paper beside the simulation.
fn table_8(judged: &Judged) -> Table {
    let names = [
        ("method", ""),
        ("policy", ""),
        ("e2e_mean", "s"),
        ("paper_e2e_mean", "s"),
        ("vs_own", "x"),
        ("paper_vs_own", "x"),
        ("vs_all_baseline", "x"),
        ("paper_vs_all_baseline", "x"),
        ("remark", ""),
    ];
    let head = &judged.head;
    let title = format!(
        "Mixed pools beside Table 8 of arXiv 2503.24000 at trace {}, load {}, skill {}: against as many engines of the method, and of the baseline, under least memory",
        head.trace, head.load, head.skill
    );
    let mut table = Table::new(&title, columns(&names));
    table.rows = mixed(judged).map(|(method, cell)| row_8(judged, method, cell)).collect();
    table
}

fn row_8(judged: &Judged, method: &str, cell: &Summary) -> Vec<Value> {
    let spec = judged.spec(&cell.key.policy).filter(|spec| !is_oracle(spec));
    // With one length for all a rule of the paper is a control, and none of its policies.
    let is_papers = |spec: &&PolicySpec| {
        spec.guard.is_none()
            && (!spec.rule.asks_lengths() || spec.length == LengthKnowledge::Predicted)
    };
    let rule = spec.filter(is_papers).map(|spec| spec.rule);
    let column = of_paper(judged, &cell.key.pool, method);
    let theirs = column.zip(rule).and_then(|(column, rule)| Some((column, column.of(rule)?)));
    let called = rule.and_then(paper::name).filter(|_| theirs.is_some());
    let policy = called.map_or_else(
        || cell.key.policy.clone(),
        |called| format!("{} ({called})", cell.key.policy),
    );
    vec![
        text(method),
        Value::Text(policy),
        estimate(cell.e2e_mean_s),
        Value::maybe(theirs.map(|(_, s)| s)),
        estimate(cell.speedups.own_pool_least_memory),
        Value::maybe(theirs.map(|(column, s)| column.own_s / s)),
        estimate(cell.speedups.all_baseline_least_memory),
        Value::maybe(theirs.map(|(_, s)| paper::FP16_S / s)),
        remark(judged, cell),
    ]
}

/// What of a gain is the mix's, what the rule's, and what the predictor's of lengths.
fn gains(judged: &Judged) -> Table {
    let names = [
        ("pool", ""),
        ("policy", ""),
        ("total", "x"),
        ("mix", "x"),
        ("policy_alone", "x"),
        ("rule", "x"),
        ("length_predictor", "x"),
        ("policy_share", "%"),
    ];
    let head = &judged.head;
    let title = format!(
        "Gain over as many engines of the method under least memory, as a product: the mix under least memory, and the policy on the mix, which of a policy that predicts lengths is the same rule with one length for all and the predictor; trace {}, load {}, skill {}",
        head.trace, head.load, head.skill
    );
    let mut table = Table::new(&title, columns(&names));
    let here = judged.gains.iter().filter(|gain| {
        let key = &gain.key;
        (&key.trace, &key.load, &key.skill) == (&head.trace, &head.load, &head.skill)
    });
    table.rows = here
        .map(|gain| {
            vec![
                text(&gain.key.pool),
                text(&gain.key.policy),
                estimate(Some(gain.total)),
                estimate(Some(gain.mix)),
                estimate(Some(gain.policy)),
                estimate(gain.parts.as_ref().map(|parts| parts.rule)),
                estimate(gain.parts.as_ref().map(|parts| parts.lengths)),
                hundred(gain.policy_share),
            ]
        })
        .collect();
    table
}

/// What other predictors would have made of it, at the head's pool, trace and load.
fn skills(judged: &Judged) -> Table {
    let names = [
        ("policy", ""),
        ("skill", ""),
        ("e2e_mean", "s"),
        ("vs_round_robin", "x"),
        ("vs_shortest_queue", "x"),
        ("harmed", "%"),
    ];
    let Head { pool, trace, load, .. } = &judged.head;
    let title =
        format!("Policies under other predictors at pool {pool}, trace {trace}, load {load}");
    let mut table = Table::new(&title, columns(&names));
    if judged.design.skills.len() < 2 {
        return table;
    }
    for spec in judged.design.policies.iter().filter(|spec| !is_oracle(spec)) {
        for skill in &judged.design.skills {
            let at = Head { skill: skill.clone(), ..judged.head.clone() };
            let row = judged.at(&at).find(|cell| cell.key.policy == spec.name).map(|cell| {
                vec![
                    text(&spec.name),
                    text(skill),
                    estimate(cell.e2e_mean_s),
                    estimate(cell.speedups.round_robin),
                    estimate(cell.speedups.shortest_queue),
                    hundred(cell.harmed),
                ]
            });
            table.rows.extend(row);
        }
    }
    table
}

/// Every cell, for files: the numbers that compare policies.
pub(super) fn cells(cells: &[Summary]) -> Table {
    let names = [
        ("pool", ""),
        ("trace", ""),
        ("load", ""),
        ("skill", ""),
        ("policy", ""),
        ("rho", ""),
        ("rate", "1/s"),
        ("seeds", ""),
        ("requests", ""),
        ("failed", ""),
        ("steadiness", ""),
        ("growth", "%"),
        ("e2e_mean", "s"),
        ("e2e_p50", "s"),
        ("e2e_p99", "s"),
        ("ttft_mean", "s"),
        ("ttft_p99", "s"),
        ("tpot_mean", "s"),
        ("normalised_mean", "s"),
        ("goodput", "1/s"),
        ("harmed_pct", "%"),
        ("speedup_vs_round_robin", "x"),
        ("speedup_vs_shortest_queue", "x"),
        ("speedup_vs_all_baseline", "x"),
        ("speedup_vs_own_least_memory", "x"),
    ];
    let mut table = Table::new("Cells", columns(&names));
    table.rows = cells.iter().map(cell).collect();
    table
}

fn cell(cell: &Summary) -> Vec<Value> {
    let key = &cell.key;
    let words = [&key.pool, &key.trace, &key.load, &key.skill, &key.policy];
    let world = cell.world;
    words
        .into_iter()
        .map(|word| text(word))
        .chain([
            Value::maybe(world.and_then(|world| world.rho)),
            Value::maybe(world.and_then(|world| world.rate_per_s)),
            Value::count(cell.n_seeds),
            Value::count(cell.n_requests),
            Value::count(cell.n_failed),
            text(cell.steadiness.name()),
            hundred(cell.growth),
            estimate(cell.e2e_mean_s),
            estimate(cell.e2e_p50_s),
            estimate(cell.e2e_p99_s),
            estimate(cell.ttft_mean_s),
            estimate(cell.ttft_p99_s),
            estimate(cell.tpot_mean_s),
            estimate(cell.normalised_mean_s),
            estimate(cell.goodput_per_s),
            hundred(cell.harmed),
            estimate(cell.speedups.round_robin),
            estimate(cell.speedups.shortest_queue),
            estimate(cell.speedups.all_baseline),
            estimate(cell.speedups.own_pool_least_memory),
        ])
        .collect()
}
