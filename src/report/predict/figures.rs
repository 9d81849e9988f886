//! Pictures of an evaluation.

use super::{COVERAGE_PCT, Judged};
use crate::{
    predict::{Phase, eval::Held, split::Split},
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        run::Plot,
    },
    stats,
};

/// Errors below this are drawn at it: a logarithmic axis has no zero.
const ERROR_MIN_PCT: f64 = 0.01;
const PHASES: [Phase; 2] = [Phase::Decode, Phase::Prefill];

/// Predicted against measured, errors against the distance from the fitted range, and coverage by split; each only if there is
/// something to draw.
pub fn figures(judged: &Judged) -> Vec<Plot> {
    let figures = [
        ("predicted-measured-decode", predicted(judged, Phase::Decode)),
        ("predicted-measured-prefill", predicted(judged, Phase::Prefill)),
        ("error-distance", distance(judged)),
        ("interval-coverage", coverage(judged)),
    ];
    figures
        .into_iter()
        .filter(|(_, figure)| figure.panels.iter().any(|panel| !panel.series.is_empty()))
        .map(|(name, figure)| Plot { name: name.to_owned(), figure })
        .collect()
}

/// Slots by first appearance, so that a method looks the same in both panels.
fn names(held: &[Held]) -> Vec<&str> {
    let mut out: Vec<&str> = Vec::new();
    for one in held {
        if !out.contains(&one.method.as_str()) {
            out.push(&one.method);
        }
    }
    out
}

fn ms(seconds: f64) -> f64 {
    1e3 * seconds
}

/// One figure a phase: a prefill takes a hundred times as long as a decode step, and panels share their axes.
fn predicted(judged: &Judged, phase: Phase) -> Figure {
    let mut panel = Panel::default();
    let here: Vec<&Held> = judged
        .held
        .iter()
        .filter(|one| one.split == Split::Random && one.work.phase == phase)
        .collect();
    for (slot, name) in names(&judged.held).into_iter().enumerate() {
        let of_method = here.iter().filter(|one| one.method == name);
        let mut points: Vec<Point> = of_method.filter_map(|one| place(one, judged)).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        push(&mut panel, name, slot, points);
    }
    let ends = here.iter().map(|one| ms(one.measured_s));
    let (low, high) =
        ends.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    if low < high {
        let points = vec![(low, low), (high, high)];
        panel.references.push(Reference { label: "equal".into(), slot: None, points, level: None });
    }
    let caption = format!(
        "Times of passes that {} was not fitted to (shapes held out at random, five parts). Bars: 80 % interval of the fitted model.",
        judged.predictor.name()
    );
    let axis = |label: &str| Axis::new(label, "ms", Scale::Log10);
    let title = format!("Predicted against measured, {}", phase.name());
    Figure::single(&title, &caption, axis("measured"), axis("predicted"), panel)
}

/// Only the fitted model has an interval.
fn place(one: &Held, judged: &Judged) -> Option<Point> {
    let y = ms(one.time_s(judged.predictor)?);
    let fitted = judged.predictor == crate::predict::eval::Predictor::Roofline;
    let ends = one.model.as_ref().filter(|_| fitted).and_then(|said| said.interval_s);
    let (low, high) = ends.map(|(low, high)| (ms(low), ms(high))).unzip();
    (y > 0.0).then_some(Point { x: ms(one.measured_s), y, low, high })
}

fn push(panel: &mut Panel, name: &str, slot: usize, points: Vec<Point>) {
    if !points.is_empty() {
        let kind = Kind::Points;
        panel.series.push(Series { name: name.to_owned(), slot, kind, points });
    }
}

fn drawn<const N: usize>(panels: [Panel; N]) -> Vec<Panel> {
    panels.into_iter().filter(|panel| !panel.series.is_empty()).collect()
}

/// Octaves between neighbouring splits of one distance.
const BESIDE: f64 = 0.06;

/// Where a split is drawn: most points lie inside the fitted range, all at the same distance, and one split would hide another.
fn beside(distance: f64, slot: usize) -> f64 {
    let middle = (Split::ALL.len() - 1) as f64 / 2.0;
    distance * (BESIDE * (slot as f64 - middle)).exp2()
}

fn distance(judged: &Judged) -> Figure {
    let panel = |phase: Phase| {
        let mut panel = Panel { label: phase.name().to_owned(), ..Panel::default() };
        for (slot, split) in Split::ALL.into_iter().enumerate() {
            let here =
                judged.held.iter().filter(|one| one.split == split && one.work.phase == phase);
            let point = |one: &Held| {
                let place = &one.model.as_ref()?.place;
                let off = 100.0 * (one.time_s(judged.predictor)? / one.measured_s - 1.0).abs();
                Some(Point::new(beside(place.distance, slot), off.max(ERROR_MIN_PCT)))
            };
            let mut points: Vec<Point> = here.filter_map(point).collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            push(&mut panel, split.name(), slot, points);
        }
        panel
    };
    let caption = format!(
        "1 is inside the fitted range; 2 is twice beyond its end, along the axis that is farthest out. Splits stand side by side at each distance, by up to {:.0} % of it. Errors of {} below {ERROR_MIN_PCT} % are drawn at it.",
        100.0 * (beside(1.0, Split::ALL.len() - 1) - 1.0),
        judged.predictor.name()
    );
    Figure {
        title: "Error against the distance from what was fitted".to_owned(),
        caption,
        x: Axis::new("times beyond the fitted range", "", Scale::Log2),
        y: Axis::new("|predicted / measured - 1|", "%", Scale::Log10),
        panels: drawn(PHASES.map(panel)),
    }
}

fn coverage(judged: &Judged) -> Figure {
    let mut panel = Panel::default();
    for (slot, phase) in PHASES.into_iter().enumerate() {
        let here = judged.scores.iter().filter(|score| score.phase == phase);
        let point = |score: &crate::predict::eval::Score| {
            let share = score.coverage()?;
            let at = Split::ALL.iter().position(|split| *split == score.split)?;
            let (inside, n) = score.covered?;
            let ends = stats::wilson(inside, n);
            let (low, high) = ends.map(|ends| (100.0 * ends.low, 100.0 * ends.high)).unzip();
            Some(Point { x: at as f64 + 0.3 * slot as f64 - 0.15, y: 100.0 * share, low, high })
        };
        push(&mut panel, phase.name(), slot, here.filter_map(point).collect());
    }
    panel.references.push(Reference::horizontal("promised", COVERAGE_PCT));
    let splits = Split::ALL.map(|split| split.name().to_owned()).to_vec();
    Figure::single(
        "How often the 80 % interval holds what was measured",
        "Bars: 95 % Wilson intervals of the share. Random shapes are what the interval is made for; the others ask beyond the fitted range, or of a new method.",
        Axis::new("held out", "", Scale::Category(splits)),
        Axis::from_zero("points inside", "%"),
        panel,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_of_one_distance_are_drawn_beside_each_other() {
        let places: Vec<f64> = (0..Split::ALL.len()).map(|slot| beside(1.0, slot)).collect();
        assert!(places.windows(2).all(|two| two[1] > 1.03 * two[0]), "{places:?}");
        assert!(places[0] > 0.8 && places[6] < 1.25, "far from the next distance: {places:?}");
    }
}
