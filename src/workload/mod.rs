//! Data set and arrival process become requests with due times. All randomness ends here.

/// One request to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Position in the workload, from 0; the same number is the same prompt under every method.
    pub id: u64,
    /// Id of the data set's row.
    pub sample_id: String,
    /// Turn of the conversation, from 0.
    pub turn: u32,
    /// When to send it, from the start of the cell.
    pub due: Due,
    /// The prompt's text.
    pub prompt: String,
    /// Prompt length, estimated where no tokenizer is at hand (four bytes a token): for kernel replay, never for results.
    pub prompt_tokens_est: u32,
    /// The data set's own answer length, estimated likewise; `None` if it has no answer.
    pub answer_tokens_est: Option<u32>,
    /// `max_tokens` to ask for.
    pub max_tokens: u32,
}

/// When a request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At this time after the start of the cell.
    AtNs(u64),
    /// As soon as one of the cell's slots is free (closed loop).
    WhenFree,
}
