//! Prompts of a trace to the token, where the workload names a tokenizer. Blocks with one id stay the same text in all
//! prompts, so that they share beginnings to the token as well.

use std::collections::BTreeMap;

use super::{
    super::{
        Counted,
        draw::{Stream, below, stream},
        synthetic,
    },
    BLOCK_TOKENS, Request, TraceRow,
};
use crate::token::{Fitter, Meter};

/// Makes the prompts of `requests`, which stand in the order of `rows`, anew.
///
/// # Errors
/// The tokenizer or the template refuses a text.
pub(super) fn fit(
    requests: &mut [Request],
    rows: &[TraceRow],
    meter: &Meter,
    seed: u64,
) -> anyhow::Result<()> {
    let words = synthetic::words();
    let mut text = stream(seed, Stream::Text);
    let offset = synthetic::offset(&words, &mut text);
    let mut blocks = Blocks { fitter: Fitter::new(meter)?, seed, known: BTreeMap::new() };
    for (id, (request, row)) in requests.iter_mut().zip(rows).enumerate() {
        let fitted = if row.blocks.is_empty() {
            let mut next = synthetic::in_turn(&words, id + offset, &mut text);
            blocks.fitter.fit(row.prompt_tokens as usize, &mut next)?
        } else {
            blocks.prompt(&words, row)?
        };
        let tokens = u32::try_from(fitted.tokens)?;
        request.counted = Some(Counted { tokens, rendered: meter.rendered(&fitted.text)? });
        request.prompt_tokens_est = tokens;
        request.prompt = fitted.text;
    }
    Ok(())
}

struct Blocks<'a> {
    fitter: Fitter<'a>,
    seed: u64,
    /// Texts of whole blocks, by id and whether the block is the first of a prompt.
    known: BTreeMap<(u64, bool), String>,
}

impl Blocks<'_> {
    /// All blocks but the last are whole; the last fills up what is left. BOS and the template are counted in the first.
    fn prompt(&mut self, words: &[&str], row: &TraceRow) -> anyhow::Result<crate::token::Fitted> {
        let target = row.prompt_tokens as usize;
        let (last, whole) =
            row.blocks.split_last().map_or((0, &[][..]), |(last, all)| (*last, all));
        let mut head = String::with_capacity(target * 6);
        for (place, id) in whole.iter().enumerate() {
            let block = self.whole(words, *id, place == 0)?;
            if place > 0 {
                head.push(' ');
            }
            head.push_str(block);
        }
        let mut rng = stream(self.seed, Stream::Block(last));
        let mut next = || words[below(&mut rng, words.len())];
        if whole.is_empty() {
            return self.fitter.fit(target, &mut next);
        }
        self.fitter.fit_after(&head, target, &mut next)
    }

    fn whole(&mut self, words: &[&str], id: u64, first: bool) -> anyhow::Result<&str> {
        if !self.known.contains_key(&(id, first)) {
            let mut rng = stream(self.seed, Stream::Block(id));
            let mut next = || words[below(&mut rng, words.len())];
            let beside = if first { 0 } else { self.fitter.empty() };
            let fitted = self.fitter.fit(BLOCK_TOKENS as usize + beside, &mut next)?;
            self.known.insert((id, first), fitted.text);
        }
        Ok(&self.known[&(id, first)])
    }
}
