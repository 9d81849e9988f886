//! `kvbench compare` and `kvbench baseline` as CI calls them.

use std::{fs, path::Path, path::PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;

/// Kernels that take microseconds: what is tested is who is blamed, and a factor of ten is no matter of luck.
const SCENARIO: &str = r#"
name = "tiny"
seed = 1
repeats = 3
baseline = "fp16"

[timing]
warmup = 1
min_samples = 7
max_samples = 7
target_rel_ci = 0.05
max_seconds = 3.0
rotate_llc = 0.0

[target.cpu.kernel]
model = "llama-2-7b"
device = "cpu"

[method.fp16.fp16]

[method.int8.int8]

[workload.step.shapes]
ops = ["decode"]
batch = [1]
kv_len = [128]
"#;

fn kvbench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvbench"));
    command.env_remove("KVBENCH_TEST_SLOWDOWN").env("NO_COLOR", "1");
    command
}

/// Runs the scenario; returns its folder.
fn run(results: &Path, slowdown: Option<&str>) -> PathBuf {
    let scenario = results.join("tiny.toml");
    fs::write(&scenario, SCENARIO).unwrap();
    let out = results.join(if slowdown.is_some() { "slow" } else { "runs" });
    let mut command = kvbench();
    command.arg("run").arg(&scenario).arg("--out").arg(&out);
    if let Some(factor) = slowdown {
        command.env("KVBENCH_TEST_SLOWDOWN", factor);
    }
    // A run that was slowed down is INVALID, and says so with its exit code.
    command.assert().code(i32::from(slowdown.is_some()));
    fs::read_dir(out).unwrap().next().unwrap().unwrap().path()
}

/// A copy of a run whose manifest was changed.
fn changed(run: &Path, to: &Path, change: impl Fn(&mut serde_json::Value)) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(run).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && run != to {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let path = to.join("manifest.json");
    let mut manifest = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

fn stdout(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}\n{complained}");
    said
}

#[test]
fn a_slowdown_of_known_size_is_found_told_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let base = run(dir.path(), None);
    let slow = run(dir.path(), Some("10"));

    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(slow.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["test_slowdown"], 10.0);
    assert_eq!(manifest["verdict"], "INVALID");
    for report in ["report.md", "report.html"] {
        let text = fs::read_to_string(slow.join(report)).unwrap();
        assert!(text.contains("THIS RUN IS A TEST AND NO MEASUREMENT"), "{report}");
    }

    let said = stdout(kvbench().arg("compare").arg(&base).arg(&slow), 1);
    assert!(said.starts_with("REGRESSION"), "verdicts come first: {said}");
    for cell in ["tiny/cpu/fp16/", "tiny/cpu/int8/"] {
        let blamed = |line: &str| {
            line.contains("FAIL") && line.contains(cell) && line.contains("decode_vs_probe")
        };
        assert!(said.lines().any(blamed), "{cell}: {said}");
    }
    assert!(said.contains("THIS RUN IS A TEST") && said.contains("smallest change"), "{said}");
    let faster = stdout(kvbench().arg("compare").arg(&slow).arg(&base), 0);
    assert!(faster.contains("better"), "{faster}");
    machine_formats(&base, &slow);

    // Such a run cannot become what others are held to.
    kvbench()
        .args(["baseline", "set", "main"])
        .arg(&slow)
        .arg("--results")
        .arg(dir.path())
        .assert()
        .code(2)
        .stderr(predicate::str::contains("KVBENCH_TEST_SLOWDOWN"));
}

fn machine_formats(base: &Path, slow: &Path) {
    let printed = |format: &str| {
        stdout(kvbench().arg("compare").arg(base).arg(slow).args(["--format", format]), 1)
    };
    let junit = printed("junit");
    assert!(
        junit.starts_with("<?xml") && junit.contains("<failure type=\"regression\""),
        "{junit}"
    );
    let cases = junit.matches("<testcase ").count();
    assert!(junit.contains(&format!("tests=\"{cases}\"")), "{junit}");
    assert_eq!(
        junit.matches("<failure").count(),
        junit.matches("</testcase>").count() - junit.matches("<skipped").count()
    );
    let github = printed("github");
    assert!(github.lines().all(|line| line.starts_with("::")), "{github}");
    assert!(github.starts_with("::error title=worse%3A decode_vs_probe::tiny/cpu/"), "{github}");
    let json: serde_json::Value = serde_json::from_str(&printed("json")).unwrap();
    assert_eq!(json["finding"], "regression");
    let gates = json["comparisons"][0]["gates"].as_array().unwrap();
    assert_eq!(gates.len(), cases);
    assert!(
        gates.iter().all(|gate| gate["outcome"] == "FAIL" && gate["q"].as_f64().unwrap() <= 0.05)
    );
    let metrics = json["comparisons"][0]["metrics"].as_array().unwrap();
    assert!(
        metrics
            .iter()
            .any(|row| row["metric"] == "decode_ms_p50" && row["ratio"].as_f64().unwrap() > 3.0)
    );
    let markdown = printed("md");
    assert!(markdown.starts_with("### REGRESSION") && markdown.contains("| ---"), "{markdown}");
    assert!(printed("csv").starts_with("cell,metric,unit,base,new,ratio"));
}

#[test]
fn a_baseline_has_a_name_and_what_differs_forbids() {
    let dir = tempfile::tempdir().unwrap();
    let base = run(dir.path(), None);
    let results = ["--results", dir.path().to_str().unwrap()];
    kvbench().args(["baseline", "set", "main"]).arg(&base).args(results).assert().success();
    let listed = stdout(kvbench().args(["baseline", "list", "--format", "json"]).args(results), 0);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["scenario"]), (&"main".into(), &"tiny".into()));
    stdout(kvbench().args(["compare", "main"]).arg(&base).args(results), 0);
    kvbench()
        .args(["compare", "mian"])
        .arg(&base)
        .args(results)
        .assert()
        .code(2)
        .stderr(predicate::str::contains("baseline list"));

    let other = dir.path().join("other");
    changed(&base, &other, |manifest| {
        manifest["scenario"]["seed"] = 2.into();
        manifest["machine"]["cpu_model"] = "another CPU".into();
    });
    let said = stdout(kvbench().args(["compare", "main"]).arg(&other).args(results), 2);
    assert!(
        said.starts_with("CANNOT JUDGE") && said.contains("another CPU") && said.contains("seed"),
        "{said}"
    );
    let allowed = stdout(
        kvbench()
            .args(["compare", "main"])
            .arg(&other)
            .args(results)
            .args(["--allow", "machine,prompts"]),
        0,
    );
    assert!(allowed.contains("allowed: machines differ"), "{allowed}");

    // The run behind the name was replaced by another.
    changed(&base, &base, |manifest| manifest["run_id"] = "another".into());
    kvbench()
        .args(["compare", "main"])
        .arg(&other)
        .args(results)
        .assert()
        .code(2)
        .stderr(predicate::str::contains("another"));
}

#[test]
fn slips_are_named_with_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let gates = dir.path().join("gates.toml");
    for (text, place) in [
        ("[[gate]]\nmetric = \"tpot_p99\"\nworse_than = 1.05\n", "gates.toml:2: expected a metric"),
        ("[[gate]]\nmetric = \"tpot_ms_p99\"\nworse = 1.05\n", "gates.toml:3:"),
    ] {
        fs::write(&gates, text).unwrap();
        kvbench()
            .args(["compare", "nowhere", "elsewhere", "--gate"])
            .arg(&gates)
            .assert()
            .code(2)
            .stderr(predicate::str::contains(place).and(predicate::str::contains("hint")));
    }
    kvbench()
        .args(["plan", "scenarios/quickstart.toml", "--format", "junit"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .assert()
        .code(2)
        .stderr(predicate::str::contains("kvbench compare"));
    kvbench()
        .args(["run", "scenarios/quickstart.toml", "--out"])
        .arg(dir.path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("KVBENCH_TEST_SLOWDOWN", "fast")
        .assert()
        .code(2)
        .stderr(predicate::str::contains("KVBENCH_TEST_SLOWDOWN"));
}
