//! LongBench v1, one object a line: `input`, `context`, `answers`, `length`, `dataset`, `language`, `all_classes`, `_id`.

use serde_json::Value;

use super::{Reference, Sample, id, kind, text};
use crate::{
    scenario::PromptLayout,
    workload::longbench::{Task, task},
};

/// A row whose `dataset` is one of LongBench's is sent in LongBench's prompt for it, so that answers are comparable with
/// published scores. A row of any other data set, and every row where `layout` says so, is sent in a neutral layout of context
/// and input.
pub(super) fn sample(row: &Value, layout: PromptLayout) -> Result<Sample, String> {
    if !row.is_object() {
        return Err(format!("expected an object, got {}", kind(row)));
    }
    let (context, input) = (text(row, "context")?, text(row, "input")?);
    if context.trim().is_empty() && input.trim().is_empty() {
        return Err("expected text in `context` or `input`, got blanks in both".to_owned());
    }
    let answers = texts(row, "answers")?;
    let task: Option<&Task> = row.get("dataset").and_then(Value::as_str).and_then(task);
    let own = task.filter(|_| layout == PromptLayout::Task);
    Ok(Sample {
        id: id(row, "_id"),
        line: 0,
        prompt: own.map_or_else(|| neutral(context, input), |task| task.prompt(context, input)),
        answer: answers.first().cloned(),
        language: row.get("language").and_then(Value::as_str).map(str::to_owned),
        later: Vec::new(),
        reference: reference(row, answers)?,
        task,
        in_task_prompt: own.is_some(),
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

fn neutral(context: &str, input: &str) -> String {
    match (context.trim().is_empty(), input.trim().is_empty()) {
        (false, false) => format!("Text:\n{context}\n\nTask:\n{input}\n\nAnswer:"),
        (false, true) => format!("Text:\n{context}\n\nAnswer:"),
        _ => format!("Task:\n{input}\n\nAnswer:"),
    }
}

/// In which prompts the rows are sent, in words, and for how many a server's chat template is not what LongBench does.
pub(in crate::workload) fn notes(samples: &[Sample]) -> Vec<String> {
    let n = samples.len();
    let own = samples.iter().filter(|sample| sample.in_task_prompt).count();
    let raw = samples.iter().filter(|sample| sample.is_sent_raw()).count();
    let mut notes = vec![format!(
        "{own} of {n} prompts are LongBench's own for their task; {} are in the neutral layout, and their answers have no published scores to stand beside",
        n - own
    )];
    if raw > 0 {
        notes.push(format!(
            "{raw} of {n} prompts are of tasks that LongBench sends without a chat template, so `chat_template` leaves them as they are; the endpoint `chat` puts the server's template around them, which is not what LongBench does"
        ));
    }
    notes
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
