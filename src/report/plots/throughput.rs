//! Throughput against length and against batch, one figure an operation: the paper's figure 1, of one attention layer, with intervals.

use super::{Drawing, Judged, caption, served, sheet};
use crate::{
    analyse::KernelPoint,
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Scale, Series, Sheet},
        palette,
        run::{distinct, slug},
    },
};

/// One attention layer of one model on one device, under one degree of tensor parallelism.
#[derive(Clone, PartialEq)]
struct Layer {
    target: String,
    model: String,
    device: String,
    ranks: i64,
}

impl Layer {
    fn of(k: &KernelPoint) -> Self {
        Self {
            target: k.point.target.clone(),
            model: k.model_shape.clone(),
            device: k.device.clone(),
            ranks: k.tensor_parallel,
        }
    }

    fn words(&self) -> String {
        let (model, device) = (&self.model, &self.device);
        match self.ranks {
            1 => format!("One attention layer of {model} on {device}, not a model."),
            n => format!(
                "One rank's heads ({n} ranks, without communication) of one attention layer of {model} on {device}, not a model."
            ),
        }
    }
}

/// What lies on the horizontal axis; the other makes the panels.
#[derive(Clone, Copy, PartialEq)]
enum Sweep {
    Length,
    Batch,
}

impl Sweep {
    fn x(self, k: &KernelPoint) -> i64 {
        if self == Sweep::Length { k.kv_len } else { k.batch }
    }

    fn facet(self, k: &KernelPoint) -> i64 {
        if self == Sweep::Length { k.batch } else { k.kv_len }
    }

    fn label(self, facet: i64) -> String {
        if self == Sweep::Length { format!("batch {facet}") } else { format!("{facet} tokens") }
    }

    fn axis(self) -> Axis {
        let label = if self == Sweep::Length { "tokens per sequence" } else { "batch" };
        Axis::new(label, "", Scale::Log2)
    }

    fn words(self) -> &'static str {
        if self == Sweep::Length { "by length" } else { "by batch" }
    }
}

/// One sheet a layer, of the kernels of all runs; then one a run of what was served. Runs that measured the same thing are drawn one
/// by one: their points are no sweep.
pub(super) fn sheets(runs: &[Judged<'_>]) -> Vec<Sheet> {
    if !overlap(runs) {
        return together(runs);
    }
    let named = |(run, mut sheet): (&Judged<'_>, Sheet)| {
        sheet.name = slug(&[&sheet.name, &run.source.manifest.run_id]);
        sheet
    };
    let each = runs.iter().flat_map(|run| {
        together(std::slice::from_ref(run)).into_iter().map(move |sheet| (run, sheet))
    });
    each.map(named).collect()
}

/// Whether two runs timed the same kernel at the same shape.
fn overlap(runs: &[Judged<'_>]) -> bool {
    let of = |run: &Judged<'_>| {
        let kernels = run.source.judgement.kernels.iter().filter(|k| is_of_grid(k));
        let shape = |k: &KernelPoint| {
            (Layer::of(k), k.op.clone(), k.point.method.clone(), k.batch, k.kv_len)
        };
        distinct(kernels.map(shape))
    };
    let all: Vec<_> = runs.iter().flat_map(of).collect();
    distinct(all.iter()).len() < all.len()
}

fn together(runs: &[Judged<'_>]) -> Vec<Sheet> {
    let points = |run: &Judged<'_>| run.source.judgement.kernels.clone();
    let all: Vec<KernelPoint> = runs.iter().flat_map(points).filter(is_of_grid).collect();
    let layers = distinct(all.iter().filter(|k| k.tokens_per_s.is_some()).map(Layer::of));
    let served: Vec<(&Judged<'_>, Drawing)> =
        runs.iter().filter_map(|run| Some((run, served::drawing(run)?))).collect();
    let alone = layers.len() + served.len() == 1;
    let mut out = Vec::new();
    for layer in layers {
        let mine: Vec<&KernelPoint> = all.iter().filter(|k| Layer::of(k) == layer).collect();
        let ranks = if layer.ranks > 1 { format!("tp{}", layer.ranks) } else { String::new() };
        let name = if alone { "fig1".to_owned() } else { slug(&["fig1", &layer.target, &ranks]) };
        let of_layer = |run: &&Judged<'_>| {
            let mut kernels = run.source.judgement.kernels.iter();
            kernels.any(|k| is_of_grid(k) && Layer::of(k) == layer)
        };
        let from: Vec<&Judged<'_>> = runs.iter().filter(of_layer).collect();
        out.push(sheet(unused(name, &out), &from, drawing(&layer, &mine)));
    }
    for (run, drawing) in served {
        let id = &run.source.manifest.run_id;
        let name = if alone { "fig1".to_owned() } else { slug(&["fig1", id]) };
        out.push(sheet(unused(name, &out), &[run], drawing));
    }
    out
}

/// Two devices may hold the same model: the later has a number.
fn unused(name: String, sheets: &[Sheet]) -> String {
    let taken = |name: &String| sheets.iter().any(|sheet| sheet.name == *name);
    if !taken(&name) {
        return name;
    }
    (2..).map(|n| format!("{name}-{n}")).find(|name| !taken(name)).unwrap_or(name)
}

/// Where every sequence is equally long; replayed batches are ragged.
fn is_of_grid(k: &KernelPoint) -> bool {
    k.point.load == "launch" && k.kv_tokens == k.batch * k.kv_len
}

fn drawing(layer: &Layer, points: &[&KernelPoint]) -> Drawing {
    let methods = distinct(points.iter().map(|k| k.point.method.clone()));
    let look = palette::looks(methods);
    let mut parts = Vec::new();
    for op in ["prefill", "decode"] {
        let filled = op == "prefill" && has_filling(points);
        for sweep in [Sweep::Length, Sweep::Batch] {
            parts.extend(figure(points, (op, filled), sweep, &look));
        }
    }
    let timed = |k: &&&KernelPoint| k.tokens_per_s.is_some() && k.op != "compress";
    let drawn: Vec<&KernelPoint> = points.iter().filter(timed).copied().collect();
    let repeats = drawn.iter().map(|k| ("repeats".to_owned(), k.n_repeats));
    let n = format!(
        "{} {}",
        caption::n_words(
            "launches a point",
            drawn.iter().map(|k| (k.point.method.clone(), k.n_samples))
        ),
        caption::n_words("repeats", repeats)
    );
    let methods = distinct(drawn.iter().map(|k| k.point.method.clone()));
    let told = [layer.words(), holes(points)].into_iter().filter(|text| !text.is_empty()).collect();
    Drawing { parts, n, methods, told, stacked: false }
}

/// Whether the time to fill the cache was measured beside every prompt's attention: the paper's prefill is both.
fn has_filling(points: &[&KernelPoint]) -> bool {
    let mut prefills = points.iter().filter(|k| k.op == "prefill" && k.tokens_per_s.is_some());
    prefills.clone().next().is_some() && prefills.all(|k| filling(k, points).is_some())
}

fn filling<'k>(prefill: &KernelPoint, points: &[&'k KernelPoint]) -> Option<&'k KernelPoint> {
    let same = |k: &&&KernelPoint| {
        k.op == "compress"
            && k.duration_ms.is_some()
            && (&k.point.method, k.batch, k.kv_len)
                == (&prefill.point.method, prefill.batch, prefill.kv_len)
    };
    points.iter().find(same).copied()
}

/// One panel a value of the other quantity that has a sweep to show; `None` where none has.
fn figure(
    points: &[&KernelPoint],
    (op, filled): (&str, bool),
    sweep: Sweep,
    look: &dyn Fn(&str) -> usize,
) -> Option<Figure> {
    let mine: Vec<&KernelPoint> =
        points.iter().filter(|k| k.op == op && k.tokens_per_s.is_some()).copied().collect();
    let xs =
        |facet: i64| distinct(mine.iter().filter(|k| sweep.facet(k) == facet).map(|k| sweep.x(k)));
    let mut facets = distinct(mine.iter().map(|k| sweep.facet(k)));
    facets.sort_unstable();
    let longest = facets.iter().map(|facet| xs(*facet).len()).max()?;
    if longest < 2 {
        return None;
    }
    // Where a sweep was measured at one value, two points each at the others are no sweep; they are in the other figure.
    facets.retain(|facet| xs(*facet).len() >= if longest > 3 { 3 } else { 2 });
    let panel = |facet: &i64| {
        let here: Vec<&KernelPoint> =
            mine.iter().filter(|k| sweep.facet(k) == *facet).copied().collect();
        let series =
            distinct(here.iter().map(|k| k.point.method.clone())).into_iter().map(|name| {
                let own = here.iter().filter(|k| k.point.method == name);
                let mut points: Vec<Point> =
                    own.filter_map(|k| point(k, sweep, filled, points)).collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                Series { slot: look(&name), name, kind: Kind::Line, points }
            });
        Panel { label: sweep.label(*facet), series: series.collect(), ..Panel::default() }
    };
    let (title, caption) = match (op, filled) {
        ("decode", _) => ("Decode", "Bars: 95 % intervals of the rate."),
        (_, true) => (
            "Prefill with filling of the cache",
            "Tokens over the medians of attention and of filling the cache, added; bars: the ends of both 95 % intervals added.",
        ),
        (_, false) => (
            "Prefill, attention alone",
            "Bars: 95 % intervals of the rate; what filling the cache takes was not measured.",
        ),
    };
    Some(Figure {
        title: format!("{title}, {}", sweep.words()),
        caption: caption.to_owned(),
        x: sweep.axis(),
        y: Axis::new("throughput, one layer", "tokens/s", Scale::Log10),
        panels: facets.iter().map(panel).collect(),
    })
}

fn point(k: &KernelPoint, sweep: Sweep, filled: bool, all: &[&KernelPoint]) -> Option<Point> {
    let x = sweep.x(k) as f64;
    if !filled {
        let rate = k.tokens_per_s?;
        let (low, high) = rate.interval.unzip();
        return Some(Point { x, y: rate.value, low, high });
    }
    let (attention, filling) = (k.duration_ms?, filling(k, all)?.duration_ms?);
    let rate = |ms: f64| k.kv_tokens as f64 / ms * 1e3;
    let ends = attention.interval.zip(filling.interval);
    Some(Point {
        x,
        y: rate(attention.value + filling.value),
        low: ends.map(|((_, a), (_, b))| rate(a + b)),
        high: ends.map(|((a, _), (b, _))| rate(a + b)),
    })
}

/// Points that could not be measured, with their reasons.
fn holes(points: &[&KernelPoint]) -> String {
    const TOLD_MAX: usize = 6;
    let failed = points.iter().filter(|k| k.duration_ms.is_none());
    let told: Vec<String> = failed
        .map(|k| {
            let why = k.err.as_deref().unwrap_or("not timed");
            format!(
                "{} {} at batch {} and {} tokens ({why})",
                k.point.method, k.op, k.batch, k.kv_len
            )
        })
        .collect();
    match told.len() {
        0 => String::new(),
        n if n > TOLD_MAX => {
            format!("Missing points: {}; and {} more.", told[..TOLD_MAX].join("; "), n - TOLD_MAX)
        }
        _ => format!("Missing points: {}.", told.join("; ")),
    }
}
