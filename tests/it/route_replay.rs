//! `kvbench route replay` of a folder as a live router leaves it, and `kvbench report` of what comes out.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kvbench::record::{RouteKind, RouteLog, RouteManifest, RouteRequestRow, manifest::Status};
use serde_json::Value;

/// Engines of 10 ms a step, one without compression and one with; step times are left out where `speed` is empty.
fn config(speed: &str) -> String {
    let engine = |name: &str, port: u16, method: &str| {
        let speed = speed.replace("NAME", name);
        format!(
            "[engine.{name}]\nurl = \"http://127.0.0.1:{port}\"\nmethod = \"{method}\"\nmax_num_seqs = 4\n{speed}\n"
        )
    };
    format!(
        "name = \"p\"\nbaseline = \"none\"\n{}{}[policy]\nrule = \"join_shortest_queue\"\nlength.constant = 64\n",
        engine("a", 8081, "none"),
        engine("b", 8082, "q4")
    )
}

const STEPS: &str = "[engine.NAME.speed.linear]\nstep_s = 0.01\nper_sequence_s = 0.0\nper_kv_token_s = 0.0\nper_prompt_s = 0.0\nper_prompt_token_s = 0.0\nper_pair_s = 0.0";

/// Requests on both engines in turn, each alone for 10 ms a token; the last was broken off.
fn rows() -> Vec<RouteRequestRow> {
    let row = |id: i64| {
        let (arrived_ns, tokens) = (id * 300_000_000, 5 + id % 20);
        let engine = if id % 2 == 0 { ("a", "none") } else { ("b", "q4") };
        RouteRequestRow {
            request_id: id,
            policy: "p".to_owned(),
            reason: "rule".to_owned(),
            arrived_ns,
            first_token_ns: Some(arrived_ns + 10_000_000),
            finished_ns: Some(arrived_ns + tokens * 10_000_000),
            prompt_tokens: Some(20),
            output_tokens: Some(tokens),
            predicted_output_tokens: Some(64.0),
            task: Some("qa".to_owned()),
            engine: Some(engine.0.to_owned()),
            method: Some(engine.1.to_owned()),
            attempt: 1,
            ..RouteRequestRow::default()
        }
    };
    let mut rows: Vec<_> = (0..120).map(row).collect();
    let gone_ns = Some(rows[0].arrived_ns + 119 * 300_000_000 + 50_000_000);
    let err = Some("the client went away".to_owned());
    let last = rows.pop().map(|row| RouteRequestRow { finished_ns: None, gone_ns, err, ..row });
    rows.extend(last);
    rows
}

/// A folder of a live router.
fn recorded(dir: &Path, text: &str) -> PathBuf {
    let origin = "2026-11-24T01:30:00Z".to_owned();
    let mut manifest = RouteManifest::begun(RouteKind::Live, "p", text, 1, origin);
    let mut log = RouteLog::create(dir, "20261124T013000Z", "abcdef", &mut manifest).unwrap();
    log.requests(rows()).unwrap();
    manifest.status = Status::Complete;
    log.finish(&manifest).unwrap()
}

fn kvbench(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvbench")).current_dir(dir).args(args).output().unwrap()
}

/// Replays with `more`; the JSON.
fn replay(dir: &Path, folder: &Path, more: &[&str]) -> Value {
    let args = ["route", "replay", folder.to_str().unwrap(), "--format", "json", "--seeds", "2"];
    let output = kvbench(dir, &[&args[..], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Writes `m.json`: a file of `predict fit` with steps of 20 ms.
fn fit(dir: &Path) {
    let mut text = "model,method,bsz,prompt_len,stage,thr\n".to_owned();
    for method in ["none", "q4"] {
        for (batch, len) in [1, 2, 4].into_iter().flat_map(|b| [100, 300, 1000].map(|l| (b, l))) {
            let (sequences, tokens) = (f64::from(batch), f64::from(batch * len));
            let (decode_s, prefill_s) = (0.02 + 1e-9 * tokens, 0.02 + 1e-9 * tokens);
            text += &format!("m,{method},{batch},{len},decode,{}\n", sequences / decode_s);
            text += &format!("m,{method},{batch},{len},prefill,{}\n", tokens / prefill_s);
        }
    }
    std::fs::write(dir.join("m.csv"), text).unwrap();
    let output = kvbench(dir, &["predict", "fit", "--measured", "m.csv", "--out", "m.json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Of all engines together under a source of step times.
fn all_together<'a>(whole: &'a Value, source: &str) -> &'a Value {
    let rows = whole["reproduced"].as_array().unwrap();
    rows.iter().find(|row| row["engine"] == "all" && row["step_times"] == source).unwrap()
}

#[test]
fn step_times_of_a_file_stand_beside_those_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let folder = recorded(dir.path(), &config(STEPS));
    fit(dir.path());
    let whole = replay(dir.path(), &folder, &["--against", "m.json"]);
    let own = all_together(&whole, "the configuration");
    assert!(own["e2e_off_median_%"].as_f64().or(own["e2e_off_median"].as_f64()).unwrap() < 0.1);
    let simulated = |row: &Value| row["e2e_simulated_s"].as_f64().or(row["e2e_simulated"].as_f64());
    let ratio = simulated(all_together(&whole, "m.json")).unwrap() / simulated(own).unwrap();
    assert!((ratio - 2.0).abs() < 0.02, "{ratio}");
    let e2e =
        |of: &Value, policy: &str| of["policies"][policy]["e2e_mean_s"]["value"].as_f64().unwrap();
    let ratio = e2e(&whole["against"], "p") / e2e(&whole, "p");
    assert!(ratio > 1.9, "{ratio}");
    assert!(whole["agreement"].as_str().unwrap().contains("least mean E2E"));
    // The one that was broken off is in no mean, under any policy.
    assert_eq!(whole["policies"]["p"]["n_failed"], 2, "once a seed");
    assert_eq!(whole["left_out"]["failed: the client went away"], 1);
    assert!(whole["policies"]["p"]["harmed_pct"].is_null(), "nobody knows what breaks");
    // For people: one table of both, the first report, and the policies side by side.
    let args = ["route", "replay", folder.to_str().unwrap(), "--against", "m.json", "--seeds", "2"];
    let text = kvbench(dir.path(), &args);
    let (said, printed) =
        (String::from_utf8_lossy(&text.stderr), String::from_utf8_lossy(&text.stdout));
    assert!(printed.contains("against them those of m.json"), "{printed}");
    assert!(said.contains("lengths: policies expect"), "{said}");
    assert!(said.contains("replayed-against"), "both reports are named: {said}");
}

#[test]
fn a_configuration_without_step_times_takes_those_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = recorded(dir.path(), &config(""));
    let output = kvbench(dir.path(), &["route", "replay", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("expected step times of engine `a`") && said.contains("--against"),
        "{said}"
    );
    fit(dir.path());
    let whole = replay(dir.path(), &folder, &["--against", "m.json"]);
    assert_eq!(whole["step_times"], "m.json");
    assert!(whole.get("against").is_none());
}

#[test]
fn a_guard_can_be_tried_on_what_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let folder = recorded(dir.path(), &config(STEPS));
    let cell = |bin: usize| {
        format!(
            r#"{{"task": "qa", "bin": {bin}, "method": "q4", "own": {{"n": 100, "negatives": 50}}, "null": {{"n": 100, "negatives": 5}}}}"#
        )
    };
    let risks = format!(
        r#"{{"schema": "kvbench-risks/1", "source": "a test", "edges": [1024], "cells": [{}, {}]}}"#,
        cell(0),
        cell(1)
    );
    std::fs::write(dir.path().join("r.json"), risks).unwrap();
    let asked = ["--risks", "r.json", "--epsilon", "0.1"];
    let whole = replay(dir.path(), &folder, &asked);
    let harmed = |policy: &str| whole["policies"][policy]["harmed_pct"]["value"].as_f64().unwrap();
    assert!(harmed("marginal_cost") > 5.0, "{}", harmed("marginal_cost"));
    assert!(harmed("marginal_cost_guarded").abs() < 1e-12);
    let args = ["route", "replay", folder.to_str().unwrap(), "--epsilon", "0.1"];
    let output = kvbench(dir.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--risks"));
}

#[test]
fn report_knows_the_folders_of_a_router() {
    let dir = tempfile::tempdir().unwrap();
    let live = recorded(dir.path(), &config(STEPS));
    let whole = replay(dir.path(), &live, &[]);
    let folder = dir.path().join("results").join(whole["run"].as_str().unwrap());
    let folder = folder.to_str().unwrap();
    let of = |args: &[&str]| kvbench(dir.path(), args);
    let [one, other] = [of(&["report", folder]), of(&["route", "report", folder])];
    assert!(one.status.success() && !one.stdout.is_empty() && one.stdout == other.stdout);
    let strict = of(&["report", folder, "--strict"]);
    assert_eq!(strict.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&strict.stderr).contains("expected no --strict"));
    let live = of(&["report", live.to_str().unwrap()]);
    assert_eq!(live.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&live.stderr).contains("kvbench route replay"));
}
