//! `kvbench predict length` from the outside.

use std::{path::Path, process::Command};

use kvbench::record::{
    RequestRow,
    parquet::{read_rows, write_rows},
};
use serde_json::Value;

use super::serve::{Server, fp16_and_fp8, run_scenario};

fn kvbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

const N_PROMPTS: usize = 120;

/// Prompts that ask for a number of words, each in words of its own.
fn data_set(path: &Path) {
    let rows: Vec<Value> = (0..N_PROMPTS)
        .map(|at| {
            let words = [10, 50, 200, 800][at % 4];
            let body: String =
                (0..6).map(|word| format!(" w{}", at * 7919 + word * 104_729)).collect();
            let said = format!("Write {words} words about{body}.");
            serde_json::json!({ "id": format!("p{at}"), "conversations": [
                { "from": "human", "value": said }, { "from": "gpt", "value": "well" } ] })
        })
        .collect();
    std::fs::write(path, serde_json::to_string(&rows).unwrap()).unwrap();
}

fn scenario(url: &str, data: &Path) -> String {
    let methods = fp16_and_fp8(url);
    format!(
        r#"
name = "predicted"
baseline = "fp16"
repeats = 2
{methods}
[workload.asked.dataset]
path = "{}"
format = "sharegpt"
max_tokens = 600
[load.loop.closed]
concurrency = [32]
"#,
        data.display()
    )
}

/// Gives each answer the length that its prompt asks for, times a bit of noise; fp8's are a quarter longer. Every tenth answer
/// is of unknown length.
fn make_lengths(folder: &Path) {
    let mut rows = read_rows::<RequestRow>(folder).unwrap();
    for row in &mut rows {
        let at: usize = row.sample_id.trim_start_matches('p').parse().unwrap();
        let noise = 0.9 + 0.2 * ((at * 31 + row.repeat as usize * 17) % 11) as f64 / 10.0;
        let factor = if row.method == "fp8" { 1.25 } else { 1.0 };
        let tokens = ([10.0, 50.0, 200.0, 800.0][at % 4] * noise * factor).round() as i64;
        row.output_tokens = Some(tokens.min(row.max_tokens));
        row.finish_reason = Some(if tokens > row.max_tokens { "length" } else { "stop" }.into());
        if at % 10 == 3 {
            row.output_tokens = None;
        }
    }
    write_rows(folder, &rows).unwrap();
}

#[test]
fn a_run_is_fitted_judged_and_explained() {
    let server = Server::start();
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("asked.json");
    data_set(&file);
    let url = format!("http://{}", server.address);
    // The server is told to stop at once: what it answers is replaced.
    let short = scenario(&url, &file).replace("max_tokens = 600", "max_tokens = 2");
    let (_work, output, folder) = run_scenario(&short, &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rows = read_rows::<RequestRow>(&folder).unwrap();
    rows.iter_mut().for_each(|row| row.max_tokens = 600);
    write_rows(&folder, &rows).unwrap();
    make_lengths(&folder);
    let run = folder.to_str().unwrap();

    judged(run, data.path());
    fitted_and_explained(run, data.path());

    let elsewhere = data.path().join("moved.json");
    std::fs::rename(&file, &elsewhere).unwrap();
    let (code, _, err) = kvbench(&["predict", "length", "eval", run, "--tier", "t0"]);
    assert_eq!(code, Some(2));
    assert!(
        err.contains("asked.json: expected the data set of the run") && err.contains("--data"),
        "{err}"
    );
    let place = elsewhere.to_str().unwrap();
    let args = ["predict", "length", "eval", run, "--tier", "t0", "--data", place];
    let (code, out, err) = kvbench(&args);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ceiling") && !out.contains("t1_no_task"), "{out}");
}

fn judged(run: &str, work: &Path) {
    let plots = work.join("plots");
    let args = ["predict", "length", "eval", run, "--format", "json", "--resamples", "60"];
    let (code, out, err) = kvbench(&[&args[..], &["--plots", plots.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let row = |table: &str, key: &str, name: &str| {
        let rows = json[table].as_array().unwrap();
        rows.iter().find(|row| row[key] == name).cloned().unwrap_or_else(|| panic!("{json}"))
    };
    let t1 = row("predictors", "predictor", "t1");
    assert!(t1["tau_b"].as_f64().unwrap() > 0.6, "{t1}");
    assert_eq!(row("predictors", "predictor", "constant")["tau_b"], Value::Null);
    assert_eq!(json["corpus"]["prompts"], 108);
    assert_eq!(json["corpus"]["left_out"][0]["why"], "tokens not counted by the server");
    assert_eq!(json["corpus"]["left_out"][0]["n"], 48);
    let said = json["finding"].to_string();
    assert!(said.contains("T1 beats the prompt's length alone"), "{said}");
    let fp8 = row("shifts", "method", "fp8");
    assert!((fp8["shift"].as_f64().unwrap() - 1.25_f64.ln()).abs() < 0.05, "{fp8}");
    let names = ["length-predicted.svg", "length-coverage.png", "length-tau.svg"];
    assert!(names.iter().all(|name| plots.join(name).is_file()));
}

fn fitted_and_explained(run: &str, work: &Path) {
    let model = work.join("m.json");
    let model = model.to_str().unwrap();
    let (code, _, err) = kvbench(&["predict", "length", "fit", run, "--out", model]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("108 prompts"), "{err}");
    let ask = |prompt: &str, more: &[&str]| {
        let args = ["predict", "length", "explain", "--model", model, "--prompt", prompt];
        kvbench(&[&args[..], more].concat())
    };
    let (code, out, err) = ask("Write 10 words about tea.", &["--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert!(json["tokens"]["q50"].as_f64().unwrap() < 60.0, "{json}");
    let (_, long, _) = ask("Write 800 words about tea.", &["--format", "json", "--method", "fp8"]);
    let long: Value = serde_json::from_str(&long).unwrap();
    assert!(long["tokens"]["q50"].as_f64() > json["tokens"]["q50"].as_f64(), "{long}");
    assert!(long["shift"].as_f64().unwrap() > 1.1, "{long}");
    let (code, out, _) = ask("", &["--task", "asked"]);
    assert!(code == Some(0) && out.contains("T0: task asked"), "{out}");
    let (code, _, err) = ask("x", &["--max-tokens", "0"]);
    assert!(code == Some(2) && err.contains("--max-tokens"), "{err}");
    let (code, _, err) = ask("x", &["--method", "nope"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("expected one of fp16, fp8, got nope"), "{err}");
}

#[test]
fn without_the_feature_an_encoder_is_refused_with_the_remedy() {
    if cfg!(feature = "encoder") {
        println!("skipped: kvbench was built with the feature");
        return;
    }
    let (code, _, err) =
        kvbench(&["predict", "length", "eval", "no-run", "--encoder", "somewhere"]);
    assert_eq!(code, Some(2), "{err}");
    let parts =
        ["--encoder", "somewhere: expected a kvbench that can run encoders", "--features encoder"];
    assert!(parts.iter().all(|part| err.contains(part)), "{err}");
    let (code, _, err) = kvbench(&["predict", "length", "eval", "no-run", "--tier", "t2"]);
    assert!(code == Some(2) && err.contains("expected an encoder beside it"), "{err}");
}
