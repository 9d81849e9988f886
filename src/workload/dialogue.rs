//! Conversations made of words: each turn has something new of a drawn length, and is sent with all that was said before.

use super::{
    Counted, Due, Request, conversation, count,
    draw::{Stream, stream},
    synthetic,
};
use crate::{
    scenario::Dialogues,
    token::{Fitter, Meter},
    units::NS_PER_S,
};

/// One request a turn, the turns of a conversation one after another; and a word on prompts that missed their length. First
/// turns are due `WhenFree` until somebody says otherwise.
///
/// With a tokenizer a first turn has exactly its length as a server counts it, BOS included. What is new in a later one
/// encodes to exactly its length alone, without BOS: what a server counts there holds the answers, which nobody knows yet.
///
/// # Errors
/// The tokenizer cannot be read or cannot encode a word.
pub(super) fn requests(
    dialogues: &Dialogues,
    seed: u64,
) -> anyhow::Result<(Vec<Request>, Option<String>)> {
    let meter = dialogues.tokens.as_ref().map(count::meter).transpose()?;
    let mut writer = Writer::new(meter.as_ref())?;
    let words = synthetic::words();
    let mut lengths = stream(seed, Stream::Length);
    let mut text = stream(seed, Stream::Text);
    let mut thinking = stream(seed, Stream::Think);
    let offset = synthetic::offset(&words, &mut text);
    let mut requests: Vec<Request> =
        Vec::with_capacity(dialogues.n_conversations * dialogues.turns);
    let mut missed = Vec::new();
    for conversation in 0..dialogues.n_conversations {
        let mut said_tokens: u32 = 0;
        for turn in 0..dialogues.turns {
            let id = requests.len() as u64;
            let asked = synthetic::length(&dialogues.prompt_tokens, &mut lengths);
            let max_tokens = synthetic::length(&dialogues.output_tokens, &mut lengths);
            // Every turn begins with words of its own, so that no cache has seen what is new in it.
            let mut next = synthetic::in_turn(&words, requests.len() + offset, &mut text);
            let (prompt, tokens) = writer.write(asked, turn == 0, &mut next)?;
            missed.push(tokens.abs_diff(asked));
            let think = dialogues.think.filter(|_| turn > 0);
            let think_s = think.map_or(0.0, |think| conversation::draw_s(think, &mut thinking));
            let prompt_tokens_est = said_tokens.saturating_add(tokens);
            said_tokens = prompt_tokens_est.saturating_add(max_tokens);
            requests.push(Request {
                id,
                sample_id: format!("synthetic-{conversation}"),
                turn: turn as u32,
                due: match turn {
                    0 => Due::WhenFree,
                    _ => Due::After {
                        request: id - 1,
                        think_ns: (think_s * NS_PER_S).round() as u64,
                    },
                },
                prompt,
                prompt_tokens_est,
                counted: (turn == 0 && meter.is_some())
                    .then_some(Counted { tokens, rendered: None }),
                answer_tokens_est: Some(max_tokens),
                max_tokens,
                forced: None,
            });
        }
    }
    Ok((requests, count::missed_by("synthetic turns", missed.into_iter())))
}

/// Writes turns: to the token where there is a tokenizer, else a word a token.
struct Writer<'a> {
    fitter: Option<Fitter<'a>>,
}

impl<'a> Writer<'a> {
    fn new(meter: Option<&'a Meter>) -> anyhow::Result<Self> {
        Ok(Self { fitter: meter.map(Fitter::new).transpose()? })
    }

    /// A text and its tokens: with BOS in a first turn, without it in others.
    fn write<'w>(
        &mut self,
        asked: u32,
        first: bool,
        next: &mut dyn FnMut() -> &'w str,
    ) -> anyhow::Result<(String, u32)> {
        let Some(fitter) = &mut self.fitter else {
            let words: Vec<&str> = (0..asked).map(|_| next()).collect();
            return Ok((words.join(" "), asked));
        };
        let beside = if first { 0 } else { fitter.empty() };
        let fitted = fitter.fit(asked as usize + beside, next)?;
        Ok((fitted.text, u32::try_from(fitted.tokens.saturating_sub(beside))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        scenario::{LengthDist, TimeDist, TokenRules},
        token::{Tokenizer, tiny},
    };

    fn dialogues(tokens: Option<TokenRules>) -> Dialogues {
        Dialogues {
            n_conversations: 5,
            turns: 3,
            think: Some(TimeDist::Uniform { min: 1.0, max: 2.0 }),
            prompt_tokens: LengthDist::Uniform { min: 10, max: 30 },
            output_tokens: LengthDist::Fixed(7),
            tokens,
        }
    }

    #[test]
    fn turns_follow_answers_and_differ() {
        let (all, note) = requests(&dialogues(None), 3).unwrap();
        assert_eq!((all.len(), note), (15, None));
        assert_eq!(all, requests(&dialogues(None), 3).unwrap().0, "a seed fixes all");
        assert_ne!(all, requests(&dialogues(None), 4).unwrap().0);
        for talk in all.chunks(3) {
            assert!(matches!(talk[0].due, Due::WhenFree) && talk[0].turn == 0);
            for (before, turn) in talk.iter().zip(&talk[1..]) {
                let Due::After { request, think_ns } = turn.due else { panic!("{turn:?}") };
                assert_eq!((request, turn.turn), (before.id, before.turn + 1));
                assert!((1_000_000_000..=2_000_000_000).contains(&think_ns), "{think_ns}");
                assert_eq!(turn.sample_id, before.sample_id);
                let new = turn.prompt.split(' ').count() as u32;
                assert!((10..=30).contains(&new));
                assert_eq!(turn.prompt_tokens_est, before.prompt_tokens_est + 7 + new);
            }
        }
        let starts: std::collections::BTreeSet<Vec<&str>> =
            all.iter().map(|r| r.prompt.split(' ').take(3).collect()).collect();
        assert_eq!(starts.len(), 15, "no turn begins like another");
    }

    #[test]
    fn a_tokenizer_makes_every_turn_exact() {
        let folder = tempfile::tempdir().unwrap();
        tiny::sentence_piece(folder.path());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let rules = TokenRules {
            tokenizer: folder.path().to_owned(),
            max_prompt_tokens: None,
            chat_template: None,
            template_date: crate::token::date(crate::token::DATE_DEFAULT).unwrap(),
        };
        let (fixed, note) = {
            let mut fixed = dialogues(Some(rules));
            fixed.prompt_tokens = LengthDist::Fixed(40);
            requests(&fixed, 3).unwrap()
        };
        assert_eq!(note, None);
        for request in &fixed {
            let with_bos = request.turn == 0;
            assert_eq!(
                tokenizer.encode(&request.prompt, with_bos).unwrap().len(),
                40,
                "{request:?}"
            );
            assert_eq!(request.counted.as_ref().map(|it| it.tokens), with_bos.then_some(40));
        }
    }
}
