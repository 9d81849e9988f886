//! `kvbench negatives` from the outside.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

fn scores(dir: &Path, name: &str, values: &[f64]) -> String {
    let row = |(id, score): (usize, &f64)| {
        format!("{{\"dataset\":\"qasper\",\"id\":{id},\"score\":{score}}}\n")
    };
    let path = dir.join(name);
    fs::write(&path, values.iter().enumerate().map(row).collect::<String>()).unwrap();
    path.display().to_string()
}

fn kvbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kvbench")).arg("negatives").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn counts_have_the_documented_keys_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let base = scores(dir.path(), "fp16.jsonl", &[1.0, 1.0, 0.8, 0.0]);
    let lossy = scores(dir.path(), "kivi.jsonl", &[0.0, 1.0, 0.0, 1.0]);
    let picture = dir.path().join("negatives.svg");
    let (code, out, err) = kvbench(&[
        "--baseline",
        &base,
        "--method",
        &format!("kivi-4={lossy}"),
        "--baseline-repeat",
        &base,
        "--theta",
        "10,50",
        "--format",
        "json",
        "--plot",
        picture.to_str().unwrap(),
    ]);
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let method = &json["methods"]["kivi-4"];
    assert_eq!(method["negatives"], serde_json::json!([2, 2]));
    assert_eq!(method["mirror"], serde_json::json!([1, 1]));
    assert_eq!(method["by_task"]["qa"], serde_json::json!([2, 2]));
    assert_eq!(method["by_dataset"]["qasper"], serde_json::json!([2, 2]));
    assert_eq!(method["p_sign"].as_array().unwrap().len(), 2);
    assert_eq!(json["ensembles"]["all"]["negatives"], serde_json::json!([2, 2]));
    assert_eq!(json["noise_floor"]["baseline repeat 1"]["negatives"], serde_json::json!([0, 0]));
    assert_eq!(json["benign"]["total"], 3);
    assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));
}

/// What `score` writes, `negatives` reads.
#[test]
fn answers_are_scored_and_the_scores_compared() {
    let dir = tempfile::tempdir().unwrap();
    let score = |name: &str, prediction: &str| {
        let predictions = dir.path().join(format!("{name}-predictions.jsonl"));
        let row = format!(
            "{{\"dataset\":\"qasper\",\"id\":\"q1\",\"prediction\":\"{prediction}\",\"answers\":[\"Paris\"]}}\n"
        );
        fs::write(&predictions, row).unwrap();
        let out = dir.path().join(format!("{name}.jsonl"));
        let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
            .args(["score", "--predictions", predictions.to_str().unwrap()])
            .args(["--out", out.to_str().unwrap()])
            .output()
            .unwrap();
        (output, out)
    };
    let (output, base) = score("base", "the Paris!");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("100"));
    let (_, lossy) = score("lossy", "London");
    let lossy = format!("m={}", lossy.display());
    let (code, out, err) =
        kvbench(&["--baseline", base.to_str().unwrap(), "--method", &lossy, "--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["methods"]["m"]["negatives"][0], 1);
    let (output, kept) = score("base", "x\", \"y\": \"z");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let row: Value = serde_json::from_str(fs::read_to_string(kept).unwrap().trim()).unwrap();
    assert_eq!((row["y"].as_str(), row["id"].as_str()), (Some("z"), Some("q1")), "other keys stay");
}

#[test]
fn bad_input_is_one_sentence_with_place_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let base = scores(dir.path(), "fp16.jsonl", &[1.0, 1.0]);
    let broken = scores(dir.path(), "broken.jsonl", &[1.0, 40.0]);
    let method = format!("m={base}");
    for (args, said) in [
        (
            vec!["--baseline", &broken, "--method", &method],
            "broken.jsonl:2: expected a score from 0 to 1, got 40",
        ),
        (vec!["--baseline", "none.jsonl", "--method", &method], "none.jsonl: cannot be read"),
        (vec!["--baseline", &base, "--method", "m"], "expected NAME=FILE"),
        (
            vec!["--baseline", &base, "--method", &method, "--theta", "0"],
            "--theta: expected percentages",
        ),
        (
            vec!["--baseline", &base, "--method", &method, "--theta", "10,10"],
            "--theta: expected each percentage once, got 10 twice",
        ),
        (
            vec!["--baseline", &base, "--method", &method, "--group", "g=x"],
            "expected one of m, got `x`",
        ),
        (
            vec!["--baseline", &base, "--method", &method, "--plot", "x.pdf"],
            "ends with .svg or .png",
        ),
    ] {
        let (code, _, err) = kvbench(&args);
        assert_eq!(code, Some(2), "{args:?}: {err}");
        assert!(err.contains(said), "{args:?}: {err}");
    }
}
