//! What is known of a request when it is routed.

/// What a policy may know of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask<'a> {
    /// Whatever the caller calls it; goes into no choice.
    pub id: u64,
    /// When it is asked, nanoseconds of the caller's clock.
    pub now_ns: i64,
    /// Tokens of the prompt, as well as they are known.
    pub prompt_tokens: u64,
    /// Expected tokens of the answer under each method of the pool, in its order: constants, predictions or the truth, as the
    /// policy's [`super::LengthKnowledge`] says. Each is at least 1.
    pub output_tokens: &'a [f64],
    /// Its task, where one is known.
    pub task: Option<&'a str>,
    /// Whether each method of the pool breaks this prompt: for the oracle of fragility alone.
    pub breaks: Option<&'a [bool]>,
}
