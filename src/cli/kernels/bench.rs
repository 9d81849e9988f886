//! `kvbench kernels bench`: the kernel backend with a sink in memory.

use std::{collections::BTreeMap, process::ExitCode};

use super::{
    chosen, model, present,
    verify::{page, positive},
};
use crate::{
    cli::ui::Ui,
    execute::{
        Backend, Context, Observer, StopFlag,
        clock::Clock,
        kernel::{
            KernelBackend, Lab, Labs,
            stop::{median, median_interval},
        },
    },
    kernel::Op,
    plan::{Cell, Task},
    record::{KernelRow, PROBE_METHOD, Row, Sink},
    report::{Column, Table, Value, render},
    scenario::{Device, KernelTarget, NamedMethod, PAGES, Timing},
};

/// What all others are compared with.
const BASELINE: &str = "fp16";

/// What to time.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Operation: prefill, decode or compress.
    #[arg(long, default_value = "decode", value_parser = op)]
    pub op: Op,
    /// Methods by name, all when none is given; fp16 is always among them.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub method: Vec<String>,
    /// Sequences.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub batch: usize,
    /// Cached tokens per sequence.
    #[arg(long, default_value_t = 2048, value_parser = positive)]
    pub kv_len: usize,
    /// Preset of the head shape.
    #[arg(long, value_name = "PRESET", default_value = "llama-2-7b")]
    pub model: String,
    /// Samples a kernel; below six there is no interval.
    #[arg(long, default_value_t = 20, value_parser = positive)]
    pub samples: usize,
    /// Where.
    #[arg(long, value_enum, default_value = "auto")]
    pub device: Device,
    /// Worker threads; all cores when not given.
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
    /// Tokens of a page of the cache on CUDA: 16 or 64; KIVI's is 128, the CPU's cache is not paged.
    #[arg(long, default_value_t = PAGES[0], value_parser = page)]
    pub page: usize,
}

fn op(text: &str) -> Result<Op, String> {
    let found = super::OPS.into_iter().find(|op| op.name() == text);
    found.ok_or_else(|| {
        let known = super::OPS.map(Op::name).join(", ");
        format!("expected one of {known}, got `{text}`")
    })
}

pub(super) fn run(args: &BenchArgs, ui: &Ui, labs: Labs) -> anyhow::Result<ExitCode> {
    let lab = present(&labs, args.device)?;
    let methods = methods(args, lab)?;
    let backend = lab.backend.clone();
    let cells = cells(args, &methods)?;
    let rows = measure(args, labs, &cells, ui)?;
    let title = format!(
        "One attention layer of {}, {} on {backend}: batch {}, {} cached tokens, medians of {} samples",
        args.model,
        args.op.name(),
        args.batch,
        args.kv_len,
        args.samples
    );
    let table = table(&title, &methods, &rows);
    ui.out(&render(&table, ui.format, ui.color))?;
    let failed = rows.iter().any(|row| row.err.is_some());
    Ok(ExitCode::from(u8::from(failed)))
}

/// Those that were named, or all that the device has kernels for.
fn methods(args: &BenchArgs, lab: &Lab) -> anyhow::Result<Vec<NamedMethod>> {
    let mut names = args.method.clone();
    if !names.is_empty() {
        names.push(BASELINE.to_owned());
    }
    let mut methods = chosen(&names)?;
    if names.is_empty() {
        methods.retain(|named| lab.kernels.contains(&(args.op, named.ours().family())));
    }
    Ok(methods)
}

fn cells(args: &BenchArgs, methods: &[NamedMethod]) -> anyhow::Result<Vec<Cell>> {
    let target = KernelTarget {
        model: model(&args.model)?,
        device: args.device,
        threads: args.threads,
        page: args.page,
        tensor_parallel: vec![1],
        link: None,
        methods: methods.iter().map(|named| named.name.clone()).collect(),
    };
    let workload = format!("{}-b{}-kv{}", args.op.name(), args.batch, args.kv_len);
    let cell = |named: &NamedMethod| Cell {
        id: format!("bench/here/{}/{workload}/launch/r0", named.name),
        block: 0,
        target: "here".to_owned(),
        method: named.clone(),
        workload: workload.clone(),
        load: "launch".to_owned(),
        repeat: 0,
        task: Task::Launch {
            target: target.clone(),
            op: args.op,
            batch: args.batch,
            kv_len: args.kv_len,
            tensor_parallel: 1,
        },
    };
    Ok(methods.iter().map(cell).collect())
}

struct Rows(Vec<KernelRow>);

impl Sink for Rows {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        if let Row::Kernel(row) = row {
            self.0.push(row);
        }
        Ok(())
    }

    fn finished(&mut self, _cell_ids: &[&str]) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Notes<'a>(&'a Ui);

impl Observer for Notes<'_> {
    fn notice(&self, text: &str) {
        self.0.note(text);
    }
}

fn measure(
    args: &BenchArgs,
    labs: Labs,
    cells: &[Cell],
    ui: &Ui,
) -> anyhow::Result<Vec<KernelRow>> {
    let timing = Timing {
        warmup: 2,
        min_samples: args.samples,
        max_samples: args.samples,
        // A fixed number of samples: neither of the two limits is looked at.
        target_rel_ci: 0.0,
        max_seconds: f64::INFINITY,
        rotate_llc: 2.0,
    };
    let mut rows = Rows(Vec::new());
    let notes = Notes(ui);
    let block: Vec<&Cell> = cells.iter().collect();
    let mut context = Context {
        run_id: "bench",
        sink: &mut rows,
        observer: &notes,
        stop: StopFlag::default(),
        clock: Clock::start(),
    };
    KernelBackend::new(labs, timing, 1).run(&block, &mut context)?;
    Ok(rows.0)
}

/// Samples of one method by number: the same number is the same round, or, where kernels do not fit into memory
/// together, the same round of another group (a notice has said so).
type Samples<'a> = BTreeMap<i64, &'a KernelRow>;

fn samples<'a>(rows: &'a [KernelRow], method: &str) -> Samples<'a> {
    rows.iter()
        .filter(|row| row.method == method && row.duration_ns.is_some())
        .filter_map(|row| Some((row.sample?, row)))
        .collect()
}

fn table(title: &str, methods: &[NamedMethod], rows: &[KernelRow]) -> Table {
    let columns = vec![
        Column::new("method", ""),
        Column::new("dtype", ""),
        Column::new("time", "us"),
        Column::new("rate", "GB/s"),
        Column::new("of_read_bandwidth", "1"),
        Column::new("speedup", "1"),
        Column::new("rel_err", "1"),
        Column::new("err", ""),
    ];
    let mut table = Table::new(title, columns);
    let baseline = samples(rows, BASELINE);
    let probe = samples(rows, PROBE_METHOD);
    let names = methods.iter().map(|named| named.name.as_str()).chain([PROBE_METHOD]);
    table.rows = names.map(|name| line(name, rows, &baseline, &probe)).collect();
    table
}

fn line(name: &str, rows: &[KernelRow], baseline: &Samples<'_>, probe: &Samples<'_>) -> Vec<Value> {
    let own = samples(rows, name);
    let first = rows.iter().find(|row| row.method == name);
    let text = |value: Option<String>| value.map_or(Value::Missing, Value::Text);
    let is_probe = name == PROBE_METHOD;
    vec![
        Value::Text(name.to_owned()),
        text(first.map(|row| row.dtype.clone())),
        estimate(own.values().filter_map(|row| ns(row)).map(|ns| ns / 1e3).collect()),
        estimate(own.values().filter_map(|row| bytes_per_ns(row)).collect()),
        if is_probe { Value::Missing } else { of_bandwidth(&own, probe) },
        if is_probe {
            Value::Missing
        } else {
            paired(&own, baseline, |a, b| Some(ns(b)? / ns(a)?))
        },
        Value::maybe(first.and_then(|row| row.max_rel_err)),
        text(first.and_then(|row| row.err.clone())),
    ]
}

fn ns(row: &KernelRow) -> Option<f64> {
    row.duration_ns.map(|ns| ns as f64)
}

/// Bytes per nanosecond are GB/s.
fn bytes_per_ns(row: &KernelRow) -> Option<f64> {
    Some(row.bytes_moved? as f64 / ns(row)?).filter(|rate| rate.is_finite())
}

/// Ratios within rounds, so that a drift that both sides share cancels out.
fn paired(
    own: &Samples<'_>,
    other: &Samples<'_>,
    ratio: impl Fn(&KernelRow, &KernelRow) -> Option<f64>,
) -> Value {
    let pairs = own.iter().filter_map(|(number, row)| ratio(row, other.get(number)?));
    estimate(pairs.collect())
}

/// Each sample against the probe's sample nearest in time: a probe counts on over groups, numbers would not match.
fn of_bandwidth(own: &Samples<'_>, probe: &Samples<'_>) -> Value {
    let nearest = |row: &KernelRow| {
        let at = row.t_ns?;
        probe.values().min_by_key(|other| {
            other.t_ns.map_or(i64::MAX, |t| i64::try_from(t.abs_diff(at)).unwrap_or(i64::MAX))
        })
    };
    let part = |row: &KernelRow| Some(bytes_per_ns(row)? / bytes_per_ns(nearest(row)?)?);
    estimate(own.values().filter_map(|row| part(row)).collect())
}

/// Median with its 95 % interval, as far as the number of values allows.
fn estimate(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let middle = Some(median(&values)).filter(|median| median.is_finite());
    let interval = median_interval(&values);
    Value::estimate(middle, interval.map(|ends| ends.0), interval.map(|ends| ends.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, sample: i64, duration_ns: i64) -> KernelRow {
        KernelRow {
            method: method.to_owned(),
            sample: Some(sample),
            duration_ns: Some(duration_ns),
            bytes_moved: Some(1000),
            ..KernelRow::default()
        }
    }

    #[test]
    fn a_drift_that_both_share_does_not_widen_the_speedup() {
        let rows: Vec<KernelRow> =
            (0..8).flat_map(|i| [row(BASELINE, i, 2000 << i), row("int8", i, 1000 << i)]).collect();
        let named = |name: &str| chosen(&[name.to_owned()]).unwrap().remove(0);
        let table = table("t", &[named(BASELINE), named("int8")], &rows);
        assert_eq!(table.rows[1][5], Value::Interval { value: 2.0, low: 2.0, high: 2.0 });
        assert_eq!(table.rows[1][4], Value::Missing, "no probe, no fraction");
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
    }

    #[test]
    fn few_samples_have_no_interval() {
        assert_eq!(estimate(vec![3.0, 1.0, 2.0]), Value::Float(2.0));
        assert_eq!(estimate(Vec::new()), Value::Missing);
    }

    #[test]
    fn the_baseline_is_always_there() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bench: BenchArgs,
        }
        let line =
            <Line as clap::Parser>::parse_from(["x", "--method", "kivi-2", "--op", "prefill"]);
        let names: Vec<String> = methods(&line.bench, &Lab::cpu())
            .unwrap()
            .into_iter()
            .map(|named| named.name)
            .collect();
        assert_eq!(names, ["fp16", "kivi-2"]);
        assert_eq!(line.bench.op, Op::Prefill);
        let cells = cells(&line.bench, &chosen(&names).unwrap()).unwrap();
        assert_eq!(cells[1].id, "bench/here/kivi-2/prefill-b1-kv2048/launch/r0");
    }
}
