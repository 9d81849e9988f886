//! How an engine batches.

use serde::{Deserialize, Serialize};

use super::Tiles;

/// How prompts and decoding share steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Mixing {
    /// Every decoding sequence gets its token, prompts get what is left of the step's tokens: vLLM since its engine v1.
    DecodeFirst,
    /// While a prompt can be admitted a step holds prompts alone, and decoding waits: vLLM's engine v0, LMDeploy.
    PrefillFirst,
    /// As [`Mixing::DecodeFirst`], and the step's tokens run in order as passes of at most `ubatch_tokens`, each of which has the
    /// overhead of a pass: llama-server with a unified KV cache (`-kvu`), where `max_num_seqs` is `-np`, `max_batched_tokens` is
    /// `-b` and `ubatch_tokens` is `-ub`. Without a unified cache llama.cpp cuts a step into more passes (sequences of a pass have
    /// equally many tokens and neighbouring slots), which is not modelled.
    Slots {
        /// Most tokens of one pass.
        ubatch_tokens: u64,
    },
}

/// The rules of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineConfig {
    /// Most sequences that are computed at a time.
    pub max_num_seqs: usize,
    /// Most tokens of a step, prompts' and decoded ones together; `None` for no limit.
    pub max_batched_tokens: Option<u64>,
    /// Whether a prompt may be cut where the step's tokens end; else it waits for a step that holds all of it.
    pub chunked_prefill: bool,
    /// How prompts and decoding share steps.
    pub mixing: Mixing,
    /// Blocks of the KV cache; `None` for as many as are needed.
    pub kv_blocks: Option<u64>,
    /// Tokens of a block.
    pub block_tokens: u64,
    /// Most tokens of a sequence that the method keeps, `None` for all. Decoding reads so many and blocks hold so many.
    pub kv_budget: Option<u64>,
    /// Whether what a method evicts is evicted when the last pass of a prompt has ended, so that until then the prompt lies in the cache
    /// whole (SnapKV, H2O: what is kept is chosen by attention that has to be computed first); else no more than `kv_budget` ever does.
    pub evicts_after_prefill: bool,
    /// Most tokens of one sequence, prompt and answer together; `None` for no limit. A prompt that leaves no room is refused, and an
    /// answer ends where the room does: llama-server's slots (`-c` over `-np`, all of `-c` with `-kvu`), vLLM's `--max-model-len`.
    pub context_tokens: Option<u64>,
    /// Tiles in which the attention of a long pass is computed; `None` where what is masked costs nothing. With [`Mixing::Slots`] only, and
    /// with step times that were fitted to works of [`Tiles::pass`].
    pub tiles: Option<Tiles>,
}

/// Why rules are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A count that has to be above 0.
    #[error("{0}: expected at least 1, got 0")]
    Zero(&'static str),
    /// Decoding sequences would not fit into a step.
    #[error("max_batched_tokens: expected at least max_num_seqs ({max_num_seqs}), got {tokens}")]
    StepTooSmall {
        /// Tokens of a step.
        tokens: u64,
        /// Sequences.
        max_num_seqs: usize,
    },
    /// llama-server always cuts prompts at `-b`.
    #[error(
        "slots: expected chunked_prefill and max_batched_tokens, which llama-server always has"
    )]
    SlotsAreChunked,
}

impl EngineConfig {
    /// An engine without limits of memory or of tokens a step, with `max_num_seqs` sequences.
    pub fn unlimited(max_num_seqs: usize) -> Self {
        Self {
            max_num_seqs,
            max_batched_tokens: None,
            chunked_prefill: false,
            mixing: Mixing::DecodeFirst,
            kv_blocks: None,
            block_tokens: 16,
            kv_budget: None,
            evicts_after_prefill: false,
            context_tokens: None,
            tiles: None,
        }
    }

    /// Refuses rules under which a step could not be filled.
    ///
    /// # Errors
    /// A limit of 0, or a step that does not hold one token of every sequence.
    pub fn check(&self) -> Result<(), ConfigError> {
        let counts = [
            ("max_num_seqs", self.max_num_seqs == 0),
            ("max_batched_tokens", self.max_batched_tokens == Some(0)),
            ("kv_blocks", self.kv_blocks == Some(0)),
            ("block_tokens", self.block_tokens == 0),
            ("kv_budget", self.kv_budget == Some(0)),
            ("context_tokens", self.context_tokens == Some(0)),
            ("tiles", self.tiles.is_some_and(|tiles| tiles.rows == 0 || tiles.cells == 0)),
            ("ubatch_tokens", self.mixing == Mixing::Slots { ubatch_tokens: 0 }),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::Zero(name));
        }
        let chunked = self.chunked_prefill && self.max_batched_tokens.is_some();
        if matches!(self.mixing, Mixing::Slots { .. }) && !chunked {
            return Err(ConfigError::SlotsAreChunked);
        }
        match self.max_batched_tokens {
            Some(tokens) if tokens < self.max_num_seqs as u64 => {
                Err(ConfigError::StepTooSmall { tokens, max_num_seqs: self.max_num_seqs })
            }
            _ => Ok(()),
        }
    }

    /// Tokens of a sequence that stay, of so many that went in.
    pub(super) fn kept(&self, tokens: u64) -> u64 {
        self.kv_budget.map_or(tokens, |most| tokens.min(most))
    }

    /// Blocks that so many tokens of one sequence fill.
    pub fn blocks_of(&self, tokens: u64) -> u64 {
        self.kept(tokens).div_ceil(self.block_tokens)
    }

    /// Tokens of a prompt that stay until its last pass has ended, of so many that went in.
    pub(super) fn kept_of_prompt(&self, tokens: u64) -> u64 {
        if self.evicts_after_prefill { tokens } else { self.kept(tokens) }
    }

    /// Blocks that so many tokens of one sequence fill while they are computed as a prompt.
    pub(super) fn blocks_of_prompt(&self, tokens: u64) -> u64 {
        self.kept_of_prompt(tokens).div_ceil(self.block_tokens)
    }
}
