//! What a request asks for, as far as a router has to know.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What the body of a request says. Keys that do not matter here are not read.
#[derive(Debug, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    max_tokens: Option<f64>,
    max_completion_tokens: Option<f64>,
    n_predict: Option<f64>,
}

/// A request as a router sees it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// The text of its prompt or of its messages, one after the other.
    pub(super) text: String,
    /// Tokens of the prompt: counted where they came as numbers, else estimated from the bytes of the text.
    pub(super) prompt_tokens: u64,
    /// Most tokens of the answer.
    pub(super) max_tokens: Option<u32>,
    /// Where the value of `model` stands in the body.
    model: Option<(usize, usize)>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Tokens(Vec<u64>),
    Texts(#[serde(borrow)] Vec<Cow<'a, str>>),
    Lists(Vec<Vec<u64>>),
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Parts(#[serde(borrow)] Vec<Part<'a>>),
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

impl Asked {
    /// Reads a body. The engine reads the same bytes with a parser of its own, so whatever two parsers could take differently and
    /// matters here (a key given twice) is refused.
    ///
    /// # Errors
    /// It is no JSON object, or has neither prompt nor messages of a known form; one clause.
    pub(super) fn read(body: &[u8], bytes_per_token: f64) -> Result<Self, String> {
        let wire: Wire<'_> = serde_json::from_slice(body).map_err(|error| {
            format!("expected a JSON object with `prompt` or `messages`: {error}")
        })?;
        let (text, counted) = match (wire.prompt, wire.messages) {
            (Some(prompt), None) => prompt_of(prompt.get())?,
            (None, Some(messages)) => (messages_of(messages.get())?, None),
            _ => return Err("expected `prompt` or `messages`".to_owned()),
        };
        let estimated = (text.len() as f64 / bytes_per_token).ceil() as u64;
        let most = [wire.max_tokens, wire.max_completion_tokens, wire.n_predict];
        Ok(Self {
            prompt_tokens: counted.unwrap_or(estimated).max(1),
            text,
            max_tokens: most.into_iter().flatten().find(|n| *n >= 1.0).map(|n| n as u32),
            model: wire.model.and_then(|model| place(body, model.get())),
        })
    }

    /// The body with another model's name, or as it is where there is none to put in.
    pub(super) fn body_for(&self, body: &Bytes, model: Option<&str>) -> Bytes {
        let Some(name) = model else { return body.clone() };
        let name = serde_json::Value::from(name).to_string();
        let (before, after) = match self.model {
            Some((start, end)) => (&body[..start], &body[end..]),
            None => {
                let at = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
                return [&body[..at], b"\"model\":", name.as_bytes(), b",", &body[at..]]
                    .concat()
                    .into();
            }
        };
        [before, name.as_bytes(), after].concat().into()
    }
}

/// Where a part of a body that was borrowed from it stands in it.
fn place(body: &[u8], part: &str) -> Option<(usize, usize)> {
    let start = (part.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= body.len()).then_some((start, end))
}

fn prompt_of(json: &str) -> Result<(String, Option<u64>), String> {
    let prompt = serde_json::from_str(json)
        .map_err(|_| "expected `prompt` to be a text, tokens, or a list of such".to_owned())?;
    Ok(match prompt {
        Prompt::Text(text) => (text.into_owned(), None),
        Prompt::Texts(texts) => (texts.concat(), None),
        Prompt::Tokens(tokens) => (String::new(), Some(tokens.len() as u64)),
        Prompt::Lists(lists) => {
            (String::new(), Some(lists.iter().map(|list| list.len() as u64).sum()))
        }
    })
}

fn messages_of(json: &str) -> Result<String, String> {
    let messages: Vec<Message<'_>> = serde_json::from_str(json)
        .map_err(|_| "expected `messages` to be a list of messages with `content`".to_owned())?;
    let mut text = String::new();
    for content in messages.into_iter().filter_map(|message| message.content) {
        match content {
            Content::Text(own) => text += &own,
            Content::Parts(parts) => {
                parts.iter().filter_map(|part| part.text.as_deref()).for_each(|own| text += own)
            }
        }
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Asked, String> {
        Asked::read(body.as_bytes(), 4.0)
    }

    #[test]
    fn prompts_of_every_form_are_read() {
        for (body, text, tokens) in [
            (r#"{"prompt":"eight by\ntes"}"#, "eight by\ntes", 3),
            (r#"{"prompt":["ab","cd"]}"#, "abcd", 1),
            (r#"{"prompt":[1,2,3]}"#, "", 3),
            (r#"{"prompt":[[1,2],[3]]}"#, "", 3),
            (
                r#"{"messages":[{"role":"user","content":"ab"},{"role":"x","content":null}]}"#,
                "ab\n",
                1,
            ),
            (
                r#"{"messages":[{"content":[{"type":"text","text":"ab"},{"type":"image_url"}]}]}"#,
                "ab\n",
                1,
            ),
        ] {
            let asked = read(body).unwrap();
            assert_eq!((asked.text.as_str(), asked.prompt_tokens), (text, tokens), "{body}");
        }
        assert_eq!(read(r#"{"prompt":"a","max_tokens":7}"#).unwrap().max_tokens, Some(7));
        assert_eq!(read(r#"{"prompt":"a","n_predict":-1}"#).unwrap().max_tokens, None);
    }

    #[test]
    fn bodies_without_a_prompt_are_refused() {
        for body in [
            "",
            "[]",
            "{",
            "{}",
            "nonsense",
            r#"{"prompt":{}}"#,
            r#"{"prompt":"a","prompt":"b"}"#,
            r#"{"prompt":"a","messages":[]}"#,
            r#"{"messages":"a"}"#,
            "\u{0}",
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn the_model_is_replaced_and_nothing_else_changes() {
        let body =
            Bytes::from_static(br#" {"prompt" : "say \"model\":\"x\"", "model" : "a\"b" ,"n":1}"#);
        let asked = Asked::read(&body, 4.0).unwrap();
        assert_eq!(asked.body_for(&body, None), body);
        let other = asked.body_for(&body, Some("c\"d"));
        assert_eq!(&other[..], br#" {"prompt" : "say \"model\":\"x\"", "model" : "c\"d" ,"n":1}"#);
        let body = Bytes::from_static(br#"{"prompt":"a"}"#);
        let named = Asked::read(&body, 4.0).unwrap().body_for(&body, Some("m"));
        assert_eq!(&named[..], br#"{"model":"m","prompt":"a"}"#);
    }
}
