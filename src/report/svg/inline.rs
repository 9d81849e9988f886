//! A [`Figure`] as a part of a page: only its panels, since the page has words and legend of its own. Colours are classes, so that
//! the page's style gives each in light and in dark; what belongs to a name that a reader can hide is one group of marks.

use std::fmt::Write as _;

use super::{
    escape,
    layout::{Frame, MARKER_RADIUS, Shape, grid, pieces},
    legend::{Entry, entries, sample},
    marks::{
        Across, BAND, EDGE, FAINT, GREY, INK, Mark, PALETTE, PAPER, Rgb, Text, Xy, color, marker,
        pale,
    },
    piece::{Of, Piece},
    register, text_width,
};
use crate::report::figure::{Figure, Kind, Panel};

const WIDTH: f64 = 760.0;
/// Height of a picture with one row of panels, and what each further row adds.
const HEIGHT: (f64, f64) = (400.0, 210.0);
const MARGIN: f64 = 6.0;
/// What a pointer has to hit.
const TARGET_RADIUS: f64 = 7.0;
/// A sample of the legend.
const SAMPLE: (f64, f64) = (28.0, 14.0);

/// The words of one point.
pub(in crate::report) struct Told {
    pub(in crate::report) panel: usize,
    pub(in crate::report) series: usize,
    pub(in crate::report) point: usize,
    pub(in crate::report) text: String,
}

/// One line of the legend.
pub(in crate::report) struct Sample {
    pub(in crate::report) name: String,
    pub(in crate::report) owner: Option<usize>,
    pub(in crate::report) svg: String,
}

/// The panels, in groups by owner. Errors: see [`Figure::check`].
pub(in crate::report) fn inline(owners: &Owners<'_>, told: &[Told]) -> anyhow::Result<String> {
    let figure = owners.figure;
    figure.check()?;
    register()?;
    let (rows, columns) = grid(figure.panels.len());
    let height = HEIGHT.0 + HEIGHT.1 * (rows - 1) as f64;
    let frame = Frame { left: MARGIN, top: MARGIN, right: WIDTH - MARGIN, bottom: height - MARGIN };
    let shape = Shape { rows, columns, xs: &figure.xs(), x_lines: 1, left: 0.0 };
    let pieces = pieces(figure, &shape, frame, &text_width);
    let mut out = format!(
        "<svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {WIDTH} {height}\">",
        escape(&figure.title)
    );
    for piece in &pieces {
        out += &group(piece, owners.piece(piece));
    }
    for piece in pieces.iter().filter(|piece| !piece.places.is_empty()) {
        out += &targets(piece, owners.piece(piece), told);
    }
    Ok(out + "</svg>")
}

/// The legend: each name once.
pub(in crate::report) fn legend(owners: &Owners<'_>) -> Vec<Sample> {
    let entry = |entry: &Entry<'_>| Sample {
        name: entry.name().to_owned(),
        owner: owners.entry(entry),
        svg: small(&sample(entry, (1.0, SAMPLE.1 / 2.0))),
    };
    entries(owners.figure).iter().map(entry).collect()
}

/// The marker of a slot alone.
pub(in crate::report) fn swatch(slot: usize) -> String {
    small(&marker(slot, (SAMPLE.0 / 2.0, SAMPLE.1 / 2.0), MARKER_RADIUS))
}

fn small(marks: &[Mark]) -> String {
    let (width, height) = SAMPLE;
    format!(
        "<svg class=\"sample\" aria-hidden=\"true\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">{}</svg>",
        drawn(marks, "")
    )
}

/// Whose a thing is: what its words say, else what the other series of its colour say.
pub(in crate::report) struct Owners<'a> {
    pub(in crate::report) figure: &'a Figure,
    /// The name that a text begins with.
    pub(in crate::report) named: &'a dyn Fn(&str) -> Option<usize>,
}

impl Owners<'_> {
    /// Of the `n`th series of a panel.
    pub(in crate::report) fn series(&self, panel: usize, n: usize) -> Option<usize> {
        let (panel, series) = (&self.figure.panels[panel], &self.figure.panels[panel].series[n]);
        let own = (self.named)(&series.name).or_else(|| self.of_slot(panel, series.slot));
        own.or_else(|| (self.named)(&panel.label))
    }

    fn of_slot(&self, panel: &Panel, slot: usize) -> Option<usize> {
        let alike = panel.series.iter().filter(|series| series.slot == slot);
        alike.filter_map(|series| (self.named)(&series.name)).next()
    }

    fn piece(&self, piece: &Piece) -> Option<usize> {
        let panel = &self.figure.panels[piece.panel];
        match piece.of {
            Of::Frame => None,
            Of::Series(n) => self.series(piece.panel, n),
            Of::Reference(n) => {
                let line = &panel.references[n];
                (self.named)(&line.label).or_else(|| self.of_slot(panel, line.slot?))
            }
            Of::Note(n) => self.of_slot(panel, panel.notes[n].slot),
        }
    }

    fn entry(&self, entry: &Entry<'_>) -> Option<usize> {
        let slot = match entry {
            // Targets of all series share one line.
            Entry::Series(series) if series.kind == Kind::Tick => None,
            Entry::Series(series) => Some(series.slot),
            Entry::Reference(line, ink) => line.slot.filter(|_| *ink != GREY),
        };
        let of_slot = || self.figure.panels.iter().find_map(|panel| self.of_slot(panel, slot?));
        (self.named)(entry.name()).or_else(of_slot)
    }
}

fn opened(owner: Option<usize>, class: &str) -> String {
    let of = owner.map_or(String::new(), |owner| format!(" data-m=\"{owner}\""));
    format!("<g{class}{of}>")
}

fn group(piece: &Piece, owner: Option<usize>) -> String {
    if piece.marks.is_empty() {
        return String::new();
    }
    let dashes = if piece.is_dashed { " stroke-dasharray=\"6 4\"" } else { "" };
    let marks = if matches!(piece.of, Of::Note(_)) {
        drawn(&piece.marks.iter().map(as_text).collect::<Vec<_>>(), dashes)
    } else {
        drawn(&piece.marks, dashes)
    };
    format!("{}{marks}</g>", opened(owner, ""))
}

/// A letter is read: it has the ink of text, not the colour of its marker.
fn as_text(mark: &Mark) -> Mark {
    match mark {
        Mark::Text(text) => Mark::Text(Text { color: INK, ..text.clone() }),
        other => other.clone(),
    }
}

/// Circles that are not seen but hit, with their words.
fn targets(piece: &Piece, owner: Option<usize>, told: &[Told]) -> String {
    let Of::Series(series) = piece.of else { return String::new() };
    let mine = told.iter().filter(|one| (one.panel, one.series) == (piece.panel, series));
    let circle = |one: &Told| {
        let (x, y) = piece.places.get(one.point)?;
        let title = escape(&one.text);
        Some(format!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{TARGET_RADIUS}\"><title>{title}</title></circle>",
            number(*x),
            number(*y)
        ))
    };
    let circles: String = mine.filter_map(circle).collect();
    if circles.is_empty() {
        return circles;
    }
    format!("{}{circles}</g>", opened(owner, " class=\"hits\""))
}

/// Collects neighbours of one look into one path, which keeps pages small.
struct Pen {
    out: String,
    look: String,
    path: String,
}

impl Pen {
    fn add(&mut self, look: String, path: &str) {
        if self.look != look {
            self.lift();
            self.look = look;
        }
        self.path += path;
    }

    fn lift(&mut self) {
        if !self.path.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(self.out, "<path {} d=\"{}\"/>", self.look, self.path);
            self.path.clear();
        }
    }
}

fn drawn(marks: &[Mark], dashes: &str) -> String {
    let mut pen = Pen { out: String::new(), look: String::new(), path: String::new() };
    for mark in marks {
        match mark {
            Mark::Path { points, color, width } => {
                let look =
                    format!("class=\"l {}\" stroke-width=\"{width}\"{dashes}", paint(*color));
                pen.add(look, &through(points));
            }
            Mark::Fill { points, color, opacity } => {
                let faint = if *opacity < 1.0 {
                    format!(" fill-opacity=\"{opacity}\"")
                } else {
                    String::new()
                };
                let look = format!("class=\"f {}\"{faint}", paint(*color));
                pen.add(look, &format!("{}z", through(points)));
            }
            Mark::Disc { center, radius, color } => {
                pen.add(format!("class=\"f {}\"", paint(*color)), &disc(*center, *radius));
            }
            Mark::Text(text) => {
                pen.lift();
                pen.out += &written(text);
            }
        }
    }
    pen.lift();
    pen.out
}

fn disc((x, y): Xy, radius: f64) -> String {
    let r = number(radius);
    let (left, across) = (number(x - radius), number(2.0 * radius));
    format!("M{left} {}a{r} {r} 0 1 0 {across} 0a{r} {r} 0 1 0 -{across} 0z", number(y))
}

/// A line through places; what lies on the last one, as far as a tenth of a unit shows, is left out.
fn through(points: &[Xy]) -> String {
    let mut out = String::new();
    let mut last = String::new();
    for (n, (x, y)) in points.iter().enumerate() {
        let place = format!("{} {}", number(*x), number(*y));
        if n > 0 && place == last {
            continue;
        }
        out.push(if n == 0 { 'M' } else { 'L' });
        out += &place;
        last = place;
    }
    out
}

/// With one decimal at most.
fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn written(text: &Text) -> String {
    let anchor = match text.across {
        Across::Left => "",
        Across::Centre => " text-anchor=\"middle\"",
        Across::Right => " text-anchor=\"end\"",
    };
    let (x, y) = (number(text.at.0), number(text.at.1));
    let turn =
        if text.turned { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
    format!(
        "<text class=\"f {}\" x=\"{x}\" y=\"{y}\" font-size=\"{}\"{anchor}{turn}>{}</text>",
        paint(text.color),
        text.size,
        escape(&text.text)
    )
}

/// The class of a colour, as the pages' style knows it.
fn paint(ink: Rgb) -> String {
    let named = [
        (INK, "ink"),
        (GREY, "soft"),
        (FAINT, "faint"),
        (EDGE, "edge"),
        (BAND, "band"),
        (PAPER, "paper"),
    ];
    let slots = 0..PALETTE.len();
    let own = |of: fn(Rgb) -> Rgb| slots.clone().position(|slot| of(color(slot)) == ink);
    if let Some((_, name)) = named.iter().find(|(known, _)| *known == ink) {
        return (*name).to_owned();
    }
    let full = own(|color| color).map(|slot| format!("c{slot}"));
    full.or_else(|| own(pale).map(|slot| format!("p{slot}"))).unwrap_or_else(|| "ink".to_owned())
}

/// Colours of slots by class.
#[cfg(test)]
pub(in crate::report) fn colours() -> Vec<(String, String)> {
    let slots = (0..PALETTE.len()).map(color);
    let all = slots.clone().chain(slots.map(pale));
    all.map(|ink| (paint(ink), format!("#{:02x}{:02x}{:02x}", ink.0, ink.1, ink.2))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figure::{Axis, Point, Reference, Scale, Series};

    fn series(name: &str, slot: usize, kind: Kind) -> Series {
        let points = (1..=3).map(|x| Point {
            low: Some(f64::from(x)),
            high: Some(f64::from(x) + 2.0),
            ..Point::new(f64::from(x), f64::from(x + 1))
        });
        Series { name: name.to_owned(), slot, kind, points: points.collect() }
    }

    fn figure() -> Figure {
        let panel = Panel {
            series: vec![series("a<b", 0, Kind::Line), series("c", 17, Kind::Points)],
            references: vec![
                Reference::curve("roof", 17, vec![(1.0, 4.0), (3.0, 4.0)]),
                Reference::horizontal("level", 2.0),
            ],
            ..Panel::default()
        };
        let axis = |name: &str| Axis::new(name, "ms", Scale::Linear);
        Figure::single("A & B", "", axis("x"), axis("y"), panel)
    }

    fn owners(figure: &Figure) -> Owners<'_> {
        Owners { figure, named: &|text| (text == "c").then_some(5) }
    }

    #[test]
    fn marks_of_a_name_are_groups_that_can_be_hidden() {
        let told = vec![
            Told { panel: 0, series: 0, point: 2, text: "a<b at 3: 4 ms".into() },
            Told { panel: 0, series: 1, point: 0, text: "c at 1: 2 ms".into() },
        ];
        let figure = figure();
        let svg = inline(&owners(&figure), &told).unwrap();
        // line and bars, markers, targets, and the reference in its colour
        assert_eq!(svg.matches("data-m=\"5\"").count(), 4, "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("<title>a&lt;b at 3: 4 ms</title>"), "{svg}");
        assert!(svg.contains("aria-label=\"A &amp; B\"") && svg.contains("stroke-dasharray"));
        assert!(!svg.contains("a<b"), "a name must not become markup");
    }

    #[test]
    fn every_colour_has_a_class_of_its_own() {
        let slots = (0..PALETTE.len()).map(color);
        let mut all: Vec<Rgb> = slots.clone().chain(slots.map(pale)).collect();
        all.extend([INK, GREY, FAINT, EDGE, BAND, PAPER]);
        for (n, ink) in all.iter().enumerate() {
            for other in &all[..n] {
                // Half of black is the palette's grey.
                assert_eq!(paint(*ink) == paint(*other), ink == other, "{ink:?}, {other:?}");
            }
        }
        assert_eq!(paint(Rgb(1, 2, 3)), "ink", "what no style knows is drawn as text");
    }

    #[test]
    fn the_legend_knows_whose_line_is_whose() {
        let figure = figure();
        let legend = legend(&owners(&figure));
        let whose: Vec<_> = legend.iter().map(|one| (one.name.as_str(), one.owner)).collect();
        assert_eq!(whose, [("a<b", None), ("c", Some(5)), ("roof", Some(5)), ("level", None)]);
        assert!(legend.iter().all(|one| one.svg.contains("aria-hidden")));
    }

    #[test]
    fn numbers_are_short_and_equal_places_once() {
        assert_eq!(["12", "12.3", "0"].map(str::to_owned), [12.04, 12.26, 0.0].map(number));
        assert_eq!(through(&[(1.0, 2.0), (1.01, 2.0), (3.0, 2.0)]), "M1 2L3 2");
    }
}
