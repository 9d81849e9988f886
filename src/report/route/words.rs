//! What the numbers of a router's run come to, in sentences.

use super::{Head, Judged, is_oracle, paper, tables};
use crate::{
    analyse::{
        Estimate,
        route::{Gain, Steadiness, Summary},
    },
    route::{LengthKnowledge, Rule},
    units::significant,
};

/// Paragraphs: the best policy, harm, and the paper's gain taken apart.
pub(super) fn finding(judged: &Judged) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(best(judged));
    out.extend(guarded(judged));
    out.extend(paper_gain(judged));
    out.extend(piles_up(judged));
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
            "{failed} of {all} simulated requests were not served or were given up; where two policies failed different ones they are not compared."
        ));
    }
    if judged.design.skills_of_true_speed.contains(&judged.head.skill) {
        out.push(format!(
            "Predictors `{}` know the step times as they are, so there is no regret of speed.",
            judged.head.skill
        ));
    }
    if judged.cells.iter().all(|cell| cell.harmed.is_none()) {
        out.push("Which answers a method breaks is not known here: harm is left empty.".to_owned());
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

fn grows(cell: &Summary) -> bool {
    cell.steadiness == Steadiness::Growing
}

fn best(judged: &Judged) -> Option<String> {
    let head = &judged.head;
    let mean = |cell: &&Summary| cell.e2e_mean_s.map(|mean| mean.value);
    let fewest = judged.at(head).map(|cell| cell.n_failed).min()?;
    let usable = judged
        .at(head)
        .filter(|cell| is_for_use(judged, cell) && cell.n_failed == fewest && !grows(cell));
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
        judged.at(&elsewhere).any(|cell| cell.key.policy == policy && grows(cell))
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

/// What share of the paper's gain the mix, the rule and the predictor of lengths give here.
fn paper_gain(judged: &Judged) -> Option<String> {
    let is_papers = |policy: &str| {
        judged.spec(policy).is_some_and(|spec| {
            spec.rule == Rule::EarliestFinish
                && spec.length == LengthKnowledge::Predicted
                && spec.guard.is_none()
                && !is_oracle(spec)
        })
    };
    let head = &judged.head;
    let here = judged.gains.iter().filter(|gain| {
        let key = &gain.key;
        (&key.trace, &key.load, &key.skill) == (&head.trace, &head.load, &head.skill)
            && is_papers(&key.policy)
    });
    let each: Vec<String> = here.filter_map(|gain| apart(judged, gain)).collect();
    (!each.is_empty()).then(|| {
        format!(
            "The paper's w/ Both over four engines of the method under least memory, taken apart by the controls that the paper lacks: the same mix of engines under least memory, without any predictor, and the same rule that expects one length of every answer. Shares are of the logarithm of the paper's gain. {}. A factor below 1 is a loss, and its share is below 0.",
            each.join(". ")
        )
    })
}

fn apart(judged: &Judged, gain: &Gain) -> Option<String> {
    let method = tables::other_method(judged, &gain.key.pool)?;
    let column = tables::of_paper(judged, &gain.key.pool, method)?;
    let paper = column.own_s / column.both_s;
    let told = |factor: Estimate| {
        let of_paper = |factor: f64| factor.ln() / paper.ln();
        let share = Estimate {
            value: of_paper(factor.value),
            interval: factor.interval.map(|(low, high)| (of_paper(low), of_paper(high))),
            n: factor.n,
        };
        format!("{} ({})", times(factor), percent(share))
    };
    let policy = match &gain.parts {
        Some(parts) => format!(
            "the rule with step times and one length for all {}, the predictor of lengths {}",
            told(parts.rule),
            told(parts.lengths)
        ),
        None => format!("the policy with all of its predictors {}", told(gain.policy)),
    };
    Some(format!(
        "{method}: {} in all (the paper {}x), of which the mix alone {}, {policy}",
        times(gain.total),
        significant(paper, 3),
        told(gain.mix),
    ))
}

/// Under which policies requests pile up, and under which nobody can tell.
fn piles_up(judged: &Judged) -> Vec<String> {
    let names = |steadiness: Steadiness| {
        let cells = judged.at(&judged.head).filter(move |cell| cell.steadiness == steadiness);
        cells.map(|cell| format!("`{}`", cell.key.policy)).collect::<Vec<_>>().join(", ")
    };
    let mut out = Vec::new();
    let (growing, open) = (names(Steadiness::Growing), names(Steadiness::CannotTell));
    if !growing.is_empty() {
        out.push(format!(
            "Requests pile up under {growing}: there is no steady state within the run, and the times depend on how long it is."
        ));
    }
    if !open.is_empty() {
        out.push(format!(
            "Whether requests pile up under {open} cannot be told from these seeds: more of them, or longer ones, would tell."
        ));
    }
    out
}

/// What the paper's rate is, for captions.
pub(super) fn paper_place() -> String {
    format!("arXiv 2503.24000, Table 8: four A6000, {} requests a second", paper::RATE_PER_S)
}
