//! Requests sent before measuring began: shown, so that a reader sees what was left out and whether it was enough; never
//! counted.

use polars::prelude::{DataFrame, DataType, IntoLazy as _, col};

use super::{Point, RunData};
use crate::units::{ns_to_ms, ns_to_s};

/// The warm-up of one cell.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmUp {
    /// Which.
    pub point: Point,
    /// Repeat, from 0.
    pub repeat: i64,
    /// Requests.
    pub n: i64,
    /// Those that failed.
    pub n_failed: i64,
    /// From sending to the first output, of the request sent first; `None` if it has none.
    pub first_ttft_ms: Option<f64>,
    /// The same of the request sent last.
    pub last_ttft_ms: Option<f64>,
    /// From the first sent to the last that ended.
    pub took_s: Option<f64>,
}

/// One entry a cell that was warmed up, in plan order.
pub(super) fn cells(data: &RunData) -> anyhow::Result<Vec<WarmUp>> {
    let ttft = || col("first_token_ns") - col("sent_ns");
    let frame = data
        .warm_up
        .clone()
        .lazy()
        .sort(["sent_ns"], Default::default())
        .group_by_stable([col("cell_id")])
        .agg([
            col("target").first(),
            col("method").first(),
            col("workload").first(),
            col("load").first(),
            col("repeat").first(),
            col("attempt").len().cast(DataType::Int64).alias("n"),
            col("err").is_not_null().sum().cast(DataType::Int64).alias("n_failed"),
            ttft().first().alias("first_ns"),
            ttft().last().alias("last_ns"),
            (col("done_ns").max() - col("sent_ns").min()).alias("took_ns"),
        ])
        .collect()?;
    let mut cells =
        (0..frame.height()).map(|row| cell(&frame, row)).collect::<Result<Vec<_>, _>>()?;
    cells.sort_by_key(|cell| (data.rank(&cell.point), cell.repeat));
    Ok(cells)
}

fn cell(frame: &DataFrame, row: usize) -> anyhow::Result<WarmUp> {
    let text = |name: &str| -> anyhow::Result<String> {
        Ok(frame.column(name)?.str()?.get(row).unwrap_or_default().to_owned())
    };
    let number =
        |name: &str| -> anyhow::Result<Option<i64>> { Ok(frame.column(name)?.i64()?.get(row)) };
    Ok(WarmUp {
        point: Point {
            target: text("target")?,
            method: text("method")?,
            workload: text("workload")?,
            load: text("load")?,
        },
        repeat: number("repeat")?.unwrap_or_default(),
        n: number("n")?.unwrap_or_default(),
        n_failed: number("n_failed")?.unwrap_or_default(),
        first_ttft_ms: number("first_ns")?.map(ns_to_ms),
        last_ttft_ms: number("last_ns")?.map(ns_to_ms),
        took_s: number("took_ns")?.map(ns_to_s),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RequestRow, parquet::TableRow as _};

    const MS: i64 = 1_000_000;

    fn row(id: i64, sent_ms: i64, ttft_ms: i64, err: Option<&str>) -> RequestRow {
        let sent_ns = sent_ms * MS;
        RequestRow {
            cell_id: "example/vllm/fp16/chat/closed-1/0".to_owned(),
            target: "vllm".to_owned(),
            method: "fp16".to_owned(),
            request_id: id,
            warmup: true,
            sent_ns: Some(sent_ns),
            first_token_ns: err.is_none().then_some(sent_ns + ttft_ms * MS),
            done_ns: Some(sent_ns + 2 * ttft_ms * MS),
            err: err.map(str::to_owned),
            ..RequestRow::default()
        }
    }

    #[test]
    fn first_and_last_are_those_of_sending() {
        let mut data = super::super::tests::data(&[], &[], &[]);
        assert_eq!(cells(&data).unwrap(), []);
        let rows = [row(1, 100, 40, None), row(0, 0, 400, None), row(2, 200, 30, Some("reset"))];
        data.warm_up = RequestRow::frame(&rows).unwrap();
        let cells = cells(&data).unwrap();
        assert_eq!(cells.len(), 1);
        let cell = &cells[0];
        assert_eq!((cell.n, cell.n_failed, cell.point.method.as_str()), (3, 1, "fp16"));
        assert_eq!((cell.first_ttft_ms, cell.last_ttft_ms), (Some(400.0), None));
        assert_eq!(cell.took_s, Some(0.8));
    }
}
