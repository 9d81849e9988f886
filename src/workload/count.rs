//! Prompts through the workload's tokenizer: counted as a server counts, cut where they are too long, rendered for
//! `/v1/completions`.

use anyhow::Context as _;

use super::{Counted, Request, synthetic::Drawn};
use crate::{
    scenario::{TemplateSource, TokenRules},
    token::{self, ChatTemplate, Meter},
};

/// The tokenizer and the chat template of a workload.
pub(super) fn meter(rules: &TokenRules) -> anyhow::Result<Meter> {
    let tokenizer = token::shared(&rules.tokenizer)?;
    let source = match &rules.chat_template {
        None => return Ok(Meter::new(tokenizer, None)),
        Some(TemplateSource::File(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read the chat template", path.display()))?,
        Some(TemplateSource::Model) => tokenizer.chat_template().map(str::to_owned).with_context(|| {
            format!(
                "{}: expected a chat template beside it for `chat_template = \"auto\"`, got none\n  hint: name a file with the template",
                tokenizer.path().display()
            )
        })?,
    };
    let template = ChatTemplate::new(&source, tokenizer.specials().clone(), rules.template_date)?;
    Ok(Meter::new(tokenizer, Some(template)))
}

/// What a meter makes of a prompt.
fn counted(meter: &Meter, prompt: &str) -> anyhow::Result<Counted> {
    let rendered = meter.rendered(prompt)?;
    let tokens = meter.tokenizer().count(rendered.as_deref().unwrap_or(prompt))?;
    Ok(Counted { tokens: u32::try_from(tokens)?, rendered })
}

/// Counts the prompts of a data set and keeps them to the longest length.
pub(super) struct Counter {
    meter: Meter,
    /// The same without a chat template.
    raw: Meter,
    max: Option<u32>,
    n_seen: u64,
    n_cut: u64,
    longest: usize,
}

impl Counter {
    /// # Errors
    /// The tokenizer or the template cannot be read.
    pub(super) fn new(rules: &TokenRules) -> anyhow::Result<Self> {
        let max = rules.max_prompt_tokens;
        let raw = Meter::new(token::shared(&rules.tokenizer)?, None);
        Ok(Self { meter: meter(rules)?, raw, max, n_seen: 0, n_cut: 0, longest: 0 })
    }

    /// Cuts and counts one prompt; `answer` is the data set's. `raw` leaves the chat template off.
    pub(super) fn take(
        &mut self,
        request: &mut Request,
        answer: Option<&str>,
        raw: bool,
    ) -> anyhow::Result<()> {
        let meter = if raw { &self.raw } else { &self.meter };
        self.n_seen += 1;
        let place = || format!("row {}", request.sample_id);
        let cut = match self.max {
            Some(max) => meter.cut_middle(&request.prompt, max as usize).with_context(place)?,
            None => None,
        };
        if let Some(cut) = cut {
            self.n_cut += 1;
            self.longest = self.longest.max(cut.tokens_before);
            request.prompt = cut.text;
        }
        let counted = counted(meter, &request.prompt)
            .with_context(|| format!("row {}", request.sample_id))?;
        request.prompt_tokens_est = counted.tokens;
        request.counted = Some(counted);
        request.answer_tokens_est = match answer {
            Some(answer) => Some(u32::try_from(meter.tokenizer().count_continued(answer)?)?),
            None => None,
        };
        Ok(())
    }

    /// How many prompts lost their middle, if any did.
    pub(super) fn note(&self) -> Option<String> {
        let max = self.max.filter(|_| self.n_cut > 0)?;
        Some(format!(
            "{} of {} prompts lost their middle to fit into {max} tokens (the longest had {})",
            self.n_cut, self.n_seen, self.longest
        ))
    }
}

/// Synthetic prompts that missed the length asked for, if any did.
pub(super) fn missed(drawn: &[Drawn]) -> Option<String> {
    let by =
        |one: &Drawn| one.counted.as_ref().map_or(0, |it| it.tokens.abs_diff(one.asked_tokens));
    missed_by("synthetic prompts", drawn.iter().map(by))
}

/// As [`missed`], from the tokens by which each prompt missed.
pub(super) fn missed_by(what: &str, by: impl ExactSizeIterator<Item = u32>) -> Option<String> {
    let n = by.len();
    let missed: Vec<u32> = by.filter(|by| *by > 0).collect();
    let worst = missed.iter().max()?;
    Some(format!(
        "{} of {n} {what} missed the length asked for, by up to {worst} tokens: this tokenizer cannot spell it",
        missed.len()
    ))
}
