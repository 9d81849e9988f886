//! Log-probabilities of the likeliest next tokens, as servers list them. Pure.
//!
//! Two forms are in use on `/v1/completions`. llama.cpp answers as chat endpoints do, `{"content": [{"top_logprobs": [{"id", "token",
//! "bytes", "logprob"}]}]}`, where special tokens have an empty text unless the server runs with `--special`; vLLM and others keep the
//! old form, `{"top_logprobs": [{"text": logprob}]}`, in which `return_tokens_as_token_ids` puts `token_id:2` in the place of texts.

use serde_json::{Map, Value};

use crate::scenario::StopToken;

/// What stands before an id in the place of a token's text.
const ID_PREFIX: &str = "token_id:";

/// The likeliest tokens at one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed(Vec<Token>);

#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: Option<String>,
    id: Option<i64>,
    logprob: f64,
}

/// What a list says of the stop token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Stop {
    /// Its log-probability; `None` if it is not listed.
    pub(super) logprob: Option<f64>,
    /// The lowest that is listed: a token that is not has at most this.
    pub(super) floor: f64,
}

/// The list at the first token of `logprobs` of a choice; `None` where there is none, such as `null`.
///
/// # Errors
/// What is there has neither of the two forms.
pub(super) fn first(logprobs: &Value) -> Result<Option<Listed>, String> {
    if logprobs.is_null() {
        return Ok(None);
    }
    let place = |key: &str| match logprobs.get(key) {
        Some(Value::Array(places)) => Some(places.first().unwrap_or(&Value::Null)),
        _ => None,
    };
    let tokens = match (place("content"), place("top_logprobs")) {
        (Some(Value::Null), _) | (None, Some(Value::Null)) => return Ok(None),
        (Some(first), _) => first
            .get("top_logprobs")
            .and_then(Value::as_array)
            .map(|tokens| tokens.iter().map(of_object).collect::<Option<Vec<_>>>()),
        (None, Some(Value::Object(texts))) => Some(of_texts(texts)),
        _ => None,
    };
    let unknown = || {
        format!(
            "expected logprobs with `top_logprobs`, got {:?}",
            super::openai::snippet(logprobs.to_string().as_bytes())
        )
    };
    let tokens = tokens.flatten().ok_or_else(unknown)?;
    Ok((!tokens.is_empty()).then_some(Listed(tokens)))
}

fn of_object(token: &Value) -> Option<Token> {
    let text = token.get("token").and_then(Value::as_str);
    let id = token.get("id").and_then(Value::as_i64).or_else(|| id_in(text?));
    let text = text.filter(|text| id_in(text).is_none()).map(str::to_owned);
    Some(Token { text, id, logprob: token.get("logprob")?.as_f64()? })
}

fn of_texts(texts: &Map<String, Value>) -> Option<Vec<Token>> {
    let token = |(text, logprob): (&String, &Value)| {
        let id = id_in(text);
        Some(Token { text: id.is_none().then(|| text.clone()), id, logprob: logprob.as_f64()? })
    };
    texts.iter().map(token).collect()
}

fn id_in(text: &str) -> Option<i64> {
    text.strip_prefix(ID_PREFIX)?.parse().ok()
}

impl Listed {
    /// # Errors
    /// The list names tokens by what is not known of the stop token, so that it could be there unseen.
    pub(super) fn stop(&self, stop: &StopToken) -> Result<Stop, String> {
        let is_stop = |token: &&Token| {
            let same_id = token.id.is_some() && token.id == stop.id;
            same_id || token.text.is_some() && token.text == stop.text
        };
        let floor = self.0.iter().map(|token| token.logprob).fold(f64::INFINITY, f64::min);
        let logprob = self.0.iter().find(is_stop).map(|token| token.logprob);
        if logprob.is_none() {
            self.could_be_seen(stop)?;
        }
        Ok(Stop { logprob, floor })
    }

    fn could_be_seen(&self, stop: &StopToken) -> Result<(), String> {
        let by_id = stop.id.is_some() && self.0.iter().all(|token| token.id.is_some());
        // A special token may be listed with an empty text.
        let named = |token: &Token| token.text.as_ref().is_some_and(|text| !text.is_empty());
        if by_id || stop.text.is_some() && self.0.iter().all(named) {
            return Ok(());
        }
        let (by, key) = if self.0.iter().any(|token| token.id.is_some()) {
            ("ids", "stop_token_id")
        } else {
            ("texts", "stop_token")
        };
        Err(format!("expected `{key}`, because the server names tokens by {by}, got none"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stop(text: Option<&str>, id: Option<i64>) -> StopToken {
        StopToken { text: text.map(str::to_owned), id }
    }

    fn listed(logprobs: &Value) -> Listed {
        first(logprobs).unwrap().unwrap()
    }

    /// As llama-server sends it: the stop token has no text.
    fn llamacpp() -> Value {
        json!({"content": [{"id": 13, "token": " a", "bytes": [32, 97], "logprob": -0.2, "top_logprobs": [
            {"id": 13, "token": " a", "bytes": [32, 97], "logprob": -0.2},
            {"id": 2, "token": "", "bytes": [], "logprob": -1.9},
            {"id": 7, "token": " b", "bytes": [32, 98], "logprob": -4.5},
        ]}]})
    }

    fn vllm(stop: &str) -> Value {
        json!({"text_offset": [0], "tokens": [" a"], "token_logprobs": [-0.2],
            "top_logprobs": [{" a": -0.2, stop: -1.9, " b": -4.5}]})
    }

    #[test]
    fn both_forms_tell_the_stop_token_and_the_floor() {
        let found = Stop { logprob: Some(-1.9), floor: -4.5 };
        assert_eq!(listed(&llamacpp()).stop(&stop(None, Some(2))), Ok(found));
        assert_eq!(listed(&vllm("</s>")).stop(&stop(Some("</s>"), None)), Ok(found));
        let by_id = json!({"tokens": ["token_id:5"], "token_logprobs": [-0.2],
            "top_logprobs": [{"token_id:5": -0.2, "token_id:2": -1.9, "token_id:9": -4.5}]});
        assert_eq!(listed(&by_id).stop(&stop(Some("</s>"), Some(2))), Ok(found));
    }

    #[test]
    fn a_token_that_is_not_listed_is_bounded_and_never_zero() {
        let bounded = Stop { logprob: None, floor: -4.5 };
        assert_eq!(listed(&llamacpp()).stop(&stop(None, Some(3))), Ok(bounded));
        assert_eq!(listed(&vllm("</s>")).stop(&stop(Some("<|im_end|>"), None)), Ok(bounded));
    }

    #[test]
    fn a_stop_token_that_could_hide_is_an_error() {
        // Token 2 stands there with an empty text: by its text alone nobody can tell.
        let hidden = listed(&llamacpp()).stop(&stop(Some("</s>"), None)).unwrap_err();
        assert!(hidden.contains("stop_token_id"), "{hidden}");
        let by_text = listed(&vllm("</s>")).stop(&stop(None, Some(2))).unwrap_err();
        assert!(by_text.contains("expected `stop_token`"), "{by_text}");
    }

    #[test]
    fn a_stream_tells_it_in_the_first_chunk_that_has_a_list() {
        let chunk = |choice: &Value| {
            super::super::openai::parse(json!({ "choices": [choice] }).to_string().as_bytes())
        };
        let first =
            json!({"index": 0, "text": " a", "logprobs": llamacpp(), "finish_reason": null});
        let listed = chunk(&first).unwrap().listed.unwrap();
        assert_eq!(listed.stop(&stop(None, Some(2))).unwrap().logprob, Some(-1.9));
        let last = json!({"index": 0, "text": "", "logprobs": null, "finish_reason": "length"});
        assert_eq!(chunk(&last).unwrap().listed, None);
        assert!(chunk(&json!({"index": 0, "text": "", "logprobs": {"odd": 1}})).is_err());
    }

    #[test]
    fn nothing_is_nothing_and_nonsense_is_refused() {
        for none in [json!(null), json!({"content": []}), json!({"top_logprobs": [null]})] {
            assert_eq!(first(&none), Ok(None), "{none}");
        }
        for bad in [
            json!(5),
            json!({}),
            json!({"content": [{"id": 1}]}),
            json!({"top_logprobs": [{"a": "b"}]}),
        ] {
            assert!(first(&bad).is_err(), "{bad}");
        }
    }
}
