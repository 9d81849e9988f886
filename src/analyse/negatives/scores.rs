//! Scores of answers: JSON lines `{"dataset", "id", "score"}`, other keys left alone.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::BufRead,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Deserializer, de};

/// One scored answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Data set.
    pub dataset: Arc<str>,
    /// The row's id in it; a number is the text that spells it.
    pub id: Box<str>,
    /// 0 to 1.
    pub score: f64,
    /// Hash of the prompt, where the file tells.
    pub prompt_sha256: Option<Box<str>>,
}

/// The scores of one method.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// Of the method.
    pub name: String,
    /// In the file's order; each data set and id occurs once.
    pub rows: Vec<Score>,
}

#[derive(Deserialize)]
struct Wire {
    dataset: Option<String>,
    id: Option<Id>,
    score: Option<f64>,
    prompt_sha256: Option<Box<str>>,
}

struct Id(Box<str>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id: a whole number or a text")
            }

            fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
                Ok(Id(id.to_string().into()))
            }

            fn visit_i64<E>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id.to_string().into()))
            }

            fn visit_str<E>(self, id: &str) -> Result<Id, E> {
                Ok(Id(id.into()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Reads JSON lines; empty lines are skipped. `place` is the file's name, for errors.
///
/// # Errors
/// A line that is no row, lacks a key or has a score outside of 0 to 1; two rows of one id; no row at all; reading.
pub fn read(name: &str, place: &str, mut lines: impl BufRead) -> anyhow::Result<Scores> {
    let mut datasets: HashMap<String, Arc<str>> = HashMap::new();
    let mut rows = Vec::new();
    let mut line = String::new();
    let mut number = 0_usize;
    loop {
        line.clear();
        number += 1;
        let n = lines.read_line(&mut line).with_context(|| format!("{place}:{number}"))?;
        if n == 0 {
            break;
        }
        if number == 1 && line.starts_with('\u{feff}') {
            line.remove(0);
        }
        if !line.trim().is_empty() {
            rows.push(row(&line, &mut datasets).with_context(|| format!("{place}:{number}"))?);
        }
    }
    if rows.is_empty() {
        bail!("{place}: expected rows of dataset, id and score, got none");
    }
    twice(&rows).with_context(|| place.to_owned())?;
    Ok(Scores { name: name.to_owned(), rows })
}

fn row(line: &str, datasets: &mut HashMap<String, Arc<str>>) -> anyhow::Result<Score> {
    const HINT: &str = "\n  hint: a row is {\"dataset\": \"qasper\", \"id\": 7, \"score\": 0.25}";
    let wire: Wire = serde_json::from_str(line)
        .map_err(|error| anyhow::anyhow!("expected a row of scores, got {error}{HINT}"))?;
    let missing = |key: &str| format!("expected `{key}`, got a row without it{HINT}");
    let dataset = wire.dataset.with_context(|| missing("dataset"))?;
    let Id(id) = wire.id.with_context(|| missing("id"))?;
    let score = wire.score.with_context(|| missing("score"))?;
    if !(0.0..=1.0).contains(&score) {
        bail!(
            "expected a score from 0 to 1, got {score}\n  hint: divide percentages by 100 in the whole file"
        );
    }
    let dataset = match datasets.get(&dataset) {
        Some(known) => known.clone(),
        None => datasets.entry(dataset.clone()).or_insert_with(|| dataset.into()).clone(),
    };
    Ok(Score { dataset, id, score, prompt_sha256: wire.prompt_sha256 })
}

fn twice(rows: &[Score]) -> anyhow::Result<()> {
    let mut seen = HashSet::with_capacity(rows.len());
    match rows.iter().find(|row| !seen.insert((&*row.dataset, &*row.id))) {
        None => Ok(()),
        Some(row) => bail!(
            "expected each id once, got {} of {} twice\n  hint: score one run at a time; repeats of the baseline are --baseline-repeat",
            row.id,
            row.dataset
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", read("m", "m.jsonl", text.as_bytes()).unwrap_err())
    }

    #[test]
    fn numbers_and_texts_are_ids() {
        let text = "{\"dataset\":\"a\",\"id\":7,\"score\":1,\"more\":[1]}\n\n{\"id\":\"x\",\"dataset\":\"a\",\"score\":0.5}\n";
        let scores = read("m", "m.jsonl", text.as_bytes()).unwrap();
        let ids: Vec<&str> = scores.rows.iter().map(|row| &*row.id).collect();
        assert_eq!(ids, ["7", "x"]);
        assert!(Arc::ptr_eq(&scores.rows[0].dataset, &scores.rows[1].dataset));
    }

    #[test]
    fn bad_rows_are_named() {
        let good = r#"{"dataset":"a","id":1,"score":0.5}"#;
        for (bad, said) in [
            (r#"{"id":1,"score":0.5}"#, "m.jsonl:2: expected `dataset`"),
            (r#"{"dataset":"a","score":0.5}"#, "m.jsonl:2: expected `id`"),
            (r#"{"dataset":"a","id":2,"score":null}"#, "m.jsonl:2: expected `score`"),
            (
                r#"{"dataset":"a","id":2,"score":50}"#,
                "m.jsonl:2: expected a score from 0 to 1, got 50",
            ),
            (r#"{"dataset":"a","id":2,"score":-0.1}"#, "m.jsonl:2: expected a score from 0 to 1"),
            (r#"{"dataset":"a","id":1.5,"score":0}"#, "m.jsonl:2: expected a row of scores"),
            ("nonsense", "m.jsonl:2: expected a row of scores"),
            (
                r#"{"dataset":"a","id":"1","score":0}"#,
                "m.jsonl: expected each id once, got 1 of a twice",
            ),
        ] {
            let error = error(&format!("{good}\n{bad}\n"));
            assert!(error.contains(said), "{error}");
        }
        assert!(error("\n").contains("m.jsonl: expected rows"));
    }
}
