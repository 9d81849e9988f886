//! Throughput of served requests against the number in flight.

use super::{Drawing, Judged, caption};
use crate::{
    analyse::{Point as Place, RequestPoint},
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Scale, Series},
        run::{Looks, distinct},
    },
};

/// Output tokens a second by concurrency, one panel a target group and workload; `None` without closed loops.
pub(super) fn drawing(run: &Judged<'_>) -> Option<Drawing> {
    let points = &run.source.judgement.requests;
    let in_flight = |p: &RequestPoint| concurrency(run, &p.point);
    let drawn: Vec<(&RequestPoint, f64)> = points
        .iter()
        .filter_map(|p| Some((p.output_tokens_per_s.and(Some(p))?, in_flight(p)?)))
        .collect();
    let looks = Looks::new(&run.source);
    let panel = |workload: String| {
        let here = drawn.iter().filter(|(p, _)| p.point.workload == workload);
        let here: Vec<&(&RequestPoint, f64)> = here.collect();
        let series = looks.order(here.iter().map(|(p, _)| &p.point)).into_iter().map(|method| {
            let mine = here.iter().filter(|(p, _)| p.point.method == method);
            let mut points: Vec<Point> = mine
                .filter_map(|(p, x)| {
                    let rate = p.output_tokens_per_s?;
                    let (low, high) = rate.interval.unzip();
                    Some(Point { x: *x, y: rate.value, low, high })
                })
                .collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            Series { slot: looks.slot(&method), name: method, kind: Kind::Line, points }
        });
        Panel { series: series.collect(), label: workload, ..Panel::default() }
    };
    let workloads = distinct(drawn.iter().map(|(p, _)| p.point.workload.clone()));
    let figure = Figure {
        title: "Output throughput by requests in flight".to_owned(),
        caption: "Good requests, from the first one sent to the last answer; bars: 95 % intervals over repeats.".to_owned(),
        x: Axis::new("requests in flight", "", Scale::Log2),
        y: Axis::from_zero("output throughput", "tokens/s"),
        panels: workloads.into_iter().map(panel).collect(),
    };
    let n = caption::n_words(
        "requests a point",
        drawn.iter().map(|(p, _)| (p.point.method.clone(), p.n_requests)),
    );
    let methods = distinct(drawn.iter().map(|(p, _)| p.point.method.clone()));
    let failed: usize = drawn.iter().map(|(p, _)| p.n_failed).sum();
    let told = if failed > 0 { vec![format!("{failed} requests failed.")] } else { Vec::new() };
    (!drawn.is_empty()).then_some(Drawing { parts: vec![figure], n, methods, told, stacked: false })
}

fn concurrency(run: &Judged<'_>, point: &Place) -> Option<f64> {
    let cells = &run.source.manifest.cells;
    let cell = cells.iter().find(|cell| {
        cell.workload == point.workload && cell.load == point.load && cell.method == point.method
    })?;
    cell.concurrency.map(f64::from)
}
