//! Judged points as tables.

use super::saturation;
use crate::{
    analyse::{
        ClientView, Comparison, Estimate, Judgement, KernelPoint, ParallelPoint, Point,
        RequestPoint, SummaryRow, WarmUp,
    },
    report::table::{Column, Table, Value},
    stats::needed_for,
};

/// Decode kernels, other kernels, ranks of tensor-parallel ones and served points: each only if there are any.
pub fn headline(judgement: &Judgement) -> Vec<Table> {
    let decode = kernels(
        "Decode, one attention layer (not a model)",
        judgement.kernels.iter().filter(|k| k.op == "decode"),
    );
    let other = kernels(
        "Prefill and compression, one attention layer (not a model)",
        judgement.kernels.iter().filter(|k| k.op != "decode"),
    );
    let tables = [
        decode,
        other,
        parallel(&judgement.parallel),
        saturation::answers(&judgement.searches),
        saturation::probes(&judgement.searches),
        served(&judgement.requests),
        comparisons(&judgement.comparisons),
        super::engine::table(&judgement.engines),
        warm_ups(&judgement.warm_ups),
        clients(&judgement.clients),
    ];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

/// Columns that say which cell a row is about; [`place`] fills them.
const CELL: [(&str, &str); 5] =
    [("target", ""), ("workload", ""), ("load", ""), ("method", ""), ("repeat", "")];

fn place(point: &Point, repeat: i64) -> Vec<Value> {
    let words = [&point.target, &point.workload, &point.load, &point.method];
    let mut row: Vec<Value> = words.map(|word| text(word)).into();
    row.push(text(&format!("r{repeat}")));
    row
}

fn warm_ups(cells: &[WarmUp]) -> Table {
    let names = [
        ("requests", ""),
        ("failed", ""),
        ("first_ttft", "ms"),
        ("last_ttft", "ms"),
        ("took", "s"),
    ];
    let mut table = Table::new(
        "Warm-up, sent before measuring and not counted",
        columns(&[&CELL[..], &names].concat()),
    );
    table.rows.extend(cells.iter().map(|cell| {
        let mut row = place(&cell.point, cell.repeat);
        row.extend([
            Value::Int(cell.n),
            Value::Int(cell.n_failed),
            Value::maybe(cell.first_ttft_ms),
            Value::maybe(cell.last_ttft_ms),
            Value::maybe(cell.took_s),
        ]);
        row
    }));
    table
}

fn clients(cells: &[ClientView]) -> Table {
    let names = [
        ("client", ""),
        ("lag_p99", "ms"),
        ("load_lag_p99", "ms"),
        ("sent_late_p99", "ms"),
        ("connects", ""),
        ("connect_p99", "ms"),
        ("busiest_thread", "%"),
        ("all_cores", "%"),
        ("cpu_per_event", "us"),
        ("chunks_per_read", ""),
    ];
    let mut table = Table::new("How the load client fared", columns(&[&CELL[..], &names].concat()));
    table.rows.extend(cells.iter().map(|cell| {
        let mut row = place(&cell.point, cell.repeat);
        row.extend([
            text(&format!("{:?}", cell.verdict).to_uppercase()),
            Value::maybe(cell.lag_p99_ms),
            Value::maybe(cell.load_lag_p99_ms),
            Value::maybe(cell.schedule_lag_p99_ms),
            cell.n_connects.map_or(Value::Missing, Value::Int),
            connect_p99(cell),
            Value::percent(cell.thread_share_max),
            Value::percent(cell.cpu_share),
            Value::maybe(cell.cpu_us_per_event),
            Value::maybe(cell.events_per_read),
        ]);
        row
    }));
    table
}

/// A client that keeps its connections opens few of them.
fn connect_p99(cell: &ClientView) -> Value {
    let n = cell.n_connects.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let held = cell.connect_p99_ms.filter(|_| n >= needed_for(99));
    if cell.connect_p99_ms.is_none() { Value::Missing } else { Value::percentile(held, 99, n) }
}

pub(in crate::report) fn columns(names: &[(&str, &str)]) -> Vec<Column> {
    names.iter().map(|(name, unit)| Column::new(name, unit)).collect()
}

pub(in crate::report) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub(in crate::report) fn estimate(estimate: Option<Estimate>) -> Value {
    let interval = estimate.and_then(|e| e.interval);
    Value::estimate(estimate.map(|e| e.value), interval.map(|i| i.0), interval.map(|i| i.1))
}

pub(super) fn count(n: usize) -> Value {
    Value::count(n)
}

/// A percentile of a distribution, or how many observations it lacks.
pub(super) fn percentile(row: Option<&SummaryRow>, percent: u32) -> Value {
    let Some(row) = row else { return Value::Missing };
    let value = if percent == 50 { row.p50 } else { row.p99 };
    Value::percentile(value, percent, usize::try_from(row.n).unwrap_or(usize::MAX))
}

fn kernels<'a>(title: &str, points: impl Iterator<Item = &'a KernelPoint>) -> Table {
    let names = [
        ("target", ""),
        ("op", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("batch", ""),
        ("kv_len", "tokens"),
        ("n", ""),
        ("duration", "ms"),
        ("duration_p10", "ms"),
        ("duration_p90", "ms"),
        ("of_limit", "%"),
        ("bound", ""),
        ("tokens_per_s", "tokens/s"),
        ("speedup", "x"),
        ("ideal", "x"),
        ("captured", "%"),
        ("gb_per_s", "GB/s"),
        ("of_bandwidth", "%"),
        ("noise", ""),
        ("discarded", ""),
        ("verified", ""),
    ];
    let mut table = Table::new(title, columns(&names));
    table.rows = points.map(kernel_row).collect();
    table
}

fn kernel_row(k: &KernelPoint) -> Vec<Value> {
    let noise = match k.within_noise {
        Some(true) => text("within"),
        Some(false) => text("beyond"),
        None => Value::Missing,
    };
    vec![
        text(&k.point.target),
        text(&k.op),
        text(&k.point.workload),
        text(&k.point.load),
        text(&k.point.method),
        Value::Int(k.batch),
        Value::Int(k.kv_len),
        count(k.n_samples),
        estimate(k.duration_ms),
        Value::percentile(k.duration_p10_p90_ms.map(|(p10, _)| p10), 10, k.n_samples),
        Value::percentile(k.duration_p10_p90_ms.map(|(_, p90)| p90), 90, k.n_samples),
        Value::percent(k.limit_fraction),
        k.bound.map_or(Value::Missing, |bound| text(bound.name())),
        estimate(k.tokens_per_s),
        estimate(k.speedup),
        Value::maybe(k.ideal_speedup),
        Value::percent(k.captured_fraction),
        Value::maybe(k.gb_per_s),
        Value::percent(k.bandwidth_fraction),
        noise,
        // On a host nothing tells of throttling, so nothing could be thrown away.
        k.bound.map_or(Value::Missing, |_| Value::Int(k.n_discarded)),
        text(if k.verified { "yes" } else { "NO" }),
    ]
}

/// Measured ranks beside their modelled communication; where there is no link to model it with, the title says so.
fn parallel(points: &[ParallelPoint]) -> Table {
    let names = [
        ("target", ""),
        ("op", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("batch", ""),
        ("kv_len", "tokens"),
        ("tp", "ranks"),
        ("measured", "ms"),
        ("communication, modelled", "ms"),
        ("measured + modelled", "ms"),
        ("speedup_over_tp1", "x"),
        ("speedup, measured", "x"),
        ("speedup, measured + modelled", "x"),
    ];
    let mut without: Vec<&str> = Vec::new();
    for p in points.iter().filter(|p| p.communication_ms.is_none()) {
        if !without.contains(&p.point.target.as_str()) {
            without.push(&p.point.target);
        }
    }
    let mut title = "Tensor parallel: one rank of each degree, measured on one device".to_owned();
    if !without.is_empty() {
        let targets = without.join(", ");
        title += &format!("; communication is not included for {targets}: no link was given");
    }
    let mut table = Table::new(&title, columns(&names));
    table.rows = points.iter().map(parallel_row).collect();
    table
}

fn parallel_row(p: &ParallelPoint) -> Vec<Value> {
    vec![
        text(&p.point.target),
        text(&p.op),
        text(&p.point.workload),
        text(&p.point.load),
        text(&p.point.method),
        Value::Int(p.batch),
        Value::Int(p.kv_len),
        Value::Int(p.tensor_parallel),
        estimate(p.measured_ms),
        Value::maybe(p.communication_ms),
        estimate(p.total_ms),
        estimate(p.speedup_over_one),
        estimate(p.speedup),
        estimate(p.speedup_total),
    ]
}

fn served(points: &[RequestPoint]) -> Table {
    let names = [
        ("target", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("requests", ""),
        ("failed", ""),
        ("ttft_due_p50", "ms"),
        ("ttft_due_p99", "ms"),
        ("tpot_p50", "ms"),
        ("e2e_due_p50", "ms"),
        ("e2e_due_p99", "ms"),
        ("output_tokens_mean", ""),
        ("requests_per_s", ""),
        ("output_tokens_per_s", ""),
        ("goodput_per_s", ""),
    ];
    let mut table = Table::new("Served requests", columns(&names));
    table.rows = points.iter().map(served_row).collect();
    table
}

fn served_row(p: &RequestPoint) -> Vec<Value> {
    let p50 = |name: &str| percentile(p.metric(name), 50);
    let p99 = |name: &str| percentile(p.metric(name), 99);
    let length = p.metric("output_tokens");
    vec![
        text(&p.point.target),
        text(&p.point.workload),
        text(&p.point.load),
        text(&p.point.method),
        count(p.n_requests),
        count(p.n_failed),
        p50("ttft_due"),
        p99("ttft_due"),
        p50("tpot"),
        p50("e2e_due"),
        p99("e2e_due"),
        Value::estimate(
            length.map(|l| l.mean),
            length.and_then(|l| l.ci_low),
            length.and_then(|l| l.ci_high),
        ),
        estimate(p.requests_per_s),
        estimate(p.output_tokens_per_s),
        estimate(p.goodput_per_s),
    ]
}

fn comparisons(comparisons: &[Comparison]) -> Table {
    let names = [
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("baseline", ""),
        ("metric", ""),
        ("statistic", ""),
        ("ratio", "x"),
        ("n", ""),
        ("paired", ""),
        ("noise", ""),
    ];
    let mut table = Table::new("Served requests against the baseline", columns(&names));
    table.rows = comparisons.iter().map(comparison_row).collect();
    table
}

fn comparison_row(c: &Comparison) -> Vec<Value> {
    let noise = match c.within_noise {
        Some(within) => text(if within { "within" } else { "beyond" }),
        None => Value::Missing,
    };
    vec![
        text(&c.point.workload),
        text(&c.point.load),
        text(&c.point.method),
        text(&c.baseline.method),
        text(&c.metric),
        text(c.statistic),
        estimate(Some(c.ratio)),
        count(c.ratio.n),
        text(if c.paired { "yes" } else { "no" }),
        noise,
    ]
}

/// Columns that other columns of the same table imply, and those that a terminal has no room for.
const IMPLIED: [&str; 7] =
    ["batch", "kv_len", "n", "duration", "duration_p10", "duration_p90", "gb_per_s"];

/// The table for a terminal: without implied and empty columns, and with words that every row shares in the title.
pub fn narrow(table: &Table) -> Table {
    let column = |index: usize| table.rows.iter().map(move |row| &row[index]);
    let shared = |index: usize| match column(index).next() {
        Some(Value::Text(first))
            if table.rows.len() > 1 && column(index).all(|v| *v == text(first)) =>
        {
            Some(first)
        }
        _ => None,
    };
    let (mut folded, mut kept) = (Vec::new(), Vec::new());
    for (index, head) in table.columns.iter().enumerate() {
        if let Some(word) = shared(index) {
            folded.push(format!("{} {word}", head.name));
        } else if !IMPLIED.contains(&head.name.as_str())
            && column(index).any(|v| *v != Value::Missing)
        {
            kept.push(index);
        }
    }
    let all = if folded.is_empty() { String::new() } else { format!("; {}", folded.join(", ")) };
    let mut out = Table::new(&format!("{}{all}", table.title), Vec::new());
    out.columns = kept.iter().map(|index| table.columns[*index].clone()).collect();
    out.rows = table
        .rows
        .iter()
        .map(|row| kept.iter().map(|index| row[*index].clone()).collect())
        .collect();
    out
}

/// Points that could not be measured, and why.
pub fn failures(judgement: &Judgement) -> Table {
    let mut table = Table::new(
        "What failed",
        columns(&[
            ("target", ""),
            ("workload", ""),
            ("load", ""),
            ("method", ""),
            ("count", ""),
            ("error", ""),
        ]),
    );
    for k in judgement.kernels.iter() {
        if let Some(err) = &k.err {
            let p = &k.point;
            table.rows.push(vec![
                text(&p.target),
                text(&format!("{} {}", k.op, p.workload)),
                text(&p.load),
                text(&p.method),
                Value::Missing,
                text(err),
            ]);
        }
    }
    for r in &judgement.requests {
        for (class, n) in &r.failures {
            let p = &r.point;
            table.rows.push(vec![
                text(&p.target),
                text(&p.workload),
                text(&p.load),
                text(&p.method),
                count(*n),
                text(class),
            ]);
        }
    }
    table
}
