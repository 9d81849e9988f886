use std::path::Path;

use serde_json::Value;

use super::*;
use crate::workload::dataset;

/// Rows and seed of the committed files, as in their manifests' commands.
const TINY: [(&str, DatasetFormat, usize); 2] = [
    ("tiny-sharegpt.json", DatasetFormat::Sharegpt, 64),
    ("tiny-longbench.jsonl", DatasetFormat::Longbench, 40),
];

#[test]
fn the_committed_files_are_what_the_command_makes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    let mut n_bytes = 0;
    for (file, format, rows) in TINY {
        let text = generate(format, rows, 1);
        n_bytes += text.len();
        let committed = std::fs::read_to_string(folder.join(file)).expect("committed");
        assert!(committed == text, "{file} differs: run the command in its manifest with --force");
        let path = folder.join(file).with_extension("toml");
        let manifest: toml::Table =
            std::fs::read_to_string(path).expect("committed").parse().expect("TOML");
        assert_eq!(manifest["sha256"].as_str(), Some(sha256_hex(text.as_bytes()).as_str()));
        let (samples, report) = dataset::read(&folder.join(file), format).expect("readable");
        assert_eq!((samples.len(), report.n_bad), (rows, 0));
        assert!(samples.iter().all(|sample| sample.answer.is_some()));
        assert_eq!(manifest["n_rows"].as_integer(), Some(rows as i64));
    }
    assert!(n_bytes < 300_000, "{n_bytes}");
}

#[test]
fn the_seed_decides() {
    for (_, format, _) in TINY {
        assert_eq!(generate(format, 5, 9), generate(format, 5, 9));
        assert_ne!(generate(format, 5, 9), generate(format, 5, 10));
    }
    assert_eq!(generate(DatasetFormat::Sharegpt, 0, 1), "[\n\n]\n");
}

/// Solves each task from the text alone, by other means than the generator.
#[test]
fn answers_follow_from_the_context() {
    let text = generate(DatasetFormat::Longbench, 200, 4);
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        let get = |key: &str| row[key].as_str().expect("text").to_owned();
        let (context, input) = (get("context"), get("input"));
        let answer = row["answers"][0].as_str().expect("an answer").to_owned();
        let letters: Vec<&str> = context.lines().collect();
        match get("dataset").as_str() {
            "kvbench_lookup" => {
                let town = input.split("store of ").nth(1).and_then(|rest| rest.split(' ').next());
                let letter = about(&letters, town.expect("a town"));
                assert!(letter.contains(&format!(" {answer} barrels")), "{letter}");
            }
            "kvbench_count" => {
                let goods = input.split("trade in ").nth(1).and_then(|rest| rest.split('?').next());
                let goods = goods.expect("goods");
                let n = letters.iter().filter(|letter| letter.contains(goods)).count();
                assert_eq!(n.to_string(), answer);
            }
            "kvbench_classify" => {
                let town = input.split("does ").nth(1).and_then(|rest| rest.split(' ').next());
                assert!(about(&letters, town.expect("a town")).contains(&answer));
                assert!(row["all_classes"].as_array().expect("classes").contains(&answer.into()));
            }
            "kvbench_summary" => {
                assert!(answer.contains(&format!("{} towns", letters.len())));
                let barrels = |letter: &&str| -> u64 {
                    let before = letter.split(" barrels").next().expect("split");
                    before.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
                };
                let total: u64 = letters.iter().map(barrels).sum();
                assert!(answer.contains(&format!("store {total} barrels")), "{answer}");
            }
            other => panic!("unknown task {other}"),
        }
    }
}

fn about<'a>(letters: &[&'a str], town: &str) -> &'a str {
    let word = |letter: &str| letter.split(|c: char| !c.is_alphanumeric()).any(|word| word == town);
    let found: Vec<_> = letters.iter().filter(|letter| word(letter)).collect();
    assert_eq!(found.len(), 1, "{town}");
    found[0]
}

fn rows(task: MakeTask, n: usize, words: Option<usize>, seed: u64) -> Vec<Value> {
    let text = generate_task(task, n, words, seed);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn texts(row: &Value) -> (String, String, Vec<String>) {
    let get = |key: &str| row[key].as_str().expect("text").to_owned();
    let answers = row["answers"].as_array().expect("answers").iter();
    let answers = answers.map(|answer| answer.as_str().expect("text").to_owned()).collect();
    (get("context"), get("input"), answers)
}

const LONG: [MakeTask; 4] = [
    MakeTask::NiahSingle,
    MakeTask::NiahMultikey,
    MakeTask::VariableTracking,
    MakeTask::CommonWords,
];

#[test]
fn contexts_are_as_long_as_asked_and_seeded() {
    for task in LONG {
        for words in [100, 3000] {
            for row in rows(task, 12, Some(words), 5) {
                let n = texts(&row).0.split_whitespace().count();
                assert!((words - 14..=words).contains(&n), "{task:?} {words}: {n}");
            }
        }
        assert_eq!(generate_task(task, 3, None, 1), generate_task(task, 3, Some(1000), 1));
        assert_ne!(generate_task(task, 3, None, 1), generate_task(task, 3, None, 2));
    }
    assert_eq!(generate_task(MakeTask::NiahSingle, 0, None, 1), "");
}

/// The sentence is found again by its form, its place by counting words.
#[test]
fn a_needle_stands_where_its_id_says() {
    for task in [MakeTask::NiahSingle, MakeTask::NiahMultikey] {
        for row in rows(task, 22, Some(2000), 6) {
            let (context, input, answers) = texts(&row);
            let town = input.split("gate code of ").nth(1).and_then(|rest| rest.split(',').next());
            let needle = format!("The gate code of {} is {}.", town.expect("a town"), answers[0]);
            let (before, after) = context.split_once(&needle).expect("the needle");
            assert!(!after.contains(&answers[0]) && !before.contains(&answers[0]));
            let id = row["_id"].as_str().expect("an id");
            let depth = id.rsplit("depth").next().and_then(|depth| depth.parse::<f64>().ok());
            let part = before.split_whitespace().count() as f64 / 2000.0;
            assert!((100.0 * part - depth.expect("a depth")).abs() < 3.0, "{id}: {part}");
            let codes = context.matches("The gate code of").count();
            assert_eq!(codes, if task == MakeTask::NiahSingle { 1 } else { 8 });
        }
    }
}

#[test]
fn a_chain_is_followed_to_its_number() {
    for row in rows(MakeTask::VariableTracking, 20, Some(800), 7) {
        let (context, input, answers) = texts(&row);
        let number = input.split("stand for ").nth(1).and_then(|rest| rest.split('?').next());
        let mut known = vec![number.expect("a number").to_owned()];
        let entries: Vec<(&str, &str)> = context
            .split("Entry: ")
            .skip(1)
            .map(|entry| entry.split('.').next().and_then(|it| it.split_once(" is ")))
            .map(|entry| entry.expect("an entry"))
            .collect();
        assert_eq!(entries.len(), 10);
        for (name, value) in entries {
            if known.iter().any(|known| known == value) {
                known.push(name.to_owned());
            }
        }
        assert_eq!(known[1..], answers);
    }
}

#[test]
fn common_words_are_the_most_common() {
    for words in [100, 900, 6000] {
        for row in rows(MakeTask::CommonWords, 3, Some(words), 8) {
            let (context, _, mut answers) = texts(&row);
            let mut times = std::collections::BTreeMap::new();
            for word in context.split_whitespace().skip(1).step_by(2) {
                *times.entry(word.to_owned()).or_insert(0) += 1;
            }
            let mut sorted: Vec<_> = times.into_iter().collect();
            sorted.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            assert!(sorted[9].1 > sorted[10].1, "{words}: {:?}", &sorted[..12]);
            let mut found: Vec<_> = sorted[..10].iter().map(|(word, _)| word.clone()).collect();
            found.sort_unstable();
            answers.sort_unstable();
            assert_eq!(found, answers);
        }
    }
}

/// The story is computed again from its sentences.
#[test]
fn word_problems_come_out() {
    let problems = [None, Some(400)].map(|words| rows(MakeTask::Arithmetic, 60, words, 9));
    for row in problems.into_iter().flatten() {
        let (context, _, answers) = texts(&row);
        let story = &context[context.find("The store of").expect("a story")..];
        let mut barrels = 0_u64;
        for sentence in story.split('.') {
            let words = sentence.split(|c: char| !c.is_ascii_digit());
            let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
            match (&numbers[..], sentence) {
                ([first], it) if it.contains("holds") => barrels = *first,
                ([sold], it) if it.contains("sells") => barrels -= sold,
                ([carts, each], it) if it.contains("carts") => barrels += carts * each,
                ([], it) if it.contains("Half of the barrels") => barrels /= 2,
                ([], it) if it.contains("doubles") => barrels *= 2,
                _ => {}
            }
        }
        assert!(answers[0].ends_with(&format!("\n#### {barrels}")), "{context} {}", answers[0]);
    }
}

#[test]
fn rows_are_read_as_longbench_of_another_data_set() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for task in LONG.into_iter().chain([MakeTask::Arithmetic]) {
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, generate_task(task, 4, Some(200), 2)).expect("written");
        let (samples, report) = dataset::read(&path, DatasetFormat::Longbench).expect("readable");
        assert_eq!((samples.len(), report.n_bad), (4, 0));
        assert!(samples.iter().all(|sample| !sample.in_task_prompt && sample.reference.is_some()));
    }
}

#[test]
fn contexts_have_as_many_tokens_as_asked() {
    let folder = tempfile::tempdir().expect("temporary folder");
    crate::token::tiny::sentence_piece(folder.path());
    let tokenizer = crate::token::Tokenizer::load(folder.path()).expect("a tokenizer");
    for task in LONG.into_iter().chain([MakeTask::Arithmetic]) {
        let make = |tokens| generate_task_in_tokens(task, 3, tokens, &tokenizer, 4);
        let text = make(6000).expect("made");
        assert_eq!(text, make(6000).expect("made"));
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).expect("JSON");
            let n = tokenizer.count_continued(&texts(&row).0).expect("counted");
            assert!((5700..=6000).contains(&n), "{task:?}: {n}");
        }
        let error = make(50).expect_err("too few").to_string();
        assert!(error.contains("in 50 tokens") && error.contains("hint: 100 words"), "{error}");
    }
}
