//! `[workload.x.forced]` from the outside: a run that continues the answers of another run.

use std::{path::Path, process::Command};

use kvbench::record::{
    Manifest, RequestRow,
    parquet::{read_rows, write_rows},
};
use serde_json::Value;

use super::serve::{Server, fp16_and_fp8, measured, run_scenario};

fn scenario(url: &str, workload: &str) -> String {
    let methods = fp16_and_fp8(url);
    format!(
        r#"
name = "stops"
baseline = "fp16"
{methods}
{workload}
[load.loop.closed]
concurrency = [3]
"#
    )
}

/// A run whose answers of fp16 are as they would be of a model that stops, but for two that ran on to `max_tokens`.
fn answered(url: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/story-openings-200.json");
    let workload = format!(
        "[workload.openings.dataset]\npath = \"{data}\"\nformat = \"sharegpt\"\nn_requests = 14\nmax_tokens = 3\n"
    );
    let (work, output, folder) = run_scenario(&scenario(url, &workload), &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows = read_rows::<RequestRow>(&folder).unwrap();
    for row in rows.iter_mut().filter(|row| row.method == "fp16" && row.request_id > 1) {
        row.finish_reason = Some("stop".to_owned());
        row.output_text = format!(" there was a town called {} by the sea.", row.request_id);
    }
    write_rows(&folder, &rows).unwrap();
    (work, folder)
}

fn lengths(folder: &Path, more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["lengths", folder.to_str().unwrap(), "--format", "json"])
        .args(more)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn forced(run: &Path, keys: &str) -> String {
    format!("[workload.stops.forced]\nrun = \"{}\"\npositions = 4\n{keys}\n", run.display())
}

#[test]
fn answers_of_another_run_are_continued_and_stopping_is_compared() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let (_first, answered) = answered(&url);
    let text = scenario(&url, &forced(&answered, "stop_token = \"</s>\""));
    let (_work, output, folder) = run_scenario(&text, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() <= Some(1), "{said}");
    let notices = Manifest::read(&folder).unwrap().notices.join("\n");
    let wanted =
        "12 answers of fp16 are continued at 4 places each; left out: 2 not ended by themselves";
    assert!(notices.contains(wanted), "{notices}");
    assert!(!said.contains("answers need"), "one token is no text to judge: {said}");
    let rows = measured(&folder);
    // Twelve answers, four places, two methods.
    assert_eq!(rows.len(), 96, "{said}");
    for row in &rows {
        assert_eq!((&row.err, row.max_tokens, row.logprob_floor), (&None, 1, Some(-9.0)));
        // Openings are short, and ln p says how long the text was.
        let known = row.stop_logprob.unwrap();
        assert!((-1.5..-1.0).contains(&known), "{row:?}");
    }
    let of = |method: &str| {
        let mut of: Vec<_> = rows.iter().filter(|row| row.method == method).collect();
        of.sort_by_key(|row| row.request_id);
        of.iter().map(|row| (row.request_id, row.prompt_sha256.clone())).collect::<Vec<_>>()
    };
    assert_eq!(of("fp16"), of("fp8"), "every method is given the same texts");
    let end = rows.iter().find(|row| row.forced_at == Some(1.0)).unwrap();
    let begun = rows.iter().find(|row| {
        (row.method.as_str(), &row.sample_id) == (&end.method, &end.sample_id)
            && row.forced_at == Some(0.25)
    });
    assert!(begun.unwrap().stop_logprob > end.stop_logprob, "less text was given");

    let json = lengths(&folder, &[]);
    assert_eq!(json["stopping"][0]["willing_at_end"], "not shown", "{json}");
    assert_eq!(
        (&json["lengths"], &json["stopping"][0]["exact"]),
        (&Value::from(Vec::<Value>::new()), &48.into())
    );

    let mut rows = read_rows::<RequestRow>(&folder).unwrap();
    for row in rows.iter_mut().filter(|row| row.method == "fp8") {
        row.stop_logprob = row.stop_logprob.map(|known| known - 0.5);
    }
    rows.iter_mut().find(|row| row.method == "fp8" && !row.warmup).unwrap().err =
        Some("reset".to_owned());
    write_rows(&folder, &rows).unwrap();
    let plots = folder.join("drawn");
    let json = lengths(&folder, &["--plots", plots.to_str().unwrap()]);
    let less = &json["stopping"][0];
    assert_eq!((&less["willing_at_end"], &less["failed"]), (&"less".into(), &1.into()));
    let factor = less["stop_at_end"].as_f64().unwrap();
    assert!((factor - (-0.5_f64).exp()).abs() < 1e-9, "{less}");
    let finding = json["finding"].to_string();
    assert!(finding.contains("vLLM within a chunk") && finding.contains("0.607x"), "{finding}");
    assert!(plots.join("stop-probability.svg").is_file());
}

#[test]
fn what_cannot_be_continued_is_one_sentence_and_an_unnamed_stop_token_an_error_row() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let (_first, answered) = answered(&url);
    // The server names tokens by texts.
    let (_work, _, folder) =
        run_scenario(&scenario(&url, &forced(&answered, "stop_token_id = 3\nn_prompts = 2")), &[]);
    let rows = measured(&folder);
    assert_eq!(rows.len(), 16);
    let named =
        |row: &RequestRow| row.err.as_deref().unwrap_or("").contains("expected `stop_token`");
    assert!(rows.iter().all(named), "{:?}", rows[0].err);
    // fp8's answers all ran on.
    for (keys, wanted) in [
        ("stop_token = \"</s>\"\nmethod = \"fp8\"", "that ended by themselves, got none"),
        ("stop_token = \"</s>\"\nn_prompts = 50", "at least `n_prompts` = 50 answers"),
        ("stop_token = \"</s>\"\nworkload = \"other\"", "got `other`"),
    ] {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("scenario.toml");
        std::fs::write(&file, scenario(&url, &forced(&answered, keys))).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
            .args(["run", file.to_str().unwrap(), "--out", work.path().join("r").to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() > Some(0) && said.contains(wanted), "{said}");
    }
}

#[test]
fn a_run_that_is_not_there_or_not_finished_is_said_to_be_so() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let (_first, answered) = answered(&url);
    let fails = |run: &Path, wanted: &str| {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("scenario.toml");
        let text = scenario(&url, &forced(run, "stop_token = \"</s>\""));
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
            .args(["run", file.to_str().unwrap(), "--out", work.path().join("r").to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() > Some(0) && said.contains(wanted), "{said}");
    };
    let nowhere = answered.join("nope");
    let wanted = "nope: expected the folder of a finished run as `run` of [workload.stops.forced]";
    fails(&nowhere, wanted);
    let manifest = answered.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let running = text.replace("\"status\": \"complete\"", "\"status\": \"running\"");
    assert_ne!(running, text);
    std::fs::write(&manifest, running).unwrap();
    fails(&answered, "expected a finished run, got one whose manifest calls it running");
}
