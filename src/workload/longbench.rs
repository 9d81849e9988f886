//! The tasks of LongBench v1: prompts, longest answers and scorers, read from `datasets/longbench.toml`, which names its
//! source.
//!
//! One thing that upstream does is not done here: it ends an answer to `samsum` at the first newline. Scores are the same,
//! since only the first line of such an answer is scored; lengths are not, so they must not be compared with upstream's.

use std::{collections::HashMap, sync::LazyLock};

use serde::Deserialize;

/// The file, as it was compiled in.
const FILE: &str = include_str!("../../datasets/longbench.toml");

static TASKS: LazyLock<HashMap<String, Task>> = LazyLock::new(|| {
    let file: File = toml::from_str(FILE).expect("a test reads the file");
    file.task
});

#[derive(Deserialize)]
struct File {
    task: HashMap<String, Task>,
}

/// One task of LongBench.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it asks for.
    pub group: Group,
    /// Language of its texts.
    pub language: Language,
    /// How an answer is scored.
    pub metric: Metric,
    /// Whether only the answer's first line is scored.
    pub first_line: bool,
    /// Longest answer, tokens.
    pub max_new_tokens: u32,
    /// Whether upstream puts a chat model's template around the prompt.
    pub chat_template: bool,
    /// The prompt, with the places `{context}` and `{input}`.
    pub prompt: String,
}

/// Groups of tasks, as LongBench's paper has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Questions about one document.
    SingleDocQa,
    /// Questions about several documents.
    MultiDocQa,
    /// Summaries.
    Summarization,
    /// Examples come before the question.
    FewShot,
    /// Made-up tasks on real paragraphs.
    Synthetic,
    /// The next line of code.
    Code,
}

/// Languages of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    En,
    /// Chinese.
    Zh,
    /// Source code.
    Code,
}

/// Scorers, by their names in upstream's `metrics.py` without `_score`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// F1 of bags of words.
    QaF1,
    /// F1 of bags of Chinese words.
    QaF1Zh,
    /// ROUGE-L.
    Rouge,
    /// ROUGE-L of Chinese words.
    RougeZh,
    /// One over the classes named.
    Classification,
    /// Share of the numbers that are the paragraph's.
    Retrieval,
    /// The same with the Chinese word for paragraph.
    RetrievalZh,
    /// Share of the numbers that are right.
    Count,
    /// Similarity of a line of code.
    CodeSim,
}

/// The task of a data set's rows: its name is LongBench's, with `_e` behind it for LongBench-E, whose tasks are the same.
/// `None` for any other data set.
pub fn task(dataset: &str) -> Option<&'static Task> {
    TASKS.get(dataset.strip_suffix("_e").unwrap_or(dataset))
}

impl Task {
    /// The prompt of a row. Braces in its texts stay what they are.
    pub fn prompt(&self, context: &str, input: &str) -> String {
        let mut prompt = String::with_capacity(self.prompt.len() + context.len() + input.len());
        let mut rest = self.prompt.as_str();
        while let Some(at) = rest.find('{') {
            prompt.push_str(&rest[..at]);
            rest = &rest[at..];
            let places = [("{context}", context), ("{input}", input)];
            let found =
                places.iter().find_map(|(name, text)| Some((rest.strip_prefix(name)?, text)));
            let (after, text) = found.unwrap_or((&rest[1..], &"{"));
            prompt.push_str(text);
            rest = after;
        }
        prompt + rest
    }
}

#[cfg(test)]
mod tests;
