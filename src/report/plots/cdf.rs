//! Distributions of latencies with the band that holds each with 95 %.

use super::{Drawing, Judged, caption};
use crate::{
    analyse::RequestFacts,
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Scale, Series, cdf_points},
        run::{Looks, distinct},
    },
    stats::{self, cdf_band, mixed},
};

/// A latency.
struct Metric {
    title: &'static str,
    axis: &'static str,
    of: fn(&RequestFacts) -> Option<f64>,
}

const METRICS: [Metric; 3] = [
    Metric { title: "TTFT", axis: "TTFT from when it was due", of: |r| r.ttft_due_ms },
    Metric { title: "TPOT", axis: "TPOT", of: |r| r.tpot_ms },
    Metric { title: "E2E latency", axis: "E2E latency from when it was due", of: |r| r.e2e_due_ms },
];

const CAPTION: &str = "Good requests. Bands hold the whole curve with 95 % for requests like these: over repeats and over runs of \
                       neighbours within them, never narrower than for independent requests.";

/// One part a latency that was measured, one panel a workload and load.
pub(super) fn drawing(run: &Judged<'_>) -> Option<Drawing> {
    let looks = Looks::new(&run.source);
    let good: Vec<&RequestFacts> = run.source.facts.iter().filter(|r| !r.failed).collect();
    let parts: Vec<Figure> =
        METRICS.iter().filter_map(|metric| metric.figure(run, &good, &looks)).collect();
    let measured: Vec<&&RequestFacts> =
        good.iter().filter(|r| METRICS.iter().any(|metric| (metric.of)(r).is_some())).collect();
    let curves = distinct(measured.iter().map(|r| &r.point));
    let n = caption::n_words(
        "good requests a curve",
        curves.iter().map(|point| {
            let n = measured.iter().filter(|r| r.point == **point).count();
            (point.method.clone(), n)
        }),
    );
    let methods = distinct(measured.iter().map(|r| r.point.method.clone()));
    let failed = run.source.facts.len() - good.len();
    let mut told = Vec::new();
    if failed > 0 {
        let all = run.source.facts.len();
        told.push(format!("{failed} of {all} requests failed and have no latency."));
    }
    if distinct(good.iter().map(|r| r.repeat)).len() < 2 {
        told.push("One repeat: how much another run would differ is not in the bands.".to_owned());
    }
    (!parts.is_empty()).then_some(Drawing { parts, n, methods, told, stacked: false })
}

impl Metric {
    fn figure(&self, run: &Judged<'_>, good: &[&RequestFacts], looks: &Looks) -> Option<Figure> {
        let measured: Vec<(&RequestFacts, f64)> =
            good.iter().filter_map(|r| Some((*r, (self.of)(r)?))).collect();
        let all: Vec<f64> = measured.iter().map(|(_, value)| *value).collect();
        let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        let wide = low > 0.0 && high / low > 10.0;
        let scale = if wide { Scale::Log10 } else { Scale::Linear };
        let seed = run.source.manifest.scenario.seed;
        let places = distinct(measured.iter().map(|(r, _)| (&r.point.workload, &r.point.load)));
        let panels = places.into_iter().map(|(workload, load)| {
            let here = measured
                .iter()
                .filter(|(r, _)| (&r.point.workload, &r.point.load) == (workload, load));
            let label = format!("{workload}, {load}");
            panel(label, &here.copied().collect::<Vec<_>>(), looks, seed)
        });
        let figure = Figure {
            title: self.title.to_owned(),
            caption: CAPTION.to_owned(),
            x: Axis::new(self.axis, "ms", scale),
            y: Axis::from_zero("share of requests", "%"),
            panels: panels.collect(),
        };
        (!all.is_empty()).then_some(figure)
    }
}

/// Bands first, so that no curve lies below one. A method that several targets ran has a curve on each.
fn panel(label: String, here: &[(&RequestFacts, f64)], looks: &Looks, seed: u64) -> Panel {
    let mut panel = Panel { label, ..Panel::default() };
    let mut curves = Vec::new();
    for method in looks.order(here.iter().map(|(r, _)| &r.point)) {
        let mine = here.iter().filter(|(r, _)| r.point.method == method);
        let targets = distinct(mine.map(|(r, _)| r.point.target.clone()));
        for target in &targets {
            let several = targets.len() > 1;
            let name = if several { format!("{method} on {target}") } else { method.clone() };
            let slot = looks.slot(if several { &name } else { &method });
            let own = here
                .iter()
                .filter(|(r, _)| (&r.point.method, &r.point.target) == (&method, target));
            let repeats = by_repeat(own);
            let points = cdf_points(&repeats.concat());
            panel.series.extend(band(&repeats, &points, slot, seed));
            curves.push(Series { name, slot, kind: Kind::Step, points });
        }
    }
    panel.series.extend(curves);
    panel
}

/// Values in the order of the schedule, one list a repeat.
fn by_repeat<'r>(own: impl Iterator<Item = &'r (&'r RequestFacts, f64)>) -> Vec<Vec<f64>> {
    let mut repeats: std::collections::BTreeMap<i64, Vec<(i64, f64)>> = Default::default();
    for (r, value) in own {
        repeats.entry(r.repeat).or_default().push((r.request_id, *value));
    }
    let in_order = |mut values: Vec<(i64, f64)>| {
        values.sort_by_key(|(request, _)| *request);
        values.into_iter().map(|(_, value)| value).collect()
    };
    repeats.into_values().map(in_order).collect()
}

fn band(repeats: &[Vec<f64>], points: &[Point], slot: usize, seed: u64) -> Option<Series> {
    let mut rng = stats::seeded(mixed(seed, slot as u64));
    let half = 100.0 * cdf_band(repeats, &mut rng)?;
    let around = |p: &Point| Point {
        low: Some((p.y - half).max(0.0)),
        high: Some((p.y + half).min(100.0)),
        ..*p
    };
    let points = points.iter().map(around).collect();
    Some(Series { name: String::new(), slot, kind: Kind::Band, points })
}
