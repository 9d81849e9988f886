//! `kvbench predict replay` from the outside: a real run folder whose times are those of an engine that is known.

use std::{collections::BTreeMap, path::Path, process::Command, sync::Arc};

use kvbench::{
    predict::simulate::{Client, Engine, EngineConfig, LinearTimes, Load, Mixing, Request, replay},
    record::{
        Manifest, RequestRow,
        parquet::{read_rows, write_rows},
    },
};
use serde_json::Value;

use super::serve::{Server, run_scenario};

fn command(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["predict", "replay", folder.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn scenario(url: &str) -> String {
    format!(
        r#"
name = "replayed"
seed = 5
repeats = 2
baseline = "fp16"
[target.a.engine]
url = "{url}"
endpoint = "completions"
model = "known"
method = "fp16"
warmup_requests = 1
[method.fp16.fp16]
[workload.mixed.synthetic]
n_requests = 60
prompt_tokens = {{ uniform = {{ min = 5, max = 60 }} }}
output_tokens = {{ uniform = {{ min = 2, max = 12 }} }}
[load.users.closed]
concurrency = [1, 3]
[load.poisson.poisson]
rate = [150, 250]
"#
    )
}

/// An engine of three sequences, which the server of known timing is not: every row gets the times that it would have had there.
fn served_by_a_batching_engine(folder: &Path) {
    let times = LinearTimes {
        step_s: 0.0006,
        per_sequence_s: 0.0002,
        per_kv_token_s: 1e-6,
        per_prompt_s: 0.0,
        per_prompt_token_s: 2e-5,
        per_pair_s: 0.0,
    };
    let config = EngineConfig {
        max_batched_tokens: Some(64),
        chunked_prefill: true,
        mixing: Mixing::DecodeFirst,
        ..EngineConfig::unlimited(3)
    };
    let manifest = Manifest::read(folder).unwrap();
    let mut cells: BTreeMap<String, Vec<RequestRow>> = BTreeMap::new();
    for row in read_rows::<RequestRow>(folder).unwrap() {
        cells.entry(row.cell_id.clone()).or_default().push(row);
    }
    for (id, rows) in &mut cells {
        rows.retain(|row| !row.warmup);
        rows.sort_by_key(|row| row.request_id);
        let request = |row: &RequestRow| Request {
            id: 0,
            prompt_tokens: 20 + row.request_id as u64 % 40,
            cached_tokens: 0,
            output_tokens: row.max_tokens as u64,
        };
        let requests: Vec<Request> = rows.iter().map(request).collect();
        let cell = manifest.cells.iter().find(|cell| cell.id == *id).unwrap();
        let load = match cell.concurrency {
            Some(n) => Load::Closed { concurrency: n as usize, start_ns: 0 },
            None => Load::Open(rows.iter().map(|row| row.due_ns).collect()),
        };
        let engine = Engine::new(config, Arc::new(times)).unwrap().with_tokens();
        let client = Client { request_ns: 300_000, turnaround_ns: 100_000 };
        let done = replay(engine, &requests, &load, client).unwrap();
        for (index, row) in rows.iter_mut().enumerate() {
            let outcome = done.outcomes[index].unwrap();
            row.sent_ns = Some(outcome.sent_ns);
            row.first_token_ns = Some(outcome.first_token_ns);
            row.last_token_ns = Some(outcome.finished_ns);
            row.done_ns = Some(outcome.finished_ns);
            row.chunk_ns.clone_from(&done.token_ns[index]);
            row.chunk_tokens = Vec::new();
            row.prompt_tokens = Some(requests[index].prompt_tokens as i64);
            row.cached_tokens = Some(0);
            (row.output_tokens, row.err) = (Some(row.max_tokens), None);
        }
    }
    let mut rows: Vec<RequestRow> = cells.into_values().flatten().collect();
    rows.iter_mut().find(|row| row.load == "poisson-150").unwrap().err = Some("reset".to_owned());
    write_rows(folder, &rows).unwrap();
}

#[test]
fn a_run_is_replayed_compared_and_drawn() {
    let server = Server::start();
    let (_work, output, folder) =
        run_scenario(&scenario(&format!("http://{}", server.address)), &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    served_by_a_batching_engine(&folder);

    // The same run twice would pass for two that agree.
    let path = folder.to_str().unwrap();
    let twice = ["predict", "eval", path, path];
    let twice = Command::new(env!("CARGO_BIN_EXE_kvbench")).args(twice).output().unwrap();
    let err = String::from_utf8_lossy(&twice.stderr);
    assert!(twice.status.code() == Some(2) && err.contains("of its own, got run "), "{err}");

    let (code, _, err) = command(&folder, &["--keep-invalid"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("a, fp16") && err.contains("--max-num-seqs"), "{err}");

    let rules = ["--keep-invalid", "--max-num-seqs", "3", "--mixing", "decode-first"];
    let step = ["--max-batched-tokens", "64"];
    let plots = folder.join("drawn");
    let draw = ["--format", "json", "--plots", plots.to_str().unwrap()];
    let (code, out, err) = command(&folder, &[&rules[..], &step, &draw].concat());
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let rows = json["compared"].as_array().unwrap();
    assert_eq!(
        rows.len(),
        12,
        "two numbers of three metrics at two loads, too few for a p99: {rows:?}"
    );
    for row in rows {
        let error = row["error"].as_f64().unwrap();
        assert!(error.abs() < 3.0, "{row}");
        assert!(row["bar"].is_null() == row["holds"].is_null() && row["holds"] != "no", "{row}");
    }
    let busy = rows.iter().find(|r| r["load"] == "poisson-250" && r["metric"] == "ttft").unwrap();
    assert!(busy["no_queue_error"].as_f64().unwrap() < -5.0, "{busy}");
    assert_eq!(json["calibrated_on"].as_array().unwrap().len(), 4);
    assert_eq!(json["left_out"][0]["reason"], "failed");
    assert_eq!(
        (&json["left_out"][0]["rows"], &json["loads"][0]["requests"]),
        (&1.into(), &119.into())
    );
    assert_eq!(json["engines"][0]["config"]["max_num_seqs"], 3);
    assert!(json["loads"][0]["kv_tokens_most"].as_u64() > Some(20), "{}", json["loads"]);
    for name in ["replay-cdf-a-fp16.svg", "replay-times-a-fp16.png"] {
        assert!(plots.join(name).is_file(), "{name}");
    }

    let judged =
        [&rules[..], &step, &["--cells", "poisson-150", "--calibrate", "users|poisson-250"]];
    let (code, out, err) = command(&folder, &judged.concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("poisson-150") && !out.contains("poisson-250  "), "{out}");
    assert!(err.contains("calibrated on 6 cells") && err.contains("off on average"), "{err}");
}

#[test]
fn what_is_no_run_or_no_model_is_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) = command(folder.path(), &[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(folder.path().to_str().unwrap()), "{err}");
    let (code, _, err) = command(folder.path(), &["--model", "x", "--calibrate", "closed"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("--calibrate"), "{err}");
    for (args, part) in [
        (&["--ubatch-tokens", "8"][..], "--mixing"),
        (&["--ubatch-tokens", "8", "--mixing", "decode-first"], "expected `--mixing slots`"),
        (&["--kv-tokens", "0"], "--kv-tokens"),
        (&["--block-tokens", "0"], "--block-tokens"),
    ] {
        let (code, _, err) = command(folder.path(), args);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(part), "{err}");
    }
}
