use std::{path::Path, sync::Arc};

use proptest::prelude::*;

use super::{tiny, *};
use crate::record::{RequestRow, manifest::TokenFacts};

fn load(make: fn(&Path)) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    Tokenizer::load(folder.path()).unwrap()
}

fn plain(make: fn(&Path)) -> Meter {
    Meter::new(Arc::new(load(make)), None)
}

fn templated(source: &str) -> Meter {
    let tokenizer = load(tiny::sentence_piece);
    let special = tokenizer.specials().clone();
    let template = ChatTemplate::new(source, special, date(DATE_DEFAULT).unwrap()).unwrap();
    Meter::new(Arc::new(tokenizer), Some(template))
}

#[test]
fn counts_include_what_the_tokenizer_adds_and_nothing_is_truncated() {
    let (bytes, pieces) = (load(tiny::byte_level), load(tiny::sentence_piece));
    assert_eq!((bytes.adds_bos(), pieces.adds_bos()), (false, true));
    assert_eq!((bytes.count("").unwrap(), pieces.count("").unwrap()), (0, 1));
    let text = "the word the word the word";
    // The file of the first asks for truncation to 4; its first word has no blank and no token of its own.
    assert_eq!(bytes.count(text).unwrap(), 3 + 5);
    assert_eq!(pieces.count(text).unwrap(), 1 + 6);
    assert_eq!(pieces.decode(&pieces.encode(text, true).unwrap()).unwrap(), text);
    assert_eq!(pieces.special("eos_token"), Some("</s>"));
    assert_eq!(bytes.special("eos_token"), Some("<|end|>"));
    assert_eq!(pieces.encode("a</s>", false).unwrap().last(), Some(&2), "special tokens are read");
}

#[test]
fn the_text_is_cut_and_not_what_is_added() {
    let (bytes, pieces) = (load(tiny::byte_level), load(tiny::sentence_piece));
    // The file of the first cuts at 4, that of the second names no limit.
    assert_eq!((bytes.tokens_max(), pieces.tokens_max()), (Some(4), None));
    let text = "the word the word the word";
    let whole = pieces.encode(text, true).unwrap();
    let head = |tokens_max| pieces.head(text, tokens_max).unwrap();
    assert_eq!((head(7).ids.as_slice(), head(7).is_cut), (whole.as_slice(), false));
    assert_eq!((head(3).ids.as_slice(), head(3).is_cut), (&whole[..3], true));
    assert_eq!(head(3).type_ids, [0, 0, 0]);
    let said = format!("{:#}", pieces.head(text, 1).unwrap_err());
    assert!(said.contains("room for at least 2 tokens, of which the tokenizer adds 1"), "{said}");
}

#[test]
fn the_hash_is_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    tiny::byte_level(folder.path());
    let path = folder.path().join("tokenizer.json");
    let tokenizer = Tokenizer::load(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(tokenizer.n_bytes(), bytes.len() as u64);
    assert_eq!(tokenizer.sha256().len(), 64);
    std::fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
    assert_ne!(Tokenizer::load(&path).unwrap().sha256(), tokenizer.sha256());
}

#[test]
fn what_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |folder: &Path| format!("{:#}", Tokenizer::load(folder).err().unwrap());
    assert!(refused(folder.path()).contains("expected `tokenizer.json` in the folder, got none"));
    assert!(refused(&folder.path().join("absent.json")).contains("cannot open the tokenizer"));
    std::fs::write(folder.path().join("tokenizer.model"), "x").unwrap();
    assert!(refused(folder.path()).contains("got only `tokenizer.model`"));
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let text = refused(folder.path());
    assert!(text.contains("tokenizer.json: expected a `tokenizer.json` as"), "{text}");
    tiny::sentence_piece(folder.path());
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(refused(folder.path()).contains("tokenizer_config.json: expected JSON"));
}

#[test]
fn files_that_disagree_about_bos_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    tiny::sentence_piece(folder.path());
    assert_eq!(Tokenizer::load(folder.path()).unwrap().note(), None);
    let config = r#"{"bos_token": "<s>", "add_bos_token": false}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert!(tokenizer.note().unwrap().contains("`add_bos_token = false`"));
    assert!(tokenizer.adds_bos(), "counts follow tokenizer.json");
}

#[test]
fn a_template_may_have_a_file_or_a_name() {
    let folder = tempfile::tempdir().unwrap();
    tiny::sentence_piece(folder.path());
    let template = || Tokenizer::load(folder.path()).unwrap().chat_template().map(str::to_owned);
    assert_eq!(template().as_deref(), Some(tiny::TEMPLATE));
    let config = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(template().as_deref(), Some("d"));
    std::fs::write(folder.path().join("chat_template.jinja"), "own").unwrap();
    assert_eq!(template().as_deref(), Some("own"), "the file goes first");
}

#[test]
fn an_answer_counts_as_it_does_behind_its_prompt() {
    for make in [tiny::byte_level, tiny::sentence_piece] {
        let tokenizer = load(make);
        let prompt = "once upon a time";
        for answer in [" the girl", ", the", "the", "7 times", "\n\nthe", " ", "éa", "."] {
            let whole = tokenizer.encode(&format!("{prompt}{answer}"), false).unwrap().len();
            let before = tokenizer.encode(prompt, false).unwrap().len();
            assert_eq!(tokenizer.count_continued(answer).unwrap(), whole - before, "{answer:?}");
        }
        assert_eq!(tokenizer.count_continued("").unwrap(), 0);
    }
}

/// Words in turn, of which `x` the tokenizers spell letter by letter.
fn words<'a>(list: &'a [&'a str]) -> impl FnMut() -> &'a str {
    let mut at = 0;
    move || {
        at += 1;
        list[(at - 1) % list.len()]
    }
}

#[test]
fn prompts_have_exactly_the_length_asked_for() {
    let list = ["able", "above", "unknown", "cache", "x", "morning", "zzzzzzz"];
    for meter in [plain(tiny::byte_level), plain(tiny::sentence_piece), templated(tiny::TEMPLATE)] {
        let least = meter.count("").unwrap() + 4;
        let mut fitter = Fitter::new(&meter).unwrap();
        for target in (least..120).chain([511, 512, 4096]) {
            let mut next = words(&list);
            let fitted = fitter.fit(target, &mut next).unwrap();
            assert_eq!(fitted.tokens, target, "{:?}", fitted.text);
            // What is sent is the text, so the text is counted again.
            assert_eq!(meter.count(&fitted.text).unwrap(), target);
        }
    }
}

#[test]
fn a_length_that_cannot_be_hit_is_the_nearest_and_never_empty() {
    let meter = plain(tiny::sentence_piece);
    let fitted = Fitter::new(&meter).unwrap().fit(1, &mut words(&["morning"])).unwrap();
    assert!(!fitted.text.is_empty());
    assert_eq!(fitted.tokens, 2, "BOS and one piece");
    let meter = templated(&format!("{}{}", "the ".repeat(30), tiny::TEMPLATE));
    let fitted = Fitter::new(&meter).unwrap().fit(8, &mut words(&["morning"])).unwrap();
    assert!(fitted.tokens > 30 && fitted.tokens <= meter.count("").unwrap() + 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_prompts_fit(text in "(the|word|cache|é|日本|😀| |\n|x){1,200}", max in 24_usize..90) {
        for meter in [plain(tiny::byte_level), plain(tiny::sentence_piece), templated(tiny::TEMPLATE)] {
            let before = meter.count(&text).unwrap();
            match meter.cut_middle(&text, max).unwrap() {
                None => prop_assert!(before <= max),
                Some(cut) => {
                    prop_assert_eq!(cut.tokens_before, before);
                    prop_assert!(cut.tokens <= max && before > max);
                    prop_assert_eq!(meter.count(&cut.text).unwrap(), cut.tokens);
                    prop_assert!(!cut.text.contains(char::REPLACEMENT_CHARACTER), "{:?}", cut.text);
                }
            }
        }
    }
}

#[test]
fn the_first_and_the_last_half_stay() {
    let meter = plain(tiny::byte_level);
    let text = format!(" girl{} time", " the".repeat(50));
    let cut = meter.cut_middle(&text, 10).unwrap().unwrap();
    assert_eq!(cut.text, " girl the the the the the the the the time");
    assert_eq!((cut.tokens, cut.tokens_before), (10, 52));
    // With BOS among the first half, as LongBench counts.
    let pieces = plain(tiny::sentence_piece);
    let cut = pieces.cut_middle(text.trim_start(), 10).unwrap().unwrap();
    assert!(
        cut.text.starts_with("girl the the") && cut.text.ends_with("the the time"),
        "{}",
        cut.text
    );
    assert!((9..=10).contains(&cut.tokens), "{}", cut.tokens);
    let error = format!("{:#}", templated(tiny::TEMPLATE).cut_middle(&text, 3).unwrap_err());
    assert!(error.contains("expected room for a prompt in 3 tokens"), "{error}");
}

#[test]
fn bos_is_sent_once() {
    let meter = templated(tiny::TEMPLATE);
    let rendered = meter.rendered("the").unwrap().unwrap();
    assert_eq!(rendered, "<u>the</u><a>", "the tokenizer adds BOS itself");
    let ids = meter.tokenizer().encode(&rendered, true).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1);
    // What a chat endpoint encodes: the template as it is, with nothing added.
    let chat = meter.tokenizer().encode("<s><u>the</u><a>", false).unwrap();
    assert_eq!(meter.count("the").unwrap(), ids.len());
    assert_eq!(chat.len(), ids.len());
}

#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    template: String,
    messages: Vec<minijinja::Value>,
    add_generation_prompt: bool,
    text: Option<String>,
    refused: Option<String>,
}

/// Made by `scripts/chat-vectors.py` with Jinja in Python.
#[test]
fn templates_print_what_python_prints() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../../tests/vectors/chat_templates.json")).unwrap();
    assert!(vectors.len() >= 9);
    for vector in vectors {
        let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
        let special = special.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
        let day = date(DATE_DEFAULT).unwrap();
        let template = ChatTemplate::new(&vector.template, special, day).unwrap();
        let rendered = template.render(&vector.messages, vector.add_generation_prompt);
        match (rendered, vector.text, vector.refused) {
            (Ok(text), Some(expected), None) => assert_eq!(text, expected, "{}", vector.name),
            (Err(error), None, Some(refused)) => {
                assert!(error.to_string().contains(&refused), "{}: {error}", vector.name);
            }
            (rendered, ..) => panic!("{}: {rendered:?}", vector.name),
        }
    }
}

#[test]
fn a_broken_template_names_its_line() {
    let day = date("2026-01-02").unwrap();
    let error = ChatTemplate::new("a\n{% if %}", Special::new(), day).err().unwrap();
    assert!(error.to_string().starts_with("chat template line 2: "), "{error}");
    let template =
        ChatTemplate::new("{{ strftime_now('%Y-%m-%d') }}", Special::new(), day).unwrap();
    assert_eq!(template.render(&[], false).unwrap(), "2026-01-02");
    let template = ChatTemplate::new("\n{{ messages.nothing() }}", Special::new(), day).unwrap();
    assert!(template.render(&[], false).unwrap_err().to_string().contains("line 2"));
    assert!(
        date("26.7.2024").unwrap_err().to_string().contains("expected a day such as `2024-07-26`")
    );
}

fn row(cell: &str, text: &str, output_tokens: i64, finish: &str) -> RequestRow {
    RequestRow {
        cell_id: cell.to_owned(),
        output_text: text.to_owned(),
        output_tokens: Some(output_tokens),
        chunk_ns: vec![0; usize::try_from(output_tokens).unwrap()],
        finish_reason: Some(finish.to_owned()),
        prompt_tokens: Some(5),
        prompt_tokens_local: Some(5),
        ..RequestRow::default()
    }
}

fn facts(rows: &[RequestRow]) -> Vec<TokenFacts> {
    triangulate(&rows.iter().collect::<Vec<_>>(), &load(tiny::sentence_piece)).unwrap()
}

#[test]
fn counts_are_set_against_each_other_cell_by_cell() {
    let long = " the girl".repeat(20);
    let mut rows = vec![
        row("a", &long, 40, "length"),
        row("a", &long, 41, "stop"),
        row("a", &long, 41, "length"),
        row("a", &long, 60, "stop"),
        row("a", "\u{fffd} the", 9, "stop"),
        row("b", " the", 1, "length"),
        RequestRow { output_tokens: None, ..row("b", " the", 1, "length") },
        RequestRow { err: Some("reset".to_owned()), ..row("b", " the", 7, "length") },
    ];
    rows[1].chunk_ns.truncate(40);
    rows[3].chunk_ns.truncate(20);
    rows[3].chunk_tokens = vec![2; 20];
    rows[5].prompt_tokens = Some(6);
    let found = facts(&rows);
    let [a, b] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((a.n_good, a.n_compared, a.n_garbled), (5, 4, 1));
    assert_eq!((a.n_exact, a.n_stop_token, a.n_other, a.n_far), (1, 1, 2, 1));
    assert_eq!((a.tokens_server, a.tokens_ours, a.worst), (182, 160, 20));
    assert_eq!((a.n_chunk_per_token, a.n_chunks_fewer, a.n_chunks_more), (4, 1, 0));
    assert_eq!((a.n_chunk_tokens, a.n_chunk_tokens_differ), (1, 1));
    assert_eq!((a.n_prompts, a.n_prompts_differ), (5, 0));
    assert_eq!((b.n_good, b.n_compared, b.n_exact), (2, 1, 1), "failed requests are left out");
    assert_eq!((b.n_prompts, b.n_prompts_differ, b.worst_prompt), (2, 1, 1));
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn say_skipped() {
    eprintln!("skipped: KVBENCH_SHARED is not set");
}

mod recorded;
