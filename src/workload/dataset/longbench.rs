//! LongBench v1, one object a line: `input`, `context`, `answers`, `length`, `dataset`, `language`, `all_classes`, `_id`.

use serde_json::Value;

use super::{Reference, Sample, id, kind, text};

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
    let answers = texts(row, "answers")?;
    Ok(Sample {
        id: id(row, "_id"),
        line: 0,
        prompt: prompt(context, input),
        answer: answers.first().cloned(),
        language: row.get("language").and_then(Value::as_str).map(str::to_owned),
        later: Vec::new(),
        reference: reference(row, answers)?,
    })
}

/// `None` for a row without the name of its data set, or without an answer.
fn reference(row: &Value, answers: Vec<String>) -> Result<Option<Reference>, String> {
    let Some(dataset) = row.get("dataset").filter(|_| !answers.is_empty()) else { return Ok(None) };
    let Some(dataset) = dataset.as_str() else {
        return Err(format!("expected `dataset` to be a text, got {}", kind(dataset)));
    };
    let all_classes = texts(row, "all_classes")?;
    Ok(Some(Reference { dataset: dataset.to_owned(), answers, all_classes }))
}

fn prompt(context: &str, input: &str) -> String {
    match (context.trim().is_empty(), input.trim().is_empty()) {
        (false, false) => format!("Text:\n{context}\n\nTask:\n{input}\n\nAnswer:"),
        (false, true) => format!("Text:\n{context}\n\nAnswer:"),
        _ => format!("Task:\n{input}\n\nAnswer:"),
    }
}

/// A list of texts; none where the key is missing or null.
fn texts(row: &Value, key: &str) -> Result<Vec<String>, String> {
    let list = match row.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("expected `{key}` to be an array, got {}", kind(other))),
    };
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("expected `{key}` to hold texts, got {}", kind(other))),
    };
    list.iter().map(text).collect()
}
