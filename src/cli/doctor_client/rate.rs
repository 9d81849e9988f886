//! `kvbench doctor --client --rate R`: how late an open loop sends, short answers.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{ClientArgs, Server, cell, drive, quantile, requests, word};
use crate::{
    cli::ui::Ui,
    execute::{
        StopFlag,
        engine::{ClientHealth, Verdict},
    },
    record::RequestRow,
    report::{Column, Table, Value, render},
    serve::known::Mode,
    units::{NS_PER_MS, NS_PER_S},
    workload::{Due, arrival},
};

const ANSWER_TOKENS: u32 = 2;
/// Of the Poisson times.
const SEED: u64 = 1;
const PATIENCE_S: f64 = 60.0;

/// Exit code 1 if a request failed or the client was not VALID.
pub(super) fn run(rate: u32, args: &ClientArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(rate > 0, "--rate: expected at least 1, got 0");
    let server = Server::start(Mode::Independent, 1, 1)?;
    let n = rate.checked_mul(args.seconds).context("--rate: too many requests")? as usize;
    ui.note(&format!("{n} requests at {rate}/s ..."));
    let cell = cell(&server.url, n, f64::from(rate), PATIENCE_S);
    let mut requests = requests(n, f64::from(rate), ANSWER_TOKENS);
    if args.poisson {
        let due = arrival::poisson_ns(f64::from(rate), n, SEED);
        requests.iter_mut().zip(due).for_each(|(request, ns)| request.due = Due::AtNs(ns));
    }
    let driven = drive(&cell, requests, args, StopFlag::default())?;
    let n_failed = driven.rows.iter().filter(|row| row.err.is_some()).count();
    ui.out(&render(&table(rate, &driven.rows, n_failed, &driven.health), ui.format, ui.color))?;
    driven.health.reasons.iter().for_each(|reason| ui.note(reason));
    if let Some(err) = driven.rows.iter().find_map(|row| row.err.as_deref()) {
        ui.note(&format!("{n_failed} of {n} requests failed: {err}"));
    }
    let good = n_failed == 0 && driven.health.verdict == Verdict::Valid;
    Ok(ExitCode::from(u8::from(!good)))
}

/// Times from due to sent, sorted, in milliseconds.
fn start_lags_ms(rows: &[RequestRow]) -> Vec<f64> {
    let lag = |row: &RequestRow| Some((row.sent_ns? - row.due_ns) as f64 / NS_PER_MS);
    let mut lags: Vec<f64> = rows.iter().filter_map(lag).collect();
    lags.sort_by(f64::total_cmp);
    lags
}

/// Index of dispersion of the times at which requests were sent, in windows of 20 on average; `None` for too few.
fn sent_dispersion(rate: u32, rows: &[RequestRow]) -> Option<f64> {
    let mut sent_ns: Vec<i64> = rows.iter().filter_map(|row| row.sent_ns).collect();
    sent_ns.sort_unstable();
    let first = *sent_ns.first()?;
    let times: Vec<f64> = sent_ns.iter().map(|ns| (ns - first) as f64 / NS_PER_S).collect();
    arrival::dispersion(&times, 20.0 / f64::from(rate))
}

fn table(rate: u32, rows: &[RequestRow], n_failed: usize, health: &ClientHealth) -> Table {
    let columns = [
        ("rate", "1/s"),
        ("requests", ""),
        ("failed", ""),
        ("start_lag_p50", "ms"),
        ("start_lag_p99", "ms"),
        ("start_lag_max", "ms"),
        ("dispersion", ""),
        ("cpu_per_request", "us"),
        ("connects", ""),
        ("connect_p99", "ms"),
        ("verdict", ""),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new("Open loop against a server of known timing, 2 tokens", columns);
    let lags = start_lags_ms(rows);
    table.rows.push(vec![
        Value::Int(i64::from(rate)),
        Value::Int(rows.len() as i64),
        Value::Int(n_failed as i64),
        quantile(&lags, 0.5),
        quantile(&lags, 0.99),
        quantile(&lags, 1.0),
        Value::maybe(sent_dispersion(rate, rows)),
        Value::Float(health.cpu_s * 1e6 / rows.len().max(1) as f64),
        Value::Int(i64::try_from(health.n_connects).unwrap_or(i64::MAX)),
        health.connect_time.map_or(Value::Missing, |time| Value::Float(time.p99_ms)),
        Value::Text(word(health.verdict)),
    ]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_sent_less_due_and_what_was_not_sent_has_none() {
        let row = |due_ns, sent_ns| RequestRow { due_ns, sent_ns, ..RequestRow::default() };
        let rows = [row(5_000_000, Some(7_000_000)), row(0, None), row(1, Some(1))];
        assert_eq!(start_lags_ms(&rows), [0.0, 2.0]);
    }
}
