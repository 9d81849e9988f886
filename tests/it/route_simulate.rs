//! `kvbench route simulate` from a scenario to its report.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

const SCENARIO: &str = r#"
name = "route-tiny"
seed = 4
seeds = 3
baseline = "fp16"

[engine]
max_num_seqs = 8
mixing = "decode-first"

[method.fp16.speed.linear]
step_s = 0.02
per_kv_token_s = 1e-6
per_prompt_token_s = 1e-4
source = "made up"

[method.stream]
kv_budget = 64
length = { mean_log = 0.0, sigma_log = 0.3, source = "made up" }
excess = { other = 0.5, source = "made up" }

[method.stream.speed.linear]
step_s = 0.02
per_kv_token_s = 1e-6
per_prompt_token_s = 1e-4
source = "made up as well"

[pool.mixed]
engines = { fp16 = 1, stream = 1 }

[pool.own]
engines = { stream = 2 }

[trace.t.synthetic]
n_requests = 120
prompt_tokens = { uniform = { min = 10, max = 400 } }
output_tokens = { lognormal = { median = 40, sigma = 0.8, max = 200 } }

[load.rho.utilisation]
rho = [0.4, 0.9]

[skill.noisy]
length_sigma_log = 0.5
knows_shift = true
guard_answers = 200

[policy.marginal]
rule = "marginal_cost"
length = "predicted"

[policy.marginal-guarded]
rule = "marginal_cost"
length = "predicted"
guard = { epsilon = 0.05 }

[report]
load = "rho-0.9"
"#;

fn kvbench(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvbench")).current_dir(dir).args(args).output().unwrap()
}

/// Writes the scenario into `dir` and simulates it; the JSON and the run's folder.
fn simulate(dir: &Path, results: &str, more: &[&str]) -> (Value, PathBuf) {
    std::fs::write(dir.join("s.toml"), SCENARIO).unwrap();
    let args = ["route", "simulate", "s.toml", "--format", "json", "--results", results];
    let output = kvbench(dir, &[&args[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let folder = dir.join(results).join(json["run"].as_str().unwrap());
    (json, folder)
}

#[test]
fn policies_are_compared_with_their_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let (json, folder) = simulate(dir.path(), "results", &[]);
    assert_eq!(json["headline"]["load"], "rho-0.9");
    let marginal = &json["policies"]["marginal"];
    for key in [
        "e2e_mean_s",
        "speedup_vs_round_robin",
        "speedup_vs_shortest_queue",
        "speedup_vs_all_fp16",
        "speedup_vs_own_least_memory",
        "harmed_pct",
    ] {
        let number = |end: &str| {
            marginal[key][end].as_f64().unwrap_or_else(|| panic!("{key}: {}", marginal[key]))
        };
        assert!(
            number("ci_low") <= number("value") && number("value") <= number("ci_high"),
            "{key}"
        );
    }
    assert!(marginal["e2e_p99_s"].is_null(), "120 requests hold no p99: {marginal}");
    // Round robin is its own measure.
    let own = &json["policies"]["round_robin"]["speedup_vs_round_robin"]["value"];
    assert!((own.as_f64().unwrap() - 1.0).abs() < 1e-12, "{own}");
    // Half of the prompts break under the method, so a guard that has learnt it sends none there.
    assert_eq!(json["policies"]["marginal-guarded"]["harmed_pct"]["value"], 0.0);
    assert!(marginal["harmed_pct"]["value"].as_f64().unwrap() > 0.0);
    // Two pools and the one of the baseline alone, two loads, two policies and six that always run.
    assert_eq!(json["cells"].as_array().unwrap().len(), 3 * 2 * 8);
    for file in
        ["route.json", "report.html", "report.md", "cells.csv", "plots/e2e-mean-mixed-t.png"]
    {
        assert!(folder.join(file).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(folder.join("report.html")).unwrap();
    assert!(page.contains("made up as well"), "sources are repeated");
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(folder.join("route.json")).unwrap()).unwrap();
    assert_eq!((&manifest["status"], &manifest["seed"]), (&"complete".into(), &4.into()));
}

/// Files of rows by name.
fn rows(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "parquet"))
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn the_same_seed_gives_the_same_rows_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (first, one) = simulate(dir.path(), "a", &[]);
    let (second, other) = simulate(dir.path(), "b", &[]);
    assert!(rows(&one).len() >= 3);
    assert!(rows(&one) == rows(&other), "rows differ");
    assert_eq!(first["policies"], second["policies"]);
    let again =
        kvbench(dir.path(), &["route", "report", one.to_str().unwrap(), "--format", "json"]);
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(first, again, "judging again changes nothing");
}

#[test]
fn a_filter_keeps_what_the_chosen_cells_are_compared_with() {
    let dir = tempfile::tempdir().unwrap();
    let (json, _) = simulate(dir.path(), "r", &["--filter", "mixed/t/rho-0.9/noisy/marginal/"]);
    assert_eq!(json["headline"]["pool"], "mixed");
    let marginal = &json["policies"]["marginal"];
    for key in ["speedup_vs_round_robin", "speedup_vs_all_fp16", "speedup_vs_own_least_memory"] {
        assert!(marginal[key]["value"].is_f64(), "{key}: {}", marginal[key]);
    }
    assert!(json["policies"].get("marginal-guarded").is_none());
    let none = kvbench(dir.path(), &["route", "simulate", "s.toml", "--filter", "no-such"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("ids look like `mixed/t/rho-0.4/"));
}

#[test]
fn kinds_of_scenarios_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.toml"), SCENARIO).unwrap();
    let run = kvbench(dir.path(), &["run", "s.toml"]);
    assert_eq!(run.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&run.stderr).contains("kvbench route simulate"));
    let plan = kvbench(dir.path(), &["plan", "s.toml", "--format", "json"]);
    let cells: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(cells.as_array().unwrap().len(), 2 * 2 * 2);
    assert_eq!(cells[0]["id"], "mixed/t/rho-0.4/noisy/marginal");
    let schema = kvbench(dir.path(), &["schema", "--route"]);
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["properties"]["pool"].is_object());
}
