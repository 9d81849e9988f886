//! Against what real engines counted: answers recorded from vLLM and llama.cpp.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// `KVBENCH_SHARED`, or word that the test was skipped.
fn shared() -> Option<PathBuf> {
    let found = std::env::var_os("KVBENCH_SHARED").map(PathBuf::from);
    if found.is_none() {
        say_skipped();
    }
    found
}

fn json(path: PathBuf) -> Value {
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Two folders of one model: the second has `add_bos_token`.
fn stories(shared: &std::path::Path) -> Tokenizer {
    Tokenizer::load(&shared.join("models/stories260k")).unwrap()
}

/// The prompt of the recordings.
const PROMPT: &str = "Once upon a time";

#[test]
fn prompts_count_as_llama_cpp_counts_them() {
    let Some(shared) = shared() else { return };
    let usage = json(shared.join("recorded/llamacpp/nonstream.json"))["usage"].clone();
    for folder in ["stories260k", "stories260k-hd64"] {
        let tokenizer = Tokenizer::load(&shared.join("models").join(folder)).unwrap();
        assert_eq!(usage["prompt_tokens"], tokenizer.count(PROMPT).unwrap(), "{folder}");
        assert!(tokenizer.adds_bos() && tokenizer.note().is_none());
    }
    // The chat endpoint: the template of these models prints the message alone, and llama.cpp adds BOS.
    let chat = std::fs::read_to_string(shared.join("recorded/llamacpp/chat.sse")).unwrap();
    let tokenizer = stories(&shared);
    let source = tokenizer.chat_template().unwrap().to_owned();
    let day = date(DATE_DEFAULT).unwrap();
    let template = ChatTemplate::new(&source, tokenizer.specials().clone(), day).unwrap();
    let meter = Meter::new(Arc::new(tokenizer), Some(template));
    let expected = format!("\"prompt_tokens\":{},", meter.count(PROMPT).unwrap());
    assert!(chat.contains(&expected), "expected {expected}");
}

/// `[[text, completion_tokens, finish_reason], ..]` as rows of one cell.
fn rows(path: PathBuf) -> Vec<RequestRow> {
    let answers = json(path);
    let one = |answer: &Value| {
        row(
            "c",
            answer[0].as_str().unwrap(),
            answer[1].as_i64().unwrap(),
            answer[2].as_str().unwrap(),
        )
    };
    answers.as_array().unwrap().iter().map(one).collect()
}

fn facts_of(rows: &[RequestRow], tokenizer: &Tokenizer) -> TokenFacts {
    triangulate(&rows.iter().collect::<Vec<_>>(), tokenizer).unwrap().remove(0)
}

#[test]
fn every_sound_answer_is_exact_but_for_its_stop_token() {
    let Some(shared) = shared() else { return };
    let tokenizer = stories(&shared);
    for file in [
        "vllm/stories-out-auto",
        "vllm/stories-out-fp8_e4m3",
        "llamacpp/out-bf16-bf16-on",
        "llamacpp/out-f16-f16-on",
        "llamacpp/out-q8_0-q8_0-on",
        "llamacpp/out-q4_0-q4_0-on",
    ] {
        let facts = facts_of(&rows(shared.join(format!("recorded/{file}.json"))), &tokenizer);
        assert_eq!((facts.n_compared, facts.n_other), (6, 0), "{file}: {facts:?}");
        assert_eq!(facts.n_exact + facts.n_stop_token, 6, "{file}");
    }
    // The garbled KV type: its tokens are not the ones that anybody would spell the text with.
    let garbled = rows(shared.join("recorded/vllm/stories-out-int8_per_token_head.json"));
    assert!(facts_of(&garbled, &tokenizer).n_other >= 3);
}

/// `vllm bench serve` counted the same texts by encoding them alone and found 65 tokens in 43 of 63; there were 64.
#[test]
fn answers_of_another_tool_have_the_tokens_that_were_asked_for() {
    let Some(shared) = shared() else { return };
    let tokenizer = stories(&shared);
    let run = json(shared.join("recorded/peers/vllm-bench-serve_llamacpp.json"));
    let texts = run["generated_texts"].as_array().unwrap();
    let texts: Vec<&str> =
        texts.iter().filter_map(Value::as_str).filter(|it| !it.is_empty()).collect();
    assert_eq!(texts.len(), 63);
    for text in texts {
        assert_eq!(tokenizer.count_continued(text).unwrap(), 64, "{text:?}");
    }
}

/// The lengths that the tool above asked for and missed: 64 became 63, 65 and 187.
#[test]
fn prompts_for_a_real_tokenizer_are_exact() {
    let Some(shared) = shared() else { return };
    let meter = Meter::new(Arc::new(stories(&shared)), None);
    let mut fitter = Fitter::new(&meter).unwrap();
    let mut next = words(&["able", "machine", "morning", "grey", "quick", "island"]);
    for target in (2..200).chain([512, 2000]) {
        let fitted = fitter.fit(target, &mut next).unwrap();
        assert_eq!(fitted.tokens, target, "{:?}", fitted.text);
        assert_eq!(meter.count(&fitted.text).unwrap(), target);
    }
}
