//! TensorRT-LLM's `/metrics`: a JSON array with one object an iteration of its scheduler, oldest first.

use std::borrow::Cow;

use serde_json::Value;

use super::{Bad, Sample};

/// Deepest nesting that is looked into; the engine's is 2.
const DEPTH_MAX: usize = 8;

/// Samples of each iteration, in the answer's order. A number below `kvCacheStats` is called `kvCacheStats.usedNumBlocks`;
/// every sample carries its iteration as the label `iter`, where the engine told it.
///
/// # Errors
/// The answer is no JSON array, in words for a row.
pub fn parse(text: &str) -> Result<(Vec<Vec<Sample<'static>>>, Bad), String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("expected a JSON array of iterations, got other text: {error}"))?;
    let Value::Array(entries) = value else {
        return Err("expected a JSON array of iterations, got another JSON value".to_owned());
    };
    let (mut iterations, mut bad) = (Vec::new(), Bad::default());
    for (number, entry) in entries.iter().enumerate() {
        match entry {
            Value::Object(_) => iterations.push(iteration(entry)),
            other => bad.add(number + 1, &other.to_string()),
        }
    }
    Ok((iterations, bad))
}

fn iteration(entry: &Value) -> Vec<Sample<'static>> {
    let labels: Vec<_> = entry
        .get("iter")
        .and_then(Value::as_i64)
        .map(|iter| (Cow::Borrowed("iter"), Cow::Owned(iter.to_string())))
        .into_iter()
        .collect();
    let mut samples = Vec::new();
    flatten(entry, "", 0, &mut |name, value| {
        samples.push(Sample { name: Cow::Owned(name), labels: labels.clone(), value });
    });
    samples
}

/// Calls `take` with the path and value of every number.
fn flatten(value: &Value, path: &str, depth: usize, take: &mut impl FnMut(String, f64)) {
    let Value::Object(entries) = value else { return };
    for (key, inner) in entries {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match inner.as_f64() {
            Some(number) => take(path, number),
            None if depth < DEPTH_MAX => flatten(inner, &path, depth + 1, take),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_iteration_keeps_its_order_and_number() {
        let text = r#"[{"iter":7,"numActiveRequests":2,"kvCacheStats":{"usedNumBlocks":5,"tokensPerBlock":32},"timestamp":"x"},
                       {"iter":8,"numActiveRequests":3,"kvCacheStats":{"usedNumBlocks":6,"tokensPerBlock":32}}]"#;
        let (iterations, bad) = parse(text).unwrap();
        assert_eq!((iterations.len(), bad), (2, Bad::default()));
        let used: Vec<_> = iterations
            .iter()
            .flatten()
            .filter(|sample| sample.name == "kvCacheStats.usedNumBlocks")
            .map(|sample| (sample.label("iter").map(str::to_owned), sample.value))
            .collect();
        assert_eq!(used, [(Some("7".to_owned()), 5.0), (Some("8".to_owned()), 6.0)]);
        assert!(!iterations[0].iter().any(|sample| sample.name == "timestamp"));
    }

    #[test]
    fn an_idle_engine_says_nothing_and_other_text_is_an_error() {
        assert_eq!(parse("[]").unwrap().0.len(), 0);
        assert!(parse("{}").unwrap_err().contains("another JSON value"));
        assert!(parse("# TYPE a counter").unwrap_err().contains("expected a JSON array"));
        let (iterations, bad) = parse("[1, {\"a\": 2}]").unwrap();
        assert_eq!((iterations.len(), bad.n, bad.first.as_deref()), (1, 1, Some("line 1: 1")));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\":,a1 .e-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
