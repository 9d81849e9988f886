//! Rows whose context has a number of tokens instead of words.

use anyhow::Context as _;
use rand_chacha::ChaCha8Rng;

use super::{MakeTask, WORDS_MIN, json, task::Row, task_row};
use crate::{
    token::Tokenizer,
    workload::draw::{Stream, stream},
};

/// How often a row is made again to come nearer.
const TRIES: usize = 8;

/// As [`super::generate_task`], each context with at most `tokens` tokens, BOS not counted, and mostly within two percent of
/// that.
///
/// # Errors
/// The task does not fit into so few tokens, or the tokenizer has none for a part of the text.
pub fn generate_task_in_tokens(
    task: MakeTask,
    rows: usize,
    tokens: usize,
    tokenizer: &Tokenizer,
    seed: u64,
) -> anyhow::Result<String> {
    let mut rng = stream(seed, Stream::Make);
    let mut text = String::new();
    for i in 0..rows {
        let (row, after) = fitted(task, i, &rng, tokens, tokenizer)?;
        rng = after;
        text += &(json(&row) + "\n");
    }
    Ok(text)
}

/// The longest row of a few tries, and the state that it leaves the generator in.
fn fitted(
    task: MakeTask,
    i: usize,
    rng: &ChaCha8Rng,
    tokens: usize,
    tokenizer: &Tokenizer,
) -> anyhow::Result<(Row, ChaCha8Rng)> {
    let mut best: Option<(usize, Row, ChaCha8Rng)> = None;
    // Tokenizers rarely make less than a token of a word.
    let mut words = tokens.max(WORDS_MIN);
    for _ in 0..TRIES {
        let mut after = rng.clone();
        let row = task_row(task, i, &mut after, Some(words));
        let n = tokenizer.count_continued(&row.context)?;
        if n <= tokens && best.as_ref().is_none_or(|(most, ..)| n > *most) {
            best = Some((n, row, after));
        }
        if n <= tokens && 50 * n >= 49 * tokens {
            break;
        }
        // Aimed a little below: a row that is too long is of no use.
        words = (words * tokens / n.max(1) * 99 / 100).max(WORDS_MIN);
    }
    let (_, row, after) = best.with_context(|| {
        format!(
            "expected room for the task in {tokens} tokens, got none\n  hint: {WORDS_MIN} words are the least; ask for more `--tokens`"
        )
    })?;
    Ok((row, after))
}
