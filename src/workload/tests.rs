use std::{collections::BTreeSet, io::Write};

use super::*;
use crate::scenario::LengthDist;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn dataset(path: &std::path::Path, n_requests: Option<usize>) -> Workload {
    Workload::Dataset {
        path: path.to_owned(),
        format: DatasetFormat::Longbench,
        n_requests,
        max_tokens: 32,
        tokens: None,
    }
}

fn rows(n: usize) -> String {
    (0..n).map(|i| format!("{{\"_id\":\"r{i}\",\"context\":\"c{i}\",\"input\":\"q\",\"answers\":[\"12345\"]}}\n")).collect()
}

#[test]
fn a_seed_fixes_prompts_order_and_times() {
    let words = Workload::Synthetic {
        n_requests: 50,
        prompt_tokens: LengthDist::Uniform { min: 4, max: 30 },
        output_tokens: LengthDist::Fixed(7),
        tokens: None,
    };
    let poisson = Arrival::Poisson { rate: 3.0 };
    let first = build(&words, &poisson, 11).expect("built");
    assert_eq!(first, build(&words, &poisson, 11).expect("built"));
    assert_ne!(first, build(&words, &poisson, 12).expect("built"));
    let closed = build(&words, &Arrival::Closed { concurrency: 2 }, 11).expect("built");
    let prompts =
        |requests: &[Request]| requests.iter().map(|r| r.prompt.clone()).collect::<Vec<_>>();
    assert_eq!(prompts(&first), prompts(&closed), "arrivals have a stream of their own");
    assert!(first.iter().enumerate().all(|(i, request)| request.id == i as u64));
}

#[test]
fn rows_are_drawn_without_replacement() {
    let file = file(&rows(40));
    let closed = Arrival::Closed { concurrency: 1 };
    let some = build(&dataset(file.path(), Some(25)), &closed, 5).expect("built");
    let ids: BTreeSet<_> = some.iter().map(|request| request.sample_id.clone()).collect();
    assert_eq!((some.len(), ids.len()), (25, 25));
    let all = build(&dataset(file.path(), None), &closed, 5).expect("built");
    assert_eq!(all.len(), 40);
    assert_eq!(all[..25], some[..], "a shorter draw is the head of a longer one");
    assert_eq!(all[0].answer_tokens_est, Some(2));
}

#[test]
fn too_few_rows_is_an_error_with_the_number() {
    let file = file(&(rows(3) + "not json\n"));
    let error = build(&dataset(file.path(), Some(4)), &Arrival::Closed { concurrency: 1 }, 0)
        .expect_err("three usable rows");
    let text = format!("{error:#}");
    assert!(text.contains("`n_requests` = 4 usable rows, got 3 (1 bad)"), "{text}");
}

#[test]
fn shapes_have_no_requests() {
    let shapes = Workload::Shapes { ops: vec![], batch: vec![], kv_len: vec![] };
    assert!(build(&shapes, &Arrival::Closed { concurrency: 1 }, 0).is_err());
}
