//! What a data set's file looks like, and how its rows are asked.

/// Format of a data set.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetFormat {
    /// ShareGPT JSON: an array of `{id, conversations: [{from, value}]}`.
    Sharegpt,
    /// LongBench v1 JSONL: `{input, context, answers, length, dataset, language, all_classes, _id}` a line.
    Longbench,
    /// LongBench v2 JSON: an array of `{_id, context, question, choice_A, choice_B, choice_C, choice_D, answer}`.
    LongbenchV2,
    /// GSM8K JSONL: `{question, answer}` a line, the answer ending with `#### 72`.
    Gsm8k,
    /// MATH JSONL: `{problem, solution}` a line, the solution with a `\boxed` answer.
    Math,
}

impl DatasetFormat {
    /// Whether its rows may hold what an answer is scored against.
    pub fn has_references(self) -> bool {
        self != DatasetFormat::Sharegpt
    }

    /// Key in scenarios and on the command line.
    pub fn key(self) -> &'static str {
        match self {
            DatasetFormat::Sharegpt => "sharegpt",
            DatasetFormat::Longbench => "longbench",
            DatasetFormat::LongbenchV2 => "longbench-v2",
            DatasetFormat::Gsm8k => "gsm8k",
            DatasetFormat::Math => "math",
        }
    }
}

/// Whether answers end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnswerMode {
    /// They do.
    #[default]
    Free,
    /// The server is asked to go on until `max_tokens`: whatever a method does to lengths is taken out of its times.
    Fixed,
    /// They do, and are scored a second time at the length of the baseline's answer to the same prompt: whatever a method does to
    /// lengths is taken out of its quality.
    Matched,
    /// There are none: one token is asked for after a given text, and not used.
    Forced,
}

/// In which prompt a row of LongBench is sent; rows of other data sets are sent in the neutral layout in any case.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum PromptLayout {
    /// In LongBench's prompt for the task.
    #[default]
    Task,
    /// In one layout for every task.
    Neutral,
}
