//! Answers of a finished run, continued.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Count, Int, Sp};

/// Answers of a finished run, given up to some places: how probable is it that the model stops there?
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Forced {
    /// Folder of the finished run, relative to the working directory.
    pub(in crate::scenario) run: Sp<PathBuf>,
    /// Workload of that run. Default: the only one whose answers end by themselves.
    pub(in crate::scenario) workload: Option<String>,
    /// Method of that run whose answers are continued. Default: its baseline.
    pub(in crate::scenario) method: Option<String>,
    /// Places in each answer, evenly over its characters, the last at its end.
    #[serde(default = "positions")]
    pub(in crate::scenario) positions: Int<1, 256>,
    /// How many answers to continue, the first of the run. Default: all that ended by themselves.
    pub(in crate::scenario) n_prompts: Option<Count>,
    /// Text of the token by which the model ends an answer. This or `stop_token_id` is needed.
    pub(in crate::scenario) stop_token: Option<Sp<String>>,
    /// Its id in the vocabulary.
    pub(in crate::scenario) stop_token_id: Option<Int<0, { u32::MAX as i64 }>>,
    /// How many of the likeliest tokens the server lists; of one that is not listed only a bound is known.
    #[serde(default = "top")]
    pub(in crate::scenario) top: Int<1, 1000>,
}

fn positions() -> Int<1, 256> {
    Int(8)
}

fn top() -> Int<1, 1000> {
    Int(20)
}
