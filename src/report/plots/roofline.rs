//! Where each kernel stands under the ceilings of its device.

use super::{Drawing, Judged, caption};
use crate::{
    analyse::KernelPoint,
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
        run::{Looks, distinct},
    },
    units::significant,
};

const CAPTION: &str = "Operations of the attention itself over the median time, against the operations for each byte that must move; bars: 95 % \
                       intervals. Dashed: what the read bandwidth measured in the same blocks allows";

/// One panel an operation; `None` where nothing has both bytes and operations.
pub(super) fn drawing(run: &Judged<'_>) -> Option<Drawing> {
    let kernels = run.source.judgement.kernels.iter();
    let drawn: Vec<(&KernelPoint, Point)> = kernels.filter_map(|k| Some((k, point(k)?))).collect();
    let bandwidth = bandwidth(&drawn)?;
    let looks = Looks::new(&run.source);
    let ops = distinct(drawn.iter().map(|(k, _)| k.op.clone()));
    let widest = drawn
        .iter()
        .map(|(_, p)| p.x)
        .fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x / 1.5), h.max(x * 1.5)));
    let panel = |op: &String| {
        let here: Vec<&(&KernelPoint, Point)> = drawn.iter().filter(|(k, _)| k.op == *op).collect();
        let series = looks.order(here.iter().map(|(k, _)| &k.point)).into_iter().map(|method| {
            let mine = here.iter().filter(|(k, _)| k.point.method == method);
            let points = mine.map(|(_, point)| *point).collect();
            Series { slot: looks.slot(&method), name: method, kind: Kind::Points, points }
        });
        Panel {
            label: op.clone(),
            series: series.collect(),
            references: ceilings(widest, bandwidth, run.peak_gflop_per_s),
            ..Panel::default()
        }
    };
    let peak = match run.peak_gflop_per_s {
        Some(_) => " and what the data sheet's arithmetic does.",
        None => "; what its arithmetic could do at most is not known here and not drawn.",
    };
    let figure = Figure {
        title: "Kernels under their roofline".to_owned(),
        caption: format!("{CAPTION} (median {} GB/s){peak}", significant(bandwidth, 3)),
        x: Axis::new("arithmetic intensity", "FLOP/byte", Scale::Log10),
        y: Axis::new("attained", "GFLOP/s", Scale::Log10),
        panels: ops.iter().map(panel).collect(),
    };
    let n = caption::n_words(
        "launches a point",
        drawn.iter().map(|(k, _)| (k.point.method.clone(), k.n_samples)),
    );
    let methods = distinct(drawn.iter().map(|(k, _)| k.point.method.clone()));
    let device = drawn.first().map(|(k, _)| format!("{} on {}.", k.backend, k.device));
    Some(Drawing {
        parts: vec![figure],
        n,
        methods,
        told: device.into_iter().collect(),
        stacked: false,
    })
}

fn point(k: &KernelPoint) -> Option<Point> {
    let (duration, rate) = (k.duration_ms?, k.gflop_per_s.filter(|rate| *rate > 0.0)?);
    let bytes = k.bytes_moved.filter(|bytes| *bytes > 0)?;
    // 1e9 operations a second times ms is 1e6 operations.
    let flops = rate * duration.value * 1e6;
    let (fast, slow) = duration.interval.unzip();
    let at = |ms: f64| flops / ms / 1e6;
    Some(Point { x: flops / bytes as f64, y: rate, low: slow.map(at), high: fast.map(at) })
}

/// Median over the points of the read bandwidth measured beside them.
fn bandwidth(drawn: &[(&KernelPoint, Point)]) -> Option<f64> {
    let mut measured: Vec<f64> = drawn.iter().filter_map(|(k, _)| k.read_gb_per_s).collect();
    crate::stats::median(&mut measured)
}

/// Bandwidth times intensity, and from where they meet the peak.
fn ceilings((low, high): (f64, f64), gb_per_s: f64, peak: Option<f64>) -> Vec<Reference> {
    let ridge = peak.map_or(high, |peak| peak / gb_per_s);
    let memory = |to: f64| vec![(low, low * gb_per_s), (to, to * gb_per_s)];
    let grey = |label: &str, points| Reference {
        label: label.to_owned(),
        slot: None,
        points,
        level: None,
    };
    let mut out = vec![grey("measured read bandwidth", memory(ridge.clamp(low, high)))];
    if let Some(peak) = peak.filter(|_| ridge < high) {
        out.push(grey("peak of fp16 tensor cores", vec![(ridge.max(low), peak), (high, peak)]));
    }
    out
}
