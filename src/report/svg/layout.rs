//! Where everything in a picture goes: title, caption, panels, legend. Pictures for papers (`print`) share the panels.

use super::{
    HEIGHT, WIDTH,
    legend::{entries, legend},
    marks::{Across, BAND, EDGE, FAINT, GREY, INK, Mark, Rgb, Text, Xy, color, marker, pale},
    piece::{Of, Piece},
};
use crate::report::{
    figure::{Figure, Kind, Panel, Point, Reference, Scale, Series},
    scale::{Ruler, Tick},
};

pub(super) const MARGIN: f64 = 18.0;
const TITLE_SIZE: f64 = 19.0;
const CAPTION_SIZE: f64 = 12.0;
const LABEL_SIZE: f64 = 13.0;
const TICK_SIZE: f64 = 12.0;
pub(super) const MARKER_RADIUS: f64 = 4.4;
/// A curve with more points than this gets markers at a few places only.
const MARKERS_MAX: usize = 24;

/// Measures a text: (text, size) to width.
pub(super) type Measure<'a> = &'a dyn Fn(&str, f64) -> f64;

/// A rectangle of the picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

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
    let outer = Frame { left: MARGIN, top, right, bottom: HEIGHT - MARGIN };
    let (rows, columns) = grid(figure.panels.len());
    let shape = Shape { rows, columns, xs: &figure.xs(), x_lines: 1, left: 0.0 };
    out.extend(panels(figure, &shape, outer, measure));
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
pub(super) fn cut(line: String, size: f64, width: f64, measure: Measure<'_>) -> String {
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

pub(super) fn tick_mark((x, y): Xy, color: Rgb) -> Mark {
    Mark::Path { points: vec![(x - 6.0, y), (x + 6.0, y)], color, width: 2.2 }
}

/// Rows and columns of a grid that reads well for this many panels.
pub(super) fn grid(n: usize) -> (usize, usize) {
    match n {
        0..=1 => (1, 1),
        2..=3 => (1, n),
        4 => (2, 2),
        5..=6 => (2, 3),
        _ => (n.div_ceil(4), 4),
    }
}

/// How panels lie.
pub(super) struct Shape<'a> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Values that the horizontal axis has to show.
    pub(super) xs: &'a [f64],
    /// Lines that its title has room for, at least.
    pub(super) x_lines: usize,
    /// Room left of the panels, at least: what lies below one another begins at one place.
    pub(super) left: f64,
}

/// Room for the numbers of the horizontal axis and a title of so many lines.
pub(super) fn below(lines: usize) -> f64 {
    if lines == 0 { 24.0 } else { 46.0 + Titles::LINE * (lines - 1) as f64 }
}

/// Lines of the horizontal axis' title in this width.
pub(super) fn x_lines(figure: &Figure, width: f64, measure: Measure<'_>) -> usize {
    Titles::lines(&figure.x.title(), width, measure).len()
}

/// All panels with their common axes inside `outer`, back to front.
pub(super) fn panels(
    figure: &Figure,
    shape: &Shape<'_>,
    outer: Frame,
    measure: Measure<'_>,
) -> Vec<Mark> {
    pieces(figure, shape, outer, measure).into_iter().flat_map(Piece::drawn).collect()
}

/// The same, each part with what it belongs to.
pub(super) fn pieces(
    figure: &Figure,
    &Shape { rows, columns, xs, x_lines, left }: &Shape<'_>,
    outer: Frame,
    measure: Measure<'_>,
) -> Vec<Piece> {
    let labelled = figure.panels.iter().any(|panel| !panel.label.is_empty());
    let header = if labelled { 22.0 } else { 0.0 };
    let y_ruler = Ruler::new(&figure.y, &figure.ys());
    let y_ticks = y_ruler.ticks(((outer.bottom - outer.top) / rows as f64 / 46.0) as usize);
    let widest = y_ticks.iter().map(|tick| measure(&tick.label, TICK_SIZE)).fold(0.0, f64::max);
    let titles = Titles::new(figure, &outer, measure);
    let plot = titles.plot(&outer, widest, (x_lines, left));
    let (gap, width) = (18.0, plot.right - plot.left);
    let cell_width = (width - gap * (columns - 1) as f64) / columns as f64;
    let cell_height = (plot.bottom - plot.top - gap * (rows - 1) as f64) / rows as f64;
    let axes = Axes {
        x: Ruler::new(&figure.x, xs),
        y: y_ruler,
        y_ticks,
        // Two numbers are too few to read a scale from; where three have room, three stand.
        x_ticks_most: (cell_width / 58.0).max(if cell_width > 120.0 { 3.0 } else { 1.0 }) as usize,
        banded: matches!(figure.x.scale, Scale::Category(_)),
    };
    let mut out = vec![Piece::new(0, Of::Frame, titles.draw(&plot, &outer))];
    for (n, panel) in figure.panels.iter().enumerate() {
        let (row, column) = (n / columns, n % columns);
        let left = plot.left + column as f64 * (cell_width + gap);
        let top = plot.top + row as f64 * (cell_height + gap);
        let frame =
            Frame { left, top: top + header, right: left + cell_width, bottom: top + cell_height };
        let lowest = n + columns >= figure.panels.len();
        let mut around = axes.draw(&frame, column == 0, lowest, measure);
        if !panel.label.is_empty() {
            let at = (left, top + header / 2.0 - 2.0);
            around.push(words(at, &panel.label, 12.5, INK, Across::Left));
        }
        out.push(Piece::new(n, Of::Frame, around));
        out.extend(data(n, panel, &axes, &frame));
    }
    out
}

/// Titles of both axes, over several lines where the room is short.
struct Titles {
    x: Vec<String>,
    y: Vec<String>,
}

impl Titles {
    const LINE: f64 = 15.0;

    fn new(figure: &Figure, outer: &Frame, measure: Measure<'_>) -> Self {
        let (width, height) = (outer.right - outer.left, outer.bottom - outer.top);
        let lines = |title: String, room: f64| Self::lines(&title, room, measure);
        Self { x: lines(figure.x.title(), width), y: lines(figure.y.title(), height) }
    }

    fn lines(title: &str, room: f64, measure: Measure<'_>) -> Vec<String> {
        wrap(title, LABEL_SIZE, room - 46.0, 3, measure)
    }

    /// What is left of `outer` beside titles and numbers.
    fn plot(&self, outer: &Frame, widest_number: f64, (x_lines, room): (usize, f64)) -> Frame {
        let more = Self::LINE * self.y.len().saturating_sub(1) as f64;
        let left = outer.left + (24.0 + more + widest_number + 8.0).max(room);
        Frame { left, bottom: outer.bottom - below(self.x.len().max(x_lines)), ..*outer }
    }

    fn draw(&self, plot: &Frame, outer: &Frame) -> Vec<Mark> {
        let centre = ((plot.left + plot.right) / 2.0, (plot.top + plot.bottom) / 2.0);
        let x = self.x.iter().enumerate().map(|(n, line)| {
            let at = (centre.0, plot.bottom + below(1) - 6.0 + Self::LINE * n as f64);
            words(at, line, LABEL_SIZE, INK, Across::Centre)
        });
        let y = self.y.iter().enumerate().map(|(n, line)| {
            let at = (outer.left + 6.0 + Self::LINE * n as f64, centre.1);
            let (text, size) = (line.clone(), LABEL_SIZE);
            Mark::Text(Text { at, text, size, color: INK, across: Across::Centre, turned: true })
        });
        x.chain(y).collect()
    }
}

/// The axes that all panels share.
struct Axes {
    x: Ruler,
    y: Ruler,
    y_ticks: Vec<Tick>,
    x_ticks_most: usize,
    /// Categories: stripes instead of vertical grid lines.
    banded: bool,
}

impl Axes {
    fn place(&self, frame: &Frame, x: f64, y: f64) -> Xy {
        (frame.x_at(self.x.at(x)), frame.y_at(self.y.at(y)))
    }

    /// Grid and frame; numbers only at the outer edges of the grid of panels.
    fn draw(&self, frame: &Frame, leftmost: bool, lowest: bool, measure: Measure<'_>) -> Vec<Mark> {
        let x_ticks = self.x.ticks(self.x_ticks_most);
        let mut out = self.grid_lines(frame, &x_ticks);
        if leftmost {
            let label = |tick: &Tick| {
                words(
                    (frame.left - 7.0, frame.y_at(tick.at)),
                    &tick.label,
                    TICK_SIZE,
                    GREY,
                    Across::Right,
                )
            };
            out.extend(self.y_ticks.iter().map(label));
        }
        if lowest {
            out.extend(self.x_labels(frame, &x_ticks, measure));
        }
        let corner =
            vec![(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)];
        out.push(Mark::Path { points: corner, color: EDGE, width: 1.0 });
        out
    }

    fn grid_lines(&self, frame: &Frame, x_ticks: &[Tick]) -> Vec<Mark> {
        let line =
            |from: Xy, to: Xy| Mark::Path { points: vec![from, to], color: FAINT, width: 1.0 };
        let mut out = Vec::new();
        if self.banded {
            let half = 0.5 / x_ticks.len().max(1) as f64;
            let band = |tick: &Tick| frame.column(tick.at - half, tick.at + half);
            let bands = x_ticks.iter().step_by(2).map(band);
            out.extend(bands.map(|points| Mark::Fill { points, color: BAND, opacity: 1.0 }));
        } else {
            out.extend(
                x_ticks
                    .iter()
                    .map(|t| line((frame.x_at(t.at), frame.top), (frame.x_at(t.at), frame.bottom))),
            );
        }
        out.extend(
            self.y_ticks
                .iter()
                .map(|t| line((frame.left, frame.y_at(t.at)), (frame.right, frame.y_at(t.at)))),
        );
        out
    }

    /// Numbers on one line; names broken over two, or where that would cut one, in turn on the first and the second.
    fn x_labels(&self, frame: &Frame, x_ticks: &[Tick], measure: Measure<'_>) -> Vec<Mark> {
        const NAME_SIZE: f64 = 11.0;
        let room = (frame.right - frame.left) / x_ticks.len().max(1) as f64 - 6.0;
        let broken = |tick: &Tick| wrap(&tick.label, NAME_SIZE, room, 2, measure);
        let staggered =
            self.banded && x_ticks.iter().any(|tick| broken(tick).join(" ") != tick.label);
        let mut out = Vec::new();
        for (place, tick) in x_ticks.iter().enumerate() {
            let (lines, first) = match (self.banded, staggered) {
                (false, _) => (vec![tick.label.clone()], 0),
                (true, false) => (broken(tick), 0),
                (true, true) => {
                    (vec![cut(tick.label.clone(), NAME_SIZE, 2.0 * room, measure)], place % 2)
                }
            };
            let size = if self.banded { NAME_SIZE } else { TICK_SIZE };
            for (n, line) in lines.iter().enumerate() {
                let at = (frame.x_at(tick.at), frame.bottom + 12.0 + 12.0 * (first + n) as f64);
                out.push(words(at, line, size, GREY, Across::Centre));
            }
        }
        out
    }
}

impl Frame {
    fn x_at(&self, share: f64) -> f64 {
        self.left + share * (self.right - self.left)
    }

    fn y_at(&self, share: f64) -> f64 {
        self.bottom - share * (self.bottom - self.top)
    }

    fn column(&self, from: f64, to: f64) -> Vec<Xy> {
        let (left, right) = (self.x_at(from), self.x_at(to));
        vec![(left, self.top), (right, self.top), (right, self.bottom), (left, self.bottom)]
    }
}

/// References, then series; a panel without any point says so.
fn data(at: usize, panel: &Panel, axes: &Axes, frame: &Frame) -> Vec<Piece> {
    if panel.series.iter().all(|series| series.points.is_empty()) {
        let centre = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        let said = words(centre, "no data", 16.0, GREY, Across::Centre);
        return vec![Piece::new(at, Of::Frame, vec![said])];
    }
    let behind = |(n, line): (usize, &Reference)| {
        let marks = reference(line, axes, frame);
        Piece { is_dashed: true, ..Piece::new(at, Of::Reference(n), marks) }
    };
    let joined =
        |(n, series): (usize, &Series)| Piece::new(at, Of::Series(n), lines(series, axes, frame));
    let marked = |(n, series): (usize, &Series)| {
        let places = series.points.iter().map(|p| axes.place(frame, p.x, p.y)).collect();
        Piece { places, ..Piece::new(at, Of::Series(n), markers(series, axes, frame)) }
    };
    let mut out: Vec<Piece> = panel.references.iter().enumerate().map(behind).collect();
    out.extend(panel.series.iter().enumerate().map(joined));
    out.extend(panel.series.iter().enumerate().map(marked));
    let note = |(n, mark)| Piece::new(at, Of::Note(n), vec![mark]);
    out.extend(notes(panel, axes, frame).into_iter().enumerate().map(note));
    out
}

/// A curve, a level or both, drawn through: [`Piece::drawn`] cuts them into dashes.
fn reference(line: &Reference, axes: &Axes, frame: &Frame) -> Vec<Mark> {
    let color = line.slot.map_or(GREY, |slot| pale(color(slot)));
    let path = |points: Vec<Xy>| Mark::Path { points, color, width: 1.4 };
    let curve: Vec<Xy> = line.points.iter().map(|(x, y)| axes.place(frame, *x, *y)).collect();
    let level = line.level.map(|level| {
        let y = frame.y_at(axes.y.at(level));
        vec![(frame.left, y), (frame.right, y)]
    });
    let curve = Some(curve).filter(|curve| curve.len() > 1);
    curve.into_iter().chain(level).map(path).collect()
}

/// Notes off the grid lines and the series through their points, on the first side where no other one stands.
fn notes(panel: &Panel, axes: &Axes, frame: &Frame) -> Vec<Mark> {
    const AROUND: [Xy; 4] = [(9.0, 9.0), (-9.0, -9.0), (9.0, -9.0), (-9.0, 9.0)];
    const ROOM: f64 = 9.0;
    let mut taken: Vec<Xy> = Vec::new();
    let mut out = Vec::new();
    for note in &panel.notes {
        let (x, y) = axes.place(frame, note.at.x, note.at.y);
        let mut places = AROUND.iter().map(|(right, down)| (x + right, y + down));
        let free =
            |at: &Xy| taken.iter().all(|other| (at.0 - other.0).hypot(at.1 - other.1) >= ROOM);
        let at = places.find(free).unwrap_or((x + AROUND[0].0, y + AROUND[0].1));
        taken.push(at);
        out.push(words(at, &note.text, 10.5, color(note.slot), Across::Centre));
    }
    out
}

/// What joins the points of a series, and the bars of their intervals.
fn lines(series: &Series, axes: &Axes, frame: &Frame) -> Vec<Mark> {
    let ink = color(series.slot);
    let places: Vec<Xy> = series.points.iter().map(|p| axes.place(frame, p.x, p.y)).collect();
    let mut out = Vec::new();
    match series.kind {
        Kind::Points | Kind::Tick => {}
        Kind::Band => return vec![band(series, axes, frame)],
        Kind::Line => out.push(Mark::Path { points: places, color: ink, width: 1.8 }),
        Kind::Step | Kind::Area => {
            if series.kind == Kind::Area {
                let floor = frame.bottom;
                let bar = |w: &[Xy]| vec![w[0], (w[1].0, w[0].1), (w[1].0, floor), (w[0].0, floor)];
                out.extend(places.windows(2).map(|w| Mark::Fill {
                    points: bar(w),
                    color: ink,
                    opacity: 0.15,
                }));
            }
            out.push(Mark::Path { points: steps(&places), color: ink, width: 1.8 });
        }
    }
    out.extend(series.points.iter().flat_map(|point| interval(point, ink, axes, frame)));
    out
}

/// The area between both ends of the points' intervals; each holds from its `x` to the next.
fn band(series: &Series, axes: &Axes, frame: &Frame) -> Mark {
    let edge = |end: fn(&Point) -> Option<f64>| -> Vec<Xy> {
        let place = |p: &Point| axes.place(frame, p.x, end(p).unwrap_or(p.y));
        steps(&series.points.iter().map(place).collect::<Vec<_>>())
    };
    let (upper, lower) = (edge(|p| p.high), edge(|p| p.low));
    let points = upper.into_iter().chain(lower.into_iter().rev()).collect();
    Mark::Fill { points, color: color(series.slot), opacity: 0.15 }
}

fn steps(places: &[Xy]) -> Vec<Xy> {
    let corners = places.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]);
    corners.chain(places.last().copied()).collect()
}

fn interval(point: &Point, color: Rgb, axes: &Axes, frame: &Frame) -> Vec<Mark> {
    let (Some(low), Some(high)) = (point.low, point.high) else { return Vec::new() };
    let ((x, bottom), (_, top)) =
        (axes.place(frame, point.x, low), axes.place(frame, point.x, high));
    let path = |points: Vec<Xy>| Mark::Path { points, color, width: 1.1 };
    let cap = |y: f64| path(vec![(x - 3.0, y), (x + 3.0, y)]);
    vec![path(vec![(x, bottom), (x, top)]), cap(bottom), cap(top)]
}

fn markers(series: &Series, axes: &Axes, frame: &Frame) -> Vec<Mark> {
    let place = |p: &Point| axes.place(frame, p.x, p.y);
    // A stepped line without a name has nothing to be told apart from.
    if series.kind == Kind::Band || series.kind == Kind::Step && series.name.is_empty() {
        return Vec::new();
    }
    if series.kind == Kind::Tick {
        return series.points.iter().map(|p| tick_mark(place(p), color(series.slot))).collect();
    }
    let n = series.points.len();
    // A line needs only a few to be told apart; markers alone are all there is to see.
    let all = n <= MARKERS_MAX && !matches!(series.kind, Kind::Step | Kind::Area);
    let shown: Vec<&Point> = if all || series.kind == Kind::Points {
        series.points.iter().collect()
    } else {
        // Shifted by slot, so that curves which coincide do not hide each other's markers.
        (0..5)
            .map(|i| &series.points[((i * 9 + series.slot % 9) * n / 45).min(n.saturating_sub(1))])
            .take(n)
            .collect()
    };
    shown.into_iter().flat_map(|p| marker(series.slot, place(p), MARKER_RADIUS)).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
