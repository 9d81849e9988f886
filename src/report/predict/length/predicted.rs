//! Lengths that were said against lengths that were measured.

use super::super::super::{
    Figure,
    figure::{Axis, Kind, Panel, Point, Reference, Scale, Series},
};
use crate::predict::length::{evaluate::Evaluation, score::Marked};

/// Prompts drawn of predictions against measurements: of more not every marker would be drawn, and intervals hide one another.
const DRAWN: usize = 24;

pub(super) fn predicted(evaluation: &Evaluation) -> Option<Figure> {
    let column = evaluation.column(evaluation.reader())?;
    let marked: Vec<&Marked> = column.marked.iter().flatten().collect();
    let step = marked.len().div_ceil(DRAWN).max(1);
    // An empty answer has no place on a logarithmic axis; it is drawn as one token.
    let point = |marked: &&Marked| {
        let guess = marked.guess()?;
        let (low, high) = guess.ends?;
        Some(Point {
            x: marked.median().max(1.0),
            y: guess.middle.max(1.0),
            low: Some(low.max(1.0)),
            high: Some(high.max(1.0)),
        })
    };
    let drawn = |is_cut: bool| -> Vec<Point> {
        let drawn = marked.iter().step_by(step).filter(|marked| marked.is_cut() == is_cut);
        let mut points: Vec<Point> = drawn.filter_map(point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        points
    };
    let series: Vec<Series> = [("answer ended", false), ("answer cut at max_tokens", true)]
        .into_iter()
        .enumerate()
        .map(|(slot, (name, is_cut))| (slot, name.to_owned(), drawn(is_cut)))
        .filter(|(.., points)| !points.is_empty())
        .map(|(slot, name, points)| Series { name, slot, kind: Kind::Points, points })
        .collect();
    let n: usize = series.iter().map(|series| series.points.len()).sum();
    let xs = || series.iter().flat_map(|series| series.points.iter().map(|point| point.x));
    let (first, last) = (xs().min_by(f64::total_cmp)?, xs().max_by(f64::total_cmp)?);
    let cut = if series.iter().any(|series| series.slot == 1) {
        " Cut answers stand at what was seen of them: they are longer than drawn, and what is predicted is cut there too."
    } else {
        ""
    };
    let mut same = Reference::horizontal("as measured", 0.0);
    (same.level, same.points) = (None, vec![(first, first), (last, last)]);
    let panel = Panel { series, references: vec![same], ..Panel::default() };
    let axis = |label: &str| Axis::new(label, "tokens", Scale::Log10);
    Some(Figure::single(
        "Predicted against measured length",
        &format!(
            "q50 of {} with q10 to q90, on families it has not seen, against the median of the prompt's answers; {n} of {} prompts.{cut}",
            super::shown(evaluation.reader()),
            marked.len()
        ),
        axis("measured"),
        axis("predicted"),
        panel,
    ))
}
