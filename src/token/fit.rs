//! Prompts of an exact length. Texts are counted as they will be sent, never assembled from token ids: ids drawn at random
//! decode to a text that encodes to other ids, and another tool's prompts of 64 tokens became 63, 65 and 187.

use std::collections::BTreeMap;

use super::Meter;

/// Small pieces to end a prompt with, when no word of the workload fits into what is left.
const FILLERS: [&str; 24] = [
    " a", " I", " to", " of", " and", " the", " in", " it", ".", ",", "!", "?", ";", ":", " b",
    " c", " d", "a", "e", "s", " x", " y", " z", "-",
];
/// Missing tokens that fillers make up for; more are worth another word.
const FEW: usize = 8;
/// How often the end of a prompt is changed before the nearest length is taken.
const TRIES: usize = 64;

/// A prompt and its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fitted {
    /// The text, before the chat template.
    pub text: String,
    /// Tokens, as [`Meter::count`] counts; the length asked for, unless the tokenizer cannot hit it.
    pub tokens: usize,
}

/// Fits words into lengths; remembers what each word costs.
pub struct Fitter<'a> {
    meter: &'a Meter,
    /// Tokens of an empty prompt: BOS and the template.
    empty: usize,
    costs: BTreeMap<String, usize>,
}

impl<'a> Fitter<'a> {
    /// # Errors
    /// The template refuses a user's message.
    pub fn new(meter: &'a Meter) -> anyhow::Result<Self> {
        Ok(Self { meter, empty: meter.count("")?, costs: BTreeMap::new() })
    }

    /// Tokens of an empty prompt: BOS and the template.
    pub fn empty(&self) -> usize {
        self.empty
    }

    /// A prompt of `target` tokens, everything included that a server counts. `word` is asked for one word after another and
    /// must not run dry. The prompt has at least one word, however small the target.
    ///
    /// # Errors
    /// The tokenizer cannot encode a word.
    pub fn fit<'w>(
        &mut self,
        target: usize,
        word: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<Fitted> {
        let units = self.words(target, word)?;
        self.adjust(units, target, word)
    }

    /// As [`Self::fit`], of a prompt that begins with `head`, which stays as it is even where it is too long alone.
    ///
    /// # Errors
    /// As [`Self::fit`].
    pub fn fit_after<'w>(
        &mut self,
        head: &str,
        target: usize,
        word: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<Fitted> {
        let tokens = self.meter.count(head)?;
        if tokens >= target {
            return Ok(Fitted { text: head.to_owned(), tokens });
        }
        let mut units = vec![head.to_owned()];
        let mut left = target - tokens;
        loop {
            let unit = format!(" {}", word());
            let cost = self.cost(&unit)?;
            if cost > left {
                break;
            }
            left -= cost;
            units.push(unit);
        }
        self.adjust(units, target, word)
    }

    /// Changes the end of a prompt until its length is right, or the nearest that was seen. The first piece stays, unless it
    /// is alone and too long.
    fn adjust<'w>(
        &mut self,
        mut units: Vec<String>,
        target: usize,
        word: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<Fitted> {
        let mut best: Option<Fitted> = None;
        for attempt in 0..TRIES {
            let text = units.concat();
            let tokens = self.meter.count(&text)?;
            if best
                .as_ref()
                .is_none_or(|best| tokens.abs_diff(target) < best.tokens.abs_diff(target))
            {
                best = Some(Fitted { text, tokens });
            }
            match tokens.cmp(&target) {
                std::cmp::Ordering::Equal => break,
                std::cmp::Ordering::Less => {
                    self.grow(&mut units, target - tokens, attempt, word)?;
                }
                std::cmp::Ordering::Greater if units.len() > 1 => {
                    self.shrink(&mut units, tokens - target)?;
                }
                std::cmp::Ordering::Greater => units[0] = self.first(attempt),
            }
        }
        best.ok_or_else(|| anyhow::anyhow!("no prompt was tried"))
    }

    /// Words until the next one would be too much, as far as single words tell.
    fn words<'w>(
        &mut self,
        target: usize,
        word: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<Vec<String>> {
        let mut units = vec![word().to_owned()];
        let mut tokens = self.empty + self.cost(&format!(" {}", units[0]))?;
        loop {
            let unit = format!(" {}", word());
            tokens += self.cost(&unit)?;
            if tokens > target {
                return Ok(units);
            }
            units.push(unit);
        }
    }

    /// Adds words for many missing tokens, one filler for few.
    fn grow<'w>(
        &mut self,
        units: &mut Vec<String>,
        missing: usize,
        attempt: usize,
        word: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<()> {
        let (n_before, mut left) = (units.len(), missing);
        while left > FEW {
            let unit = format!(" {}", word());
            let cost = self.cost(&unit)?;
            if cost > left {
                break;
            }
            left -= cost;
            units.push(unit);
        }
        if units.len() == n_before {
            units.push(self.filler(missing, attempt)?);
        }
        Ok(())
    }

    /// Takes pieces off the end until they were worth the excess; the first stays.
    fn shrink(&mut self, units: &mut Vec<String>, excess: usize) -> anyhow::Result<()> {
        let mut freed = 0;
        while freed < excess && units.len() > 1 {
            let Some(unit) = units.pop() else { break };
            freed += self.cost(&unit)?;
        }
        Ok(())
    }

    /// The filler that ends the prompt, or the largest that fits; a different one each time, since joined pieces can count
    /// otherwise than they did alone.
    fn filler(&mut self, missing: usize, attempt: usize) -> anyhow::Result<String> {
        let mut best = (FILLERS[attempt % FILLERS.len()], 0);
        for i in 0..FILLERS.len() {
            let filler = FILLERS[(attempt + i) % FILLERS.len()];
            let cost = self.cost(filler)?;
            if cost <= missing && cost > best.1 {
                best = (filler, cost);
            }
        }
        Ok(best.0.to_owned())
    }

    /// A prompt of one small piece, for targets below the length of one word.
    fn first(&self, attempt: usize) -> String {
        FILLERS[attempt % FILLERS.len()].trim_start().to_owned()
    }

    /// Tokens of a piece behind another word; at least 1.
    fn cost(&mut self, unit: &str) -> anyhow::Result<usize> {
        if let Some(known) = self.costs.get(unit) {
            return Ok(*known);
        }
        let tokens = |text: &str| self.meter.tokenizer().encode(text, false).map(|ids| ids.len());
        let cost = tokens(&format!("word{unit}"))?.saturating_sub(tokens("word")?).max(1);
        self.costs.insert(unit.to_owned(), cost);
        Ok(cost)
    }
}
