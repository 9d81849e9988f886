//! Scoring made-up runs over a data set of five rows.

use super::{super::tests::data, *};
use crate::record::manifest::Input;

const ROWS: &str = r#"{"_id":"q1","context":"c","input":"where?","answers":["Paris"],"dataset":"qasper","all_classes":null}
{"_id":"q2","context":"c","input":"who?","answers":["Ada Lovelace"],"dataset":"qasper"}
{"_id":"t1","context":"c","input":"kind?","answers":["city"],"dataset":"trec","all_classes":["city","food"]}
{"_id":"x1","context":"c","input":"?","answers":["a"],"dataset":"my_own"}
{"_id":"n1","context":"c","input":"?","answers":[],"dataset":"qasper"}
{"_id":"d","context":"c","input":"?","answers":["a"],"dataset":"qasper"}
{"_id":"d","context":"c","input":"?","answers":["b"],"dataset":"qasper"}
"#;

fn scenario(path: &str) -> String {
    format!(
        "name = \"example\"\nbaseline = \"fp16\"\n[target.s.engine]\nurl = \"http://h\"\nendpoint = \"chat\"\nmethod = \"fp16\"\n\
         [target.u.engine]\nurl = \"http://i\"\nendpoint = \"chat\"\nmethod = \"int8\"\n[method.fp16.fp16]\n[method.int8.int8]\n\
         [workload.lb.dataset]\npath = \"{path}\"\nformat = \"longbench\"\nmax_tokens = 8\n[load.c.closed]\nconcurrency = [1]\n"
    )
}

/// One answer to a row of the data set.
fn answer(cell: &str, id: i64, sample: &str, text: &str) -> RequestRow {
    let part: Vec<&str> = cell.split('/').collect();
    RequestRow {
        cell_id: cell.to_owned(),
        target: part[1].to_owned(),
        method: part[2].to_owned(),
        workload: part[3].to_owned(),
        load: part[4].to_owned(),
        repeat: part[5].parse().unwrap(),
        request_id: id,
        sample_id: sample.to_owned(),
        output_text: text.to_owned(),
        prompt_sha256: format!("sha of {sample}"),
        ..RequestRow::default()
    }
}

const BASE: &str = "example/s/fp16/lb/c-1/0";
const OWN: &str = "example/u/int8/lb/c-1/0";

/// A run of these answers beside its data set.
fn run(rows: &[RequestRow]) -> (tempfile::TempDir, RunData) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lb.jsonl");
    std::fs::write(&path, ROWS).unwrap();
    let mut cells: Vec<&str> = rows.iter().map(|row| row.cell_id.as_str()).collect();
    cells.dedup();
    let mut run = data(&cells, &[], rows);
    let path = path.display().to_string();
    run.manifest.scenario.text = scenario(&path);
    let sha256 = crate::workload::dataset::sha256_hex(ROWS.as_bytes());
    run.manifest.inputs = vec![Input { path, sha256, bytes: ROWS.len() as u64 }];
    (dir, run)
}

#[test]
fn every_request_has_a_score_or_a_reason() {
    let failed = RequestRow { err: Some("reset".into()), ..answer(BASE, 1, "q2", "") };
    let later = RequestRow { turn: 1, ..answer(BASE, 2, "q2", "Ada") };
    let mut same_prompt = answer(BASE, 9, "q2", "Ada");
    same_prompt.prompt_sha256 = "sha of q1".into();
    let mut rows = vec![answer(BASE, 0, "q1", "the Paris"), failed, later];
    for (id, sample) in [(3, "x1"), (4, "n1"), (5, "gone"), (6, "d"), (7, "q1"), (8, "t1")] {
        rows.push(answer(BASE, id, sample, "city"));
    }
    rows.push(same_prompt);
    rows.push(RequestRow { workload: "chat".into(), ..answer(BASE, 10, "q1", "x") });
    let (_dir, mut data) = run(&rows);
    data.warm_up = RequestRow::frame(&[answer(BASE, 0, "q1", "x")]).unwrap();
    let scored = score(&data, &[], false, score::Options::default()).unwrap();
    let found: Vec<_> =
        scored.rows.iter().map(|row| (row.sample_id.as_str(), &*row.dataset, row.score)).collect();
    assert_eq!(found, [("q1", "qasper", 1.0), ("t1", "trec", 1.0)]);
    assert_eq!(scored.rows[0].scorer, score::SCORER);
    let reasons: BTreeMap<&str, usize> =
        scored.left_out.iter().map(|left| (left.why.as_str(), left.n)).collect();
    for why in [
        "the request failed",
        "a later turn of a conversation",
        "no score: expected a data set of LongBench or another that can be scored, got `my_own`",
        "its row has no reference",
        "its id is in no row of the data set",
        "its id is in several rows of the data set",
        "its sample was asked before in its cell",
        "its prompt is that of another sample of its cell",
        "its workload has no references",
        "warm-up request",
    ] {
        assert_eq!(reasons.get(why), Some(&1), "{why}: {reasons:?}");
    }
    assert_eq!(reasons.values().sum::<usize>() + scored.rows.len(), rows.len() + 1);
    let example = &scored.left_out[0].example;
    assert!(example.starts_with("example/s/fp16/lb/c-1/0, request "), "{example}");
}

#[test]
fn nothing_to_score_is_one_sentence() {
    let failed = RequestRow { err: Some("reset".into()), ..answer(BASE, 0, "q1", "") };
    let (_dir, data) = run(&[failed]);
    let error = score(&data, &[], false, score::Options::default()).unwrap_err().to_string();
    assert!(error.contains("got none of 1 requests (the request failed: 1)\n  hint"), "{error}");
}

#[test]
fn another_data_set_is_refused_and_a_moved_one_is_found() {
    let (dir, mut data) = run(&[answer(BASE, 0, "q1", "Paris")]);
    let (path, moved) = (dir.path().join("lb.jsonl"), dir.path().join("moved.jsonl"));
    std::fs::rename(&path, &moved).unwrap();
    let error = |files: &[PathBuf], data: &RunData| {
        format!("{:#}", score(data, files, false, score::Options::default()).unwrap_err())
    };
    assert!(error(&[], &data).contains("--data FILE"));
    assert_eq!(
        score(&data, std::slice::from_ref(&moved), false, score::Options::default())
            .unwrap()
            .rows
            .len(),
        1
    );
    std::fs::write(&path, ROWS.replace("Paris", "Rome")).unwrap();
    assert!(error(&[], &data).contains("expected sha256"));
    let said = error(std::slice::from_ref(&path), &data);
    assert!(said.contains("--data: expected a copy of"), "{said}");
    data.manifest.scenario.text = "# imported".into();
    assert!(error(&[], &data).contains("expected the scenario of a run of ours"));
}

#[test]
fn means_are_paired_by_prompt_and_repeat() {
    let rows = [
        answer(BASE, 0, "q1", "Paris"),
        answer(BASE, 1, "q2", "Ada Lovelace"),
        answer(OWN, 0, "q2", "nobody"),
        answer(OWN, 1, "t1", "food"),
    ];
    let (_dir, data) = run(&rows);
    let scored = score(&data, &[], false, score::Options::default()).unwrap();
    let means = means(&data, &scored.rows);
    let found: Vec<_> = means
        .iter()
        .map(|m| (&*m.point.method, &*m.dataset, m.mean.value, m.delta.map(|d| (d.value, d.n))))
        .collect();
    assert_eq!(
        found,
        [
            ("fp16", "qasper", 100.0, None),
            ("int8", "qasper", 0.0, Some((-100.0, 1))),
            ("int8", "trec", 0.0, None),
        ]
    );
}

/// A method that says the same and then rambles loses by its length alone.
#[test]
fn at_equal_length_rambling_costs_nothing() {
    let rows = [
        answer(BASE, 0, "q1", "Paris"),
        answer(BASE, 1, "q2", "Ada Lovelace"),
        answer(OWN, 0, "q1", "Paris and so on and on"),
        answer(OWN, 1, "q2", "Ada"),
    ];
    let (_dir, data) = run(&rows);
    let scored = score(&data, &[], true, score::Options::default()).unwrap();
    let matched = scored.matched.unwrap();
    let found: Vec<_> = matched
        .iter()
        .map(|m| (&*m.sample_id, m.words, m.baseline_words, m.score, m.baseline_score))
        .collect();
    // The baseline's "Ada" alone has a recall of one half: F1 2/3, as the method's.
    let two_thirds = 2.0 / 3.0;
    assert_eq!(found, [("q1", 6, 1, 1.0, 1.0), ("q2", 1, 2, two_thirds, two_thirds)]);
    let means = matched_means(&data, &matched, &scored.rows);
    assert_eq!((means.len(), means[0].n_longer, means[0].n_shorter), (1, 1, 1));
    assert!(means[0].delta.value.abs() < 1e-9 && means[0].delta_free.unwrap().value < -10.0);
}

#[test]
fn a_place_is_a_workload_under_a_load() {
    let mut rows = vec![
        answer(BASE, 0, "q1", "Paris"),
        answer("example/s/fp16/lb/c-1/1", 0, "q1", "Paris"),
        answer("example/s/fp16-aa/lb/c-1/0", 0, "q1", "London"),
        answer(OWN, 0, "q1", "Paris"),
        answer("example/u/int8/lb/c-1/1", 0, "q1", "London"),
    ];
    let (_dir, data) = run(&rows);
    let scores = score(&data, &[], false, score::Options::default()).unwrap().rows;
    let found = places(&data.manifest, &scores);
    assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["lb/c-1"]);
    let place = choose(found, None).unwrap();
    let mut subjects = subjects(&data.manifest, &scores, &place).unwrap();
    let names = |scores: &[super::super::negatives::Scores]| -> Vec<String> {
        scores.iter().map(|scores| scores.name.clone()).collect()
    };
    assert_eq!(names(&subjects.methods), ["int8"]);
    assert_eq!(names(&subjects.again), ["baseline repeat 1", "fp16-aa"]);
    assert_eq!(names(&subjects.repeats["int8"]), ["int8 repeat 0", "int8 repeat 1"]);
    assert_eq!(subjects.drop_strangers(), Vec::<String>::new());

    // A second target with a baseline of its own, and a third without one.
    rows.push(answer("example/v/fp16/lb/c-1/0", 0, "q1", "Paris"));
    let (_dir, data) = run(&rows);
    let scores = score(&data, &[], false, score::Options::default()).unwrap().rows;
    let found = places(&data.manifest, &scores);
    let lost: Vec<String> = elsewhere(&scores, &found).iter().map(ToString::to_string).collect();
    assert_eq!(lost, ["u/int8/lb/c-1"]);
    let several = choose(found.clone(), None).unwrap_err().to_string();
    assert!(several.contains("got several: s/lb/c-1, v/lb/c-1\n  hint"), "{several}");
    assert!(choose(found.clone(), Some("x")).unwrap_err().to_string().contains("got `x`"));
    let place = choose(found, Some("v/lb/c-1")).unwrap();
    let alone = super::subjects(&data.manifest, &scores, &place).unwrap_err().to_string();
    assert!(alone.contains("expected scores of a method beside fp16"), "{alone}");
    assert!(choose(Vec::new(), None).unwrap_err().to_string().contains("got none"));
}

#[test]
fn a_repeat_of_other_rows_is_dropped_and_named() {
    let rows = [
        answer(BASE, 0, "q1", "Paris"),
        answer("example/s/fp16/lb/c-1/1", 0, "q2", "Ada"),
        answer(OWN, 0, "q1", "Paris"),
        answer("example/u/int8/lb/c-1/1", 0, "q2", "Ada"),
    ];
    let (_dir, data) = run(&rows);
    let scores = score(&data, &[], false, score::Options::default()).unwrap().rows;
    let place = choose(places(&data.manifest, &scores), None).unwrap();
    let mut found = subjects(&data.manifest, &scores, &place).unwrap();
    assert_eq!(found.drop_strangers(), ["baseline repeat 1", "int8 repeat 1"]);
    assert!(found.again.is_empty() && found.repeats.is_empty());
}

/// Controls of the scenario are noise, one that is only warmer is nothing, and what compresses is a method.
#[test]
fn controls_are_no_methods() {
    let methods = ["f16", "f16-seed", "f16-warm", "q8"];
    let rows: Vec<RequestRow> = methods
        .iter()
        .map(|method| answer(&format!("example/l/{method}/lb/c-1/0"), 0, "q1", "Paris"))
        .collect();
    let (dir, mut data) = run(&rows);
    data.manifest.scenario.baseline = "f16".into();
    data.manifest.scenario.text = format!(
        "name = \"example\"\nbaseline = \"f16\"\n[target.l.engine]\nengine = \"llamacpp\"\nmodel = \"m.gguf\"\n\
         endpoint = \"completions\"\ntemperature = 1.0\n[method.f16.engine]\nkv = \"f16\"\n[method.f16-seed.engine]\n\
         kv = \"f16\"\nseed = 1\n[method.f16-warm.engine]\nkv = \"f16\"\ntemperature = 1.1\n[method.q8.engine]\nkv = \"q8_0\"\n\
         [workload.lb.dataset]\npath = \"{}\"\nformat = \"longbench\"\nmax_tokens = 8\n[load.c.closed]\nconcurrency = [1]\n",
        dir.path().join("lb.jsonl").display()
    );
    let scores = score(&data, &[], false, score::Options::default()).unwrap().rows;
    let place = choose(places(&data.manifest, &scores), None).unwrap();
    let found = subjects(&data.manifest, &scores, &place).unwrap();
    let names = |scores: &[super::super::negatives::Scores]| -> Vec<String> {
        scores.iter().map(|scores| scores.name.clone()).collect()
    };
    assert_eq!(
        (names(&found.methods), names(&found.again)),
        (vec!["q8".into()], vec!["f16-seed".into()])
    );
}
