//! A picture as plain data: what is drawn, not how.

use anyhow::{Context, bail, ensure};

/// One picture: one or several panels that share both axes, a legend and a caption.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What is shown, in a few words.
    pub title: String,
    /// How it was measured and how to read it; drawn small below the title.
    pub caption: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// Small multiples; one panel fills the picture.
    pub panels: Vec<Panel>,
}

/// A picture for a paper: figures side by side or below one another that share a legend. Its caption is a text beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// Name of its files, without extension: `fig1`.
    pub name: String,
    /// What it shows, with units, n, what the bars are and what is left out and why.
    pub caption: String,
    /// Its parts, in reading order; a letter before the title of each if there are several.
    pub parts: Vec<Figure>,
    /// Whether the parts lie below one another, low and over one horizontal range: what happened at the same time.
    pub stacked: bool,
}

/// How wide a picture for a paper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// One of two columns: 3.33 inches.
    Column,
    /// Across the page: 7 inches.
    Page,
}

impl Size {
    /// Width in inches.
    pub fn inches(self) -> f64 {
        match self {
            Size::Column => 3.33,
            Size::Page => 7.0,
        }
    }
}

/// What an axis shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Quantity.
    pub label: String,
    /// Unit, `""` for none.
    pub unit: String,
    /// Scale.
    pub scale: Scale,
    /// Whether 0 (linear scales) must be in sight.
    pub from_zero: bool,
}

/// How values lie on an axis.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By doubling; ticks are powers of two (`1k` = 1024): sizes.
    Log2,
    /// By decades; ticks are 1, 2, 5, 10 (`1k` = 1000): rates and ratios.
    Log10,
    /// Names; the nth is centred at x = n.
    Category(Vec<String>),
}

/// One small multiple.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Panel {
    /// What sets it apart, `""` for none.
    pub label: String,
    /// Measurements.
    pub series: Vec<Series>,
    /// Dashed lines behind them.
    pub references: Vec<Reference>,
    /// Letters beside points.
    pub notes: Vec<Note>,
    /// How many observations stand behind series, as far as it is known.
    pub samples: Vec<Samples>,
}

/// How many observations stand behind a series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// The series: its place in [`Panel::series`].
    pub series: usize,
    /// One number a point, or one for all points together.
    pub n: Vec<usize>,
}

impl Panel {
    /// Adds a series and how many observations stand behind each of its points, or behind all together.
    pub fn push_counted(&mut self, series: Series, n: Vec<usize>) {
        self.samples.push(Samples { series: self.series.len(), n });
        self.series.push(series);
    }

    /// Observations behind a point; `None` where nobody said.
    pub fn n(&self, series: usize, point: usize) -> Option<usize> {
        let n = &self.samples.iter().find(|samples| samples.series == series)?.n;
        if n.len() == 1 { n.first().copied() } else { n.get(point).copied() }
    }
}

/// A letter or two beside a point of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The point.
    pub at: Point,
    /// Its series' slot: the note has the colour of the marker.
    pub slot: usize,
    /// What it says.
    pub text: String,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend; a name that occurs twice is listed once.
    pub name: String,
    /// Colour and marker: the same number looks the same in every figure of a report.
    pub slot: usize,
    /// How it is drawn.
    pub kind: Kind,
    /// From left to right.
    pub points: Vec<Point>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Markers joined by a line.
    Line,
    /// Markers alone.
    Points,
    /// `y` holds from its `x` to the next.
    Step,
    /// As [`Kind::Step`], filled down to 0.
    Area,
    /// A short horizontal tick: a target next to measured points.
    Tick,
    /// The area between `low` and `high`, each of which holds from its `x` to the next: how far a curve may be off.
    Band,
}

/// One value with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Position.
    pub x: f64,
    /// Value.
    pub y: f64,
    /// Lower end of the interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// A dashed line to compare with, such as a roofline.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// In the legend; a label that occurs twice is listed once.
    pub label: String,
    /// Whose line it is, by its slot; `None` = grey.
    pub slot: Option<usize>,
    /// Corners. [`Reference::horizontal`] has none: it crosses the panel.
    pub points: Vec<(f64, f64)>,
    /// Height of a line across the panel.
    pub level: Option<f64>,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, low: None, high: None }
    }
}

impl Reference {
    /// A grey line across the panel.
    pub fn horizontal(label: &str, level: f64) -> Self {
        Self { label: label.to_owned(), slot: None, points: Vec::new(), level: Some(level) }
    }

    /// A line through points, in the colour of a slot.
    pub fn curve(label: &str, slot: usize, points: Vec<(f64, f64)>) -> Self {
        Self { label: label.to_owned(), slot: Some(slot), points, level: None }
    }
}

impl Axis {
    /// An axis whose range follows the data.
    pub fn new(label: &str, unit: &str, scale: Scale) -> Self {
        Self { label: label.to_owned(), unit: unit.to_owned(), scale, from_zero: false }
    }

    /// A linear axis that starts at 0.
    pub fn from_zero(label: &str, unit: &str) -> Self {
        Self { from_zero: true, ..Self::new(label, unit, Scale::Linear) }
    }

    /// `label (unit)`.
    pub fn title(&self) -> String {
        if self.unit.is_empty() {
            self.label.clone()
        } else {
            format!("{} ({})", self.label, self.unit)
        }
    }
}

impl Figure {
    /// A figure of one panel.
    pub fn single(title: &str, caption: &str, x: Axis, y: Axis, panel: Panel) -> Self {
        Self { title: title.to_owned(), caption: caption.to_owned(), x, y, panels: vec![panel] }
    }

    /// Refuses what cannot be drawn truthfully: a number that is not finite, or not positive on a logarithmic axis.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.panels.is_empty(), "figure `{}`: expected a panel, got none", self.title);
        for (axis, coordinates) in [(&self.x, self.xs()), (&self.y, self.ys())] {
            for value in coordinates {
                axis.check(value).with_context(|| format!("figure `{}`", self.title))?;
            }
        }
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.points)
    }

    fn corners(&self) -> impl Iterator<Item = &(f64, f64)> {
        self.panels.iter().flat_map(|panel| &panel.references).flat_map(|line| &line.points)
    }

    /// Every horizontal coordinate.
    pub fn xs(&self) -> Vec<f64> {
        self.points().map(|p| p.x).chain(self.corners().map(|c| c.0)).collect()
    }

    /// Every vertical coordinate, interval ends included.
    pub fn ys(&self) -> Vec<f64> {
        let of_point =
            |p: &Point| [Some(p.y), p.low, p.high].into_iter().flatten().collect::<Vec<_>>();
        let levels =
            self.panels.iter().flat_map(|panel| &panel.references).filter_map(|line| line.level);
        self.points().flat_map(of_point).chain(self.corners().map(|c| c.1)).chain(levels).collect()
    }
}

impl Axis {
    fn check(&self, value: f64) -> anyhow::Result<()> {
        if !value.is_finite() {
            bail!("axis `{}`: expected a finite number, got {value}", self.label);
        }
        if matches!(self.scale, Scale::Log2 | Scale::Log10) && value <= 0.0 {
            bail!(
                "axis `{}`: expected a positive number on a logarithmic axis, got {value}",
                self.label
            );
        }
        Ok(())
    }
}

/// Most points of one cumulative curve: more cannot be seen at this size and would only swell the page.
const CDF_POINTS_MAX: usize = 400;

/// The share of observations not above x, one curve a series: `(name, slot, observations)`.
pub fn cdf(title: &str, caption: &str, x: Axis, groups: &[(String, usize, Vec<f64>)]) -> Figure {
    let series = groups.iter().map(|(name, slot, values)| Series {
        name: name.clone(),
        slot: *slot,
        kind: Kind::Step,
        points: cdf_points(values),
    });
    let panel = Panel { series: series.collect(), samples: counted(groups), ..Panel::default() };
    Figure::single(title, caption, x, Axis::from_zero("share of requests", "%"), panel)
}

/// Steps of the empirical distribution in percent, thinned evenly by rank with both ends kept.
pub(super) fn cdf_points(values: &[f64]) -> Vec<Point> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let kept = n.min(CDF_POINTS_MAX);
    let rank = |i: usize| if kept < 2 { 0 } else { i * (n - 1) / (kept - 1) };
    let step = |rank: usize| Point::new(sorted[rank], 100.0 * (rank + 1) as f64 / n as f64);
    let start = sorted.first().map(|x| Point::new(*x, 0.0));
    start.into_iter().chain((0..kept).map(|i| step(rank(i)))).collect()
}

/// The share of observations in equal bins over the range of all groups: `(name, slot, observations)`.
pub fn histogram(
    title: &str,
    caption: &str,
    x: Axis,
    groups: &[(String, usize, Vec<f64>)],
) -> Figure {
    let pooled: Vec<f64> =
        groups.iter().flat_map(|(_, _, values)| values.iter().copied()).collect();
    let bins = Bins::of(&pooled);
    let kind = if groups.len() > 1 { Kind::Step } else { Kind::Area };
    let series = groups.iter().map(|(name, slot, values)| Series {
        name: name.clone(),
        slot: *slot,
        kind,
        points: bins.as_ref().map(|bins| bins.outline(values)).unwrap_or_default(),
    });
    let panel = Panel { series: series.collect(), samples: counted(groups), ..Panel::default() };
    Figure::single(title, caption, x, Axis::from_zero("share of answers", "%"), panel)
}

fn counted(groups: &[(String, usize, Vec<f64>)]) -> Vec<Samples> {
    let n = groups.iter().map(|(_, _, values)| vec![values.len()]);
    n.enumerate().map(|(series, n)| Samples { series, n }).collect()
}

/// Equal bins.
struct Bins {
    start: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// Freedman and Diaconis' width, between 1 and 40 bins; `None` without finite observations.
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let quartile = |q: usize| sorted[(sorted.len() - 1) * q / 4];
        let width = 2.0 * (quartile(3) - quartile(1)) / (sorted.len() as f64).cbrt();
        let span = last - first;
        if span <= 0.0 {
            return Some(Self { start: first - 0.5, width: 1.0, count: 1 });
        }
        let count = if width > 0.0 { (span / width).ceil().clamp(5.0, 40.0) as usize } else { 20 };
        Some(Self { start: first, width: span / count as f64, count })
    }

    fn outline(&self, values: &[f64]) -> Vec<Point> {
        if values.is_empty() {
            return Vec::new();
        }
        let mut counts = vec![0_usize; self.count];
        for value in values {
            let bin = ((value - self.start) / self.width).floor().max(0.0) as usize;
            counts[bin.min(self.count - 1)] += 1;
        }
        let edge = |i: usize| self.start + i as f64 * self.width;
        let share = |count: &usize| 100.0 * *count as f64 / values.len() as f64;
        let tops = counts.iter().enumerate().map(|(i, count)| Point::new(edge(i), share(count)));
        let ends = (Point::new(edge(0), 0.0), Point::new(edge(self.count), 0.0));
        std::iter::once(ends.0).chain(tops).chain(std::iter::once(ends.1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis() -> Axis {
        Axis::new("latency", "ms", Scale::Linear)
    }

    #[test]
    fn cdf_reaches_everything_and_stays_small() {
        let values: Vec<f64> = (0..5000).rev().map(f64::from).collect();
        let figure = cdf("t", "", axis(), &[("a".into(), 0, values)]);
        let points = &figure.panels[0].series[0].points;
        assert_eq!(points.len(), CDF_POINTS_MAX + 1);
        assert_eq!((points[0], points[400]), (Point::new(0.0, 0.0), Point::new(4999.0, 100.0)));
        let small = cdf("t", "", axis(), &[("a".into(), 0, vec![3.0, 1.0])]);
        let expected = vec![Point::new(1.0, 0.0), Point::new(1.0, 50.0), Point::new(3.0, 100.0)];
        assert_eq!(small.panels[0].series[0].points, expected);
    }

    #[test]
    fn histogram_counts_every_observation() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        let figure =
            histogram("t", "", axis(), &[("a".into(), 0, values), ("b".into(), 1, vec![])]);
        let [a, b] = figure.panels[0].series.as_slice() else { panic!("expected two series") };
        let total: f64 = a.points.iter().map(|p| p.y).sum();
        assert!((total - 100.0).abs() < 1e-9, "{total}");
        assert_eq!((a.kind, b.points.len()), (Kind::Step, 0));
        let flat = histogram("t", "", axis(), &[("a".into(), 0, vec![7.0; 3])]);
        assert_eq!(flat.panels[0].series[0].points[1], Point::new(6.5, 100.0));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let with = |scale, y| {
            let series = Series {
                name: "a".into(),
                slot: 0,
                kind: Kind::Line,
                points: vec![Point::new(1.0, y)],
            };
            let panel = Panel { series: vec![series], ..Panel::default() };
            Figure::single("f", "", axis(), Axis::new("rate", "1/s", scale), panel).check()
        };
        assert!(with(Scale::Linear, 0.0).is_ok());
        let nan = format!("{:#}", with(Scale::Linear, f64::NAN).unwrap_err());
        assert_eq!(nan, "figure `f`: axis `rate`: expected a finite number, got NaN");
        assert!(with(Scale::Log10, 0.0).unwrap_err().root_cause().to_string().contains("positive"));
    }
}
