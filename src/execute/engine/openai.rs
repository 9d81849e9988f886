//! What is sent to and understood from an OpenAI-compatible server. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    follow::Said,
    logprobs::{self, Listed},
};
use crate::{
    plan::draws,
    scenario::{Endpoint, EngineTarget, Sampling},
    workload::{Place, Request},
};

/// Fields that not every server accepts; each is off unless asked for, because unknown fields are refused by some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// `return_token_ids` (vLLM, SGLang): the ids, and so the number, of the tokens in each chunk.
    pub return_token_ids: bool,
    /// `cache_prompt: false` (llama.cpp): do not take the prompt from the previous request's cache.
    pub no_prompt_cache: bool,
    /// `ignore_eos`: the workload's answers are of one length.
    pub fixed_length: bool,
}

/// Path of an endpoint below the base URL.
pub fn path(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Completions => "v1/completions",
        Endpoint::Chat => "v1/chat/completions",
    }
}

/// The body of a request; `sampling` has the whole seed. Sampling is always explicit, because engines' defaults differ (llama.cpp: temperature 0.8,
/// top_k 40; vLLM: the model's own file).
pub(super) fn body(
    target: &EngineTarget,
    model: &str,
    sampling: Sampling,
    extras: Extras,
    request: &Request,
    before: &[Said<'_>],
) -> Value {
    let mut body = json!({
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "seed": draws::sent(sampling.seed),
        "n": 1,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    match target.endpoint {
        Endpoint::Completions if before.is_empty() => {
            body["prompt"] = json!(request.text_for(target.endpoint));
        }
        Endpoint::Completions => body["prompt"] = json!(transcript(before, &request.prompt)),
        Endpoint::Chat => body["messages"] = messages(before, &request.prompt),
    }
    if let Some(place) = &request.forced {
        ask_logprobs(&mut body, target, place);
    }
    if target.continuous_usage {
        body["stream_options"]["continuous_usage_stats"] = json!(true);
    }
    for (asked, key, value) in [
        (target.ignore_eos || extras.fixed_length, "ignore_eos", true),
        (extras.return_token_ids, "return_token_ids", true),
        (extras.no_prompt_cache, "cache_prompt", false),
    ] {
        if asked {
            body[key] = json!(value);
        }
    }
    body
}

/// One token after a given text: it is not used, so it is not drawn, and the likeliest are listed.
fn ask_logprobs(body: &mut Value, target: &EngineTarget, place: &Place) {
    body["temperature"] = json!(0.0);
    body["logprobs"] = json!(place.top);
    let known = target.engine.as_ref().and_then(|engine| engine.logprobs.as_ref());
    if let Some(known) = known.filter(|_| place.stop.id.is_some()) {
        for (key, value) in &known.id_request {
            body[key] = value.clone();
        }
    }
}

fn messages(before: &[Said<'_>], prompt: &str) -> Value {
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let mut messages: Vec<Value> = Vec::with_capacity(2 * before.len() + 1);
    for said in before {
        messages.extend([message("user", said.prompt), message("assistant", said.answer)]);
    }
    messages.push(message("user", prompt));
    Value::Array(messages)
}

/// A conversation as one text. The first turn stands as it is sent alone, and each text begins with the one before it and
/// its answer, so that a prefix cache has something to find.
pub(super) fn transcript(before: &[Said<'_>], prompt: &str) -> String {
    let Some((first, later)) = before.split_first() else { return prompt.to_owned() };
    let mut text = format!("{}{}", first.prompt, first.answer);
    for said in later {
        text += &format!("\n\nUser: {}\n\nAssistant:{}", said.prompt, said.answer);
    }
    text + &format!("\n\nUser: {prompt}\n\nAssistant:")
}

/// One event of a stream, as far as we read it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chunk {
    /// Text of choice 0: `text`, or `delta.content`.
    pub text: String,
    /// Whether choice 0 carried text or reasoning: a role alone, `""` and `null` are no output.
    pub has_output: bool,
    /// Largest choice index; with `n` = 1 anything but 0 is a fault.
    pub index_max: i64,
    /// `finish_reason` of choice 0.
    pub finish_reason: Option<String>,
    /// Tokens of choice 0 in this chunk, where the server gave their ids.
    pub token_ids: Option<i64>,
    /// Counts so far, wherever the server put them: alone, or beside a choice.
    pub usage: Option<Usage>,
    /// The likeliest tokens at the chunk's first, where the server listed them.
    pub listed: Option<Listed>,
    /// An error inside a stream that began with status 200.
    pub error: Option<String>,
}

/// The server's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<i64>,
    /// Tokens of the answer so far, stop token included.
    pub completion_tokens: Option<i64>,
    /// Where the prompt came from.
    pub prompt_tokens_details: Option<PromptDetails>,
}

/// Details of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PromptDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct WireChunk {
    choices: Option<Vec<WireChoice>>,
    usage: Option<Usage>,
    error: Option<Value>,
    object: Option<String>,
    message: Option<Value>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: i64,
    text: Option<String>,
    delta: Option<WireDelta>,
    finish_reason: Option<String>,
    token_ids: Option<Vec<i64>>,
    #[serde(default)]
    logprobs: Value,
}

#[derive(Deserialize)]
struct WireDelta {
    content: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
}

/// Reads one event's data. `Err` says what is wrong with it.
pub fn parse(data: &[u8]) -> Result<Chunk, String> {
    let wire: WireChunk = serde_json::from_slice(data)
        .map_err(|error| format!("expected a JSON chunk, got {:?} ({error})", snippet(data)))?;
    let error = stream_error(&wire);
    if error.is_none() && wire.choices.is_none() && wire.usage.is_none() {
        return Err(format!("expected choices, usage or error, got {:?}", snippet(data)));
    }
    let mut chunk = Chunk { usage: wire.usage, error, ..Chunk::default() };
    for choice in wire.choices.unwrap_or_default() {
        chunk.index_max = chunk.index_max.max(choice.index);
        if choice.index == 0 {
            chunk.listed = logprobs::first(&choice.logprobs)?;
            chunk.take(choice);
        }
    }
    Ok(chunk)
}

impl Chunk {
    fn take(&mut self, choice: WireChoice) {
        let filled = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        if let Some(delta) = choice.delta {
            self.has_output |= filled(&delta.reasoning_content) || filled(&delta.reasoning);
            self.text.push_str(delta.content.as_deref().unwrap_or_default());
        }
        self.text.push_str(choice.text.as_deref().unwrap_or_default());
        self.has_output |= !self.text.is_empty();
        // TGI says "" until the end.
        let reason = choice.finish_reason.filter(|reason| !reason.is_empty());
        self.finish_reason = reason.or(self.finish_reason.take());
        self.token_ids = choice.token_ids.map(|ids| ids.len() as i64);
    }
}

/// `{"error": {"message", "code", ..}}` (vLLM, llama.cpp, LMDeploy), `{"error": ".."}`, and old vLLM's
/// `{"object": "error", "message": ..}`.
fn stream_error(wire: &WireChunk) -> Option<String> {
    match &wire.error {
        Some(Value::Null) | None => {}
        Some(error) => return Some(error_text(error)),
    }
    (wire.object.as_deref() == Some("error"))
        .then(|| error_text(wire.message.as_ref().unwrap_or(&Value::Null)))
}

fn error_text(error: &Value) -> String {
    if let Some(text) = error.as_str() {
        return text.to_owned();
    }
    let message = error.get("message").and_then(Value::as_str);
    let code = error
        .get("code")
        .and_then(|code| code.as_i64().map(|n| n.to_string()).or(code.as_str().map(str::to_owned)));
    match (message, code) {
        (Some(message), Some(code)) => format!("{message} (code {code})"),
        (Some(message), None) => message.to_owned(),
        (None, _) => error.to_string(),
    }
}

/// What the body of a refused request says: the message of the known error shapes, else its beginning.
pub fn refusal(body: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value.as_ref().and_then(|value| {
        value
            .get("error")
            .or_else(|| value.get("detail"))
            .or_else(|| value.get("message").map(|_| value))
    });
    error.map_or_else(|| snippet(body), error_text)
}

/// The first 80 characters of what may be anything.
pub fn snippet(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    let mut short: String = text.chars().take(80).collect();
    if bytes.len() > short.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: Sampling = Sampling { temperature: 0.0, seed: 0 };

    fn target(endpoint: Endpoint) -> EngineTarget {
        super::super::tests::target("http://127.0.0.1:1", endpoint)
    }

    fn request() -> Request {
        super::super::tests::request(0, 7)
    }

    #[test]
    fn bodies() {
        let plain = body(
            &target(Endpoint::Completions),
            "m",
            Sampling { temperature: 0.0, seed: 1 << 40 | 5 },
            Extras::default(),
            &request(),
            &[],
        );
        assert_eq!(
            plain,
            json!({"model": "m", "prompt": "prompt 0", "max_tokens": 7, "temperature": 0.0, "top_p": 1.0, "seed": 5,
                "n": 1, "stream": true, "stream_options": {"include_usage": true}})
        );
        let mut asked = target(Endpoint::Chat);
        asked.ignore_eos = true;
        asked.continuous_usage = true;
        let extras = Extras { return_token_ids: true, no_prompt_cache: true, fixed_length: false };
        let warm = Sampling { temperature: 0.9, seed: 5 };
        let full = body(&asked, "m", warm, extras, &request(), &[]);
        assert_eq!(full["temperature"], json!(0.9));
        assert_eq!(full["messages"], json!([{"role": "user", "content": "prompt 0"}]));
        assert_eq!(
            full["stream_options"],
            json!({"include_usage": true, "continuous_usage_stats": true})
        );
        assert_eq!((&full["ignore_eos"], &full["cache_prompt"]), (&json!(true), &json!(false)));
        assert_eq!(full["return_token_ids"], json!(true));
        let fixed = Extras { fixed_length: true, ..Extras::default() };
        let fixed = body(&target(Endpoint::Chat), "m", warm, fixed, &request(), &[]);
        assert_eq!(fixed["ignore_eos"], json!(true));
    }

    #[test]
    fn a_forced_place_asks_for_logprobs_and_draws_nothing() {
        let mut asked = request();
        let stop = crate::scenario::StopToken { text: None, id: Some(2) };
        asked.forced = Some(Place { at: 0.5, stop, top: 20 });
        let warm = Sampling { temperature: 0.9, seed: 5 };
        let mut target = target(Endpoint::Completions);
        let plain = body(&target, "m", warm, Extras::default(), &asked, &[]);
        assert_eq!((&plain["logprobs"], &plain["temperature"]), (&json!(20), &json!(0.0)));
        assert_eq!(plain.get("return_tokens_as_token_ids"), None);
        let engines = crate::scenario::engine::built_in().unwrap();
        let vllm = engines.iter().find(|engine| engine.name == "vllm").unwrap();
        target.engine = Some(std::sync::Arc::new(vllm.clone()));
        let by_id = body(&target, "m", warm, Extras::default(), &asked, &[]);
        assert_eq!(by_id["return_tokens_as_token_ids"], json!(true));
        let others = body(&target, "m", warm, Extras::default(), &request(), &[]);
        assert_eq!((others.get("logprobs"), &others["temperature"]), (None, &json!(0.9)));
    }

    #[test]
    fn conversations() {
        let before = [Said { prompt: "a", answer: " b" }, Said { prompt: "c", answer: " d" }];
        let chat =
            body(&target(Endpoint::Chat), "m", GREEDY, Extras::default(), &request(), &before);
        let roles: Vec<_> = chat["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
            .collect();
        assert_eq!(
            roles,
            [
                ("user", "a"),
                ("assistant", " b"),
                ("user", "c"),
                ("assistant", " d"),
                ("user", "prompt 0")
            ]
        );
        let texts: Vec<String> =
            (0..3).map(|n| transcript(&before[..n], ["a", "c", "e"][n])).collect();
        assert_eq!(texts[0], "a");
        assert_eq!(texts[2], "a b\n\nUser: c\n\nAssistant: d\n\nUser: e\n\nAssistant:");
        assert!(texts[2].starts_with(&(texts[1].clone() + " d")), "a prefix cache can find it");
    }

    #[test]
    fn roles_nulls_and_reasoning() {
        for quiet in [
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}"#,
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[{"index":0,"text":"","finish_reason":null}],"usage":null}"#,
            r#"{"choices":[]}"#,
        ] {
            assert_eq!(parse(quiet.as_bytes()).unwrap(), Chunk::default(), "{quiet}");
        }
        for key in ["reasoning_content", "reasoning"] {
            let chunk =
                parse(format!(r#"{{"choices":[{{"delta":{{"{key}":"hm"}}}}]}}"#).as_bytes())
                    .unwrap();
            assert!(chunk.has_output && chunk.text.is_empty(), "{key}");
        }
    }

    #[test]
    fn usage_stands_beside_or_without_choices() {
        let beside = br#"{"choices":[{"text":"","index":0,"finish_reason":"length"}],
            "usage":{"completion_tokens":6,"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let chunk = parse(beside).unwrap();
        assert_eq!(chunk.finish_reason.as_deref(), Some("length"));
        let usage = chunk.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(5), Some(6)));
        assert_eq!(usage.prompt_tokens_details.unwrap().cached_tokens, Some(4));
        assert!(parse(br#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null}}"#)
            .unwrap()
            .usage
            .is_some());
    }

    #[test]
    fn errors_of_both_engines() {
        for (text, expected) in [
            (
                r#"{"error":{"message":"gone","type":"x","param":null,"code":500}}"#,
                "gone (code 500)",
            ),
            (r#"{"error":{"code":400,"message":"ctx","type":"e","n_ctx":512}}"#, "ctx (code 400)"),
            (r#"{"error":"flat"}"#, "flat"),
            (r#"{"object":"error","message":"old","code":40001}"#, "old"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().error.as_deref(), Some(expected));
        }
        assert_eq!(
            refusal(br#"{"error":{"message":"no model","code":404}}"#),
            "no model (code 404)"
        );
        assert_eq!(refusal(br#"{"detail":"Not Found"}"#), "Not Found");
        assert_eq!(refusal(b"<html>busy"), "<html>busy");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["<html>", "42", "{}", r#"{"choices":5}"#, r#"{"choices":[{"text":7}]}"#] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"<html>").unwrap_err().contains("<html>"));
    }

    #[test]
    fn other_choices_are_seen_but_not_mixed_in() {
        let chunk = parse(br#"{"choices":[{"index":1,"text":"x","token_ids":[1]}]}"#).unwrap();
        assert_eq!((chunk.index_max, chunk.text.as_str(), chunk.token_ids), (1, "", None));
    }
}
