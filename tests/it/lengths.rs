//! `kvbench lengths` from the outside.

use std::{path::Path, process::Command};

use kvbench::record::{
    RequestRow,
    parquet::{read_rows, write_rows},
};
use serde_json::Value;

use super::serve::{Server, fp16_and_fp8, run_scenario};

fn lengths(folder: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench"))
        .args(["lengths", folder.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn scenario(url: &str) -> String {
    let methods = fp16_and_fp8(url);
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/datasets/story-openings-200.json");
    format!(
        r#"
name = "lengths"
baseline = "fp16"
repeats = 2
{methods}
[workload.openings.dataset]
path = "{data}"
format = "sharegpt"
n_requests = 12
max_tokens = 4
[load.loop.closed]
concurrency = [3]
"#
    )
}

#[test]
fn lengths_of_a_run_are_compared_and_drawn() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let (_work, output, folder) = run_scenario(&scenario(&url), &[]);
    assert!(output.status.code() <= Some(1), "{}", String::from_utf8_lossy(&output.stderr));

    let (code, out, err) = lengths(&folder, &["--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let of = |json: &Value, method: &str| {
        let rows = json["lengths"].as_array().unwrap();
        rows.iter().find(|row| row["method"] == method).cloned().unwrap()
    };
    let same = of(&json, "fp8");
    assert_eq!(
        (&same["length_ratio"], &same["longer_than_chance"]),
        (&1.0.into(), &"not shown".into())
    );
    // Each repeat draws prompts of its own; some may be drawn twice.
    assert!((20..=24).contains(&same["prompts"].as_i64().unwrap()), "{same}");

    let mut rows = read_rows::<RequestRow>(&folder).unwrap();
    for row in rows.iter_mut().filter(|row| row.method == "fp8") {
        row.output_tokens = Some(8);
        row.max_tokens = 8;
        row.output_text.push_str(" and more");
    }
    rows.iter_mut().find(|row| row.method == "fp8" && !row.warmup).unwrap().err =
        Some("reset".to_owned());
    write_rows(&folder, &rows).unwrap();
    let plots = folder.join("drawn");
    let (code, out, err) =
        lengths(&folder, &["--format", "json", "--plots", plots.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let longer = of(&json, "fp8");
    assert_eq!(longer["longer_than_chance"], "longer");
    assert!((longer["length_ratio"].as_f64().unwrap() - 2.0).abs() < 1e-12);
    assert!((longer["at_least_1.5x"].as_f64().unwrap() - 100.0).abs() < 1e-9);
    let ending = &json["endings"][0];
    assert_eq!((&ending["pairs"], &ending["left_out"]), (&23.into(), &"1 failed".into()));
    let said = json["finding"][0].as_str().unwrap();
    assert!(
        said.contains("fp8 on b at openings")
            && said.contains("rounding alone does as much is not known"),
        "{said}"
    );
    assert!(
        plots.join("first-difference.svg").is_file(),
        "all ratios are 2: only where texts part can be drawn"
    );

    let (code, out, err) = lengths(&folder, &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("at_least_1.5x") && err.contains("answers are"), "{out}{err}");
}

#[test]
fn a_folder_without_pairs_is_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, err) = lengths(folder.path(), &[]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(folder.path().to_str().unwrap()), "{err}");
}
