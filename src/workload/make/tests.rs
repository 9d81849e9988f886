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
