//! The engines.

use crate::predict::simulate::{EngineConfig, Times};

/// An engine, as far as it does not change.
#[derive(Clone)]
pub struct Member {
    /// Its name, one of its own in the pool.
    pub name: String,
    /// Place of its method in [`Pool::methods`].
    pub method: usize,
    /// How it batches, as far as the router knows.
    pub config: EngineConfig,
    /// What its steps take, as far as the router knows: fitted, biased on purpose, or the truth.
    pub times: Times,
}

/// The engines behind a router.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Names of the methods.
    pub methods: Vec<String>,
    /// Place of the method that compresses nothing.
    pub baseline: usize,
    /// The engines, at least one.
    pub engines: Vec<Member>,
}

/// What changes of an engine. Tokens that a request is expected to yield yet are known to the router alone: engines do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineState {
    /// Whether requests may be sent to it.
    pub is_up: bool,
    /// Requests that it computes.
    pub running: usize,
    /// Requests in its queue.
    pub waiting: usize,
    /// Tokens of prompts that are not computed yet, running and waiting.
    pub prompt_tokens_left: u64,
    /// Tokens in its KV cache, as far as the method keeps them.
    pub kv_tokens: u64,
    /// Expected tokens of answers that are still to come, running and waiting; what was expected and has been exceeded counts as 1.
    pub output_tokens_left: f64,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Member");
        shown.field("name", &self.name).field("method", &self.method);
        shown.field("config", &self.config).finish_non_exhaustive()
    }
}

impl EngineState {
    /// Requests inside.
    pub fn outstanding(&self) -> usize {
        self.running + self.waiting
    }
}

impl Pool {
    /// Whether an engine runs the method that compresses nothing.
    pub fn is_baseline(&self, engine: usize) -> bool {
        self.engines.get(engine).is_some_and(|member| member.method == self.baseline)
    }
}
