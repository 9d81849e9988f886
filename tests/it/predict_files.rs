//! `kvbench predict` on files of others, from the outside.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// `KVBENCH_SHARED/artifact`, or word that the test was skipped.
fn artifact() -> Option<PathBuf> {
    let shared = std::env::var_os("KVBENCH_SHARED");
    if shared.is_none() {
        println!("skipped: KVBENCH_SHARED is not set");
    }
    shared.map(|shared| Path::new(&shared).join("artifact"))
}

fn predict(args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kvbench")).arg("predict").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn eval(folder: &Path, method: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let file = |name: String| folder.join(name).to_str().unwrap().to_owned();
    let attention = file(format!("profiles/attention-{method}.csv.gz"));
    let linear = file("profiles/mlp.csv.gz".to_owned());
    let measured = file(format!("throughput/llama-7b-{method}.csv"));
    let mut args = vec!["eval", "--profile-attention", &attention, "--profile-linear", &linear];
    args.extend(["--measured", &measured, "--method", method]);
    args.extend(more);
    predict(&args)
}

#[test]
fn published_profiles_score_as_computed_elsewhere() {
    let Some(folder) = artifact() else { return };
    for (method, kv_cap, expected) in
        [("fp16", None, 95.90), ("kivi", None, 95.19), ("h2o", Some(512.0), 92.78)]
    {
        let more = ["--model", "llama-2-7b", "--predictor", "interpolate", "--format", "json"];
        let (code, out, err) = eval(&folder, method, &more);
        assert_eq!(code, Some(0), "{err}");
        let found: Value = serde_json::from_str(&out).unwrap();
        let accuracy = found["accuracy_pct"].as_f64().unwrap();
        assert!((accuracy - expected).abs() < 0.02, "{method}: {accuracy}");
        assert_eq!((found["n_points"].as_u64(), found["kv_cap"].as_f64()), (Some(36), kv_cap));
        assert_eq!(found["points"].as_array().unwrap().len(), 36);
        assert_eq!(found["decode"]["n_points"].as_u64(), Some(18));
    }
    let (code, out, err) = eval(&folder, "fp16", &["--model", "llama-2-7b"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("roofline") || out.contains("accuracy_pct"), "{out}");
}

#[test]
fn what_a_profile_is_held_against_must_be_one_model() {
    let Some(folder) = artifact() else { return };
    let (code, _, err) = eval(&folder, "kivi", &["--model", "llama-2-70b"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("meta-llama-Llama-2-7b-hf, meta-llama-Meta-Llama-3-8B"), "{err}");
    let (code, _, err) = eval(&folder, "kivi", &["--model", "llama", "--layers", "32"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("expected one model called `llama`") && err.contains("hint:"), "{err}");
    let (code, _, err) = eval(&folder, "fp16", &["--model", "b", "--predictor", "null"]);
    assert_eq!((code, err.contains("--predictor null")), (Some(2), true), "{err}");
}

/// A profile says nothing of its method, so what it was held against is said, and a file of another method refused.
#[test]
fn a_profile_is_not_held_against_another_method() {
    let Some(folder) = artifact() else { return };
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (attention, linear) = (file("profiles/attention-kivi.csv.gz"), file("profiles/mlp.csv.gz"));
    let measured = file("throughput/llama-7b-h2o.csv");
    let of = |method: &str| {
        let args = ["eval", "--profile-attention", &attention, "--profile-linear", &linear];
        let more = ["--measured", &measured, "--model", "llama-2-7b", "--format", "json"];
        predict(&[&args[..], &more, &["--method", method]].concat())
    };
    let (code, _, err) = of("kivi");
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("expected rows of method `kivi`, got those of `H2O-16` only"), "{err}");
    let (code, out, err) = of("zzz");
    assert_eq!(code, Some(0), "{err}");
    let notes = serde_json::from_str::<Value>(&out).unwrap()["notes"].clone();
    assert!(notes[0].as_str().unwrap().contains("taken as that of `zzz`"), "{notes}");
    assert!(notes[1].as_str().unwrap().contains("is not known") && err.contains("note: "));
}

#[test]
fn a_method_copied_from_another_is_flagged_and_no_pair_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, method: &str, factor: f64, shift: u32| {
        let mut text = "model,method,bsz,prompt_len,stage,thr\n".to_owned();
        for step in 1..=20_u32 {
            let thr = factor * (1234.567 + 17.31 * f64::from(step * step));
            text += &format!("llama,{method},{},256,decode,{thr}\n", step + shift);
        }
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let own = write("own.csv", "None-16", 1.0, 0);
    let (code, _, err) = predict(&["audit", &own, &write("copy.csv", "KIVI-4", 1.3, 0)]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("times 1.300000") && err.contains("method did not count"), "{err}");
    let (code, _, err) = predict(&["audit", &own, &write("far.csv", "KIVI-4", 1.3, 100)]);
    assert_eq!(code, Some(0), "{err}");
    assert!(!err.contains("nothing flagged") && err.contains("is not known"), "{err}");
}

#[test]
fn published_profiles_are_no_measurements_of_their_own() {
    let Some(folder) = artifact() else { return };
    let file = |name: &str| {
        folder.join(format!("profiles/attention-{name}.csv.gz")).to_str().unwrap().to_owned()
    };
    let (fp16, kivi, h2o) = (file("fp16"), file("kivi"), file("h2o"));
    let (code, out, err) = predict(&["audit", &fp16, &kivi, &h2o, "--format", "json"]);
    assert_eq!(code, Some(1), "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    let factor = |b: &str, phase: &str| {
        let is = |one: &&Value| {
            one["kind"] == "constant-multiple"
                && one["files"][0] == fp16.as_str()
                && one["files"][1] == b
                && one["phase"] == phase
        };
        let one = found["findings"].as_array().unwrap().iter().find(is);
        one.unwrap_or_else(|| panic!("{b} {phase}: {out}"))["factor"].as_f64().unwrap()
    };
    for (b, phase, expected) in [
        (&kivi, "decode", 0.577),
        (&kivi, "prefill", 1.1777),
        (&h2o, "decode", 1.1),
        (&h2o, "prefill", 1.523),
    ] {
        assert!((factor(b, phase) - expected).abs() < 1e-6, "{b} {phase}");
    }
    let (code, out, err) = predict(&["audit", &fp16]);
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("words.csv");
    std::fs::write(&path, "a,b\n1,2\n").unwrap();
    let path = path.to_str().unwrap();
    let (code, _, err) = predict(&["audit", path]);
    assert_eq!(code, Some(2));
    assert!(err.contains("words.csv: expected a column of measurements"), "{err}");
    let (code, _, err) = predict(&["audit", "/nowhere.csv"]);
    assert_eq!((code, err.contains("/nowhere.csv: cannot be opened")), (Some(2), true), "{err}");
    let (code, _, _) = predict(&["eval", "--profile-attention", path]);
    assert_eq!(code, Some(2));
    let args = ["eval", "--profile-attention", path, "--profile-linear", path, "--measured", path];
    let (code, _, err) = predict(&[&args[..], &["--model", "llama-2-7b"]].concat());
    assert_eq!(code, Some(2));
    assert!(err.contains("words.csv: expected a column `batch_size`"), "{err}");
    let (code, _, err) = predict(&["audit", path, "--bandwidth-gbs", "0"]);
    assert_eq!((code, err.contains("--bandwidth-gbs: expected GB/s above 0")), (Some(2), true));
}
