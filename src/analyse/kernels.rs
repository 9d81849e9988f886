//! Kernel launches: medians, bandwidth, and what a method gains over the baseline at the same shape.

use std::collections::BTreeMap;

use polars::prelude::{DataFrame, IntoLazy as _, col, lit};

use super::{
    Estimate, KernelPoint, Point, RunData, SummaryRow,
    summary::{Series, distance, rng_for, summarise},
};
use crate::{
    kernel::roofline::{self, Bound, Load, Rates},
    record::{KernelRow, PROBE_METHOD, parquet::TableRow as _},
    stats::{self, Sample},
    units::{NS_PER_MS, ns_to_ms, ns_to_s},
};

/// Target, workload, load and repeat: what is measured together.
type Block = (String, String, String, i64);

/// What a method and the baseline must share to be compared. Replayed workloads launch many shapes in one cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    target: String,
    workload: String,
    load: String,
    op: String,
    tensor_parallel: i64,
    batch: i64,
    q_len: i64,
    kv_len: i64,
    kv_tokens: i64,
}

/// Median read bandwidth of each block, in GB/s.
pub(super) fn probes(kernels: &DataFrame) -> anyhow::Result<BTreeMap<Block, f64>> {
    let medians = kernels
        .clone()
        .lazy()
        .filter(
            col("method")
                .eq(lit(PROBE_METHOD))
                .and(col("op").eq(lit("read")))
                .and(col("duration_ns").gt(lit(0))),
        )
        .group_by([col("target"), col("workload"), col("load"), col("repeat")])
        // Bytes per nanosecond is 1e9 bytes per second.
        .agg([(col("bytes_moved").cast(polars::prelude::DataType::Float64) / col("duration_ns"))
            .median()
            .alias("gb_per_s")])
        .collect()?;
    let text = |name: &str| -> anyhow::Result<Vec<String>> {
        Ok(medians
            .column(name)?
            .str()?
            .iter()
            .map(|value| value.unwrap_or_default().to_owned())
            .collect())
    };
    let (targets, workloads, loads) = (text("target")?, text("workload")?, text("load")?);
    let repeats = medians.column("repeat")?.i64()?;
    let values = medians.column("gb_per_s")?.f64()?;
    let one = |row: usize| {
        let block =
            (targets[row].clone(), workloads[row].clone(), loads[row].clone(), repeats.get(row)?);
        Some((block, values.get(row)?))
    };
    Ok((0..medians.height()).filter_map(one).collect())
}

/// Rows of one method at one shape.
struct Group {
    shape: Shape,
    method: String,
    rows: Vec<KernelRow>,
}

impl Group {
    fn point(&self) -> Point {
        let Shape { target, workload, load, .. } = self.shape.clone();
        Point { target, workload, load, method: self.method.clone() }
    }

    fn label(&self) -> String {
        let Shape { op, batch, kv_len, .. } = &self.shape;
        format!("{} {op} {batch} {kv_len}", self.point())
    }

    /// Values of the timed launches, by repeat.
    fn by_repeat(&self, value: impl Fn(&KernelRow) -> Option<f64>) -> Vec<Vec<f64>> {
        let mut repeats: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.duration_ns.is_some()) {
            if let Some(value) = value(row) {
                repeats.entry(row.repeat).or_default().push(value);
            }
        }
        repeats.into_values().collect()
    }

    fn bytes_moved(&self) -> Option<f64> {
        stats::median(
            &mut self
                .rows
                .iter()
                .filter_map(|row| row.bytes_moved)
                .map(|bytes| bytes as f64)
                .collect::<Vec<_>>(),
        )
    }
}

fn groups(rows: Vec<KernelRow>, data: &RunData) -> Vec<Group> {
    let mut groups: BTreeMap<(Shape, String), Vec<KernelRow>> = BTreeMap::new();
    for row in rows.into_iter().filter(|row| row.method != PROBE_METHOD) {
        let shape = Shape {
            target: row.target.clone(),
            workload: row.workload.clone(),
            load: row.load.clone(),
            op: row.op.clone(),
            tensor_parallel: row.tensor_parallel,
            batch: row.batch,
            q_len: row.q_len,
            kv_len: row.kv_len,
            kv_tokens: row.kv_tokens,
        };
        groups.entry((shape, row.method.clone())).or_default().push(row);
    }
    let mut groups: Vec<Group> =
        groups.into_iter().map(|((shape, method), rows)| Group { shape, method, rows }).collect();
    groups.sort_by_cached_key(|group| data.rank(&group.point()));
    groups
}

/// Points with their comparisons, and the summary rows of cells and points.
pub(super) fn points(data: &RunData) -> anyhow::Result<(Vec<KernelPoint>, Vec<SummaryRow>)> {
    let probes = probes(&data.kernels)?;
    let groups = groups(KernelRow::rows(&data.kernels)?, data);
    let seed = data.manifest.scenario.seed;
    let mut points: Vec<KernelPoint> =
        groups.iter().map(|group| describe(seed, group, &probes)).collect();
    let baselines: BTreeMap<&Shape, &Group> = groups
        .iter()
        .filter(|group| group.method == data.manifest.scenario.baseline)
        .map(|group| (&group.shape, group))
        .collect();
    for (point, group) in points.iter_mut().zip(&groups) {
        if let Some(baseline) =
            baselines.get(&group.shape).filter(|baseline| baseline.method != group.method)
        {
            compare(seed, point, group, baseline);
        }
    }
    judge_noise(&mut points, &groups, &data.aa_method());
    let summary = groups.iter().flat_map(|group| summary(data, group)).collect();
    Ok((points, summary))
}

fn describe(seed: u64, group: &Group, probes: &BTreeMap<Block, f64>) -> KernelPoint {
    let first = &group.rows[0];
    let repeats = group.by_repeat(|row| row.duration_ns.map(|ns| ns as f64));
    let mut all = repeats.concat();
    let median_ns = stats::median(&mut all);
    let interval = stats::bootstrap(&repeats, &mut rng_for(seed, &group.label()), stats::median);
    let duration = median_ns.map(|ns| Estimate::new(ns, interval, all.len()));
    let tokens = if first.op == "decode" { first.batch } else { first.kv_tokens };
    let bytes = group.bytes_moved();
    let flops = stats::median(
        &mut group.rows.iter().filter_map(|row| row.flops).map(|n| n as f64).collect::<Vec<_>>(),
    );
    let (read, fraction) = bandwidth(group, probes);
    let limit = read.and_then(|read| limit(group, bytes?, flops?, read));
    KernelPoint {
        point: group.point(),
        op: first.op.clone(),
        model_shape: first.model_shape.clone(),
        device: first.device.clone(),
        backend: first.backend.clone(),
        tensor_parallel: first.tensor_parallel,
        hidden: first.heads_q * first.tensor_parallel * first.head_dim,
        batch: first.batch,
        q_len: first.q_len,
        kv_len: first.kv_len,
        kv_tokens: first.kv_tokens,
        n_samples: all.len(),
        n_repeats: repeats.len(),
        verified: group.rows.iter().all(|row| row.verified),
        max_rel_err: group.rows.iter().filter_map(|row| row.max_rel_err).reduce(f64::max),
        err: group.rows.iter().find_map(|row| row.err.clone()),
        duration_ms: duration.map(|ns| ns.scaled(ns_to_ms(1))),
        duration_p10_p90_ms: p10_p90(all),
        tokens_per_s: duration.map(|ns| ns.scaled(ns_to_s(1)).inverse(tokens as f64)),
        bytes_moved: bytes.map(|bytes| bytes.round() as i64),
        gb_per_s: bytes.zip(median_ns).map(|(bytes, ns)| bytes / ns),
        read_gb_per_s: read,
        bandwidth_fraction: fraction,
        gflop_per_s: flops.zip(median_ns).map(|(flops, ns)| flops / ns),
        limit_fraction: limit.zip(median_ns).map(|((limit_ns, _), ns)| limit_ns / ns),
        bound: limit.map(|(_, bound)| bound),
        n_discarded: discarded(group),
        speedup: None,
        cpu_speedup: None,
        ideal_speedup: None,
        captured_fraction: None,
        noise_floor: None,
        within_noise: None,
    }
}

/// How far the launches spread, in ms; `None` where a percentile would be little more than an extreme.
fn p10_p90(durations_ns: Vec<f64>) -> Option<(f64, f64)> {
    let sample = Sample::new(durations_ns).ok()?;
    Some((sample.percentile(10)? / NS_PER_MS, sample.percentile(90)? / NS_PER_MS))
}

/// The shortest time a launch can take; `None` on a device whose rates are unknown.
fn limit(group: &Group, bytes: f64, flops: f64, read_gb_per_s: f64) -> Option<(f64, Bound)> {
    let first = &group.rows[0];
    let median = |value: fn(&KernelRow) -> Option<f64>| {
        stats::median(&mut group.rows.iter().filter_map(value).collect::<Vec<_>>())
    };
    let clock_mhz = median(|row| row.sm_clock_mhz).or(first.sm_clock_max_mhz)?;
    let rates = Rates {
        n_sm: first.n_sm? as f64,
        clock_hz: clock_mhz * 1e6,
        flop_per_clock: roofline::flop_per_clock(&first.backend),
    };
    // A gigabyte per second is a byte per nanosecond.
    let load = Load {
        bytes,
        bytes_per_ns: read_gb_per_s,
        lane_instructions: median(|row| row.lane_instructions.map(|n| n as f64)),
        flops,
    };
    Some(roofline::limit(load, rates))
}

/// Samples thrown away in all repeats: each row counts those before it in its cell.
fn discarded(group: &Group) -> i64 {
    let mut most: BTreeMap<i64, i64> = BTreeMap::new();
    for row in &group.rows {
        let count = most.entry(row.repeat).or_default();
        *count = row.n_discarded.max(*count);
    }
    most.into_values().sum()
}

/// Median of the probes of the group's blocks, and the median part of them that its launches reached.
fn bandwidth(group: &Group, probes: &BTreeMap<Block, f64>) -> (Option<f64>, Option<f64>) {
    let probe = |row: &KernelRow| {
        let Shape { target, workload, load, .. } = &group.shape;
        probes.get(&(target.clone(), workload.clone(), load.clone(), row.repeat)).copied()
    };
    let mut seen: BTreeMap<i64, f64> = BTreeMap::new();
    group.rows.iter().for_each(|row| {
        if let Some(read) = probe(row) {
            seen.insert(row.repeat, read);
        }
    });
    let fraction =
        |row: &KernelRow| Some(row.bytes_moved? as f64 / row.duration_ns? as f64 / probe(row)?);
    let mut fractions = group.by_repeat(fraction).concat();
    (stats::median(&mut seen.into_values().collect::<Vec<_>>()), stats::median(&mut fractions))
}

fn compare(seed: u64, point: &mut KernelPoint, group: &Group, baseline: &Group) {
    let speedup = |name: &str, value: fn(&KernelRow) -> Option<i64>| {
        let pairs = pairs(baseline, group, value);
        let n = pairs.iter().map(Vec::len).sum();
        let mut rng = rng_for(seed, &format!("{} {name}", group.label()));
        let (ratio, interval) = stats::paired_ratio(&pairs, &mut rng, stats::median)?;
        Some(Estimate::new(ratio, interval, n))
    };
    point.speedup = speedup("speedup", |row| row.duration_ns);
    point.cpu_speedup = speedup("cpu_speedup", |row| row.thread_cpu_ns);
    point.ideal_speedup =
        baseline.bytes_moved().zip(group.bytes_moved()).map(|(whole, part)| whole / part);
    point.captured_fraction = point
        .speedup
        .zip(point.ideal_speedup)
        .filter(|_| point.op == "decode")
        .and_then(|(speedup, ideal)| roofline::captured(speedup.value, ideal));
}

/// (baseline, method) of the same repeat and sample round: both met the same state of the machine.
fn pairs(
    baseline: &Group,
    group: &Group,
    value: fn(&KernelRow) -> Option<i64>,
) -> Vec<Vec<(f64, f64)>> {
    // Rows that another program took were not interleaved with these.
    if baseline.rows[0].run_id != group.rows[0].run_id {
        return Vec::new();
    }
    // A replay launches the same shape more than once a round: the i-th of one belongs to the i-th of the other.
    let mut theirs: BTreeMap<(i64, i64), Vec<f64>> = BTreeMap::new();
    for row in &baseline.rows {
        if let (Some(sample), Some(value)) = (row.sample, value(row)) {
            theirs.entry((row.repeat, sample)).or_default().push(value as f64);
        }
    }
    let mut taken: BTreeMap<(i64, i64), usize> = BTreeMap::new();
    let mut repeats: BTreeMap<i64, Vec<(f64, f64)>> = BTreeMap::new();
    for row in &group.rows {
        let (Some(sample), Some(own)) = (row.sample, value(row)) else { continue };
        let round = (row.repeat, sample);
        let turn = taken.entry(round).or_default();
        if let Some(their) = theirs.get(&round).and_then(|values| values.get(*turn)) {
            repeats.entry(row.repeat).or_default().push((*their, own as f64));
        }
        *turn += 1;
    }
    repeats.into_values().collect()
}

fn judge_noise(points: &mut [KernelPoint], groups: &[Group], aa_method: &str) {
    let floors: BTreeMap<&Shape, f64> = points
        .iter()
        .zip(groups)
        .filter(|(_, group)| group.method == aa_method)
        .filter_map(|(point, group)| Some((&group.shape, point.speedup?.distance_from_one())))
        .collect();
    for (point, group) in points.iter_mut().zip(groups) {
        point.noise_floor = floors.get(&group.shape).copied();
        point.within_noise = point
            .speedup
            .zip(point.noise_floor)
            .map(|(speedup, floor)| distance(speedup.value) <= floor);
    }
}

/// `<op>_duration` and `<op>_tokens_per_s` of each cell and of the point. The latter is the rate of single launches.
fn summary(data: &RunData, group: &Group) -> Vec<SummaryRow> {
    let first = &group.rows[0];
    let tokens = if first.op == "decode" { first.batch } else { first.kv_tokens } as f64;
    let duration = group.by_repeat(|row| row.duration_ns.map(ns_to_ms));
    let rate =
        group.by_repeat(|row| row.duration_ns.filter(|ns| *ns > 0).map(|ns| tokens / ns_to_s(ns)));
    let mut cells: Vec<(i64, &str)> = Vec::new();
    for row in group.rows.iter().filter(|row| row.duration_ns.is_some()) {
        if cells.iter().all(|(repeat, _)| *repeat != row.repeat) {
            cells.push((row.repeat, &row.cell_id));
        }
    }
    cells.sort_unstable();
    let mut rows = Vec::new();
    for (metric, unit, values) in
        [("duration", "ms", &duration), ("tokens_per_s", "tokens/s", &rate)]
    {
        let metric = format!("{}_{metric}", first.op);
        let series: Series =
            values.iter().map(|repeat| repeat.iter().map(|value| vec![*value]).collect()).collect();
        let seed = data.manifest.scenario.seed;
        let one = |id: &str, series: &Series| summarise(seed, id, &metric, unit, series);
        rows.extend(
            cells
                .iter()
                .zip(&series)
                .filter_map(|((_, id), repeat)| one(id, &vec![repeat.clone()])),
        );
        rows.extend(one(&data.pooled_id(&group.point()), &series));
    }
    rows
}
