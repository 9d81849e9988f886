//! Tokenizer keys of workloads.

use std::path::PathBuf;

use super::{TemplateSource, TokenRules, error::Fault, value::Sp, wire};
use crate::token;

/// Of a `dataset` workload.
pub(super) fn of_dataset(wire: &wire::Dataset) -> Result<Option<TokenRules>, Fault> {
    let keys = Keys {
        tokenizer: wire.tokenizer.as_ref(),
        max_prompt_tokens: wire.max_prompt_tokens.as_ref(),
        chat_template: wire.chat_template.as_ref(),
        template_date: wire.template_date.as_ref(),
    };
    first_turns_only(wire.chat_template.as_ref(), wire.turns.usize())?;
    keys.rules()
}

/// What a later turn is sent with is known only when its turn has come.
fn first_turns_only(template: Option<&Sp<String>>, turns: usize) -> Result<(), Fault> {
    let Some(template) = template.filter(|_| turns > 1) else { return Ok(()) };
    let message =
        "expected no `chat_template` beside `turns`: it would be applied to first turns only";
    Err(Fault::new(template.at, message, "send conversations to the `chat` endpoint"))
}

/// Of a `trace` workload.
pub(super) fn of_trace(wire: &wire::Trace) -> Result<Option<TokenRules>, Fault> {
    let keys = Keys {
        tokenizer: wire.tokenizer.as_ref(),
        max_prompt_tokens: None,
        chat_template: wire.chat_template.as_ref(),
        template_date: wire.template_date.as_ref(),
    };
    keys.rules()
}

/// Of a `synthetic` workload.
pub(super) fn of_synthetic(wire: &wire::Synthetic) -> Result<Option<TokenRules>, Fault> {
    first_turns_only(wire.chat_template.as_ref(), wire.turns.usize())?;
    let keys = Keys {
        tokenizer: wire.tokenizer.as_ref(),
        max_prompt_tokens: None,
        chat_template: wire.chat_template.as_ref(),
        template_date: wire.template_date.as_ref(),
    };
    keys.rules()
}

struct Keys<'a> {
    tokenizer: Option<&'a Sp<PathBuf>>,
    max_prompt_tokens: Option<&'a Sp<wire::Tokens>>,
    chat_template: Option<&'a Sp<String>>,
    template_date: Option<&'a Sp<String>>,
}

impl Keys<'_> {
    fn rules(&self) -> Result<Option<TokenRules>, Fault> {
        let Some(tokenizer) = self.tokenizer else { return self.nothing_without().map(|()| None) };
        not_empty("tokenizer", tokenizer.at, tokenizer.value.as_os_str().is_empty())?;
        if let (None, Some(date)) = (self.chat_template, self.template_date) {
            return Err(needs("template_date", date.at, "chat_template", "\"auto\""));
        }
        Ok(Some(TokenRules {
            tokenizer: tokenizer.value.clone(),
            max_prompt_tokens: self.max_prompt_tokens.map(|max| max.value.u32()),
            chat_template: self.chat_template.map(template).transpose()?,
            template_date: self.date()?,
        }))
    }

    /// The other keys mean nothing without a tokenizer.
    fn nothing_without(&self) -> Result<(), Fault> {
        let others = [
            ("max_prompt_tokens", self.max_prompt_tokens.map(|key| key.at)),
            ("chat_template", self.chat_template.map(|key| key.at)),
            ("template_date", self.template_date.map(|key| key.at)),
        ];
        match others.into_iter().find_map(|(key, at)| Some((key, at?))) {
            Some((key, at)) => Err(needs(key, at, "tokenizer", "\"models/llama\"")),
            None => Ok(()),
        }
    }

    fn date(&self) -> Result<jiff::civil::Date, Fault> {
        let (text, at) = self
            .template_date
            .map_or((token::DATE_DEFAULT, 0), |date| (date.value.as_str(), date.at));
        token::date(text).map_err(|error| {
            Fault::new(
                at,
                format!("`template_date`: {error}"),
                "year, month and day, joined by `-`",
            )
        })
    }
}

fn template(key: &Sp<String>) -> Result<TemplateSource, Fault> {
    not_empty("chat_template", key.at, key.value.is_empty())?;
    Ok(match key.value.as_str() {
        "auto" => TemplateSource::Model,
        path => TemplateSource::File(path.into()),
    })
}

fn not_empty(key: &str, at: usize, empty: bool) -> Result<(), Fault> {
    if empty {
        let message = format!("expected `{key}` to name a file, got an empty text");
        return Err(Fault::new(at, message, "remove the key, or name the file"));
    }
    Ok(())
}

fn needs(key: &str, at: usize, other: &str, example: &str) -> Fault {
    let message = format!("expected `{other}` beside `{key}`, got none");
    Fault::new(at, message, format!("add `{other} = {example}`, or remove `{key}`"))
}
