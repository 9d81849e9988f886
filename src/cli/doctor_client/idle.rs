//! `kvbench doctor --client --idle N`: memory of streams that are open and silent.
//!
//! The slope between a few and many streams is what one stream costs; what the program needs anyway is in both.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;

use super::{ClientArgs, Server, cell, drive, requests};
use crate::{
    cli::ui::Ui,
    execute::StopFlag,
    report::{Column, Table, Value, render},
    serve::known::Mode,
};

/// Streams of the first point.
const FEW: usize = 1000;

/// Streams opened per second.
const RATE: f64 = 1000.0;

/// After the last stream was opened, before memory is read.
const SETTLE: Duration = Duration::from_secs(3);

/// Longer than any of this takes: the server stays silent that long.
const PATIENCE_S: f64 = 3600.0;

/// Exit code 1 if a stream was not open when memory was read.
pub(super) fn run(
    streams: usize,
    room: Option<usize>,
    args: &ClientArgs,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(streams > FEW, "--idle: expected more than {FEW}, got {streams}");
    if let Some(room) = room.filter(|room| *room < streams) {
        anyhow::bail!(
            "--idle: expected at most {room} streams, as open files are limited, got {streams}\n  \
             hint: raise the hard limit of open files (ulimit -Hn)"
        );
    }
    let server = Server::start(Mode::Independent, 0, PATIENCE_S as u64 * 1000)?;
    let mut points = Vec::new();
    for n in [FEW, streams] {
        ui.note(&format!("{n} silent streams ..."));
        points.push(Point::measure(&server, n, args)?);
    }
    ui.out(&render(&table(&points), ui.format, ui.color))?;
    let all_open = points.iter().all(|point| point.n_open == point.n);
    if !all_open {
        ui.note("not all streams were open when memory was read: the slope is too low");
    }
    Ok(ExitCode::from(u8::from(!all_open)))
}

struct Point {
    n: usize,
    /// Streams that had brought their first token.
    n_open: usize,
    rss_kb: f64,
}

impl Point {
    fn measure(server: &Server, n: usize, args: &ClientArgs) -> anyhow::Result<Self> {
        let cell = cell(&server.url, n, RATE, PATIENCE_S);
        let stop = StopFlag::default();
        let stopping = stop.clone();
        let sampler = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs_f64(n as f64 / RATE) + SETTLE);
            let rss = rss_kb();
            stopping.raise();
            rss
        });
        // Given up at the stop: one token came of each, the second never would.
        let driven = drive(&cell, requests(n, RATE, 2), args, stop)?;
        let rss_kb = sampler.join().map_err(|_| anyhow::anyhow!("memory: reading it failed"))??;
        let n_open = driven.rows.iter().filter(|row| row.first_token_ns.is_some()).count();
        Ok(Self { n, n_open, rss_kb })
    }
}

/// Resident memory of this process.
fn rss_kb() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    parse_rss_kb(&status).context("/proc/self/status: expected a line VmRSS, got none")
}

fn parse_rss_kb(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn table(points: &[Point]) -> Table {
    let columns = [("streams", ""), ("open", ""), ("rss", "MB"), ("per_stream", "KB")];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new("Memory of open, silent streams", columns);
    let mut before: Option<&Point> = None;
    for point in points {
        let slope = before.map(|few| (point.rss_kb - few.rss_kb) / (point.n - few.n) as f64);
        table.rows.push(vec![
            Value::Int(point.n as i64),
            Value::Int(point.n_open as i64),
            Value::Float(point.rss_kb / 1024.0),
            slope.map_or(Value::Missing, Value::Float),
        ]);
        before = Some(point);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_between_the_points() {
        let point = |n, rss_kb| Point { n, n_open: n, rss_kb };
        let table = table(&[point(1000, 50_000.0), point(3000, 80_000.0)]);
        assert_eq!(table.rows[0][3], Value::Missing);
        assert_eq!(table.rows[1][3], Value::Float(15.0));
    }

    #[test]
    fn memory_is_read_from_the_kernel() {
        assert_eq!(parse_rss_kb("VmPeak:\t 9 kB\nVmRSS:\t  1234 kB\n"), Some(1234.0));
        assert_eq!(parse_rss_kb("VmPeak:\t 9 kB\n"), None);
        assert!(rss_kb().unwrap() > 0.0);
    }
}
