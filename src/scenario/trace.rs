//! Trace files.

use std::path::PathBuf;

use super::TokenRules;

/// A window of a trace file.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// The file, relative to the working directory.
    pub path: PathBuf,
    /// Its format.
    pub format: TraceFormat,
    /// How many rows to send, the first ones of the window; `None` = all.
    pub n_requests: Option<usize>,
    /// Start of the window after the earliest row; 0 where rows have no times.
    pub start_s: f64,
    /// Length of the window; `None` = to the end.
    pub duration_s: Option<f64>,
    /// How prompts are counted and rendered; without it a word is taken for a token.
    pub tokens: Option<TokenRules>,
}

/// Format of a trace.
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
pub enum TraceFormat {
    /// Mooncake JSONL: `{timestamp, input_length, output_length, hash_ids}` a line, milliseconds, 512 tokens a hash id.
    Mooncake,
    /// Azure LLM inference CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// BurstGPT CSV: `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type`, seconds.
    Burstgpt,
    /// CSV of lengths without times: `num_prefill_tokens,num_decode_tokens`, as Vidur's.
    Lengths,
}
