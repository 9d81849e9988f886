//! Workloads of the file.

use super::{
    AnswerMode, DatasetFormat, Dialogues, LengthDist, Trace, TraceFormat, Workload, error::Fault,
    forced, limit, think, tokens, value::Sp, wire,
};

/// A workload must not be called like a shape of a grid, or two cells could share an id.
pub(super) fn check_name(name: &Sp<String>) -> Result<(), Fault> {
    let mut parts = name.value.rsplit('-');
    let numbered = |part: Option<&str>, prefix: &str| {
        part.and_then(|part| part.strip_prefix(prefix))
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if numbered(parts.next(), "kv") && numbered(parts.next(), "b") {
        let message =
            format!("expected a name that does not look like a shape, got `{}`", name.value);
        return Err(Fault::new(
            name.at,
            message,
            "leave out the ending `-b…-kv…`: shapes add it themselves",
        ));
    }
    let last = name.value.rsplit_once('-').map(|(_, last)| last);
    if let Some(mark) = ["page", "tp"].into_iter().find(|mark| numbered(last, mark)) {
        let message = format!(
            "expected a name that does not end like a kernel target's, got `{}`",
            name.value
        );
        let hint = format!("leave out the ending `-{mark}…`: kernel targets add it themselves");
        return Err(Fault::new(name.at, message, hint));
    }
    Ok(())
}

/// One entry of `[workload]`.
pub(super) fn build(name: &Sp<String>, wire: &wire::Workload) -> Result<Workload, Fault> {
    match wire {
        wire::Workload::Shapes(wire) => Ok(Workload::Shapes {
            ops: wire.ops.0.clone(),
            batch: wire.batch.0.iter().map(|n| n.usize()).collect(),
            kv_len: wire.kv_len.0.iter().map(|n| n.usize()).collect(),
        }),
        wire::Workload::Dataset(wire) => dataset(wire),
        wire::Workload::Synthetic(wire) => synthetic(name, wire),
        wire::Workload::Trace(wire) => trace(wire),
        wire::Workload::Forced(wire) => forced::build(name, wire),
    }
}

fn trace(wire: &wire::Trace) -> Result<Workload, Fault> {
    if wire.path.value.as_os_str().is_empty() {
        let message = "expected `path` to name a file, got an empty text";
        return Err(Fault::new(wire.path.at, message, "for example `datasets/trace.csv`"));
    }
    let window = [wire.start_s.as_ref().map(|s| s.at), wire.duration_s.as_ref().map(|s| s.at)];
    if let (TraceFormat::Lengths, Some(at)) = (wire.format, window.into_iter().flatten().next()) {
        let message = "expected a format with times for `start_s` and `duration_s`, got `lengths`";
        return Err(Fault::new(at, message, "take the first rows with `n_requests`"));
    }
    Ok(Workload::Trace(Trace {
        path: wire.path.value.clone(),
        format: wire.format,
        n_requests: wire.n_requests.map(|n| n.usize()),
        start_s: wire.start_s.as_ref().map_or(0.0, |s| s.value.0),
        duration_s: wire.duration_s.as_ref().map(|s| s.value.0),
        tokens: tokens::of_trace(wire)?,
    }))
}

fn dataset(wire: &wire::Dataset) -> Result<Workload, Fault> {
    if wire.path.value.as_os_str().is_empty() {
        let message = "expected `path` to name a file, got an empty text";
        return Err(Fault::new(wire.path.at, message, "for example `datasets/tiny-sharegpt.json`"));
    }
    if wire.format != DatasetFormat::Longbench {
        only_longbench(wire)?;
    }
    Ok(Workload::Dataset {
        path: wire.path.value.clone(),
        format: wire.format,
        n_requests: wire.n_requests.map(|n| n.usize()),
        prompt: wire.prompt.as_ref().map(|prompt| prompt.value).unwrap_or_default(),
        max_tokens: longest(wire)?,
        mode: match wire.mode {
            None | Some(wire::AnswerMode::Free) => AnswerMode::Free,
            Some(wire::AnswerMode::Fixed(_)) => AnswerMode::Fixed,
            Some(wire::AnswerMode::Matched) => AnswerMode::Matched,
        },
        turns: wire.turns.usize(),
        think: wire.think_s.as_ref().map(think::build).transpose()?,
        tokens: tokens::of_dataset(wire)?,
    })
}

/// A fixed length is the longest one as well.
fn longest(wire: &wire::Dataset) -> Result<Option<u32>, Fault> {
    match (&wire.mode, &wire.max_tokens) {
        (Some(wire::AnswerMode::Fixed(_)), Some(longest)) => {
            let message = "expected no `max_tokens` beside `mode = { fixed = ... }`, which is as long as answers get";
            Err(Fault::new(longest.at, message, "remove one of them"))
        }
        (Some(wire::AnswerMode::Fixed(n)), None) => Ok(Some(n.u32())),
        (_, longest) => Ok(longest.as_ref().map(|n| n.value.u32())),
    }
}

/// What other formats have nothing for: prompts and longest answers of tasks.
fn only_longbench(wire: &wire::Dataset) -> Result<(), Fault> {
    if let Some(prompt) = &wire.prompt {
        let message = "expected `prompt` beside `format = \"longbench\"`, got another format";
        return Err(Fault::new(prompt.at, message, "remove it: other rows hold whole prompts"));
    }
    if matches!(wire.mode, Some(wire::AnswerMode::Matched)) {
        let message =
            "expected `format = \"longbench\"` beside `mode = \"matched\"`, got another format";
        let hint = "remove `mode`: rows of other formats hold nothing that an answer is scored by";
        return Err(Fault::new(wire.path.at, message, hint));
    }
    if longest(wire)?.is_none() {
        let message = "expected the key `max_tokens`, got none";
        let hint =
            "add `max_tokens = 256`; only LongBench's tasks have a longest answer of their own";
        return Err(Fault::new(wire.path.at, message, hint));
    }
    Ok(())
}

fn synthetic(name: &Sp<String>, wire: &wire::Synthetic) -> Result<Workload, Fault> {
    let prompt_tokens = length(&wire.prompt_tokens)?;
    let (n_requests, turns) = (wire.n_requests.usize(), wire.turns.usize());
    let most = (n_requests * turns) as u64 * u64::from(prompt_tokens.max());
    if most > limit::PROMPT_TOKENS_MAX {
        return Err(Fault::new(
            name.at,
            format!(
                "expected at most {} prompt tokens in all (`n_requests` times `turns` times the longest prompt), got up to {most}",
                limit::PROMPT_TOKENS_MAX
            ),
            "the prompts are held in memory: lower `n_requests` or `max`",
        ));
    }
    let (output_tokens, tokens) = (length(&wire.output_tokens)?, tokens::of_synthetic(wire)?);
    if turns > 1 {
        let think = wire.think_s.as_ref().map(|think| think::build(&think.value)).transpose()?;
        return Ok(Workload::Dialogues(Dialogues {
            n_conversations: n_requests,
            turns,
            think,
            prompt_tokens,
            output_tokens,
            tokens,
        }));
    }
    if let Some(think) = &wire.think_s {
        let message = "expected `turns` beside `think_s`, got none: one turn has no next";
        return Err(Fault::new(think.at, message, "add `turns = 4`, or remove `think_s`"));
    }
    Ok(Workload::Synthetic { n_requests, prompt_tokens, output_tokens, tokens })
}

/// A distribution whose parameters agree.
pub(super) fn length(wire: &wire::Length) -> Result<LengthDist, Fault> {
    match wire {
        wire::Length::Fixed(n) => Ok(LengthDist::Fixed(n.u32())),
        wire::Length::Uniform(wire) => {
            let (min, max) = (wire.min.value.u32(), wire.max.u32());
            if min > max {
                let message = format!("expected `min` to be at most `max` ({max}), got {min}");
                return Err(Fault::new(wire.min.at, message, "swap them"));
            }
            Ok(LengthDist::Uniform { min, max })
        }
        wire::Length::Lognormal(wire) => {
            let (median, max) = (wire.median.value.0, wire.max.u32());
            if median > f64::from(max) {
                let message =
                    format!("expected `median` to be at most `max` ({max}), got {median}");
                return Err(Fault::new(
                    wire.median.at,
                    message,
                    "more than half of the lengths would be cut",
                ));
            }
            Ok(LengthDist::Lognormal { median, sigma: wire.sigma.0, max })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{PromptLayout, Scenario};

    /// A data set with these keys, or what is wrong with it.
    fn dataset(format: &str, keys: &str) -> Result<Workload, String> {
        let text = format!(
            "name = \"e\"\nbaseline = \"fp16\"\n[method.fp16.fp16]\n[target.srv.engine]\nurl = \"http://h\"\nendpoint = \"chat\"\n\
             method = \"fp16\"\n[load.one.closed]\nconcurrency = [1]\n[workload.w.dataset]\npath = \"x\"\nformat = \"{format}\"\n{keys}"
        );
        let scenario = Scenario::parse(&text, "s.toml").map_err(|error| error.to_string())?;
        Ok(scenario.workloads[0].kind.clone())
    }

    #[test]
    fn longbench_has_prompts_and_lengths_of_its_own() {
        let keys = |keys: &str| match dataset("longbench", keys).expect("valid") {
            Workload::Dataset { prompt, max_tokens, .. } => (prompt, max_tokens),
            _ => panic!("a data set"),
        };
        assert_eq!(keys(""), (PromptLayout::Task, None));
        let neutral = "prompt = \"neutral\"\nmax_tokens = 5\n";
        assert_eq!(keys(neutral), (PromptLayout::Neutral, Some(5)));
        for (keys, said) in [
            ("", "s.toml:11:8: expected the key `max_tokens`, got none"),
            ("max_tokens = 5\nprompt = \"task\"", "s.toml:14:10: expected `prompt` beside"),
        ] {
            let error = dataset("sharegpt", keys).expect_err("refused");
            assert!(error.starts_with(said), "{error}");
        }
    }
}
