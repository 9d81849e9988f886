//! Reaching into documents whose shape others decide.

use serde_json::Value;

/// A finite number below `pointer` (RFC 6901).
pub(super) fn number(document: &Value, pointer: &str) -> Option<f64> {
    document.pointer(pointer)?.as_f64().filter(|value| value.is_finite())
}

/// A count below `pointer`; tools write counts as floats.
pub(super) fn count(document: &Value, pointer: &str) -> Option<i64> {
    number(document, pointer).filter(|n| *n >= 0.0).map(|n| n.round() as i64)
}

/// Text below `pointer`.
pub(super) fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    document.pointer(pointer)?.as_str()
}

/// A list of numbers below `pointer`; `None` where there is no list or one of its items is no number.
pub(super) fn numbers(document: &Value, pointer: &str) -> Option<Vec<f64>> {
    document.pointer(pointer)?.as_array()?.iter().map(Value::as_f64).collect()
}

/// What a document looks like, for an error.
pub(super) fn shape(document: &Value) -> String {
    match document {
        Value::Object(map) => {
            let keys: Vec<&str> = map.keys().take(5).map(String::as_str).collect();
            format!(
                "an object with {}",
                if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") }
            )
        }
        Value::Array(items) => format!("a list of {}", items.len()),
        other => format!("`{other}`"),
    }
}
