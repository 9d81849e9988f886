//! Gates on lines: which fail, which pass, and which the repeats do not decide.

use super::{
    counts::Counts,
    line::{Line, More},
    metric,
    side::Side,
};
use crate::{
    analyse::Point,
    scenario::gates::{Gate, Gates, Limit, Unclear},
    stats,
};

/// What became of a gate at a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Certainly beyond its limit.
    Fail,
    /// Not certain either way.
    Unclear,
    /// Certainly within.
    Pass,
}

impl Outcome {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Fail => "FAIL",
            Outcome::Unclear => "unclear",
            Outcome::Pass => "pass",
        }
    }
}

/// A gate at a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Gated {
    /// Cell without its repeat.
    pub cell: String,
    /// The same in parts.
    pub point: Point,
    /// Metric.
    pub metric: String,
    /// The limit as the file spells it.
    pub limit: String,
    /// Line in the file of gates; `None` of what is always looked at.
    pub line: Option<usize>,
    /// What was seen, in words.
    pub seen: String,
    /// p-value of a failure, adjusted for all gates and cells; `None` where there is no test.
    pub q: Option<f64>,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether that fails the comparison.
    pub trips: bool,
    /// Repeats that would decide.
    pub more: Option<More>,
}

/// A gate at a cell before all p-values are known.
struct Open {
    gated: Gated,
    unclear: Unclear,
    p_fail: f64,
    /// `None` where nothing can be shown to be within.
    p_pass: Option<f64>,
}

/// Whether a gate is for this line.
pub(super) fn is_for(gate: &Gate, point: &Point, metric: &str) -> bool {
    let fits = |pattern: &Option<regex::Regex>, name: &str| {
        pattern.as_ref().is_none_or(|pattern| pattern.is_match(name))
    };
    gate.metric == metric
        && fits(&gate.method, &point.method)
        && fits(&gate.workload, &point.workload)
        && fits(&gate.target, &point.target)
        && fits(&gate.load, &point.load)
}

/// Every gate at every cell that it is for.
pub(super) fn outcomes(
    gates: &Gates,
    lines: &[Line],
    counts: &[Counts],
    sides: (&Side, &Side),
) -> Vec<Gated> {
    let mut open = failures(sides.0, sides.1);
    for gate in &gates.gates {
        open.extend(
            lines
                .iter()
                .filter(|line| is_for(gate, &line.point, &line.metric.name))
                .map(|line| on_line(gate, line, gates.alpha)),
        );
        open.extend(
            counts
                .iter()
                .filter(|count| is_for(gate, &count.point, &count.metric))
                .filter_map(|count| on_count(gate, count)),
        );
    }
    close(open, gates.alpha)
}

/// Adjusts for how many there are, and decides.
fn close(open: Vec<Open>, alpha: f64) -> Vec<Gated> {
    let fails = stats::benjamini_hochberg(&open.iter().map(|open| open.p_fail).collect::<Vec<_>>());
    let passes = stats::benjamini_hochberg(
        &open.iter().map(|open| open.p_pass.unwrap_or(1.0)).collect::<Vec<_>>(),
    );
    let decide = |((open, fail), pass): ((Open, f64), f64)| {
        let mut gated = open.gated;
        gated.q = gated.q.map(|_| fail);
        gated.outcome = if fail <= alpha {
            Outcome::Fail
        } else if pass <= alpha {
            Outcome::Pass
        } else {
            Outcome::Unclear
        };
        gated.trips = gated.outcome == Outcome::Fail
            || (gated.outcome == Outcome::Unclear && open.unclear == Unclear::Fail);
        gated.more = gated.more.filter(|_| gated.outcome == Outcome::Unclear);
        gated
    };
    open.into_iter().zip(fails).zip(passes).map(decide).collect()
}

fn on_line(gate: &Gate, line: &Line, alpha: f64) -> Open {
    let (ratio, two_sided) = match gate.limit {
        Limit::WorseThan(ratio) => (ratio, false),
        Limit::DiffersBy(ratio) => (ratio, true),
        Limit::MoreThan(_) => (f64::INFINITY, false),
    };
    // What is the same can show as much as the floor.
    let limit = ratio.ln().max(line.floor);
    let bad = line.bad();
    let (p_fail, p_pass) = match bad {
        None => (1.0, None),
        Some(bad) if two_sided => (
            (2.0 * bad.p_above(limit).min(bad.p_below(-limit))).min(1.0),
            Some(bad.p_outside(limit)),
        ),
        Some(bad) => (bad.p_above(limit), Some(bad.p_below(limit))),
    };
    let more = match bad {
        Some(bad) => {
            let apart = if two_sided { bad.value.abs() } else { bad.value };
            line.more_for(bad, (apart - limit).abs(), alpha)
        }
        None => line.more,
    };
    let raised = if line.floor > ratio.ln() {
        format!(" (the noise floor is {:.3})", line.floor.exp())
    } else {
        String::new()
    };
    let seen = match line.interval(alpha) {
        Some(interval) => {
            format!("{:.3} [{:.3}, {:.3}]", line.ratio(), interval.low, interval.high)
        }
        None => format!("{:.3}, of too few repeats for an interval", line.ratio()),
    };
    Open {
        gated: Gated {
            cell: line.cell.clone(),
            point: line.point.clone(),
            metric: line.metric.name.clone(),
            limit: gate.limit.words() + &raised,
            line: Some(gate.line),
            seen,
            q: bad.map(|_| p_fail),
            outcome: Outcome::Unclear,
            trips: false,
            more,
        },
        unclear: gate.unclear,
        p_fail,
        p_pass,
    }
}

fn on_count(gate: &Gate, count: &Counts) -> Option<Open> {
    let Limit::MoreThan(reference) = gate.limit else { return None };
    let (more, fewer, seen) = count.against(reference)?;
    let gated = Gated {
        cell: count.cell.clone(),
        point: count.point.clone(),
        metric: count.metric.clone(),
        limit: gate.limit.words(),
        line: Some(gate.line),
        seen,
        q: Some(1.0),
        outcome: Outcome::Unclear,
        trips: false,
        more: None,
    };
    // Prompts that went one way against those that went the other (a sign test). As many or fewer is within by itself.
    let p_fail = stats::sign_test(more, fewer);
    Some(Open { gated, unclear: gate.unclear, p_fail, p_pass: (more <= fewer).then_some(0.0) })
}

/// Requests and launches that fail more often than before are in no latency, so they are always looked at. Given how many failed in
/// both runs together, those of the new one are binomial (Przyborowski and Wilenski 1940).
fn failures(base: &Side, new: &Side) -> Vec<Open> {
    let mut open = Vec::new();
    for (id, cell) in &base.cells {
        let Some(other) = new.cells.get(id).filter(|other| cell.n_failed + other.n_failed > 0)
        else {
            continue;
        };
        let all = cell.n_failed + other.n_failed;
        let share = other.n_rows as f64 / (cell.n_rows + other.n_rows) as f64;
        // A cell of which nothing is left did not fail by chance.
        let lost = other.measured.is_empty() && !cell.measured.is_empty();
        let p_fail = if lost { 0.0 } else { stats::binomial_at_least(other.n_failed, all, share) };
        let fewer = other.n_failed * cell.n_rows <= cell.n_failed * other.n_rows;
        open.push(Open {
            gated: Gated {
                cell: id.clone(),
                point: cell.point.clone(),
                metric: metric::FAILED.to_owned(),
                limit: "more_than base".to_owned(),
                line: None,
                seen: format!(
                    "{} of {} failed, {} of {} before",
                    other.n_failed, other.n_rows, cell.n_failed, cell.n_rows
                ),
                q: Some(p_fail),
                outcome: Outcome::Unclear,
                trips: false,
                more: None,
            },
            unclear: Unclear::Pass,
            p_fail,
            p_pass: (fewer && !lost).then_some(0.0),
        });
    }
    open
}
