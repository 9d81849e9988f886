//! LongBench v1, one object a line: `input`, `context`, `answers`, `length`, `dataset`, `language`, `all_classes`, `_id`.

use serde_json::Value;

use super::{Sample, id, kind, text};

/// The prompt is a neutral layout of context and input, the same for every task; LongBench's own prompt for each task
/// is not applied, so answers are not comparable with published scores.
pub(super) fn sample(row: &Value) -> Result<Sample, String> {
    if !row.is_object() {
        return Err(format!("expected an object, got {}", kind(row)));
    }
    let (context, input) = (text(row, "context")?, text(row, "input")?);
    if context.trim().is_empty() && input.trim().is_empty() {
        return Err("expected text in `context` or `input`, got blanks in both".to_owned());
    }
    Ok(Sample {
        id: id(row, "_id"),
        line: 0,
        prompt: prompt(context, input),
        answer: first_answer(row)?,
        language: row.get("language").and_then(Value::as_str).map(str::to_owned),
        later: Vec::new(),
    })
}

fn prompt(context: &str, input: &str) -> String {
    match (context.trim().is_empty(), input.trim().is_empty()) {
        (false, false) => format!("Text:\n{context}\n\nTask:\n{input}\n\nAnswer:"),
        (false, true) => format!("Text:\n{context}\n\nAnswer:"),
        _ => format!("Task:\n{input}\n\nAnswer:"),
    }
}

fn first_answer(row: &Value) -> Result<Option<String>, String> {
    let answers = match row.get("answers") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(answers)) => answers,
        Some(other) => {
            return Err(format!("expected `answers` to be an array, got {}", kind(other)));
        }
    };
    match answers.iter().find(|answer| !answer.is_string()) {
        Some(other) => Err(format!("expected `answers` to hold texts, got {}", kind(other))),
        None => Ok(answers.first().and_then(Value::as_str).map(str::to_owned)),
    }
}
