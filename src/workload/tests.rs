use std::{collections::BTreeSet, io::Write};

use super::*;
use crate::scenario::{LengthDist, PromptLayout, TimeDist};

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
        prompt: PromptLayout::Task,
        max_tokens: Some(32),
        mode: crate::scenario::AnswerMode::Free,
        turns: 1,
        think: None,
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

const TALK: &str = r#"[{"id": "a", "conversations": [{"from": "human", "value": "first question"},
    {"from": "gpt", "value": "12345678"}, {"from": "human", "value": "second one"}, {"from": "gpt", "value": "1234"},
    {"from": "human", "value": "third"}, {"from": "system", "value": "x"}, {"from": "human", "value": " "}]},
  {"id": "b", "conversations": [{"from": "human", "value": "alone"}, {"from": "gpt", "value": "yes"}]}]"#;

fn talk(path: &std::path::Path, turns: usize, think: Option<TimeDist>) -> Workload {
    let (path, format) = (path.to_owned(), DatasetFormat::Sharegpt);
    Workload::Dataset {
        path,
        format,
        n_requests: None,
        prompt: PromptLayout::Task,
        max_tokens: Some(9),
        mode: crate::scenario::AnswerMode::Free,
        turns,
        think,
        tokens: None,
    }
}

#[test]
fn conversations_are_rows_with_their_later_turns() {
    let file = file(TALK);
    let poisson = Arrival::Poisson { rate: 1.0 };
    let think = Some(TimeDist::Fixed(1.5));
    let built = build(&talk(file.path(), 3, think), &poisson, 2).expect("built");
    assert_eq!(built.len(), 4);
    let a = built.iter().position(|request| request.sample_id == "a").expect("drawn");
    let turns: Vec<_> =
        built[a..a + 3].iter().map(|r| (r.turn, r.prompt.as_str(), r.answer_tokens_est)).collect();
    assert_eq!(
        turns,
        [(0, "first question", Some(2)), (1, "second one", Some(1)), (2, "third", None)]
    );
    let after = |request: usize| Due::After { request: request as u64, think_ns: 1_500_000_000 };
    assert_eq!((built[a + 1].due, built[a + 2].due), (after(a), after(a + 1)));
    assert!(matches!(built[a].due, Due::AtNs(_)));
    assert_eq!(built[a + 1].prompt_tokens_est, 4 + 2 + 3, "with what was said before");
    let short = build(&talk(file.path(), 1, None), &poisson, 2).expect("built");
    assert_eq!(short.len(), 2);
    assert_ne!(schedule_hash(&built), schedule_hash(&short));
    let slower = build(&talk(file.path(), 3, Some(TimeDist::Fixed(2.0))), &poisson, 2);
    assert_ne!(schedule_hash(&slower.expect("built")), schedule_hash(&built));
}

#[test]
fn people_think_as_long_as_the_distribution_says() {
    let row = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
        {"from": "human", "value": "q"}]}"#;
    let file = file(&format!("[{}]", vec![row; 2001].join(",")));
    let closed = Arrival::Closed { concurrency: 1 };
    let think = TimeDist::Lognormal { median: 3.0, sigma: 1.0, max: 20.0 };
    let built = build(&talk(file.path(), 2, Some(think)), &closed, 8).expect("built");
    let mut thought: Vec<u64> = built
        .iter()
        .filter_map(|request| match request.due {
            Due::After { think_ns, .. } => Some(think_ns),
            Due::AtNs(_) | Due::WhenFree => None,
        })
        .collect();
    thought.sort_unstable();
    assert_eq!((thought.len(), thought[2000]), (2001, 20_000_000_000));
    // Standard error of the median here is about 3 %.
    assert!((2.6e9..3.4e9).contains(&(thought[1000] as f64)), "{}", thought[1000]);
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

/// Rows of two LongBench tasks, one of which upstream sends raw, and one of another data set.
const TASKS: &str = r#"{"_id": "t", "dataset": "trec", "context": "C {input}", "input": "I", "answers": ["a"]}
{"_id": "m", "dataset": "multi_news_e", "context": "N", "input": "", "answers": ["b"]}
{"_id": "k", "dataset": "kvbench_count", "context": "c", "input": "q", "answers": ["3"]}
"#;

fn tasks(path: &std::path::Path) -> Workload {
    Workload::Dataset {
        path: path.to_owned(),
        format: DatasetFormat::Longbench,
        n_requests: None,
        prompt: PromptLayout::Task,
        max_tokens: None,
        mode: crate::scenario::AnswerMode::Free,
        turns: 1,
        think: None,
        tokens: None,
    }
}

const ONE: Arrival = Arrival::Closed { concurrency: 1 };

fn of<'a>(built: &'a Built, id: &str) -> &'a Request {
    built.requests.iter().find(|request| request.sample_id == id).expect("drawn")
}

#[test]
fn longbench_rows_have_their_tasks_prompt_and_length() {
    let rows: String = TASKS.lines().take(2).map(|row| format!("{row}\n")).collect();
    let file = file(&rows);
    let built = build_reporting(&tasks(file.path()), &ONE, 3).expect("built");
    let (trec, news) = (of(&built, "t"), of(&built, "m"));
    assert!(trec.prompt.ends_with("examples of questions.\n\nC {input}\nI"), "{}", trec.prompt);
    assert!(news.prompt.contains("\n\nNews:\nN\n\nNow"), "{}", news.prompt);
    assert_eq!((trec.max_tokens, news.max_tokens), (64, 512));
    assert!(built.notes[0].starts_with("2 of 2 prompts are LongBench's own"), "{:?}", built.notes);
    assert!(built.notes[1].starts_with("1 of 2 prompts"), "{:?}", built.notes);
    let mut neutral = tasks(file.path());
    if let Workload::Dataset { prompt, .. } = &mut neutral {
        *prompt = PromptLayout::Neutral;
    }
    let built = build_reporting(&neutral, &ONE, 3).expect("built");
    assert_eq!(of(&built, "t").prompt, "Text:\nC {input}\n\nTask:\nI\n\nAnswer:");
    assert_eq!(of(&built, "t").max_tokens, 64, "the task is known in any layout");
    assert_eq!(built.notes.len(), 1, "{:?}", built.notes);
}

#[test]
fn other_rows_need_a_length_and_stay_neutral() {
    let file = file(TASKS);
    let error = build(&tasks(file.path()), &ONE, 3).expect_err("no length");
    let text = format!("{error:#}");
    assert!(text.contains("line 3, row k") && text.contains("got kvbench_count"), "{text}");
    assert!(text.contains("hint: give the workload a `max_tokens`"), "{text}");
    let built = build_reporting(&dataset(file.path(), None), &ONE, 3).expect("built");
    assert_eq!(of(&built, "k").prompt, "Text:\nc\n\nTask:\nq\n\nAnswer:");
    assert!(built.notes[0].starts_with("2 of 3 prompts are"), "{:?}", built.notes);
    assert!(built.notes[0].contains("; 1 are in the neutral layout"), "{:?}", built.notes);
    assert!(built.requests.iter().all(|request| request.max_tokens == 32));
}

#[test]
fn tasks_that_upstream_sends_raw_get_no_template() {
    let folder = tempfile::tempdir().expect("temporary folder");
    crate::token::tiny::sentence_piece(folder.path());
    let template = folder.path().join("template.jinja");
    std::fs::write(&template, crate::token::tiny::TEMPLATE).expect("written");
    let file = file(TASKS);
    let mut workload = dataset(file.path(), None);
    if let Workload::Dataset { tokens, .. } = &mut workload {
        *tokens = Some(crate::scenario::TokenRules {
            tokenizer: folder.path().to_owned(),
            max_prompt_tokens: Some(120),
            chat_template: Some(crate::scenario::TemplateSource::File(template)),
            template_date: crate::token::date(crate::token::DATE_DEFAULT).expect("a day"),
        });
    }
    let built = build_reporting(&workload, &ONE, 3).expect("built");
    let rendered = |id| of(&built, id).counted.as_ref().expect("counted").rendered.clone();
    assert_eq!(rendered("t"), None);
    assert_eq!(of(&built, "t").text_for(Endpoint::Completions), of(&built, "t").prompt);
    assert!(rendered("m").expect("a template").contains("<u>You are given"));
    assert!(rendered("k").expect("a template").contains("<u>Text:"));
}
