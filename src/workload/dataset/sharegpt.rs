//! ShareGPT: `[{"id": …, "conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}]`.

use serde_json::Value;

use super::{Sample, Turn, id, kind, text};

/// The prompt is the first turn of a human, the answer the first turn of an assistant after it. Later turns are those of
/// a human after that answer, up to the first that holds no text.
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
    let is_answer = |turn: &Value| speaker(turn) == Some(Speaker::Assistant);
    let answer_at = (prompt_at + 1..turns.len()).find(|at| is_answer(&turns[*at]));
    let answer = answer_at.map(|at| text(&turns[at], "value")).transpose()?;
    Ok(Sample {
        id: id(row, "id"),
        line: 0,
        prompt: prompt.to_owned(),
        answer: answer.filter(|answer| !answer.trim().is_empty()).map(str::to_owned),
        language: None,
        later: answer_at.map_or_else(Vec::new, |at| later(&turns[at + 1..])),
        reference: None,
        task: None,
        in_task_prompt: false,
    })
}

fn later(turns: &[Value]) -> Vec<Turn> {
    let filled = |turn: &Value| {
        text(turn, "value").ok().filter(|text| !text.trim().is_empty()).map(str::to_owned)
    };
    let humans = (0..turns.len()).filter(|at| speaker(&turns[*at]) == Some(Speaker::Human));
    let turn = |at: usize| {
        let said_next = turns[at + 1..].iter().find_map(|turn| Some((speaker(turn)?, turn)));
        let answer = said_next.filter(|(who, _)| *who == Speaker::Assistant);
        Some(Turn {
            prompt: filled(&turns[at])?,
            answer: answer.and_then(|(_, turn)| filled(turn)),
        })
    };
    humans.map_while(turn).collect()
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
