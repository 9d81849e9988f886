//! What a run is good for afterwards: `rank`, `pareto`, `plan --pilot`, `export`.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use kvbench::record::{RequestRow, parquet::read_rows};
use serde_json::Value;

use super::serve::{Server, fp16_and_fp8, run_scenario};

fn scenario(url: &str) -> String {
    let methods = fp16_and_fp8(url);
    format!(
        r#"
name = "ranked"
seed = 5
repeats = 3
baseline = "fp16"
{methods}
[workload.chat.dataset]
path = "datasets/tiny-sharegpt.json"
format = "sharegpt"
n_requests = 6
max_tokens = 12
[load.loop.closed]
concurrency = [2, 3]
"#
    )
}

fn kvbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvbench")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json_of(args: &[&str]) -> Value {
    let output = kvbench(&[args, &["--format", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_run_is_ranked_weighed_planned_from_and_exported() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let (work, _, run) = run_scenario(&scenario(&url), &[]);
    let dir = run.to_str().unwrap();
    fp8_fails_at_loop_3(&run);
    the_client_is_not_judged(&run);
    methods_are_ranked(dir);
    fronts_are_found(dir, work.path());
    repeats_are_planned(dir, work.path().join("scenario.toml").to_str().unwrap());
    everything_is_exported(&run, work.path());
}

/// A machine that does something else as well starves the client, and such cells are INVALID and left out: not what is looked at here.
fn the_client_is_not_judged(run: &Path) {
    let path = run.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["client_health"] = Value::Array(Vec::new());
    fs::write(&path, manifest.to_string()).unwrap();
}

/// All requests of fp8 under one load: a cell that it failed in.
fn fp8_fails_at_loop_3(run: &Path) {
    let mut rows: Vec<RequestRow> = read_rows(run).unwrap();
    for row in rows.iter_mut().filter(|row| row.method == "fp8" && row.load == "loop-3") {
        row.err = Some("reset: by peer".to_owned());
    }
    kvbench::record::parquet::write_rows(run, &rows).unwrap();
}

fn methods_are_ranked(dir: &str) {
    let found = json_of(&["rank", dir, "--metric", "e2e_ms_p50,output_tokens_per_s"]);
    let rows = found["rank"].as_array().unwrap();
    let row = |method: &str| {
        rows.iter().find(|row| row["method"] == method && row["metric"] == "e2e_ms_p50").unwrap()
    };
    assert_eq!(
        (row("fp16")["cells"].as_i64(), row("fp8")["cells"].as_i64()),
        (Some(1), Some(1)),
        "{found}"
    );
    assert_eq!(row("fp8")["repeats"], 3);
    assert!(row("fp8")["times_better_than_baseline"].as_f64().unwrap() > 0.0, "{found}");
    let best =
        rows.iter().filter_map(|row| row["times_worse_than_best"].as_f64()).fold(9.0, f64::min);
    assert!((best - 1.0).abs() < 1e-9, "{found}");
    let left = found["left_out"].as_array().unwrap();
    let failed = |row: &&Value| row["method"] == "fp8" && row["cell"] == "chat/loop-3";
    let failed = left.iter().find(failed).unwrap_or_else(|| panic!("{found}"));
    assert_eq!((failed["repeats_missing"].as_i64(), failed["of"].as_i64()), (Some(3), Some(3)));
    let small = json_of(&["rank", dir, "--metric", "ttft_ms_p99"]);
    assert!(small.to_string().contains("n too small for ttft_ms_p99: 18 of 368"), "{small}");
    let bad = kvbench(&["rank", dir, "--metric", "ttft"]);
    assert_eq!(bad.status.code(), Some(2));
    assert!(text(&bad.stderr).contains("ttft_due_ms_p99"), "{}", text(&bad.stderr));
    let none = kvbench(&["rank", dir, "--filter", "nothing"]);
    assert_eq!(none.status.code(), Some(2), "{}", text(&none.stdout));
}

fn fronts_are_found(dir: &str, work: &Path) {
    let plots = work.join("fronts");
    let asked = ["pareto", dir, "--slo", "e2e_ms_p50<=100000", "--plots", plots.to_str().unwrap()];
    let found = json_of(&asked);
    let points = found["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["quality"].is_null()), "{found}");
    assert!(points[0]["quality_from"].as_str().unwrap().contains("kvbench score"), "{found}");
    let said = found["best"][0]["said"].as_str().unwrap();
    assert!(said.contains("the best method at e2e_ms_p50 <= 100000 is"), "{said}");
    assert!((0.0..=100.0).contains(&found["best"][0]["certainty"].as_f64().unwrap()), "{found}");
    let plain = kvbench(&asked[..4]);
    assert!(text(&plain.stdout).contains("the best method at"), "{}", text(&plain.stdout));
}

fn repeats_are_planned(dir: &str, scenario: &str) {
    let needs = json_of(&["plan", scenario, "--pilot", dir, "--ci", "5%"]);
    let needs = needs.as_array().unwrap();
    let rates = needs
        .iter()
        .filter(|need| need["metric"] == "output_tokens_per_s" && need["load"] == "loop-2");
    assert_eq!(rates.clone().count(), 2, "{needs:?}");
    for need in rates {
        assert_eq!(need["pilot_repeats"], 3);
        assert!(need["repeats"].as_i64().is_none_or(|repeats| repeats >= 2), "{need}");
    }
    let said = text(&kvbench(&["plan", scenario, "--pilot", dir]).stderr);
    assert!(said.contains("repeats"), "{said}");
    let wrong = kvbench(&["plan", scenario, "--pilot", dir, "--ci", "5"]);
    assert_eq!(wrong.status.code(), Some(2));
}

fn everything_is_exported(run: &Path, work: &Path) {
    let (csv, parquet) = (work.join("csv"), work.join("parquet"));
    let dir = run.to_str().unwrap();
    let paths = ["--csv", csv.to_str().unwrap(), "--parquet", parquet.to_str().unwrap()];
    let output = kvbench(&[&["export", dir], paths.as_slice()].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows: Vec<RequestRow> = read_rows(run).unwrap();
    assert_eq!(read_rows::<RequestRow>(&parquet).unwrap(), rows);
    for name in
        ["requests", "kernels", "telemetry", "engine_metrics", "summary", "judged_served_requests"]
    {
        assert!(csv.join(format!("{name}.csv")).is_file(), "{name}.csv");
        assert!(parquet.join(format!("{name}.parquet")).is_file(), "{name}.parquet");
    }
    let mut reader = csv::Reader::from_path(csv.join("requests.csv")).unwrap();
    let at = reader.headers().unwrap().iter().position(|name| name == "chunk_ns").unwrap();
    let lists = reader.records().map(|record| serde_json::from_str(&record.unwrap()[at]).unwrap());
    let lists: Vec<Vec<i64>> = lists.collect();
    assert_eq!(lists, rows.iter().map(|row| row.chunk_ns.clone()).collect::<Vec<_>>());
    assert!(lists.iter().any(|list| list.len() > 1));
    let left: Vec<_> =
        fs::read_dir(&csv).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
    let over = kvbench(&["export", dir, "--parquet", dir]);
    assert_eq!(over.status.code(), Some(2));
    assert!(text(&over.stderr).contains("expected another folder"), "{}", text(&over.stderr));
}
