//! Figures of the kernels: throughput with its ceiling, speed-up beside the ideal, cost of prefill and compression.

use super::{Looks, Plot, distinct, dodge, slug};
use crate::{
    analyse::{Judgement, KernelPoint},
    report::figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
};

mod limit;

/// Points of one operation at one model shape and degree of tensor parallelism on one target: what shares a figure.
struct Group<'a> {
    target: &'a str,
    model: &'a str,
    op: &'a str,
    ranks: i64,
    points: Vec<&'a KernelPoint>,
}

/// What lies on the horizontal axis; the other one makes the panels.
#[derive(Clone, Copy, PartialEq)]
enum Sweep {
    KvLen,
    Batch,
}

pub(super) fn plots(judgement: &Judgement, looks: &Looks) -> Vec<Plot> {
    let mut out = Vec::new();
    for group in groups(judgement) {
        let batches = distinct(group.grid().map(|k| k.batch)).len();
        if group.grid().next().is_some() {
            out.push(group.sweep(Sweep::KvLen, looks));
        }
        if group.op == "decode" {
            if batches > 1 {
                out.push(group.sweep(Sweep::Batch, looks));
            }
            out.extend(group.speedup(looks));
            out.extend(group.limit(looks));
        }
    }
    out
}

fn groups(judgement: &Judgement) -> Vec<Group<'_>> {
    let mut out: Vec<Group<'_>> = Vec::new();
    for op in ["decode", "prefill", "compress"] {
        for point in judgement.kernels.iter().filter(|k| k.op == op && k.duration_ms.is_some()) {
            let (target, model) = (point.point.target.as_str(), point.model_shape.as_str());
            let ranks = point.tensor_parallel;
            let key = (target, model, op, ranks);
            match out.iter_mut().find(|g| (g.target, g.model, g.op, g.ranks) == key) {
                Some(group) => group.points.push(point),
                None => out.push(Group { target, model, op, ranks, points: vec![point] }),
            }
        }
    }
    out
}

impl Group<'_> {
    /// Points of a grid of shapes, where every sequence is equally long; replayed batches are ragged.
    fn grid(&self) -> impl Iterator<Item = &KernelPoint> {
        self.points
            .iter()
            .copied()
            .filter(|k| k.point.load == "launch" && k.kv_tokens == k.batch * k.kv_len)
    }

    fn name(&self, what: &str) -> String {
        if self.ranks > 1 {
            slug(&[self.op, what, self.target, self.model, &format!("tp{}", self.ranks)])
        } else {
            slug(&[self.op, what, self.target, self.model])
        }
    }

    /// A title, and which of several ranks it is of.
    fn title(&self, text: &str) -> String {
        if self.ranks > 1 {
            format!("{text}, one of {} ranks", self.ranks)
        } else {
            text.to_owned()
        }
    }

    fn caption(&self, rest: &str) -> String {
        let backend = self.points.first().map_or("", |k| k.backend.as_str());
        let device = self.points.first().map_or("", |k| k.device.as_str());
        let rank = if self.ranks > 1 {
            format!("One rank's heads ({} ranks, communication not included) of one", self.ranks)
        } else {
            "One".to_owned()
        };
        let model = self.model;
        format!("{rank} attention layer of {model}, not a model; {backend} on {device}. {rest}")
    }

    fn sweep(&self, sweep: Sweep, looks: &Looks) -> Plot {
        let x = sweep.axis(self.op);
        let mut facets = distinct(self.grid().map(|k| sweep.facet(k)));
        facets.sort_unstable();
        let panels = facets.iter().map(|facet| self.panel(sweep, *facet, looks)).collect();
        let by = if sweep == Sweep::KvLen { "length" } else { "batch size" };
        let (title, y, rest) = match self.op {
            "decode" => (
                format!("Decode throughput by {by}"),
                Axis::new("decode throughput, one layer", "tokens/s", Scale::Log10),
                "Bars: 95 % interval. Dashed: what the read bandwidth measured in the same blocks allows for the method's bytes.",
            ),
            "prefill" => (
                format!("Prefill attention time by {by}"),
                duration_axis(),
                "Bars: 95 % interval of the median.",
            ),
            _ => (
                format!("Time to compress the prompt's cache, by {by}"),
                duration_axis(),
                "Bars: 95 % interval of the median.",
            ),
        };
        let title = self.title(&title);
        let figure = Figure { title, caption: self.caption(rest), x, y, panels };
        let name = self.name(if sweep == Sweep::KvLen { "kv-len" } else { "batch" });
        Plot { name, figure }
    }

    fn panel(&self, sweep: Sweep, facet: i64, looks: &Looks) -> Panel {
        let here: Vec<&KernelPoint> = self.grid().filter(|k| sweep.facet(k) == facet).collect();
        let mut panel = Panel { label: sweep.label(facet), ..Panel::default() };
        for method in looks.order(here.iter().map(|k| &k.point)) {
            let mut mine: Vec<&KernelPoint> =
                here.iter().copied().filter(|k| k.point.method == method).collect();
            mine.sort_by_key(|k| sweep.x(k));
            let slot = looks.slot(&method);
            let roof: Vec<(f64, f64)> =
                mine.iter().filter_map(|k| Some((sweep.x(k) as f64, ceiling(k)?))).collect();
            if self.op == "decode" && !roof.is_empty() {
                panel.references.push(Reference::curve(
                    "ceiling by measured read bandwidth",
                    slot,
                    roof,
                ));
            }
            let (points, n) = mine.iter().filter_map(|k| self.point(sweep, k)).unzip();
            panel.push_counted(Series { name: method, slot, kind: Kind::Line, points }, n);
        }
        panel
    }

    /// With its number of observations.
    fn point(&self, sweep: Sweep, k: &KernelPoint) -> Option<(Point, usize)> {
        let estimate = if self.op == "decode" { k.tokens_per_s? } else { k.duration_ms? };
        let (low, high) = estimate.interval.unzip();
        Some((Point { x: sweep.x(k) as f64, y: estimate.value, low, high }, estimate.n))
    }

    /// Measured speed-up and the ratio of bytes, one category a shape; the gap between them is what is not captured.
    fn speedup(&self, looks: &Looks) -> Option<Plot> {
        let compared: Vec<&KernelPoint> =
            self.points.iter().copied().filter(|k| k.speedup.is_some()).collect();
        let shapes = distinct(compared.iter().map(|k| shape_label(k)));
        let methods = looks.order(compared.iter().map(|k| &k.point));
        let mut ideals = Vec::new();
        let level = format!("as fast as {}", looks.baseline);
        let references = vec![Reference::horizontal(&level, 1.0)];
        let mut panel = Panel { references, ..Panel::default() };
        for (n, method) in methods.iter().enumerate() {
            let mine = compared.iter().filter(|k| &k.point.method == method);
            let placed = mine.filter_map(|k| {
                Some((
                    dodge(shapes.iter().position(|s| *s == shape_label(k))?, n, methods.len()),
                    *k,
                ))
            });
            let placed: Vec<(f64, &KernelPoint)> = placed.collect();
            let slot = looks.slot(method);
            let measured = placed.iter().filter_map(|(x, k)| {
                let (low, high) = k.speedup?.interval.unzip();
                Some((Point { x: *x, y: k.speedup?.value, low, high }, k.speedup?.n))
            });
            let (points, n) = measured.unzip();
            let (name, kind) = (method.clone(), Kind::Points);
            panel.push_counted(Series { name, slot, kind, points }, n);
            let ideal = placed.iter().filter_map(|(x, k)| Some(Point::new(*x, k.ideal_speedup?)));
            ideals.push(Series {
                name: "ideal: ratio of bytes".into(),
                slot,
                kind: Kind::Tick,
                points: ideal.collect(),
            });
        }
        panel.series.extend(ideals);
        let y = Axis::new(&format!("decode speed-up over {}", looks.baseline), "x", Scale::Log10);
        let x = Axis::new("batch and cached tokens", "", Scale::Category(shapes));
        let caption = self.caption("Bars: 95 % interval, paired with the baseline sample by sample. Short lines: the speed-up if only bytes counted.");
        let title = self.title("Decode speed-up, measured and ideal");
        let figure = Figure::single(&title, &caption, x, y, panel);
        (!compared.is_empty()).then(|| Plot { name: self.name("speedup"), figure })
    }
}

fn duration_axis() -> Axis {
    Axis::new("time of one launch, one layer", "ms", Scale::Log10)
}

/// Tokens/s if the launch's bytes moved at the read bandwidth measured beside it: `batch * bandwidth / bytes`.
fn ceiling(k: &KernelPoint) -> Option<f64> {
    let bytes = k.bytes_moved.filter(|bytes| *bytes > 0)?;
    Some(k.batch as f64 * k.read_gb_per_s? * 1e9 / bytes as f64)
}

/// `b4 kv8k` for a shape of a grid, else the workload and its load.
pub(super) fn shape_label(k: &KernelPoint) -> String {
    if k.point.load == "launch" {
        format!("b{} kv{}", k.batch, size(k.kv_len))
    } else {
        format!("{} {}", k.point.workload, k.point.load)
    }
}

/// A length, with `k` = 1024 where that is exact.
fn size(n: i64) -> String {
    if n >= 1024 && n % 1024 == 0 { format!("{}k", n / 1024) } else { n.to_string() }
}

impl Sweep {
    fn axis(self, op: &str) -> Axis {
        let label = match self {
            Sweep::KvLen if op == "decode" => "cached tokens per sequence",
            Sweep::KvLen => "prompt tokens per sequence",
            Sweep::Batch => "sequences in the batch",
        };
        Axis::new(label, "", Scale::Log2)
    }

    fn x(self, k: &KernelPoint) -> i64 {
        if self == Sweep::KvLen { k.kv_len } else { k.batch }
    }

    fn facet(self, k: &KernelPoint) -> i64 {
        if self == Sweep::KvLen { k.batch } else { k.kv_len }
    }

    fn label(self, facet: i64) -> String {
        if self == Sweep::KvLen {
            format!("batch {facet}")
        } else {
            format!("{} cached tokens", size(facet))
        }
    }
}
