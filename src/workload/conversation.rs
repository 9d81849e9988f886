//! Conversations: a first turn that is due like any request, and turns that follow an answer.

use anyhow::Context as _;

use super::{
    Due, Request, Sample,
    count::Counter,
    dataset,
    draw::{Stream, stream, unit},
    exact, tokens_est,
};
use crate::{scenario::TimeDist, units::NS_PER_S};

/// How conversations are made of rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Most turns of one.
    pub(super) turns: usize,
    /// From the end of an answer to the next turn; `None` = at once.
    pub(super) think: Option<TimeDist>,
    /// `max_tokens` of each turn; `None` = the longest answer of the row's LongBench task.
    pub(super) max_tokens: Option<u32>,
}

/// One request a turn, the turns of a conversation one after another. First turns are due `WhenFree` until somebody says
/// otherwise. A follower's prompt is what is new in it; what was said before is put in front when its turn has come.
/// `counter` counts and cuts first turns; what a later one is sent with is known only when its turn has come.
///
/// # Errors
/// A prompt cannot be encoded, or nothing says how long its answer may be.
pub(super) fn requests(
    samples: Vec<Sample>,
    shape: Shape,
    seed: u64,
    mut counter: Option<&mut Counter>,
) -> anyhow::Result<Vec<Request>> {
    let mut rng = stream(seed, Stream::Think);
    let mut requests: Vec<Request> = Vec::with_capacity(samples.len());
    for sample in samples {
        let (max_tokens, raw) = (max_tokens(shape, &sample)?, sample.is_sent_raw());
        let first = dataset::Turn { prompt: sample.prompt, answer: sample.answer };
        let turns = std::iter::once(first).chain(sample.later).take(shape.turns);
        let mut said_tokens = 0;
        for (turn, said) in turns.enumerate() {
            let id = requests.len() as u64;
            let think_s =
                shape.think.filter(|_| turn > 0).map_or(0.0, |think| draw_s(think, &mut rng));
            let think_ns = (think_s * NS_PER_S).round() as u64;
            let answer_tokens_est = said.answer.as_deref().map(tokens_est);
            let prompt_tokens_est = said_tokens + tokens_est(&said.prompt);
            said_tokens = prompt_tokens_est + answer_tokens_est.unwrap_or(0);
            let mut request = Request {
                id,
                sample_id: sample.id.clone(),
                turn: turn as u32,
                due: if turn == 0 {
                    Due::WhenFree
                } else {
                    Due::After { request: id - 1, think_ns }
                },
                prompt: said.prompt,
                prompt_tokens_est,
                counted: None,
                answer_tokens_est,
                max_tokens,
                forced: None,
            };
            if let Some(counter) = counter.as_deref_mut().filter(|_| turn == 0) {
                counter.take(&mut request, said.answer.as_deref(), raw)?;
            }
            requests.push(request);
        }
    }
    Ok(requests)
}

fn max_tokens(shape: Shape, sample: &Sample) -> anyhow::Result<u32> {
    let own = || sample.task.map(|task| task.max_new_tokens);
    shape.max_tokens.or_else(own).with_context(|| {
        let dataset = sample.reference.as_ref().map_or("none", |it| it.dataset.as_str());
        format!(
            "line {}, row {}: expected `dataset` to be one of LongBench's, whose longest answers are known, got {dataset}\n  hint: give the workload a `max_tokens`",
            sample.line, sample.id
        )
    })
}

pub(super) fn draw_s(think: TimeDist, rng: &mut rand_chacha::ChaCha8Rng) -> f64 {
    match think {
        TimeDist::Fixed(s) => s,
        TimeDist::Uniform { min, max } => min + (max - min) * unit(rng),
        TimeDist::Lognormal { median, sigma, max } => {
            (median * exact::exp(sigma * exact::normal(rng))).min(max)
        }
    }
}
