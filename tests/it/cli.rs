//! What a user sees who types a command: exit codes, one clear sentence, no colour where none is wanted.

use assert_cmd::Command;
use predicates::prelude::*;

fn kvbench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("KVBENCH_API_KEY");
    command
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn help_has_examples_and_exit_codes() {
    kvbench().arg("--help").assert().success().stdout(
        predicate::str::contains("kvbench run scenarios/quickstart.toml")
            .and(predicate::str::contains("Exit codes")),
    );
}

#[test]
fn every_command_has_help() {
    for command in [
        "run",
        "plan",
        "report",
        "definitions",
        "import",
        "score",
        "negatives",
        "adaptive",
        "kernels",
        "data",
        "doctor",
        "schema",
        "completions",
    ] {
        kvbench()
            .args([command, "--help"])
            .assert()
            .success()
            .stdout(predicate::str::contains("Usage"));
    }
}

#[test]
fn a_usage_error_exits_with_2() {
    kvbench().arg("run").assert().code(2);
    kvbench().args(["run", "a.toml", "--resume", "b"]).assert().code(2);
    kvbench().args(["plan", "a.toml", "--format", "yaml"]).assert().code(2);
    kvbench().args(["run", "scenarios/quickstart.toml", "--filter", "("]).assert().code(2);
}

#[test]
fn a_bad_scenario_names_its_place_and_writes_nothing() {
    let scenario = file("name = \"x\"\nservic = 1\n");
    let out = tempfile::tempdir().unwrap();
    kvbench()
        .args(["run", scenario.path().to_str().unwrap(), "--out", out.path().to_str().unwrap()])
        .assert()
        .code(2)
        .stderr(predicate::str::contains(":2:1").and(predicate::str::contains("servic")));
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_file_is_named() {
    kvbench()
        .args(["run", "nowhere.toml"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("nowhere.toml"));
    kvbench()
        .args(["report", "nowhere"])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("nowhere"));
}

#[test]
fn a_filter_that_matches_nothing_is_an_error() {
    let out = tempfile::tempdir().unwrap();
    kvbench()
        .args([
            "run",
            "scenarios/quickstart.toml",
            "--filter",
            "no-such-cell",
            "--out",
            out.path().to_str().unwrap(),
        ])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("no-such-cell"));
}

#[test]
fn every_scenario_plans() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).unwrap() {
        let path = entry.unwrap().path();
        // The catalogue of engines and the configuration of a proxy are no scenarios.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_other = name == "engines.toml" || name.starts_with("route-live");
        if name.ends_with(".toml") && !is_other {
            let output = kvbench()
                .args(["plan", path.to_str().unwrap(), "--format", "json"])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
            let cells: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
            assert!(!cells.is_empty(), "{}", path.display());
        }
    }
}

#[test]
fn plain_output_has_no_escape_sequences() {
    let output = kvbench()
        .env("NO_COLOR", "1")
        .args(["plan", "scenarios/quickstart.toml"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
}

#[test]
fn completions_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        kvbench()
            .args(["completions", shell])
            .assert()
            .success()
            .stdout(predicate::str::contains("kvbench"));
    }
}

#[test]
fn schema_is_json() {
    let output = kvbench().arg("schema").output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["$schema"].is_string());
}

#[test]
fn a_gpu_that_is_not_there_is_a_row_and_not_a_crash() {
    let scenario = file(
        "name = \"gpu\"\nbaseline = \"fp16\"\n[target.gpu.kernel]\nmodel = \"llama-3-8b\"\ndevice = \"cuda\"\n[method.fp16.fp16]\n[workload.one.shapes]\nops = [\"decode\"]\nbatch = [1]\nkv_len = [128]\n",
    );
    let out = tempfile::tempdir().unwrap();
    kvbench()
        .args(["run", scenario.path().to_str().unwrap(), "--out", out.path().to_str().unwrap()])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("failed"));
    let run = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().path();
    assert!(run.join("kernels.parquet").exists() && run.join("report.md").exists());
}

#[test]
fn definitions_are_listed_by_id() {
    let output = kvbench().args(["definitions", "ttft", "--format", "json"]).output().unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rows.iter().any(|row| row["id"] == "ttft.first_content" && row["metric"] == "ttft"));
    assert!(rows.iter().all(|row| row["id"].as_str().unwrap().starts_with("ttft")));
    kvbench().args(["definitions", "no-such"]).assert().code(2);
}

/// Two requests of 50 ms and 10 ms a token.
const VLLM_RESULT: &str = r#"{"date": "20261126-010203", "endpoint_type": "openai", "model_id": "m", "request_rate": "inf",
    "max_concurrency": 1, "completed": 2, "request_throughput": 10.0, "mean_ttft_ms": 50.0, "median_ttft_ms": 50.0,
    "input_lens": [5, 5], "output_lens": [3, 3], "ttfts": [0.05, 0.05], "itls": [[0.01, 0.01], [0.01, 0.01]],
    "latencies": [0.07, 0.07], "start_times": [100.0, 100.1], "queue_times": [0.0, 0.0], "generated_texts": ["a", "b"],
    "errors": ["", ""]}"#;

#[test]
fn an_imported_result_is_a_run_that_can_be_reported_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let result = dir.path().join("result.json");
    std::fs::write(&result, VLLM_RESULT).unwrap();
    let (result, out) = (result.to_str().unwrap(), dir.path().join("out"));
    kvbench()
        .args(["import", result, "--format", "csv", "--out", out.to_str().unwrap()])
        .assert()
        .success()
        .stdout(predicate::str::contains(
            "import/vllm-bench-serve/recomputed/m/closed-1/0,ttft,ttft.first_choices,ms,2,50.0",
        ))
        .stderr(predicate::str::contains("note: no seed"));
    let run = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    assert!(run.join("summary.parquet").exists());
    let run = run.to_str().unwrap();
    kvbench().args(["report", run, "--only", "table"]).assert().success();
    kvbench().args(["report", run, "--only", "table", "--strict"]).assert().code(1);
    kvbench()
        .args(["import", result, "--against", run, "--format", "csv"])
        .assert()
        .success()
        .stdout(predicate::str::contains("role message"));
    let other = dir.path().join("other.json");
    std::fs::write(&other, "{}").unwrap();
    kvbench()
        .args(["import", other.to_str().unwrap()])
        .assert()
        .code(2)
        .stderr(predicate::str::contains("other.json").and(predicate::str::contains("hint:")));
}
