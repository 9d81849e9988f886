//! From a run folder to its broken prompts and back to a scenario: `score`, `negatives`, `--export`, `plan`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use kvbench::{
    record::{
        RequestRow,
        parquet::{read_rows, write_rows},
    },
    scenario::DatasetFormat,
    workload::dataset,
};
use serde_json::{Value, json};

use super::serve::{Server, fp16_and_fp8, run_scenario};

/// Eight questions and four texts to classify; the answer to each is its own number in words.
fn benchmark(dir: &Path) -> PathBuf {
    let row = |id: usize| {
        let (dataset, classes) = match id < 8 {
            true => ("qasper", Value::Null),
            false => ("trec", json!(["kind8", "kind9", "kind10", "kind11"])),
        };
        let word = if id < 8 { format!("word{id}") } else { format!("kind{id}") };
        json!({ "_id": format!("id{id}"), "context": format!("Text {id}."), "input": "Which?", "answers": [word],
            "dataset": dataset, "all_classes": classes, "length": 2, "language": "en" })
    };
    let path = dir.join("benchmark.jsonl");
    let lines: Vec<String> = (0..12).map(|id| row(id).to_string() + "\n").collect();
    fs::write(&path, lines.concat()).unwrap();
    path
}

fn scenario(url: &str, path: &Path) -> String {
    let methods = fp16_and_fp8(url);
    format!(
        r#"
name = "quality"
seed = 3
repeats = 2
baseline = "fp16"
{methods}
[workload.lb.dataset]
path = "{}"
format = "longbench"
max_tokens = 2
[load.loop.closed]
concurrency = [2]
"#,
        path.display()
    )
}

/// What was said, in the place of the known server's stamps: the baseline is always right, the method is not on `broken`, of
/// which it gets the last right in repeat 1. One request of the method failed.
fn give_answers(run: &Path, broken: &[&str]) {
    let mut rows: Vec<RequestRow> = read_rows(run).unwrap();
    for row in rows.iter_mut().filter(|row| !row.warmup) {
        let word = match row.sample_id[2..].parse::<usize>().unwrap() {
            id @ 0..8 => format!("word{id}"),
            id => format!("kind{id}"),
        };
        let spared = row.repeat == 1 && Some(&row.sample_id.as_str()) == broken.last();
        let breaks = row.method != "fp16" && broken.contains(&row.sample_id.as_str()) && !spared;
        row.output_text = if breaks { "no idea at all".to_owned() } else { word };
        if row.method != "fp16" && row.sample_id == "id0" && row.repeat == 0 {
            row.err = Some("reset".to_owned());
        }
    }
    write_rows(run, &rows).unwrap();
}

fn kvbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvbench")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json_of(args: &[&str]) -> Value {
    let (code, out, err) = kvbench(&[args, &["--format", "json"]].concat());
    assert_eq!(code, Some(0), "{args:?}: {err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_run_is_scored_and_its_broken_prompts_become_a_benchmark() {
    let server = Server::start();
    let data = tempfile::tempdir().unwrap();
    let benchmark = benchmark(data.path());
    let url = format!("http://{}", server.address);
    let (_work, _, run) = run_scenario(&scenario(&url, &benchmark), &[]);
    give_answers(&run, &["id1", "id2", "id9"]);
    let dir = run.to_str().unwrap();
    scores_are_written(dir);
    negatives_are_counted(dir);
    the_report_tells_of_quality(dir);
    the_bound_knows_the_speed(dir);
    the_benchmark_loads_again(dir, data.path());
    a_moved_data_set_is_asked_for(dir, &benchmark);
}

fn the_report_tells_of_quality(dir: &str) {
    let (code, _, err) = kvbench(&["report", dir]);
    assert!(code <= Some(1), "{err}");
    let page = fs::read_to_string(Path::new(dir).join("report.md")).unwrap();
    for part in [
        "Quality: mean score by data set",
        "Negative samples, and as many the other way round, lb/loop-2",
        "fp8 at lb/loop-2 loses more than 10 % of the score on",
        "Is extra length compensatory?",
        "fp8 at lb, loop-2: quality changes by",
    ] {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
    for picture in ["negatives.svg", "negatives-by-task.png"] {
        assert!(Path::new(dir).join("plots").join(picture).is_file(), "{picture}");
    }
}

fn scores_are_written(dir: &str) {
    let scored = json_of(&["score", dir, "--truncate-to-baseline"]);
    let mean = |method: &str, dataset: &str| {
        let means = scored["means"].as_array().unwrap();
        let is = |row: &&Value| row["method"] == method && row["dataset"] == dataset;
        means.iter().find(is).unwrap().clone()
    };
    assert_eq!(
        (mean("fp16", "qasper")["mean"].as_f64(), mean("fp16", "qasper")["delta"].as_f64()),
        (Some(100.0), None)
    );
    // 7 of 8 in repeat 0 and 8 in repeat 1; two samples are wrong in both, and a sample counts once.
    let own = mean("fp8", "qasper");
    assert_eq!(own["answers"], 15);
    assert!((own["mean"].as_f64().unwrap() - 75.0).abs() < 1e-9, "{own}");
    assert!(own["delta_ci_high"].as_f64().unwrap() <= 0.0, "{own}");
    assert_eq!(scored["matched"].as_array().unwrap().len(), 2);
    let reasons: Vec<_> = scored["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["method"].as_str().unwrap(), row["why"].as_str().unwrap()))
        .collect();
    assert!(reasons.contains(&("fp8", "the request failed")), "{reasons:?}");
    assert!(Path::new(dir).join("scores.parquet").exists());
}

fn negatives_are_counted(dir: &str) {
    let found = json_of(&["negatives", dir, "--theta", "10,50"]);
    let method = &found["methods"]["fp8"];
    // The failed request is not among them.
    assert_eq!((&method["n_paired"], &method["negatives"]), (&json!(11), &json!([3, 3])));
    assert_eq!(method["confirmed"], json!({ "n_repeats": 2, "n_paired": 11, "negatives": [2, 2] }));
    assert!((method["delta"]["mean"].as_f64().unwrap() + 300.0 / 11.0).abs() < 1e-9, "{method}");
    assert_eq!(method["delta"]["ci"].as_array().unwrap().len(), 2);
    assert_eq!(method["flips"], json!({ "worse": 3, "better": 0 }));
    assert!((method["p_mcnemar"].as_f64().unwrap() - 0.25).abs() < 1e-9, "{method}");
    assert_eq!(method["q_sign"], method["p_sign"], "two equal questions are one");
    assert_eq!(found["noise_floor"]["baseline repeat 1"]["negatives"], json!([0, 0]));
    let (_, out, _) = kvbench(&["negatives", dir]);
    for word in ["confirmed", "q_sign", "p_wilcoxon", "p_mcnemar"] {
        assert!(out.contains(word), "{out}");
    }
}

fn the_bound_knows_the_speed(dir: &str) {
    let picture = Path::new(dir).join("adaptive.svg");
    let found = json_of(&["adaptive", dir, "--loss", "1", "--plot", picture.to_str().unwrap()]);
    assert!(found["methods"]["fp8"]["speed"].as_f64().unwrap() > 0.0, "{found}");
    assert_eq!((&found["n"], &found["n_left_out"]), (&json!(11), &json!(1)));
    let policies = found["policies"].as_array().unwrap();
    let of = |policy: &str, goal: &str| {
        policies.iter().find(|one| one["policy"] == policy && one["goal"] == goal).unwrap()
    };
    // The method is never better: nothing is gained, and all but the broken samples cost nothing.
    assert_eq!(of("per sample (oracle)", "quality")["compressed"], 0);
    assert_eq!(of("per sample (oracle)", "share")["compressed"], 8);
    assert_eq!(of("one method", "share")["compressed"], 0);
    assert_eq!(of("null: oracle over baseline repeats", "quality")["delta"]["mean"], json!(0.0));
    assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));
    let given = json_of(&["adaptive", dir, "--loss", "1", "--speed", "fp8=2"]);
    let fast = given["policies"].as_array().unwrap().iter().find(|one| one["goal"] == "speed");
    assert!(fast.unwrap()["speedup"].as_f64().unwrap() >= 1.0, "{given}");
    for (args, said) in [
        (["--speed", "x=2"], "expected one of fp8, got `x`"),
        (["--speed", "fp8=0"], "expected NAME=RATIO with a ratio above 0"),
        (["--loss", "101"], "expected points from 0 to 100, got 101"),
        (["--plot", "x.pdf"], "ends with .svg or .png"),
    ] {
        let (code, _, err) = kvbench(&[&["adaptive", dir][..], &args].concat());
        assert!(code == Some(2) && err.contains(said), "{args:?}: {err}");
    }
}

fn the_benchmark_loads_again(dir: &str, out: &Path) {
    let file = out.join("broken.jsonl");
    let found = json_of(&["negatives", dir, "--theta", "10", "--export", file.to_str().unwrap()]);
    let (samples, report) = dataset::read(&file, DatasetFormat::Longbench).unwrap();
    let ids: Vec<&str> = samples.iter().map(|sample| sample.id.as_str()).collect();
    assert_eq!((ids, report.n_bad), (vec!["id1", "id2", "id9"], 0));
    assert_eq!(found["ensembles"]["all"]["negatives"], json!([samples.len()]));
    let first: Value =
        serde_json::from_str(fs::read_to_string(&file).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!((&first["length"], &first["language"]), (&json!(2), &json!("en")), "all keys stay");
    let scenario = out.join("broken.toml");
    let cells = json_of(&["plan", scenario.to_str().unwrap()]);
    let methods: Vec<_> =
        cells.as_array().unwrap().iter().map(|cell| cell["method"].clone()).collect();
    assert_eq!(methods.len(), 4, "two targets, two repeats: {methods:?}");
    let text = fs::read_to_string(scenario).unwrap();
    assert!(text.contains("broken.jsonl") && text.contains("quality-negatives"), "{text}");
}

fn a_moved_data_set_is_asked_for(dir: &str, benchmark: &Path) {
    let moved = benchmark.with_file_name("moved.jsonl");
    fs::rename(benchmark, &moved).unwrap();
    fs::remove_file(Path::new(dir).join("scores.parquet")).unwrap();
    let (code, _, err) = kvbench(&["negatives", dir]);
    assert!(code == Some(2) && err.contains("--data FILE"), "{err}");
    // Scored first, since there are no scores.
    let (code, _, err) = kvbench(&["negatives", dir, "--data", moved.to_str().unwrap()]);
    assert!(code == Some(0) && err.contains("scores: "), "{err}");
    fs::write(benchmark, "{}\n").unwrap();
    let (code, _, err) = kvbench(&["score", dir]);
    assert!(code == Some(2) && err.contains("expected sha256"), "{err}");
    let (code, _, err) = kvbench(&["negatives", dir, "--place", "lb/none"]);
    assert!(code == Some(2) && err.contains("expected one of lb/loop-2, got `lb/none`"), "{err}");
    let (code, _, err) = kvbench(&["negatives", dir, "--baseline", "x.jsonl"]);
    assert!(code == Some(2) && err.contains("cannot be used with"), "{err}");
}

/// From score files the rows come from `--data`, and the scenario is a part of one.
#[test]
fn score_files_export_from_the_data_set_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let benchmark = benchmark(dir.path());
    let write = |name: &str, lost: &[usize]| {
        let row = |id: usize| {
            let score = if lost.contains(&id) { 0.0 } else { 1.0 };
            json!({ "dataset": "qasper", "id": format!("id{id}"), "score": score }).to_string()
                + "\n"
        };
        let path = dir.path().join(name);
        fs::write(&path, (0..8).map(row).collect::<String>()).unwrap();
        path.display().to_string()
    };
    let (base, own) = (write("base.jsonl", &[]), format!("m={}", write("own.jsonl", &[3, 5])));
    let out = dir.path().join("out.jsonl");
    let export =
        ["negatives", "--baseline", &base, "--method", &own, "--export", out.to_str().unwrap()];
    let (code, _, err) = kvbench(&export);
    assert!(code == Some(2) && err.contains("name its files with --data"), "{err}");
    let (code, _, err) = kvbench(&[&export[..], &["--data", benchmark.to_str().unwrap()]].concat());
    assert_eq!(code, Some(0), "{err}");
    let (samples, _) = dataset::read(&out, DatasetFormat::Longbench).unwrap();
    assert_eq!(samples.iter().map(|sample| &*sample.id).collect::<Vec<_>>(), ["id3", "id5"]);
    let part = fs::read_to_string(dir.path().join("out.toml")).unwrap();
    assert!(
        part.contains("[workload.negatives.dataset]") && part.starts_with("# 2 negative"),
        "{part}"
    );
}

#[test]
fn a_run_without_answers_to_score_says_so() {
    let server = Server::start();
    let url = format!("http://{}", server.address);
    let text = format!(
        "name = \"n\"\nbaseline = \"fp16\"\n[target.a.engine]\nurl = \"{url}\"\nendpoint = \"chat\"\nmodel = \"known\"\nmethod = \"fp16\"\n\
         [method.fp16.fp16]\n[workload.w.synthetic]\nn_requests = 2\nprompt_tokens = {{ fixed = 8 }}\noutput_tokens = {{ fixed = 2 }}\n\
         [load.c.closed]\nconcurrency = [1]\n"
    );
    let (_work, _, run) = run_scenario(&text, &[]);
    let (code, _, err) = kvbench(&["score", run.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(err.contains("expected answers that can be scored, got none of 2 requests"), "{err}");
    assert!(err.contains("its workload has no references: 2"), "{err}");
}
