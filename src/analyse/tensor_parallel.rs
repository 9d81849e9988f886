//! Tensor parallelism: what one rank was measured to take, beside what the ranks' all-reduce is modelled to take.
//!
//! Only the rank is measured, on one device. Communication is never a row; it is computed here from the link that the
//! scenario states, and without one there is none. Methods are compared at the same degree alone.

use super::{Estimate, KernelPoint, ParallelPoint, RunData};
use crate::{
    kernel::allreduce::{Link, activation_bytes, ring_ns},
    plan::without_degree,
    record::manifest::LinkFacts,
    units::NS_PER_MS,
};

/// Operations whose output the ranks add up; nothing is sent when a cache is compressed or read.
const REDUCED: [&str; 2] = ["decode", "prefill"];

/// Measured and modelled times of every target that ran at more than one rank; the A/A control is left out.
pub(super) fn points(data: &RunData, kernels: &[KernelPoint]) -> Vec<ParallelPoint> {
    let split =
        |target: &str| kernels.iter().any(|k| k.point.target == target && k.tensor_parallel > 1);
    let shown = |k: &&KernelPoint| {
        REDUCED.contains(&k.op.as_str())
            && k.point.method != data.aa_method()
            && split(&k.point.target)
    };
    kernels.iter().filter(shown).map(|k| describe(data, kernels, k)).collect()
}

fn describe(data: &RunData, kernels: &[KernelPoint], k: &KernelPoint) -> ParallelPoint {
    let is_alone = |other: &&KernelPoint| other.tensor_parallel <= 1 && same_work(other, k);
    let alone = kernels.iter().find(is_alone).filter(|_| k.tensor_parallel > 1);
    let communication_ms = communication_ms(data, k);
    let total_ms = total(data, k);
    ParallelPoint {
        point: k.point.clone(),
        op: k.op.clone(),
        batch: k.batch,
        kv_len: k.kv_len,
        tensor_parallel: k.tensor_parallel,
        measured_ms: k.duration_ms,
        communication_ms,
        total_ms,
        speedup_over_one: alone.and_then(|alone| over(total(data, alone)?, total_ms?)),
        speedup: k.speedup,
        speedup_total: with_constant(k, communication_ms),
    }
}

/// Whether two points are the same work on another number of ranks.
fn same_work(a: &KernelPoint, b: &KernelPoint) -> bool {
    let work = |k: &KernelPoint| {
        (k.op.clone(), k.model_shape.clone(), k.batch, k.q_len, k.kv_len, k.kv_tokens)
    };
    let place = |k: &KernelPoint| {
        let workload = without_degree(&k.point.workload, k.tensor_parallel).to_owned();
        (k.point.target.clone(), workload, k.point.load.clone(), k.point.method.clone())
    };
    work(a) == work(b) && place(a) == place(b)
}

/// One rank sends nothing; more need a link to be modelled.
fn communication_ms(data: &RunData, k: &KernelPoint) -> Option<f64> {
    if k.tensor_parallel <= 1 {
        return Some(0.0);
    }
    let LinkFacts { bandwidth_gb_s, latency_us } =
        *data.manifest.scenario.links.get(&k.point.target)?;
    let query_tokens = if k.op == "decode" { k.batch } else { k.kv_tokens };
    let bytes = activation_bytes(query_tokens as f64, k.hidden as f64);
    let ns = ring_ns(k.tensor_parallel as f64, bytes, Link { bandwidth_gb_s, latency_us });
    Some(ns / NS_PER_MS)
}

/// Measured plus modelled; the interval is the measurement's, as a model has none.
fn total(data: &RunData, k: &KernelPoint) -> Option<Estimate> {
    let (measured, added) = (k.duration_ms?, communication_ms(data, k)?);
    let interval = measured.interval.map(|(low, high)| (low + added, high + added));
    Some(Estimate { value: measured.value + added, interval, n: measured.n })
}

/// `one / many` of two medians that were not measured side by side: the interval takes the far ends of both, so it is
/// wider than 95 %.
fn over(one: Estimate, many: Estimate) -> Option<Estimate> {
    let interval = one.interval.zip(many.interval).map(|(a, b)| (a.0 / b.1, a.1 / b.0));
    (many.value > 0.0).then(|| Estimate {
        value: one.value / many.value,
        interval,
        n: one.n.min(many.n),
    })
}

/// The paired speed-up over the baseline if both also take the same `added` time: `(s t + c) / (t + c)`.
fn with_constant(k: &KernelPoint, added: Option<f64>) -> Option<Estimate> {
    let (speedup, own, added) = (k.speedup?, k.duration_ms?.value, added?);
    let with = |speedup: f64| (speedup * own + added) / (own + added);
    let interval = speedup.interval.map(|(low, high)| (with(low), with(high)));
    Some(Estimate { value: with(speedup.value), interval, n: speedup.n })
}
