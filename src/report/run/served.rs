//! Figures of served requests: latency distributions, answer lengths, throughput by load, lag of the client.

use super::{Looks, Plot, Source, distinct, dodge, slug};
use crate::{
    analyse::{Estimate, RequestFacts, RequestPoint},
    report::figure::{Axis, Figure, Kind, Panel, Point, Scale, Series, cdf, histogram},
};

/// One distribution to draw.
struct Metric {
    name: &'static str,
    title: &'static str,
    axis: &'static str,
    unit: &'static str,
    caption: &'static str,
    /// Value of a request; `None` leaves it out.
    of: fn(&RequestFacts) -> Option<f64>,
    kind: Shape,
}

#[derive(PartialEq)]
enum Shape {
    Cdf,
    Histogram,
}

const METRICS: [Metric; 5] = [
    Metric {
        name: "ttft",
        title: "Time to first token",
        axis: "first token after the request was due",
        unit: "ms",
        caption: "Good requests, counted from when they were due, so that waiting in the client is not hidden.",
        of: |r| r.ttft_due_ms,
        kind: Shape::Cdf,
    },
    Metric {
        name: "tpot",
        title: "Time per output token",
        axis: "time per output token after the first",
        unit: "ms",
        caption: "Good requests whose tokens the server counted.",
        of: |r| r.tpot_ms,
        kind: Shape::Cdf,
    },
    Metric {
        name: "e2e",
        title: "End-to-end latency",
        axis: "last token after the request was due",
        unit: "ms",
        caption: "Good requests, counted from when they were due.",
        of: |r| r.e2e_due_ms,
        kind: Shape::Cdf,
    },
    Metric {
        name: "schedule-lag",
        title: "How late requests were sent",
        axis: "sent after due",
        unit: "ms",
        caption: "A lag of the client or of a full closed loop, not of the server.",
        of: |r| r.queue_delay_ms,
        kind: Shape::Cdf,
    },
    Metric {
        name: "output-length",
        title: "Length of answers",
        axis: "output tokens",
        unit: "",
        caption: "Good requests, as the server counted.",
        of: |r| r.answer_tokens.map(|n| n as f64),
        kind: Shape::Histogram,
    },
];

pub(super) fn plots(source: &Source<'_>, looks: &Looks) -> Vec<Plot> {
    let mut out: Vec<Plot> =
        METRICS.iter().filter_map(|metric| metric.plot(source.facts, looks)).collect();
    out.extend(throughput(&source.judgement.requests, looks));
    out
}

impl Metric {
    /// One panel a workload and load; `None` when nobody could measure it.
    fn plot(&self, facts: &[RequestFacts], looks: &Looks) -> Option<Plot> {
        let value = |r: &RequestFacts| (self.of)(r).filter(|_| !r.failed);
        let measured: Vec<(&RequestFacts, f64)> =
            facts.iter().filter_map(|r| Some((r, value(r)?))).collect();
        let all: Vec<f64> = measured.iter().map(|(_, v)| *v).collect();
        if all.is_empty() {
            return None;
        }
        let mut figure: Option<Figure> = None;
        for place in
            distinct(measured.iter().map(|(r, _)| (r.point.workload.clone(), r.point.load.clone())))
        {
            let here = measured
                .iter()
                .filter(|(r, _)| r.point.workload == place.0 && r.point.load == place.1);
            let here: Vec<&(&RequestFacts, f64)> = here.collect();
            let group = |method: &String| {
                let mine = here.iter().filter(|(r, _)| &r.point.method == method).map(|(_, v)| *v);
                (method.clone(), looks.slot(method), mine.collect())
            };
            let groups: Vec<_> =
                looks.order(here.iter().map(|(r, _)| &r.point)).iter().map(group).collect();
            let axis = Axis::new(self.axis, self.unit, self.scale(&all));
            let draw = if self.kind == Shape::Cdf { cdf } else { histogram };
            let mut one = draw(self.title, self.caption, axis, &groups);
            one.panels
                .iter_mut()
                .for_each(|panel| panel.label = format!("{}, {}", place.0, place.1));
            match &mut figure {
                Some(figure) => figure.panels.extend(one.panels),
                None => figure = Some(one),
            }
        }
        figure.map(|figure| Plot { name: slug(&[self.name]), figure })
    }

    /// Logarithmic where values span more than a decade and none is zero.
    fn scale(&self, all: &[f64]) -> Scale {
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        if self.kind == Shape::Cdf && low > 0.0 && high / low > 10.0 {
            Scale::Log10
        } else {
            Scale::Linear
        }
    }
}

/// Output tokens per second (requests per second where tokens are unknown) by workload and load.
fn throughput(points: &[RequestPoint], looks: &Looks) -> Option<Plot> {
    let tokens = points.iter().any(|p| p.output_tokens_per_s.is_some());
    let rate = |p: &RequestPoint| -> Option<Estimate> {
        if tokens { p.output_tokens_per_s } else { p.requests_per_s }
    };
    let place = |p: &RequestPoint| format!("{} {}", p.point.workload, p.point.load);
    let measured: Vec<&RequestPoint> = points.iter().filter(|p| rate(p).is_some()).collect();
    let places = distinct(measured.iter().map(|p| place(p)));
    let methods = looks.order(measured.iter().map(|p| &p.point));
    let mut panel = Panel::default();
    for (n, method) in methods.iter().enumerate() {
        let mine = measured.iter().filter(|p| &p.point.method == method);
        let point = |p: &&RequestPoint| {
            let (estimate, at) = (rate(p)?, places.iter().position(|known| *known == place(p))?);
            let (low, high) = estimate.interval.unzip();
            let x = dodge(at, n, methods.len());
            Some((Point { x, y: estimate.value, low, high }, estimate.n))
        };
        let (points, counts) = mine.filter_map(point).unzip();
        let (name, slot) = (method.clone(), looks.slot(method));
        panel.push_counted(Series { name, slot, kind: Kind::Points, points }, counts);
    }
    let x = Axis::new("workload and load", "", Scale::Category(places));
    let y = if tokens {
        Axis::from_zero("output throughput", "tokens/s")
    } else {
        Axis::from_zero("request throughput", "1/s")
    };
    let caption = "Good requests over the time from the first request to the last answer. Bars: 95 % interval over repeats.";
    let figure = Figure::single("Throughput by load", caption, x, y, panel);
    (!measured.is_empty()).then(|| Plot { name: "throughput".into(), figure })
}
