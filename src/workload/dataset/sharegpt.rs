//! ShareGPT: `[{"id": …, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}]`.

use serde_json::Value;

use super::{Sample, id, kind, text};

/// The prompt is the first turn of a human, the answer the first turn of an assistant after it; later turns are not
/// used yet.
pub(super) fn sample(row: &Value) -> Result<Sample, String> {
    if !row.is_object() {
        return Err(format!("expected an object, got {}", kind(row)));
    }
    let turns = match row.get("conversations") {
        Some(Value::Array(turns)) => turns,
        Some(other) => {
            return Err(format!("expected `conversations` to be an array, got {}", kind(other)));
        }
        None => return Err("expected the key `conversations`, got none".to_owned()),
    };
    let prompt_at = turns.iter().position(|turn| speaker(turn) == Some(Speaker::Human));
    let Some(prompt_at) = prompt_at else {
        return Err(format!(
            "expected a turn `from` human or user, got none in {} turns",
            turns.len()
        ));
    };
    let prompt = text(&turns[prompt_at], "value")?;
    if prompt.trim().is_empty() {
        return Err("expected the first human turn to hold text, got blanks".to_owned());
    }
    let answer =
        turns[prompt_at + 1..].iter().find(|turn| speaker(turn) == Some(Speaker::Assistant));
    let answer = answer.map(|turn| text(turn, "value")).transpose()?;
    Ok(Sample {
        id: id(row, "id"),
        line: 0,
        prompt: prompt.to_owned(),
        answer: answer.filter(|answer| !answer.trim().is_empty()).map(str::to_owned),
        language: None,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Speaker {
    Human,
    Assistant,
}

/// The names met in published files; `system`, `tool` and unknown ones are neither.
fn speaker(turn: &Value) -> Option<Speaker> {
    match turn.get("from")?.as_str()?.to_ascii_lowercase().as_str() {
        "human" | "user" => Some(Speaker::Human),
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "claude" | "model" | "ai" | "bot" => {
            Some(Speaker::Assistant)
        }
        _ => None,
    }
}
