//! `kvbench predict` from the outside.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use serde_json::Value;

fn kvbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kvbench")).arg("predict").args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Two models; a baseline, a method that costs half of it a cached token, and one that keeps 577 tokens. Exact, but for a ripple of
/// 1 % that no sum of costs has.
fn measured(dir: &Path) -> String {
    let mut text = "model,method,bsz,prompt_len,stage,thr\n".to_owned();
    for (model, slower) in [("org/Llama-2-7b", 1.0), ("org/Mistral-7B", 1.2)] {
        for (nth, (method, cost)) in
            [("None-16", 1e-6), ("KIVI-4", 5e-7), ("H2O-16", 1e-6)].iter().enumerate()
        {
            for bsz in [1.0, 2.0, 4.0, 8.0, 16.0] {
                for len in [256.0, 512.0, 1024.0, 2048.0, 4096.0] {
                    let ripple = 1.0 + 0.01 * (bsz * 3.0 + len / 100.0 + nth as f64).sin();
                    let kept = if nth == 2 { f64::min(len, 577.0) } else { len };
                    let decode = slower * ripple * (0.03 + 1e-4 * bsz + cost * bsz * kept);
                    let prefill =
                        slower * ripple * (0.02 + 1e-4 * bsz * len + 1e-8 * bsz * len * len / 2.0);
                    writeln!(text, "{model},{method},{bsz},{len},decoding,{}", bsz / decode)
                        .unwrap();
                    writeln!(text, "{model},{method},{bsz},{len},prefill,{}", bsz * len / prefill)
                        .unwrap();
                }
            }
        }
    }
    let path = dir.join("measured.csv");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn fitted(dir: &Path) -> String {
    let out = dir.join("model.json").display().to_string();
    let (code, table, err) = kvbench(&["fit", "--measured", &measured(dir), "--out", &out]);
    assert_eq!(code, Some(0), "{err}");
    assert!(table.contains("KIVI-4") && table.contains("sum(kv_eff)"), "{table}");
    assert!(err.contains("577 assumed (--budget)"), "{err}");
    out
}

#[test]
fn a_fitted_file_predicts_with_its_domain_and_provenance() {
    let dir = tempfile::tempdir().unwrap();
    let model = fitted(dir.path());
    let file: Value = serde_json::from_str(&fs::read_to_string(&model).unwrap()).unwrap();
    assert_eq!(file["schema"], "kvbench-throughput/2");
    assert_eq!(file["models"].as_array().unwrap().len(), 12);
    let ask = |method: &str, kv_len: &str, more: &[&str]| {
        let mut args = vec!["throughput", "--model", &model, "--method", method, "--batch", "4"];
        args.extend(["--kv-len", kv_len, "--subject", "llama", "--format", "json"]);
        args.extend(more);
        let (code, out, err) = kvbench(&args);
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let inside = ask("None-16", "1500", &[]);
    let time_s = inside["time_s"].as_f64().unwrap();
    assert!((time_s / (0.03 + 4e-4 + 6e-3) - 1.0).abs() < 0.01, "{inside}");
    assert!((inside["tokens_per_s"].as_f64().unwrap() * time_s - 4.0).abs() < 1e-9);
    assert!(
        inside["p10_s"].as_f64().unwrap() < time_s && time_s < inside["p90_s"].as_f64().unwrap()
    );
    assert_eq!((&inside["in_domain"], &inside["reason"]), (&Value::Bool(true), &Value::Null));
    assert!(inside["created_from"][0]["path"].as_str().unwrap().ends_with("measured.csv"));
    let outside = ask("KIVI-4", "8192", &[]);
    assert_eq!(outside["reason"], "kv_len 8192 is 2.0x the largest fitted, 4096");
    assert_eq!(
        (&outside["in_domain"], &outside["far"]),
        (&Value::Bool(false), &Value::Bool(false))
    );
    assert_eq!((&outside["no_interval"], outside["p10_s"].is_null()), (&Value::Null, false));
    let far = ask("KIVI-4", "20000", &[]);
    assert_eq!((&far["far"], &far["p10_s"]), (&Value::Bool(true), &Value::Null));
    assert!(far["no_interval"].as_str().unwrap().contains("nothing that was held out"), "{far}");
    // What is not kept is not read, however long the prompt.
    let sparse = ask("H2O-16", "20000", &[]);
    assert_eq!(
        (&sparse["in_domain"], &sparse["kv_eff"]),
        (&Value::Bool(true), &Value::from(577.0))
    );
    let prefill = ask("None-16", "1024", &["--prefill"]);
    assert_eq!(prefill["phase"], "prefill");
    assert!((prefill["time_s"].as_f64().unwrap() / 0.4506 - 1.0).abs() < 0.02, "{prefill}");
}

#[test]
fn what_is_unclear_or_broken_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let model = fitted(dir.path());
    let fails = |args: &[&str], part: &str| {
        let (code, out, err) = kvbench(args);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
        assert!(err.contains(part), "{err}");
    };
    let shape = ["--batch", "4", "--kv-len", "1024", "--model"];
    let ask = |file: &str, method: &str, part: &str| {
        let args = [&["throughput"], &shape[..], &[file, "--method", method]].concat();
        fails(&args, part);
    };
    ask(
        &model,
        "KIVI-4",
        "expected one model of method `KIVI-4`, got 2\n  hint: name one of these with --subject",
    );
    ask(
        &model,
        "gear",
        "expected a decode model of method `gear`, got none\n  hint: it has H2O-16 (decode, budget 577)",
    );
    let broken = dir.path().join("broken.json");
    let text = fs::read_to_string(&model).unwrap();
    fs::write(&broken, text.replace("throughput/2", "throughput/0")).unwrap();
    ask(
        broken.to_str().unwrap(),
        "KIVI-4",
        "expected schema kvbench-throughput/2 or kvbench-throughput/1, got kvbench-throughput/0",
    );
    fs::write(&broken, &text[..text.len() / 2]).unwrap();
    ask(broken.to_str().unwrap(), "KIVI-4", "broken.json: expected");
    // The source of both subjects, in any case.
    let many = ["throughput", "--model", &model, "--method", "KIVI-4", "--subject", "FILE"];
    fails(&[&many[..], &["--batch", "1", "--kv-len", "9"]].concat(), "got 2");
    let none = ["--subject", "kernel", "--batch", "1", "--kv-len", "9"];
    fails(
        &[&many[..5], &none].concat(),
        "--subject: expected a part of one of the subjects in the file, got `kernel`\n  hint: they are org/Llama-2-7b on",
    );
    let table = dir.path().join("measured.csv").display().to_string();
    let copy = dir.path().join("copy.csv").display().to_string();
    fs::copy(&table, &copy).unwrap();
    for command in [&["eval"][..], &["fit", "--out", &model]] {
        let twice = [command, &["--measured", &table, "--measured", &copy]].concat();
        fails(&twice, "copy.csv: expected measurements of its own, got the same content as");
    }
    let calibrate = ["fit", "--measured", &table, "--out", &model, "--calibrate", "gear"];
    fails(&calibrate, "the methods are H2O-16, KIVI-4");
    fails(&["eval", dir.path().to_str().unwrap()], "hint");
}

#[test]
fn an_evaluation_has_the_documented_keys_and_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let plots = dir.path().join("plots");
    let table = measured(dir.path());
    let args =
        ["eval", "--measured", &table, "--model", "llama", "--plots", plots.to_str().unwrap()];
    let (code, out, err) = kvbench(&[&args[..], &["--format", "json"]].concat());
    assert_eq!(code, Some(0), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&json["schema"], &json["predictor"]),
        (&Value::from("kvbench-predict-eval/1"), &Value::from("roofline"))
    );
    let split = |name: &str, phase: &str| {
        let all = json["splits"].as_array().unwrap();
        all.iter().find(|s| s["split"] == name && s["phase"] == phase).unwrap().clone()
    };
    let random = split("random", "decode");
    assert_eq!(random["n"], 75);
    assert!(random["mape_pct"].as_f64().unwrap() < 1.5, "{random}");
    assert!(random["predictors"]["null"]["mape_pct"].as_f64().unwrap() > 3.0, "{random}");
    assert_eq!(random["against_null"], "better");
    assert_eq!(random["noise_floor_pct"], Value::Null, "nothing was repeated");
    for name in ["batch-2x", "batch-4x", "kv-long", "both", "new-method-4"] {
        assert!(split(name, "decode")["mape_pct"].as_f64().unwrap() < 12.0, "{name}");
    }
    // KIVI-4 does not cost the baseline's curve, so a scalar cannot hold it; H2O-16 does, at what it keeps.
    assert!(split("new-method-0", "decode")["mape_pct"].as_f64().unwrap() > 5.0);
    let decode = &json["decisions"][0];
    assert_eq!((&decode["phase"], &decode["n"]), (&Value::from("decode"), &Value::from(25)));
    assert!(decode["regret_pct"].as_f64() < decode["always_baseline_regret_pct"].as_f64());
    for name in [
        "predicted-measured-decode",
        "predicted-measured-prefill",
        "error-distance",
        "interval-coverage",
    ] {
        assert!(fs::read_to_string(plots.join(format!("{name}.svg"))).unwrap().starts_with("<svg"));
    }
    let null = [&args[..5], &["--predictor", "null"]].concat();
    let (code, out, err) = kvbench(&null);
    assert_eq!(code, Some(0));
    assert!(out.contains("Errors of null"), "{out}");
    assert!(!err.contains("the 80 % interval") && !err.contains("no baseline"), "{err}");
    let (_, out, _) = kvbench(&[&null[..], &["--format", "json"]].concat());
    let json: Value = serde_json::from_str(&out).unwrap();
    for key in ["coverage_pct", "n_coverage", "n_outside_domain"] {
        assert_eq!(json["splits"][0][key], Value::Null, "{key} is the fitted model's");
    }
}

/// A baseline by another name is none; that is said, and `none` in any case is one.
#[test]
fn what_has_no_baseline_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let table = measured(dir.path());
    let text = fs::read_to_string(&table).unwrap();
    let out = dir.path().join("m.json").display().to_string();
    let args = ["eval", "--measured", &table, "--model", "llama"];
    let fit = ["fit", "--measured", &table, "--model", "llama", "--out", &out];
    for (name, is_said) in [("fp16", true), ("NONE-16", false)] {
        fs::write(&table, text.replace("None-16", name)).unwrap();
        for args in [&args[..], &fit] {
            let (code, _, err) = kvbench(args);
            assert_eq!(code, Some(0), "{err}");
            let said = "decode of org/Llama-2-7b on not told (not told): no baseline";
            assert_eq!(err.contains(said), is_said, "{name}: {err}");
        }
    }
}
