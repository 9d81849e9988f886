//! What the numbers of a router's run come to, in sentences.

use super::{Head, Judged, is_oracle, paper, tables};
use crate::{
    analyse::{Estimate, route::Summary},
    route::Rule,
    units::significant,
};

/// Paragraphs: the best policy, harm, and the paper's gain taken apart.
pub(super) fn finding(judged: &Judged) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(best(judged));
    out.extend(guarded(judged));
    out.extend(paper_gain(judged));
    out.extend(unstable(judged));
    out
}

/// What to know before the numbers are used.
pub(super) fn notes(judged: &Judged) -> Vec<String> {
    let mut out = vec![
        "Simulated: engines are models of engines, and what a policy gains on them is no measurement of one.".to_owned(),
    ];
    if judged.cells.iter().any(|cell| cell.n_failed > 0) {
        let failed: usize = judged.cells.iter().map(|cell| cell.n_failed).sum();
        let all: usize = judged.cells.iter().map(|cell| cell.n_requests).sum();
        out.push(format!(
            "{failed} of {all} simulated requests were not served; where two policies failed different numbers of them they are not compared."
        ));
    }
    out
}

/// `1.21x [1.18, 1.25]`.
fn times(estimate: Estimate) -> String {
    format!("{}x{}", significant(estimate.value, 3), interval(estimate))
}

fn interval(estimate: Estimate) -> String {
    let ends = |(low, high)| format!(" [{}, {}]", significant(low, 3), significant(high, 3));
    estimate.interval.map_or(String::new(), ends)
}

fn percent(share: Estimate) -> String {
    let hundred = |x: f64| 100.0 * x;
    let ends = share.interval.map(|(low, high)| (hundred(low), hundred(high)));
    let shown = Estimate { value: hundred(share.value), interval: ends, n: share.n };
    format!("{} %{}", significant(shown.value, 3), interval(shown))
}

fn is_for_use(judged: &Judged, cell: &Summary) -> bool {
    judged.spec(&cell.key.policy).is_some_and(|spec| !is_oracle(spec))
}

fn best(judged: &Judged) -> Option<String> {
    let head = &judged.head;
    let mean = |cell: &&Summary| cell.e2e_mean_s.map(|mean| mean.value);
    let usable = judged
        .at(head)
        .filter(|cell| is_for_use(judged, cell) && cell.n_failed == 0 && !cell.unstable);
    let best = usable
        .filter(|cell| cell.e2e_mean_s.is_some())
        .min_by(|a, b| mean(a).unwrap_or(f64::NAN).total_cmp(&mean(b).unwrap_or(f64::NAN)))?;
    let rho = best.world.and_then(|world| world.rho);
    let at = rho.map_or(String::new(), |rho| format!(" (rho {})", significant(rho, 2)));
    let mut text = format!(
        "On pool {}, trace {}, load {}{at} with predictors `{}`, `{}` has the least mean E2E of the policies that could be run: {} s{}",
        head.pool,
        head.trace,
        head.load,
        head.skill,
        best.key.policy,
        significant(mean(&best)?, 3),
        best.e2e_mean_s.map(interval).unwrap_or_default(),
    );
    let than = [
        ("round robin", best.speedups.round_robin, (&head.pool, &judged.design.round_robin)),
        (
            "join shortest queue",
            best.speedups.shortest_queue,
            (&head.pool, &judged.design.shortest_queue),
        ),
        (
            "as many engines without compression",
            best.speedups.all_baseline,
            (&judged.design.pool(&head.pool)?.baseline_pool, &judged.design.shortest_queue),
        ),
    ];
    let piles_up = |pool: &str, policy: &str| {
        let elsewhere = Head { pool: pool.to_owned(), ..head.clone() };
        judged.at(&elsewhere).any(|cell| cell.key.policy == policy && cell.unstable)
    };
    let said: Vec<String> = than
        .into_iter()
        .filter_map(|(name, value, (pool, policy))| {
            let warned = if piles_up(pool, policy) {
                " (where requests pile up, so that the factor grows with the run)"
            } else {
                ""
            };
            Some(format!("{} over {name}{warned}", times(value?)))
        })
        .collect();
    if !said.is_empty() {
        text += &format!(", {}", said.join(", "));
    }
    if let Some(regret) = best.regrets.length {
        text += &format!(
            "; knowing each answer's length under each method would save {} more, of which what is drawn for each prompt and method by chance cannot be predicted",
            percent(Estimate {
                value: 1.0 - 1.0 / (1.0 + regret.value),
                interval: regret
                    .interval
                    .map(|(low, high)| (1.0 - 1.0 / (1.0 + low), 1.0 - 1.0 / (1.0 + high))),
                n: regret.n,
            })
        );
    }
    Some(text + ".")
}

/// Each guarded policy beside the same one without a guard.
fn guarded(judged: &Judged) -> Vec<String> {
    let cells: Vec<&Summary> = judged.at(&judged.head).collect();
    let of = |name: &str| cells.iter().find(|cell| cell.key.policy == name);
    let specs =
        judged.design.policies.iter().filter(|spec| spec.guard.is_some() && !is_oracle(spec));
    specs
        .filter_map(|spec| {
            let plain = judged.design.policies.iter().find(|other| {
                other.guard.is_none()
                    && (other.rule, other.length, other.speed) == (spec.rule, spec.length, spec.speed)
            })?;
            let (own, other) = (of(&spec.name)?, of(&plain.name)?);
            Some(format!(
                "With its guard `{}` sends {} of requests to a method that breaks their answer, without it {}; over join shortest queue it is {} with and {} without.",
                spec.name,
                percent(own.harmed?),
                percent(other.harmed?),
                times(own.speedups.shortest_queue?),
                times(other.speedups.shortest_queue?),
            ))
        })
        .collect()
}

/// What share of the paper's gain its predictors give here.
fn paper_gain(judged: &Judged) -> Option<String> {
    let plain = |judged: &Judged, policy: &str| {
        judged.spec(policy).filter(|spec| !is_oracle(spec) && spec.guard.is_none()).map(|s| s.rule)
    };
    let mut each = Vec::new();
    let head = &judged.head;
    for gain in &judged.gains {
        let key = &gain.key;
        let here = (&key.trace, &key.load, &key.skill) == (&head.trace, &head.load, &head.skill);
        if !here || plain(judged, &key.policy) != Some(Rule::EarliestFinish) {
            continue;
        }
        let Some(method) = tables::other_method(judged, &key.pool) else { continue };
        let Some(column) = tables::of_paper(judged, &key.pool, method) else { continue };
        let paper = column.own_s / column.both_s;
        let of_paper = |factor: f64| factor.ln() / paper.ln();
        let share = Estimate {
            value: of_paper(gain.predictors.value),
            interval: gain.predictors.interval.map(|(low, high)| (of_paper(low), of_paper(high))),
            n: gain.predictors.n,
        };
        each.push(format!(
            "{method}: {} in all (the paper {}x), of which the mix alone under least memory {} and the policy with its predictors {}, which is {} of the logarithm of the paper's gain",
            times(gain.total),
            significant(paper, 3),
            times(gain.mix),
            times(gain.predictors),
            percent(share),
        ));
    }
    if each.is_empty() {
        return None;
    }
    Some(format!(
        "The paper's w/ Both over four engines of the method under least memory, taken apart by the control that the paper lacks (the same mix of engines under least memory, no predictor). {}. A factor below 1 is a loss.",
        each.join(". ")
    ))
}

fn unstable(judged: &Judged) -> Option<String> {
    let names: Vec<String> = judged
        .at(&judged.head)
        .filter(|cell| cell.unstable)
        .map(|cell| format!("`{}`", cell.key.policy))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "Requests pile up under {}: there is no steady state at this load, and the times depend on how long the run is.",
            names.join(", ")
        )
    })
}

/// What the paper's rate is, for captions.
pub(super) fn paper_place() -> String {
    format!("arXiv 2503.24000, Table 8: four A6000, {} requests a second", paper::RATE_PER_S)
}
