//! Kernel rows: one attention layer, launched many times a repeat.
//!
//! Ragged batches hold the sum of their lengths and the longest. For decode that is all there is to know, but for a method
//! with a budget, which caps each sequence; and prefill is quadratic in each length. Such rows are left out: a mean length in
//! the place of the lengths would say that the method reads more, or a prefill less, than it did.

use polars::prelude::{DataFrame, DataType, Expr, IntoLazy as _, col, lit};

use super::{Collected, Key, Repeat, Run, Told};
use crate::{
    predict::{Phase, Source, Subject, Work},
    record::PROBE_METHOD,
    units::NS_PER_S,
};

const TEXTS: [&str; 7] = ["backend", "device", "model_shape", "op", "method", "run_id", "target"];
const NUMBERS: [&str; 6] = ["tensor_parallel", "batch", "q_len", "kv_len", "kv_tokens", "repeat"];

/// Column for the place of a row in the table.
const NUMBER: &str = "row";

/// Adds every decode and prefill launch that was timed and passed its check.
pub(super) fn add(run: &Run<'_>, found: &mut Collected) -> anyhow::Result<()> {
    let numbered = run.data.kernels.clone().with_row_index(NUMBER.into(), None)?;
    let frame = valid(numbered, found)?;
    let keys: Vec<Expr> = TEXTS.iter().chain(&NUMBERS).map(|name| col(*name)).collect();
    let medians = frame
        .lazy()
        .group_by(keys)
        .agg([
            col("duration_ns").cast(DataType::Float64).median().alias("median_ns"),
            col("duration_ns").count().cast(DataType::Int64).alias("launches"),
            col(NUMBER).cast(DataType::UInt64),
        ])
        .collect()?;
    for row in rows(&medians)? {
        place(run, &row, found);
    }
    Ok(())
}

/// Rows that are a measurement of attention. Each filter says what it takes away.
fn valid(mut frame: DataFrame, found: &mut Collected) -> anyhow::Result<DataFrame> {
    let is_pass = col("op").eq(lit("decode")).or(col("op").eq(lit("prefill")));
    let steps: [(&str, Expr); 5] = [
        ("probe of the read bandwidth", col("method").neq(lit(PROBE_METHOD))),
        ("kernel that is no attention pass (read, copy, compress, append, flush)", is_pass),
        ("kernel launch that failed", col("err").is_null()),
        ("kernel that did not pass its check", col("verified").eq(lit(true))),
        ("kernel launch without a time", col("duration_ns").gt(lit(0))),
    ];
    for (reason, keep) in steps {
        let before = frame.height();
        frame = frame.lazy().filter(keep).collect()?;
        found.leave_out(reason, before - frame.height());
    }
    Ok(frame)
}

/// One repeat of a method at a shape.
struct Row {
    texts: [String; 7],
    numbers: [i64; 6],
    median_ns: f64,
    launches: usize,
    /// Places of the launches in the table.
    places: Vec<u64>,
}

fn rows(frame: &DataFrame) -> anyhow::Result<Vec<Row>> {
    let texts = TEXTS.map(|name| frame.column(name).and_then(|column| column.str()));
    let numbers = NUMBERS.map(|name| frame.column(name).and_then(|column| column.i64()));
    let (medians, launches) = (frame.column("median_ns")?.f64()?, frame.column("launches")?.i64()?);
    let places = frame.column(NUMBER)?.list()?;
    let mut out = Vec::with_capacity(frame.height());
    for row in 0..frame.height() {
        let mut next = Row {
            texts: std::array::from_fn(|_| String::new()),
            numbers: [0; 6],
            median_ns: known(medians.get(row), "median_ns")?,
            launches: usize::try_from(known(launches.get(row), "launches")?)?,
            places: known(places.get_as_series(row), NUMBER)?.u64()?.iter().flatten().collect(),
        };
        for (slot, column) in next.texts.iter_mut().zip(&texts) {
            let column = column.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            *slot = known(column.get(row), column.name())?.to_owned();
        }
        for (slot, column) in next.numbers.iter_mut().zip(&numbers) {
            let column = column.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            *slot = known(column.get(row), column.name())?;
        }
        out.push(next);
    }
    // Groups come in any order; the order of runs and repeats must not depend on it.
    out.sort_by(|a, b| (&a.texts, a.numbers).cmp(&(&b.texts, b.numbers)));
    Ok(out)
}

fn known<T>(value: Option<T>, column: &str) -> anyhow::Result<T> {
    value.ok_or_else(|| {
        anyhow::anyhow!("kernels.parquet: expected a value in `{column}` of every row, got null")
    })
}

fn place(run: &Run<'_>, row: &Row, found: &mut Collected) {
    let [backend, device, model, op, method, _, target] = &row.texts;
    let [ranks, batch, q_len, kv_len, kv_tokens, _] = row.numbers;
    let method = run.method(method);
    let work = match work(op, [batch, kv_len, kv_tokens], &method) {
        Ok(work) => work,
        Err(reason) => return found.leave_out(reason, row.launches),
    };
    let Ok(tensor_parallel) = u32::try_from(ranks) else {
        return found
            .leave_out("kernel of an impossible degree of tensor parallelism", row.launches);
    };
    let subject = Subject {
        source: Source::Kernel,
        target: Some(target.clone()),
        engine: backend.clone(),
        device: device.clone(),
        model: model.clone(),
        tensor_parallel,
        started_with: None,
    };
    let phase = i64::from(work.phase == Phase::Decode);
    let key = Key {
        subject,
        method: method.name.clone(),
        label: method.label.clone(),
        place: String::new(),
        shape: vec![phase, batch, q_len, kv_len, kv_tokens],
    };
    found.n_rows_used += row.launches;
    let rows = run.rows(row.places.iter().copied());
    found.observe(key, &method, Repeat { work, duration_s: row.median_ns / NS_PER_S, rows });
}

/// What a launch works on, or why that is not known.
fn work(op: &str, shape: [i64; 3], method: &Told) -> Result<Work, &'static str> {
    let [batch, kv_len, kv_tokens] = shape;
    if !method.is_ours {
        return Err("kernel of a method that the run's scenario does not describe (a peer's)");
    }
    let Ok(sequences) = usize::try_from(batch) else {
        return Err("kernel with a negative batch");
    };
    let is_ragged = kv_tokens != batch * kv_len;
    let lens = std::iter::repeat_n(kv_len as f64, sequences);
    match (op, is_ragged) {
        ("decode", false) => Ok(Work::decode(lens, method.budget)),
        ("decode", true) if method.budget.is_none_or(|most| kv_len as f64 <= most) => Ok(Work {
            phase: Phase::Decode,
            batch: batch as f64,
            new_tokens: batch as f64,
            attended: kv_tokens as f64,
            cached: kv_tokens as f64,
        }),
        ("decode", true) => Err("ragged batch under a method with a budget (rows hold no lengths)"),
        (_, false) => Ok(Work::prefill(lens.map(|len| (len, 0.0)))),
        (_, true) => Err("ragged prefill (rows hold no lengths)"),
    }
}
