use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::scenario::{DatasetFormat::*, fuzz};

fn found(bytes: &[u8], format: DatasetFormat) -> anyhow::Result<Found> {
    read_rows(&mut Cursor::new(bytes), format, PromptLayout::Task)
}

const SHAREGPT: &str = r#"[
  {"id": "a", "conversations": [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hi \"you\" ] }"}, {"from": "gpt", "value": "hello"}]},
  {"id": 7, "conversations": [{"from": "user", "value": "no answer"}]},
  {"id": "c", "conversations": []},
  {"id": "d", "conversations": [{"from": "human", "value": 5}]},
  {"id": "e", "conversation": []},
  17,
  {"id": "g", "conversations": [{"from": "gpt", "value": "starts alone"}, {"from": "human",
     "value": "late"}, {"from": "chatgpt", "value": ""}]},
  {"id": "h", "conversations": [{"from": "human", "value": "\x"}]},
  {"conversations": [{"from": "human", "value": "ünï\\"}, {"from": "bing", "value": "ok"}]}
]
"#;

#[test]
fn sharegpt_rows_good_and_bad() {
    let found = found(SHAREGPT.as_bytes(), Sharegpt).expect("an array");
    let good: Vec<_> = found
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.line, s.prompt.as_str(), s.answer.as_deref()))
        .collect();
    assert_eq!(
        good,
        [
            ("a", 2, "hi \"you\" ] }", Some("hello")),
            ("7", 3, "no answer", None),
            ("g", 8, "late", None),
            ("row-8", 11, "ünï\\", Some("ok")),
        ]
    );
    let bad: Vec<_> = found.errors.iter().map(|e| (e.row, e.line, e.message.as_str())).collect();
    assert_eq!(bad[0], (2, 4, "expected a turn `from` human or user, got none in 0 turns"));
    assert_eq!(bad[1], (3, 5, "expected `value` to be a text, got a number"));
    assert_eq!(bad[2], (4, 6, "expected the key `conversations`, got none"));
    assert_eq!(bad[3], (5, 7, "expected an object, got a number"));
    assert_eq!((bad[4].0, bad[4].1), (7, 10));
    assert!(bad[4].2.starts_with("expected JSON: invalid escape"), "{}", bad[4].2);
    assert_eq!((found.n_rows, found.n_bad, bad.len()), (9, 5, 5));
}

#[test]
fn sharegpt_files_that_are_no_array() {
    let message =
        |text: &str| format!("{:#}", found(text.as_bytes(), Sharegpt).expect_err("refused"));
    assert!(message("").contains("empty file"));
    assert!(message("{\"a\": 1}").contains("line 1: expected `[`, got `{`"));
    assert!(message("[{\"id\": 1}").contains("cut off"));
    assert!(message("[\n{\"id\": \"x\n").contains("line 3: expected `]`"));
    assert!(message("[1] 2").contains("after the array"));
    assert!(message("[1,").contains("cut off"));
    assert_eq!(found(b"\xef\xbb\xbf [ ] \r\n", Sharegpt).expect("empty array").n_rows, 0);
}

const LONGBENCH: &str = "\u{feff}{\"_id\":\"a\",\"context\":\"c\",\"input\":\"q\",\"answers\":[\"x\",\"y\"],\"language\":\"en\"}\r\n\r\n{\"context\":\"only\",\"input\":\"\",\"answers\":[]}\n{oops}\n{\"context\":\"c\",\"answers\":[]}\n{\"context\":\"c\",\"input\":\"q\",\"answers\":[3]}\n{\"context\":\" \",\"input\":\"\"}\n[]\n{\"_id\":\"z\",\"context\":\"\",\"input\":\"last\"}";

#[test]
fn longbench_rows_good_and_bad() {
    let found = found(LONGBENCH.as_bytes(), Longbench).expect("lines");
    let good: Vec<_> = found
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.line, s.prompt.as_str(), s.answer.as_deref()))
        .collect();
    assert_eq!(
        good,
        [
            ("a", 1, "Text:\nc\n\nTask:\nq\n\nAnswer:", Some("x")),
            ("row-1", 3, "Text:\nonly\n\nAnswer:", None),
            ("z", 9, "Task:\nlast\n\nAnswer:", None),
        ]
    );
    let lines: Vec<_> = found.errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [4, 5, 6, 7, 8]);
    assert_eq!(found.errors[1].message, "expected the key `input`, got none");
    assert_eq!(found.errors[2].message, "expected `answers` to hold texts, got a number");
}

#[test]
fn a_long_line_is_read_and_only_twenty_errors_are_kept() {
    let long = format!("{{\"context\":\"{}\",\"input\":\"q\"}}\n", "x".repeat(3 << 20));
    let text = "broken\n".repeat(30) + &long;
    let found = found(text.as_bytes(), Longbench).expect("lines");
    assert_eq!((found.samples.len(), found.n_bad, found.errors.len()), (1, 30, 20));
    assert_eq!(found.samples[0].line, 31);
}

#[test]
fn the_hash_is_that_of_the_whole_file() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("s.json");
    std::fs::write(&path, SHAREGPT).expect("written");
    let (_, report) = read(&path, Sharegpt).expect("read");
    assert_eq!(report.sha256, sha256_hex(SHAREGPT.as_bytes()));
    assert_eq!(report.sha256, sha256_file(&path).expect("read"));
    assert_eq!(report.n_bytes, SHAREGPT.len() as u64);
    assert_eq!(
        sha256_hex(b"abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn only_bad_rows_is_an_error() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("l.jsonl");
    std::fs::write(&path, "1\n2\n").expect("written");
    let text = format!("{:#}", read(&path, Longbench).expect_err("no row"));
    assert!(
        text.contains(
            "l.jsonl: expected at least one usable row, got 2 bad ones; the first, line 1"
        ),
        "{text}"
    );
    std::fs::write(&path, "\n \n").expect("written");
    assert!(format!("{:#}", read(&path, Longbench).expect_err("empty")).contains("got none"));
}

/// What holds for every input: rows are counted once, errors carry lines of the file.
fn survives(bytes: &[u8], format: DatasetFormat) {
    let Ok(found) = found(bytes, format) else { return };
    assert_eq!(found.n_rows, found.samples.len() as u64 + found.n_bad);
    let n_lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
    assert!(found.errors.iter().all(|error| (1..=n_lines).contains(&error.line)));
    assert!(
        found
            .samples
            .iter()
            .all(|sample| !sample.prompt.trim().is_empty() && !sample.id.is_empty())
    );
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn mutated_sharegpt(bytes in fuzz::mutated(SHAREGPT)) {
        survives(&bytes, Sharegpt);
    }

    #[test]
    fn mutated_longbench(bytes in fuzz::mutated(LONGBENCH)) {
        survives(&bytes, Longbench);
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes, Longbench);
        survives(&bytes, Sharegpt);
        survives(&[b"[", &bytes[..]].concat(), Sharegpt);
    }
}

#[test]
fn real_files_are_read() {
    #[expect(clippy::disallowed_methods, reason = "a test finds shared data by this variable")]
    let Ok(shared) = std::env::var("KVBENCH_SHARED") else {
        eprintln_skipped();
        return;
    };
    let folder = Path::new(&shared).join("datasets");
    let (samples, report) =
        read(&folder.join("sharegpt_v3_filtered_1000.json"), Sharegpt).expect("ShareGPT");
    assert_eq!(samples.len() as u64 + report.n_bad, report.n_rows);
    assert_eq!(report.n_rows, 1000);
    let (samples, report) =
        read(&folder.join("longbench_multi_news_60.jsonl"), Longbench).expect("LongBench");
    assert_eq!((samples.len(), report.n_bad), (60, 0));
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn eprintln_skipped() {
    eprintln!("skipped: KVBENCH_SHARED is not set");
}
