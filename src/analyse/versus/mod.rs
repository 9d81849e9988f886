//! Two runs against each other, cell by cell: ratios, verdicts, gates.
//!
//! - **One number a repeat.** Of each cell and metric every repeat yields one number (a mean, a percentile, a rate); a run is as many
//!   numbers as it has repeats. A t test on their logarithms compares the runs: repeats are what is independent, requests are not.
//!   What happens within a repeat (its requests resemble their neighbours) is in the spread between repeats, so the test needs no
//!   model of it; with few repeats its t is wide, and that is the truth.
//! - **Where the spread comes from** is told beside it: the part within repeats by a jackknife over blocks of time
//!   ([`crate::stats::TimeOrdered`]), the rest is between repeats. Longer repeats mend the first, more repeats both.
//! - **Words.** *Worse* and *better* need a small p-value and more than the noise floor; *same* needs two one-sided tests against the
//!   bound; everything else is *unclear*, with the repeats that it lacks.
//! - **Many tests at once.** p-values are adjusted over all cells and gated metrics (Benjamini and Hochberg): a build in which nothing
//!   changed fails with at most `alpha`, whatever the number of cells.
//! - **The noise floor** is what A/A shows: the `-aa` cells of the base against its baseline, and further runs of the base. It covers
//!   what repeats of one run cannot see, such as a machine that is another one tomorrow, only with such further runs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{bail, ensure};

use crate::scenario::gates::Gates;

mod counts;
mod floor;
mod gate;
mod launches;
mod line;
mod load;
pub mod metric;
mod same;
mod served;
mod side;
pub mod simulate;
#[cfg(test)]
mod tests;

pub use counts::Counts;
pub use gate::{Gated, Outcome};
pub use line::{Line, More, Rules, Word};
pub use metric::Metric;
pub use same::{Kind, Mismatch, mismatches};
pub use side::{Cell, Measured, Repeat, Side, Ways};

/// One run against the base.
#[derive(Debug, Clone, PartialEq)]
pub struct Versus {
    /// Folder of the base.
    pub base: String,
    /// Folder of the other run.
    pub new: String,
    /// What forbids it; what was allowed is in `allowed`.
    pub mismatches: Vec<Mismatch>,
    /// What differs and was allowed to.
    pub allowed: Vec<Mismatch>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Every metric of every cell that both have; empty where it is forbidden.
    pub lines: Vec<Line>,
    /// Prompts that methods break, at the losses that gates ask for.
    pub counts: Vec<Counts>,
    /// Every gate at every cell.
    pub gates: Vec<Gated>,
    /// How it was judged.
    pub rules: Rules,
    /// Whether a noise floor was known.
    pub has_floor: bool,
}

/// What a comparison comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No gate trips.
    Pass,
    /// A gate trips.
    Regression,
    /// The runs cannot be compared.
    CannotJudge,
}

impl Versus {
    /// What it comes to.
    pub fn finding(&self) -> Finding {
        if !self.mismatches.is_empty() {
            Finding::CannotJudge
        } else if self.gates.iter().any(|gate| gate.trips) {
            Finding::Regression
        } else {
            Finding::Pass
        }
    }
}

/// Compares a run with the base. `again` are further runs of the base: the noise between runs.
///
/// # Errors
/// A gate asks for a metric that neither run has, or scores cannot be paired.
pub fn versus(
    base: &Side,
    new: &Side,
    again: &[Side],
    gates: &Gates,
    allow: &[Kind],
) -> anyhow::Result<Versus> {
    let rules = Rules { alpha: gates.alpha, bound: gates.bound.ln() };
    let (allowed, mismatches) = same::mismatches(base, new)
        .into_iter()
        .partition::<Vec<_>, _>(|mismatch| allow.contains(&mismatch.kind));
    let floors = floor::floors(base, again);
    let mut judged = Versus {
        base: base.place.clone(),
        new: new.place.clone(),
        mismatches,
        allowed,
        notes: same::notes(base, new),
        lines: Vec::new(),
        counts: Vec::new(),
        gates: Vec::new(),
        rules,
        has_floor: !floors.is_empty(),
    };
    if !judged.mismatches.is_empty() {
        return Ok(judged);
    }
    judged.lines = lines(base, new, &floors, rules);
    judged.lines.extend(counts::score_lines(base, new, rules));
    judged.counts = counts::counts(base, new, &percents(gates))?;
    for line in &mut judged.lines {
        let looked_at = |gate| gate::is_for(gate, &line.point, &line.metric.name);
        line.gated = gates.gates.iter().any(looked_at);
    }
    line::judge(&mut judged.lines, rules);
    every_gate_has_a_cell(gates, &judged, (base, new))?;
    judged.gates = gate::outcomes(gates, &judged.lines, &judged.counts, (base, new));
    Ok(judged)
}

/// Metrics of cells that both runs have.
fn lines(base: &Side, new: &Side, floors: &floor::Floors, rules: Rules) -> Vec<Line> {
    // The control is there to show noise: it is the baseline once more, and would be judged twice.
    let control = format!("{}-aa", new.manifest.scenario.baseline);
    let mut lines = Vec::new();
    for (id, cell) in new.cells.iter().filter(|(_, cell)| cell.point.method != control) {
        let Some(before) = base.cells.get(id) else { continue };
        for (name, measured) in &cell.measured {
            if let Some(old) = before.measured.get(name) {
                let floor = floor::of(floors, &cell.point, name);
                lines.push(Line::new((id, &cell.point), old, measured, floor, rules));
            }
        }
    }
    lines
}

/// Losses that gates count.
fn percents(gates: &Gates) -> Vec<f64> {
    let names: BTreeSet<&str> = gates.gates.iter().map(|gate| gate.metric.as_str()).collect();
    names.into_iter().filter_map(metric::negatives_percent).collect()
}

/// A gate of a file that looks at nothing would pass for ever: that is an error, with what there is.
fn every_gate_has_a_cell(
    gates: &Gates,
    judged: &Versus,
    sides: (&Side, &Side),
) -> anyhow::Result<()> {
    let Some(origin) = &gates.origin else { return Ok(()) };
    for gate in &gates.gates {
        let on_line = |line: &Line| gate::is_for(gate, &line.point, &line.metric.name);
        let on_count = |count: &Counts| gate::is_for(gate, &count.point, &count.metric);
        if judged.lines.iter().any(on_line) || judged.counts.iter().any(on_count) {
            continue;
        }
        let short = [sides.0, sides.1]
            .iter()
            .any(|side| side.cells.values().any(|cell| cell.short.contains(&gate.metric)));
        ensure!(
            !short,
            "{origin}:{}: cannot judge `{}`: the repeats of these runs are too short for that percentile\n  hint: p90 needs 36 requests a repeat, p95 72, p99 368",
            gate.line,
            gate.metric
        );
        let there: BTreeSet<&str> =
            judged.lines.iter().map(|line| line.metric.name.as_str()).collect();
        let there = there.into_iter().collect::<Vec<_>>().join(", ");
        bail!(
            "{origin}:{}: expected a metric and a cell of both runs, got none for `{}`\n  hint: they have {there}; `negatives_10pct` needs runs that `kvbench score` has scored",
            gate.line,
            gate.metric
        );
    }
    Ok(())
}

/// Verdicts of all lines, counted.
pub fn tally(lines: &[Line]) -> BTreeMap<Word, usize> {
    let mut counts = BTreeMap::new();
    lines.iter().for_each(|line| *counts.entry(line.word).or_insert(0) += 1);
    counts
}
