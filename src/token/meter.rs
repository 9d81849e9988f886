//! What is sent for a prompt, and how many tokens a server will count in it.

use std::sync::Arc;

use super::{ChatTemplate, Tokenizer, template::user_message};

/// A tokenizer, and the chat template that prompts go through before they are sent.
pub struct Meter {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
}

/// A prompt whose middle was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// What is left, before the chat template.
    pub text: String,
    /// Tokens of it, as [`Meter::count`] counts.
    pub tokens: usize,
    /// Tokens of the whole prompt.
    pub tokens_before: usize,
}

impl Meter {
    /// Without a template, prompts are sent as they are.
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of a user's message in the template, ready for `/v1/completions`; `None` without a template. A BOS that the
    /// template spells is left out where the tokenizer adds its own.
    ///
    /// # Errors
    /// The template refuses the message.
    pub fn rendered(&self, prompt: &str) -> anyhow::Result<Option<String>> {
        let Some(template) = &self.template else { return Ok(None) };
        let text = template.render(&[user_message(prompt)], true)?;
        let bos = template.bos().filter(|_| self.tokenizer.adds_bos());
        Ok(Some(match bos.and_then(|bos| text.strip_prefix(bos)) {
            Some(rest) => rest.to_owned(),
            None => text,
        }))
    }

    /// Tokens of a prompt as a server counts them: template and BOS included.
    ///
    /// # Errors
    /// The template refuses the message, or the tokenizer the text.
    pub fn count(&self, prompt: &str) -> anyhow::Result<usize> {
        match self.rendered(prompt)? {
            Some(text) => self.tokenizer.count(&text),
            None => self.tokenizer.count(prompt),
        }
    }

    /// LongBench's way to shorten a prompt to `max` tokens: the first half of them and the last half, each decoded, one after
    /// the other. `None` if the prompt fits. Two things go beyond LongBench: a character of which only a part is left is
    /// dropped, and where the joined text encodes to more than `max` tokens (template and BOS included), the halves shrink
    /// until it does not.
    ///
    /// # Errors
    /// As [`Self::count`], or `max` leaves no room beside the template.
    pub fn cut_middle(&self, prompt: &str, max: usize) -> anyhow::Result<Option<Cut>> {
        let tokens_before = self.count(prompt)?;
        if tokens_before <= max {
            return Ok(None);
        }
        let ids = self.tokenizer.encode(prompt, true)?;
        let mut half = max.min(ids.len()) / 2;
        while half > 0 {
            let text = self.joined(prompt, &ids, half)?;
            let tokens = self.count(&text)?;
            if tokens <= max {
                return Ok(Some(Cut { text, tokens, tokens_before }));
            }
            half = half.saturating_sub((tokens - max).div_ceil(2));
        }
        anyhow::bail!(
            "expected room for a prompt in {max} tokens, got none: {} are the chat template's own",
            self.count("")?
        )
    }

    fn joined(&self, prompt: &str, ids: &[u32], half: usize) -> anyhow::Result<String> {
        let (head, tail) = (&ids[..half], &ids[ids.len() - half..]);
        // A decoder writes U+FFFD for bytes that are no whole character, some for all bytes beside them as well; the parts
        // of one character are at most three tokens.
        let broken = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
        let whole = |parts: [&[u32]; 4]| -> anyhow::Result<String> {
            for part in parts {
                let text = self.tokenizer.decode(part)?;
                if !broken(&text) || broken(prompt) {
                    return Ok(text);
                }
            }
            Ok(self.tokenizer.decode(parts[0])?.replace(char::REPLACEMENT_CHARACTER, ""))
        };
        let head = whole([0, 1, 2, 3].map(|n| &head[..half.saturating_sub(n)]))?;
        Ok(head + &whole([0, 1, 2, 3].map(|n| &tail[n.min(half)..]))?)
    }
}
