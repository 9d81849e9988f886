//! What is named in a picture, and how it looks there.

use super::{
    HEIGHT, WIDTH,
    layout::{MARGIN, MARKER_RADIUS, Measure, tick_mark, words, wrap},
    marks::{Across, GREY, INK, Mark, Rgb, Xy, color, dashes, marker},
};
use crate::report::figure::{Figure, Kind, Reference, Series};

const LEGEND_TEXT_MAX: f64 = 168.0;
/// Room for the piece of line before a text.
pub(super) const LEGEND_SAMPLE: f64 = 34.0;

/// One line of the legend.
pub(super) enum Entry<'a> {
    Series(&'a Series),
    /// A reference and the colour to show it in.
    Reference(&'a Reference, Rgb),
}

impl Entry<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Entry::Series(series) => &series.name,
            Entry::Reference(line, _) => &line.label,
        }
    }
}

/// Each name once, in order of first sight; no legend for a single series without a name.
pub(super) fn entries(figure: &Figure) -> Vec<Entry<'_>> {
    let mut out: Vec<Entry<'_>> = Vec::new();
    for series in figure.panels.iter().flat_map(|panel| &panel.series) {
        let known = out.iter().any(|entry| entry.name() == series.name);
        if !known && !series.name.is_empty() && !series.points.is_empty() {
            out.push(Entry::Series(series));
        }
    }
    out.sort_by_key(|entry| matches!(entry, Entry::Series(Series { kind: Kind::Tick, .. })));
    let lines: Vec<&Reference> = figure.panels.iter().flat_map(|panel| &panel.references).collect();
    for line in &lines {
        if !line.label.is_empty() && !out.iter().any(|entry| entry.name() == line.label) {
            let shared =
                lines.iter().any(|other| other.label == line.label && other.slot != line.slot);
            out.push(Entry::Reference(line, line.slot.filter(|_| !shared).map_or(GREY, color)));
        }
    }
    out
}

/// A drawn legend and where it begins.
pub(super) struct Legend {
    pub(super) left: f64,
    pub(super) marks: Vec<Mark>,
}

/// A column at the right edge, beside the data and never on it.
pub(super) fn legend(entries: &[Entry<'_>], top: f64, measure: Measure<'_>) -> Legend {
    let size = if entries.len() > 16 { 10.5 } else { 12.5 };
    let (line_height, gap) = (size + 3.0, size * 0.45);
    let texts: Vec<Vec<String>> =
        entries.iter().map(|entry| wrap(entry.name(), size, LEGEND_TEXT_MAX, 4, measure)).collect();
    let widest = texts.iter().flatten().map(|line| measure(line, size)).fold(0.0, f64::max);
    let left = WIDTH - MARGIN - widest - LEGEND_SAMPLE;
    let (mut marks, mut y) = (Vec::new(), top + line_height / 2.0);
    for (n, (entry, lines)) in entries.iter().zip(&texts).enumerate() {
        if y + lines.len() as f64 * line_height > HEIGHT - MARGIN - line_height {
            let rest = format!("and {} more", entries.len() - n);
            marks.push(words((left + LEGEND_SAMPLE, y), &rest, size, GREY, Across::Left));
            break;
        }
        marks.extend(sample(entry, (left, y)));
        for line in lines {
            marks.push(words((left + LEGEND_SAMPLE, y), line, size, INK, Across::Left));
            y += line_height;
        }
        y += gap;
    }
    Legend { left, marks }
}

/// The piece of line and the marker before a legend's text.
pub(super) fn sample(entry: &Entry<'_>, (x, y): Xy) -> Vec<Mark> {
    let (from, to, middle) = ((x, y), (x + 26.0, y), (x + 13.0, y));
    match entry {
        Entry::Reference(_, ink) => dashes(&[from, to], *ink, 1.4),
        Entry::Series(Series { slot, kind: Kind::Points, .. }) => {
            marker(*slot, middle, MARKER_RADIUS)
        }
        Entry::Series(Series { kind: Kind::Tick, .. }) => vec![tick_mark(middle, GREY)],
        Entry::Series(Series { slot, .. }) => {
            let mut out =
                vec![Mark::Path { points: vec![from, to], color: color(*slot), width: 1.8 }];
            out.extend(marker(*slot, middle, MARKER_RADIUS));
            out
        }
    }
}
