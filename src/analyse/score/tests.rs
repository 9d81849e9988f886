use super::*;

fn one(dataset: &str, prediction: &str, answer: &str) -> f64 {
    score(dataset, prediction, &[answer.to_owned()], None).unwrap()
}

#[test]
fn only_the_first_line_counts_where_upstream_says_so() {
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
    close(one("triviaqa", "\n\nParis\nLondon", "Paris"), 1.0);
    close(one("qasper", "Paris\nLondon", "Paris"), 2.0 / 3.0);
    close(one("passage_count", "3 or 4, say 3", "3"), 2.0 / 3.0);
    close(one("passage_retrieval_en", "Paragraph 7 or 8", "Paragraph 7"), 0.5);
    close(one("passage_retrieval_zh", "段落7", "段落7"), 1.0);
}

#[test]
fn the_best_reference_counts() {
    let answers = ["no".to_owned(), "yes".to_owned()];
    assert!((score("qasper", "Yes.", &answers, None).unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    for (dataset, answers, said) in [
        ("ruler_mine", vec!["x".to_owned()], "a data set of LongBench"),
        ("gsm8k", vec!["x".to_owned()], "a number"),
        ("longbench-v2", vec!["x".to_owned()], "A, B, C or D"),
        ("mine", vec!["x".to_owned()], "a data set of LongBench"),
        ("qasper", vec![], "expected `answers`"),
        ("trec", vec!["x".to_owned()], "expected `all_classes`"),
        ("passage_retrieval_en", vec!["7".to_owned()], "Paragraph"),
    ] {
        let error = score(dataset, "x", &answers, None).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn each_rule_has_its_data_sets_and_its_name() {
    for (dataset, prediction, answer, scorer) in [
        ("qasper_e", "yes", "Yes", SCORER),
        ("longbench-v2", "The correct answer is (A)", "A", "longbench-v2 (choice)"),
        ("gsm8k", "#### 1,000", "1000", "gsm8k (last number)"),
        ("arithmetic", "It is 7.", "7", "gsm8k (last number)"),
        ("math", r"\boxed{7}", "7", "math (boxed)"),
        ("ruler_niah_multikey_1", "It is 7123.", "7123", "ruler (string_match_all)"),
        ("ruler_qa_2", "the Seine", "seine", "ruler (string_match_part)"),
    ] {
        assert!((one(dataset, prediction, answer) - 1.0).abs() < 1e-12, "{dataset}");
        assert_eq!(Options::default().scorer(dataset).unwrap(), scorer);
    }
    let both = ["7123".to_owned(), "9".to_owned()];
    assert!((score("ruler_vt", "7123", &both, None).unwrap() - 0.5).abs() < 1e-12);
    let other = Options { fuzz: Fuzz::Levenshtein, rouge_recursion_error: true };
    assert_eq!(
        other.scorer("lcc").unwrap(),
        "longbench-v1 (rouge 1.0.1 with RecursionError, jieba 0.42.1, python-Levenshtein)"
    );
}

/// A file of scores that the published code gave; `None` where this machine has none.
fn published(file: &str) -> Option<String> {
    let Some(shared) = std::env::var_os("KVBENCH_SHARED") else {
        let word = b"skipped: KVBENCH_SHARED is not set\n";
        std::io::Write::write_all(&mut std::io::stderr(), word).unwrap();
        return None;
    };
    let file = std::path::PathBuf::from(shared).join("oracle").join(file);
    Some(std::fs::read_to_string(file).unwrap())
}

/// 630 rows, 30 of each task.
#[test]
fn scores_are_those_of_the_published_code() {
    #[derive(serde::Deserialize)]
    struct Row {
        dataset: String,
        prediction: String,
        answers: Vec<String>,
        all_classes: Option<Vec<String>>,
        score: f64,
    }
    let Some(text) = published("longbench_scores.jsonl") else { return };
    let mut n = 0;
    for row in text.lines() {
        let row: Row = serde_json::from_str(row).unwrap();
        let classes = row.all_classes.as_deref();
        let own = score(&row.dataset, &row.prediction, &row.answers, classes).unwrap();
        assert!((own - row.score).abs() < 1e-9, "{} {}: {own}", row.dataset, row.prediction);
        n += 1;
    }
    assert_eq!(n, 630);
}

/// 464 vectors, by scorer instead of by task, with both scores of a line of code.
#[test]
fn scorers_are_those_of_the_published_code() {
    #[derive(serde::Deserialize)]
    struct Row {
        metric: String,
        pred: String,
        gt: String,
        all_classes: Option<Vec<String>>,
        score: Option<f64>,
        score_difflib: Option<f64>,
        score_lev: Option<f64>,
        note: Option<String>,
    }
    let Some(text) = published("longbench_golden_backends.json") else { return };
    let rows: Vec<Row> = serde_json::from_str(&text).unwrap();
    for row in &rows {
        let own = |fuzz| {
            let metric = row.metric.trim_end_matches("_score").replace("fuzz_long", "code_sim");
            let metric = serde_json::from_value(metric.into()).unwrap();
            let like = longbench::task("qasper").unwrap();
            let task = Task { metric, first_line: false, ..like.clone() };
            let options = Options { fuzz, rouge_recursion_error: row.note.is_some() };
            options.longbench(&task, &row.pred, &row.gt, row.all_classes.as_deref()).unwrap()
        };
        let expected = [
            (
                Fuzz::Difflib,
                row.score_difflib.or(row.score.filter(|_| row.metric != "code_sim_score")),
            ),
            (Fuzz::Levenshtein, row.score_lev.or(row.score)),
        ];
        for (fuzz, expected) in expected {
            let Some(expected) = expected else { continue };
            let own = own(fuzz);
            assert!(
                (own - expected).abs() < 1e-9,
                "{} {}: {own}, not {expected}",
                row.metric,
                row.pred
            );
        }
    }
    assert_eq!(rows.len(), 464);
}

/// 420 rows of texts that are hard to cut, made and scored by `scripts/longbench-vectors.py`.
#[test]
fn scores_of_random_rows_are_those_of_the_published_code() {
    #[derive(serde::Deserialize)]
    struct Row {
        dataset: String,
        prediction: String,
        answers: Vec<String>,
        all_classes: Option<Vec<String>>,
        difflib: f64,
        levenshtein: f64,
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/longbench.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    assert_eq!(text.lines().count(), 420);
    for line in text.lines() {
        let row: Row = serde_json::from_str(line).unwrap();
        for (fuzz, expected) in [(Fuzz::Difflib, row.difflib), (Fuzz::Levenshtein, row.levenshtein)]
        {
            let options = Options { fuzz, ..Options::default() };
            let classes = row.all_classes.as_deref();
            let own = options.score(&row.dataset, &row.prediction, &row.answers, classes).unwrap();
            assert!((own - expected).abs() < 1e-9, "{fuzz:?} {own}: {line}");
        }
    }
}

/// What kvbench makes is scored by the rule that its name promises.
#[test]
fn right_answers_to_made_tasks_score_one() {
    use crate::workload::make::{MakeTask, generate_task};
    use clap::ValueEnum as _;
    for task in MakeTask::value_variants() {
        for line in generate_task(*task, 12, Some(300), 3).lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let dataset = row["dataset"].as_str().unwrap();
            assert_eq!(Some(dataset), task.to_possible_value().as_ref().map(|it| it.get_name()));
            let answers: Vec<String> = serde_json::from_value(row["answers"].clone()).unwrap();
            let right = format!("I think it is {}.", answers.join(", "));
            assert!(
                (score(dataset, &right, &answers, None).unwrap() - 1.0).abs() < 1e-12,
                "{line}"
            );
            let wrong = score(dataset, "I do not know, perhaps 3.5", &answers, None).unwrap();
            assert!(wrong.abs() < 1e-12, "{line}");
        }
    }
}
