//! Where everything in a picture goes: title, caption, panels, legend.

use super::{
    HEIGHT, WIDTH,
    marks::{Across, GREY, INK, Mark, Rgb, Text, Xy, color, dashes, marker},
    panels::{Frame, MARKER_RADIUS, Piece, panels, tick_mark},
};
use crate::report::figure::{Figure, Kind, Reference, Series};

const MARGIN: f64 = 18.0;
const TITLE_SIZE: f64 = 19.0;
const CAPTION_SIZE: f64 = 12.0;
const LEGEND_TEXT_MAX: f64 = 168.0;
const LEGEND_SAMPLE: f64 = 34.0;

/// Measures a text: (text, size) to width.
pub(super) type Measure<'a> = &'a dyn Fn(&str, f64) -> f64;

/// Everything that is drawn, back to front.
pub(super) fn marks(figure: &Figure, measure: Measure<'_>) -> Vec<Mark> {
    let mut out = vec![words((MARGIN, 24.0), &figure.title, TITLE_SIZE, INK, Across::Left)];
    let mut top = 36.0;
    for line in wrap(&figure.caption, CAPTION_SIZE, WIDTH - 2.0 * MARGIN, 3, measure) {
        out.push(words((MARGIN, top + 10.0), &line, CAPTION_SIZE, GREY, Across::Left));
        top += 16.0;
    }
    top += 14.0;
    let entries = entries(figure);
    let legend = legend(&entries, top, measure);
    let right = if entries.is_empty() { WIDTH - MARGIN } else { legend.left - 22.0 };
    let frame = Frame { left: MARGIN, top, right, bottom: HEIGHT - MARGIN };
    out.extend(panels(figure, frame, measure).into_iter().flat_map(Piece::drawn));
    out.extend(legend.marks);
    out
}

pub(super) fn words(at: Xy, text: &str, size: f64, color: Rgb, across: Across) -> Mark {
    Mark::Text(Text { at, text: text.to_owned(), size, color, across, turned: false })
}

/// Breaks a text at spaces so that no line is wider than `width`; what exceeds `most` lines ends in `…`.
pub(super) fn wrap(
    text: &str,
    size: f64,
    width: f64,
    most: usize,
    measure: Measure<'_>,
) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match (longer, lines.last_mut()) {
            (Some(longer), Some(last)) if measure(&longer, size) <= width => *last = longer,
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.push_str(" …");
        }
    }
    lines.into_iter().map(|line| cut(line, size, width, measure)).collect()
}

/// Shortens a line until it fits, ending in `…`.
fn cut(line: String, size: f64, width: f64, measure: Measure<'_>) -> String {
    let mut kept: Vec<char> = line.chars().collect();
    if measure(&line, size) <= width {
        return line;
    }
    while kept.len() > 1 {
        kept.pop();
        let shorter: String = kept.iter().chain(['…'].iter()).collect();
        if measure(&shorter, size) <= width {
            return shorter;
        }
    }
    "…".to_owned()
}

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
struct Legend {
    left: f64,
    marks: Vec<Mark>,
}

/// A column at the right edge, beside the data and never on it.
fn legend(entries: &[Entry<'_>], top: f64, measure: Measure<'_>) -> Legend {
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
