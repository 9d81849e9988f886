//! Observations to models.
//!
//! A method costs either what its own points say (three coefficients or more) or its baseline's costs times one factor. One factor is
//! less to get wrong: it is kept unless coefficients of its own are better on points that were held out by more than the standard
//! error of that comparison, the rule by which Breiman et al. (1984) prune trees. It pays most outside of the fitted range, where an
//! own slope from a dozen noisy points goes astray and the baseline's does not. This is for decoding, where what a method keeps is in the
//! work already. A prefill has work that the baseline has not (packing, choosing tokens), which no factor on its curve describes: on
//! published measurements one factor there doubled the cost of choosing a method by the model.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom as _;

use super::{
    Observation, Phase, Source, Subject, Work,
    curve::{Curve, Row, Terms},
    domain::Domain,
    interval::{Errors, LogInterval, growth},
    local::Local,
    model::{Kind, Model},
    points::{Group, Point, groups, noise},
    split::shape,
};
use crate::stats;

/// Shapes below which a method is calibrated on its baseline by one factor: three coefficients from fewer do worse. Points that the
/// fit cannot tell apart are one of them.
pub const OWN_MIN: usize = 12;
/// Shapes below which three coefficients are not fitted at all.
const COEFFICIENTS_MIN: usize = 4;
/// Shapes from which corrections at measured points are tried, each measured more than once: those of single shots are their noise.
const LOCAL_MIN: usize = 50;
/// Shapes up to which each is held out alone; above, in ten parts.
const ALONE_MAX: usize = 60;
const PARTS: usize = 10;

/// How to fit.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Methods that get one factor on the baseline's curve, however many points they have.
    pub calibrate: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Fit {
    /// One a subject, method (with its budget) and phase.
    pub models: Vec<Model>,
    /// Groups without a model.
    pub unfit: Vec<Unfit>,
}

/// A group without a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Subject, method and phase in words.
    pub what: String,
    /// Its points.
    pub n_points: usize,
    /// Why.
    pub reason: String,
}

/// Fits a model to each group. A method with fewer than [`OWN_MIN`] points, or one that is named, is calibrated on the baseline of its
/// subject; of one with more, a decode step where that does as well.
pub fn fit(observations: &[Observation], options: &Options) -> Fit {
    let mut out = Fit::default();
    let groups = groups(observations);
    for group in &groups {
        let is_its = |is_baseline: bool, subject: &Subject, phase: Phase| {
            is_baseline && *subject == group.subject && phase == group.phase
        };
        let model = out.models.iter().find(|it| is_its(it.is_baseline, &it.subject, it.phase));
        let measured = groups.iter().find(|it| is_its(it.is_baseline, &it.subject, it.phase));
        let baseline = model.zip(measured).map(|(model, measured)| Baseline {
            model,
            rows: measured.points.iter().map(Point::row).collect(),
        });
        match of_group(group, baseline.as_ref(), options) {
            Ok(model) => out.models.push(model),
            Err(reason) => {
                let Group { subject, method, phase, points, .. } = group;
                let what = format!("{method}, {}, {}", phase.name(), subject.words());
                out.unfit.push(Unfit { what, n_points: points.len(), reason });
            }
        }
    }
    out
}

/// A curve with what it leaves at its points.
struct Fitted {
    curve: Curve,
    local: Option<Local>,
}

impl Fitted {
    fn time_s(&self, work: &Work) -> f64 {
        self.curve.time_s(work) * self.local_factor(work)
    }

    fn local_factor(&self, work: &Work) -> f64 {
        self.local.as_ref().map_or(1.0, |local| local.factor(work))
    }

    /// The same times the one factor that suits these rows best.
    fn scaled_to(&self, rows: &[Row]) -> Option<Self> {
        let corrected =
            |row: &Row| Row { time_s: row.time_s / self.local_factor(&row.work), ..*row };
        let factor = self.curve.factor(&rows.iter().map(corrected).collect::<Vec<_>>())?;
        Some(Self { curve: self.curve.scaled(factor), local: self.local.clone() })
    }
}

/// The baseline of a subject and phase.
struct Baseline<'a> {
    model: &'a Model,
    /// What it was fitted to.
    rows: Vec<Row>,
}

impl Baseline<'_> {
    fn whole(&self) -> Fitted {
        Fitted { curve: self.model.curve(), local: self.model.residuals.clone() }
    }

    /// Fitted again without the shapes of these rows of a method, nor those that hold as much as the method keeps of them. Of a new
    /// shape the baseline is as unknown as the method, and what is peculiar to a shape shows in both.
    fn without(&self, held: &[Row]) -> Option<Fitted> {
        let unknown: BTreeSet<Cell> =
            held.iter().flat_map(|row| [cell(&row.work), shape(&row.work)]).collect();
        let known = self.rows.iter().filter(|row| !unknown.contains(&cell(&row.work)));
        let known: Vec<Row> = known.copied().collect();
        curve(&known, self.model.terms, self.model.residuals.is_some())
    }
}

/// See [`shape`].
type Cell = [i64; 3];

/// Points that are no news beside one another: of one shape, such as those of two loads; and of decode, where all lengths beyond
/// what a method keeps are one row to the fit, of one shape of what is kept.
fn cell(work: &Work) -> Cell {
    match work.phase {
        Phase::Decode => shape(&Work { cached: work.attended, ..*work }),
        Phase::Prefill => shape(work),
    }
}

fn n_cells(rows: &[Row]) -> usize {
    rows.iter().map(|row| cell(&row.work)).collect::<BTreeSet<_>>().len()
}

/// A way to fit rows without others, which are held out.
type Train<'a> = &'a dyn Fn(&[Row], &[Row]) -> Option<Fitted>;

fn of_group(
    group: &Group,
    baseline: Option<&Baseline<'_>>,
    options: &Options,
) -> Result<Model, String> {
    if let Some(bad) = group.points.iter().find(|p| !(p.time_s > 0.0 && p.time_s.is_finite())) {
        return Err(format!("expected times above 0, got {} s", bad.time_s));
    }
    let rows: Vec<Row> = group.points.iter().map(Point::row).collect();
    let asked = options.calibrate.contains(&group.method) && !group.is_baseline;
    let baseline = baseline.filter(|_| !group.is_baseline);
    let n_cells = n_cells(&rows);
    let (fitted, factor) = match baseline {
        Some(baseline) if asked || n_cells < OWN_MIN => calibrate(&rows, baseline)?,
        Some(baseline) if group.phase == Phase::Decode => {
            simplest(own(group, &rows)?, calibrate(&rows, baseline)?)
        }
        None if asked => {
            return Err("expected a fitted baseline to calibrate it on, got none".to_owned());
        }
        None if n_cells < COEFFICIENTS_MIN => {
            return Err(format!(
                "expected {COEFFICIENTS_MIN} shapes that differ, or a fitted baseline to calibrate them on, got {n_cells}"
            ));
        }
        _ => own(group, &rows)?,
    };
    Ok(model(group, fitted, baseline, factor))
}

/// What a fit says of a point that it did not see.
#[derive(Debug, Clone, Copy)]
struct Held {
    cell: Cell,
    /// `ln(measured / predicted)`.
    log_ratio: f64,
    /// How far it lies from what the fit saw, see [`Place`](super::domain::Place).
    distance: f64,
}

/// A fit with what it says of points that it did not see, and its factor where it is the baseline's.
type Tried = ((Fitted, Vec<Held>), Option<f64>);

/// Relative error at each cell, mean over its points: five points of one shape tell of one shape.
fn off_by_cell(held: &[Held]) -> BTreeMap<Cell, f64> {
    let mut sums: BTreeMap<Cell, (f64, f64)> = BTreeMap::new();
    for one in held {
        let sum = sums.entry(one.cell).or_default();
        *sum = (sum.0 + ((-one.log_ratio).exp() - 1.0).abs(), sum.1 + 1.0);
    }
    sums.into_iter().map(|(cell, (off, n))| (cell, off / n)).collect()
}

/// One factor, unless coefficients of its own are better by more than chance over the shapes.
fn simplest(own: Tried, calibrated: Tried) -> Tried {
    if own.0.1.len() != calibrated.0.1.len() {
        // Some point could be predicted by one of them only: nothing to pair.
        return own;
    }
    let (own_off, calibrated_off) = (off_by_cell(&own.0.1), off_by_cell(&calibrated.0.1));
    let worse: Vec<f64> = calibrated_off
        .iter()
        .filter_map(|(cell, off)| own_off.get(cell).map(|own| off - own))
        .collect();
    let n = worse.len() as f64;
    let mean = worse.iter().sum::<f64>() / n;
    let variance = worse.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / (n - 1.0);
    if mean > (variance / n).sqrt() { own } else { calibrated }
}

fn own(group: &Group, rows: &[Row]) -> Result<Tried, String> {
    let repeated = group.points.iter().all(|point| point.n_repeats > 1);
    let n_cells = n_cells(rows);
    let with_local: &[bool] =
        if repeated && n_cells >= LOCAL_MIN { &[false, true] } else { &[false] };
    let richer = group.subject.source == Source::Kernel && n_cells >= OWN_MIN;
    let terms: &[Terms] = if richer { &[Terms::Step, Terms::Kernel] } else { &[Terms::Step] };
    // More parameters are kept only where they do better on points that were held out.
    let mut best: Option<(f64, (Fitted, Vec<Held>))> = None;
    for (terms, with_local) in terms.iter().flat_map(|t| with_local.iter().map(move |l| (*t, *l))) {
        let train = |rows: &[Row], _: &[Row]| curve(rows, terms, with_local);
        let Some(fitted) = train(rows, &[]) else { continue };
        let held = held_out(rows, &train);
        let off: Vec<f64> = off_by_cell(&held).into_values().collect();
        let error = stats::mean(&off).unwrap_or(f64::INFINITY);
        if best.as_ref().is_none_or(|best| error < best.0) {
            best = Some((error, (fitted, held)));
        }
    }
    let (_, tried) = best.ok_or("expected finite features, got others")?;
    Ok((tried, None))
}

fn curve(rows: &[Row], terms: Terms, with_local: bool) -> Option<Fitted> {
    let curve = Curve::fit(rows, terms)?;
    let left = |row: &Row| (row.work, (row.time_s / curve.time_s(&row.work)).ln());
    // A curve that is zero somewhere has no ratio there.
    let local = if with_local {
        Local::of(rows.iter().map(left).filter(|(_, ratio)| ratio.is_finite()))
    } else {
        None
    };
    Some(Fitted { curve, local })
}

fn calibrate(rows: &[Row], baseline: &Baseline<'_>) -> Result<Tried, String> {
    let base = baseline.whole();
    let fitted = base.scaled_to(rows).ok_or("expected a baseline that takes time, got none")?;
    let ratio = |cost: (&super::curve::Coefficient, &super::curve::Coefficient)| {
        (cost.1.value > 0.0).then(|| cost.0.value / cost.1.value)
    };
    let factor = fitted.curve.coefficients.iter().zip(&base.curve.coefficients).find_map(ratio);
    let held = held_out(rows, &|rows, held| baseline.without(held)?.scaled_to(rows));
    Ok(((fitted, held), factor))
}

/// Each point by a model that saw neither it nor another of its [`cell`]. Points that the rest cannot be fitted without are left out.
fn held_out(rows: &[Row], train: Train<'_>) -> Vec<Held> {
    let mut cells: BTreeMap<Cell, Vec<Row>> = BTreeMap::new();
    for row in rows {
        cells.entry(cell(&row.work)).or_default().push(*row);
    }
    let mut cells: Vec<Vec<Row>> = cells.into_values().collect();
    cells.shuffle(&mut stats::seeded(0));
    let n_parts = if cells.len() <= ALONE_MAX { cells.len() } else { PARTS };
    let mut out = Vec::with_capacity(rows.len());
    for part in 0..n_parts {
        let of = |held: bool| {
            let cells = cells.iter().enumerate();
            let in_part = cells.filter(move |(at, _)| (at % n_parts == part) == held);
            in_part.flat_map(|(_, rows)| rows.iter().copied()).collect::<Vec<_>>()
        };
        let held = of(true);
        let rest = of(false);
        let Some(fitted) = train(&rest, &held) else { continue };
        let works: Vec<Work> = rest.iter().map(|row| row.work).collect();
        let Some(domain) = Domain::of(&works) else { continue };
        out.extend(held.iter().map(|row| Held {
            cell: cell(&row.work),
            log_ratio: (row.time_s / fitted.time_s(&row.work)).ln(),
            distance: domain.place(&row.work).distance,
        }));
    }
    out.retain(|held| held.log_ratio.is_finite());
    out
}

fn log_ratios(held: &[Held]) -> Vec<f64> {
    held.iter().map(|held| held.log_ratio).collect()
}

fn model(
    group: &Group,
    (fitted, held): (Fitted, Vec<Held>),
    baseline: Option<&Baseline<'_>>,
    factor: Option<f64>,
) -> Model {
    let works: Vec<Work> = group.points.iter().map(|point| point.work).collect();
    let rows: Vec<Row> = group.points.iter().map(Point::row).collect();
    let null = baseline.and_then(|baseline| {
        Errors::of(&log_ratios(&held_out(&rows, &|_, held| baseline.without(held))))
    });
    let at_the_edge: Vec<f64> =
        held.iter().map(|held| held.log_ratio / growth(held.distance)).collect();
    let held = log_ratios(&held);
    Model {
        subject: group.subject.clone(),
        method: group.method.clone(),
        is_baseline: group.is_baseline,
        phase: group.phase,
        budget: group.budget,
        kind: if factor.is_some() { Kind::Calibrated } else { Kind::Own },
        factor,
        terms: fitted.curve.terms,
        coefficients: fitted.curve.coefficients,
        residuals: fitted.local,
        errors: Errors::of(&held),
        interval: LogInterval::of(&at_the_edge),
        null,
        domain: Domain::of(&works).expect("a group has a point"),
        created_from: (!group.rows.is_empty()).then(|| group.rows.clone()),
        n_points: works.len(),
        n_repeats: group.points.iter().map(|point| point.n_repeats).sum(),
        noise: noise(&group.points),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five points of one shape that a curve of its own hits are one shape, beside four where the baseline's does better.
    #[test]
    fn points_of_one_shape_buy_no_coefficients() {
        let tried = |off: [f64; 2]| -> Tried {
            let held = |shape: i64, off: f64| Held {
                cell: [shape, 0, 0],
                log_ratio: -off.ln_1p(),
                distance: 1.0,
            };
            let one_shape = (0..5).map(|_| held(0, off[0]));
            let held = one_shape.chain((1..5).map(|shape| held(shape, off[1]))).collect();
            let curve = Curve { terms: Terms::Step, coefficients: Vec::new() };
            ((Fitted { curve, local: None }, held), None)
        };
        let own = tried([0.01, 0.04]);
        let calibrated = |off: [f64; 2]| (tried(off).0, Some(2.0));
        assert_eq!(simplest(own, calibrated([0.11, 0.01])).1, Some(2.0));
        let own = tried([0.01, 0.04]);
        assert_eq!(simplest(own, calibrated([0.11, 0.09])).1, None, "better at every shape");
    }
}
