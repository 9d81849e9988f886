//! Tasks made, answered and scored through the command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

fn kvbench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kvbench")).args(args).output().unwrap()
}

fn good(args: &[&str]) -> String {
    let output = kvbench(args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Scores these rows; what is printed, and the rows with their scores.
fn scored(dir: &Path, rows_in: &[Value], flags: &[&str]) -> (Value, Vec<Value>) {
    let (path, out) = (dir.join("predictions.jsonl"), dir.join("scores.jsonl"));
    fs::write(&path, rows_in.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let (path, to) = (path.display().to_string(), out.display().to_string());
    let args = ["score", "--predictions", &path, "--out", &to, "--format", "json"];
    let printed = good(&[&args[..], flags].concat());
    (serde_json::from_str(&printed).unwrap(), rows(&out))
}

#[test]
fn made_tasks_are_answered_and_scored() {
    let dir = tempfile::tempdir().unwrap();
    for task in ["ruler_niah_single", "ruler_vt", "ruler_cwe", "arithmetic"] {
        let file: PathBuf = dir.path().join(format!("{task}.jsonl"));
        let name = file.display().to_string();
        let args = ["data", "make", "longbench", "--task", task, "--words", "400", "--rows", "3"];
        good(&[&args[..], &["--out", &name]].concat());
        let manifest = fs::read_to_string(file.with_extension("toml")).unwrap();
        let command =
            format!("kvbench data make longbench --task {task} --words 400 --rows 3 --seed 0");
        assert!(manifest.contains(&command), "{manifest}");
        assert!(manifest.contains("neither's data"), "{manifest}");
        let answered: Vec<Value> = rows(&file)
            .into_iter()
            .map(|mut row| {
                row["prediction"] = row["answers"].to_string().into();
                row
            })
            .collect();
        let (_, scores) = scored(dir.path(), &answered, &[]);
        assert!(scores.iter().all(|row| row["score"] == json!(1.0)), "{scores:?}");
    }
    let refused = kvbench(&[
        "data", "make", "sharegpt", "--task", "ruler_vt", "--rows", "1", "--out", "x.json",
    ]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("expected the format `longbench`"));
}

#[test]
fn the_scorer_of_a_row_says_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let code =
        [json!({"dataset": "lcc_e", "prediction": "tide", "answers": ["diet"], "length": 4500})];
    for (flags, score, named) in
        [(&[][..], 0.25, "difflib"), (&["--fuzz", "levenshtein"][..], 0.5, "python-Levenshtein")]
    {
        let (printed, scores) = scored(dir.path(), &code, flags);
        assert_eq!(scores[0]["score"], json!(score));
        assert!(scores[0]["scorer"].as_str().unwrap().ends_with(&format!(", {named})")));
        let bucket = printed.to_string();
        assert!(bucket.contains("4-8k"), "{bucket}");
    }
    let long: String = (0..1000).map(|i| format!("w{i} ")).collect();
    let summary = [json!({"dataset": "gov_report", "prediction": long, "answers": [long]})];
    let (_, scores) = scored(dir.path(), &summary, &["--rouge-recursion-error"]);
    assert_eq!(scores[0]["score"], json!(0.0));
    assert!(scores[0]["scorer"].as_str().unwrap().contains("with RecursionError"));
    let (_, scores) = scored(dir.path(), &summary, &[]);
    assert!(scores[0]["score"].as_f64().unwrap() > 0.99);
}
