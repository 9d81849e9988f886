//! How often `kvbench compare` is right about runs whose truth is known: `cargo bench --bench judge`. And how long it takes over so
//! many requests, in two runs together: `cargo bench --bench judge -- 10000000`.
//!
//! Shares of 2000 pairs of simulated runs by the word that was said of them. Requests have a memory of 0.8 (AR(1)) and spread by
//! 10 %, repeats by 2 %; one test at 5 % unless several cells are named.
#![expect(clippy::disallowed_methods, reason = "it measures")]
#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]

use std::{fs::File, io::Write as _, path::Path, time::Instant};

use kvbench::{
    analyse::versus::{
        Side,
        simulate::{Experiment, shares},
        versus,
    },
    record::{RequestRow, parquet::TableRow as _},
    scenario::gates::Gates,
};
use polars_io::prelude::{ParquetCompression, ParquetWriter};

const N_PAIRS: u64 = 2000;
const N_CELLS: usize = 12;
const N_REPEATS: usize = 3;

fn main() {
    match std::env::args().find_map(|word| word.parse().ok()) {
        Some(rows) => large(rows),
        None => calibration(),
    }
}

fn calibration() {
    let base = Experiment::default();
    let five = Experiment { repeats: 5, ..base };
    let quiet = Experiment { between: 0.002, within: 0.02, ..five };
    let many = Experiment { cells: 30, requests: 60, within: 0.025, ..base };
    let cases = [
        ("A/A, 3 repeats", base),
        ("1.05x, 5 repeats", Experiment { slowdown: 1.05, ..five }),
        ("1.01x, 5 repeats", Experiment { slowdown: 1.01, ..five }),
        ("A/A, 5 repeats", five),
        ("1.05x, 3 repeats", Experiment { slowdown: 1.05, ..base }),
        ("A/A, 3 repeats, no spread between them", Experiment { between: 0.0, ..base }),
        ("A/A, 3 repeats, p99", Experiment { percent: Some(99), ..base }),
        ("A/A, 3 repeats, spread of one doubled", Experiment { wider: 2.0, ..base }),
        ("A/A, 3 repeats of 200 requests", Experiment { requests: 200, ..base }),
        ("A/A, 3 repeats, any of 30 cells", many),
        ("1.05x, 5 repeats of 200 requests", Experiment { slowdown: 1.05, requests: 200, ..five }),
        ("A/A, 10 repeats", Experiment { repeats: 10, ..base }),
        ("1.02x, 5 repeats", Experiment { slowdown: 1.02, ..five }),
        ("1.05x, 5 repeats, p99", Experiment { slowdown: 1.05, percent: Some(99), ..five }),
        ("1.05x, 5 repeats, any of 30 cells", Experiment { slowdown: 1.05, repeats: 5, ..many }),
        ("1.10x, 3 repeats", Experiment { slowdown: 1.10, ..base }),
        ("A/A, 5 repeats, 0.2 % between them", quiet),
        ("1.01x, 5 repeats, 0.2 % between them", Experiment { slowdown: 1.01, ..quiet }),
        ("1.02x, 5 repeats, 0.2 % between them", Experiment { slowdown: 1.02, ..quiet }),
    ];
    say(&format!("{:<40} {:>8} {:>8} {:>8} {:>8}", "truth", "worse", "better", "same", "unclear"));
    for (seed, (name, case)) in (1..).zip(cases) {
        let found = shares(&case, N_PAIRS, seed);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let [worse, better, same, unclear] =
            [found.worse, found.better, found.same, found.unclear].map(percent);
        say(&format!("{name:<40} {worse:>8} {better:>8} {same:>8} {unclear:>8}"));
    }
}

fn large(rows: usize) {
    let dir = std::env::temp_dir().join(format!("kvbench-judge-{}", std::process::id()));
    let (base, new) = (dir.join("base"), dir.join("new"));
    let started = Instant::now();
    for (path, slower) in [(&base, 1.0), (&new, 1.02)] {
        write(path, rows / 2, slower);
    }
    say(&format!("wrote {rows} requests in {:.1} s", started.elapsed().as_secs_f64()));
    let before_mib = peak_mib();
    let started = Instant::now();
    let sides = (Side::load(&base).unwrap(), Side::load(&new).unwrap());
    let loaded_s = started.elapsed().as_secs_f64();
    let found = versus(&sides.0, &sides.1, &[], &Gates::built_in().unwrap(), &[]).unwrap();
    say(&format!(
        "compared {rows} requests, {} metrics of cells: {:.1} s, of which {loaded_s:.1} s reading; peak memory {} MiB, {before_mib} before",
        found.lines.len(),
        started.elapsed().as_secs_f64(),
        peak_mib()
    ));
    std::fs::remove_dir_all(dir).unwrap();
}

/// Most memory that this process has had in use, as the kernel counts.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// A run folder of so many requests with chunks and answers, written a piece at a time.
fn write(dir: &Path, rows: usize, slower: f64) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("manifest.json"), manifest().to_string()).unwrap();
    let file = File::create(dir.join("requests.parquet")).unwrap();
    let schema = RequestRow::frame(&[]).unwrap().schema().clone();
    let mut writer = ParquetWriter::new(file)
        .with_compression(ParquetCompression::Zstd(None))
        .batched(&schema)
        .unwrap();
    let per_cell = rows / (N_CELLS * N_REPEATS);
    for cell in 0..N_CELLS {
        for repeat in 0..N_REPEATS {
            let mut left = per_cell;
            while left > 0 {
                let n = left.min(50_000);
                let piece: Vec<RequestRow> = (left - n..left)
                    .map(|at| request(cell, repeat, per_cell - at, slower))
                    .collect();
                writer.write_batch(&RequestRow::frame(&piece).unwrap()).unwrap();
                left -= n;
            }
        }
    }
    writer.finish().unwrap();
}

fn request(cell: usize, repeat: usize, at: usize, slower: f64) -> RequestRow {
    // Numbers without a pattern that compression could use.
    let noise =
        |salt: u64| (kvbench::stats::mixed(at as u64, salt) >> 40) as f64 / f64::from(1 << 24);
    let sent = at as i64 * 1_000_000;
    let first = sent + (slower * 3e7 * (1.0 + noise(1))) as i64;
    let step = slower * 1e7 * (1.0 + 0.2 * noise(2) + 0.01 * repeat as f64);
    let chunk_ns: Vec<i64> = (0..8).map(|chunk| first + (step * f64::from(chunk)) as i64).collect();
    RequestRow {
        run_id: "large".to_owned(),
        cell_id: cell_id(cell, repeat),
        target: "t".to_owned(),
        method: format!("m{cell}"),
        workload: "w".to_owned(),
        load: "closed-8".to_owned(),
        repeat: repeat as i64,
        request_id: at as i64,
        sample_id: at.to_string(),
        due_ns: sent,
        sent_ns: Some(sent + 1000),
        first_token_ns: Some(first),
        last_token_ns: chunk_ns.last().copied(),
        done_ns: chunk_ns.last().copied(),
        chunk_ns,
        prompt_tokens: Some(100),
        output_tokens: Some(8),
        token_source: Some("usage".to_owned()),
        max_tokens: 64,
        finish_reason: Some("stop".to_owned()),
        http_status: Some(200),
        attempt: 1,
        output_text: "an answer of a few words".to_owned(),
        prompt_sha256: format!("{at:064x}"),
        ..RequestRow::default()
    }
}

fn cell_id(cell: usize, repeat: usize) -> String {
    format!("large/t/m{cell}/w/closed-8/{repeat}")
}

fn manifest() -> serde_json::Value {
    let cells: Vec<serde_json::Value> = (0..N_CELLS * N_REPEATS)
        .map(|at| {
            let (cell, repeat) = (at / N_REPEATS, at % N_REPEATS);
            serde_json::json!({
                "id": cell_id(cell, repeat), "target": "t", "method": format!("m{cell}"), "workload": "w",
                "load": "closed-8", "repeat": repeat
            })
        })
        .collect();
    serde_json::json!({
        "schema_version": kvbench::record::SCHEMA_VERSION, "run_id": "large", "kvbench_version": "0",
        "kvbench_git_revision": null, "status": "complete", "verdict": null, "reasons": [],
        "scenario": {
            "name": "large", "path": null, "text": "", "seed": 1, "repeats": N_REPEATS, "baseline": "m0",
            "aa_control": false, "slo": null, "searches": {}, "links": {}, "device": null
        },
        "n_cells": cells.len(), "cells": cells, "origin": "2026-11-24T01:30:00Z", "ended": null, "n_resumed": 0,
        "command_line": [],
        "machine": {
            "hostname": null, "cpu_model": null, "cpus": 2, "cpu_features": [], "llc_bytes": null,
            "memory_bytes": null, "kernel": null, "platform": "", "profile": ""
        },
        "inputs": [], "schedules": {}, "engines": {}, "telemetry": null, "client_health": [], "token_checks": [],
        "n_failed": 0, "notices": []
    })
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}
