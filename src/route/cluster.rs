//! A router in front of simulated engines.

use super::Decision;

/// A request with all that is true of it, the same for every policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Its number in the trace.
    pub id: u64,
    /// When it comes.
    pub at_ns: i64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Its task.
    pub task: Option<String>,
    /// Tokens of its answer under each method of the pool.
    pub output_tokens: Vec<u64>,
    /// What a predictor says of them.
    pub predicted_tokens: Vec<f64>,
    /// Whether each method breaks it.
    pub breaks: Vec<bool>,
}

/// How a request fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Fared {
    /// Place in the arrivals.
    pub arrival: usize,
    /// What was decided, with what was believed.
    pub decision: Decision,
    /// When it first left the queue.
    pub admitted_ns: Option<i64>,
    /// When the first token was there.
    pub first_token_ns: Option<i64>,
    /// When the last token was there.
    pub finished_ns: Option<i64>,
    /// How often it lost its blocks.
    pub n_preempted: u32,
    /// Why it was not served.
    pub err: Option<String>,
}

/// What an engine did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineWork {
    /// Time in which a step ran.
    pub busy_ns: i64,
    /// Steps.
    pub n_steps: u64,
    /// Requests that were sent to it.
    pub n_requests: u64,
    /// Preemptions.
    pub n_preempted: u64,
    /// Most tokens in its cache.
    pub kv_tokens_most: u64,
}
