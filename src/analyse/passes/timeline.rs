//! What a server was doing when, rebuilt from its requests, and the passes that can be read off it.
//!
//! Between two moments at which a request is sent, gets its first token, its last one, or ends, the state is constant. A
//! decode step is a gap between two chunks of one stream inside such a span, while no prompt was on its way: a gap across a
//! border holds a prefill, or part of one, and is longer for a reason that the batch does not tell.

use std::collections::BTreeSet;

use crate::{predict::Work, record::RequestRow, units::ns_to_s};

/// A request that was sent.
pub(super) struct Stream<'a> {
    pub(super) row: &'a RequestRow,
    /// Its place in the table.
    pub(super) number: u64,
    /// Whether its passes count; requests before measuring only stand in the way.
    pub(super) is_measured: bool,
    /// Where its tokens are known.
    pub(super) tokens: Option<Tokens>,
}

/// Tokens of an answer as they came.
pub(super) struct Tokens {
    /// Tokens of the prompt.
    prompt: i64,
    /// Arrival of each chunk that held any.
    at_ns: Vec<i64>,
    /// Tokens of the answer up to and with each chunk.
    so_far: Vec<i64>,
}

impl Tokens {
    /// `None` where the server did not count, or where nobody knows how many tokens a chunk held. A server counts the stop
    /// token, which has no text: an answer that it stopped may have one token more than chunks.
    pub(super) fn of(row: &RequestRow) -> Option<Self> {
        let (prompt, output) = (row.prompt_tokens?, row.output_tokens?);
        row.token_source.as_ref()?;
        let n_chunks = row.chunk_ns.len();
        let stop = i64::from(row.finish_reason.as_deref() == Some("stop"));
        let missing = output - i64::try_from(n_chunks).ok()?;
        let each: Vec<i64> = if row.chunk_tokens.len() == n_chunks {
            row.chunk_tokens.clone()
        } else if (0..=stop).contains(&missing) {
            vec![1; n_chunks]
        } else {
            return None;
        };
        let (mut at_ns, mut so_far, mut sum) = (Vec::new(), Vec::new(), 0);
        for (at, tokens) in row.chunk_ns.iter().zip(each).filter(|(_, tokens)| *tokens > 0) {
            sum += tokens;
            at_ns.push(*at);
            so_far.push(sum);
        }
        (!at_ns.is_empty()).then_some(Self { prompt, at_ns, so_far })
    }

    /// Tokens in its cache at a time.
    fn cached(&self, at_ns: i64) -> f64 {
        let chunks = self.at_ns.partition_point(|chunk| *chunk <= at_ns);
        let answered = chunks.checked_sub(1).map_or(0, |last| self.so_far[last]);
        (self.prompt + answered) as f64
    }

    /// Gaps between its chunks.
    fn n_gaps(&self) -> usize {
        self.at_ns.len() - 1
    }

    /// First chunks of the gaps that lie within a span. A gap without length on a border, where two chunks came at once, is of the
    /// span that starts there and of no other.
    fn gaps(&self, span: (i64, i64)) -> std::ops::Range<usize> {
        let first = self.at_ns.partition_point(|at| *at < span.0);
        let before_end = self.at_ns.partition_point(|at| *at < span.1);
        let until_end = self.at_ns.partition_point(|at| *at <= span.1);
        first..before_end.min(until_end.saturating_sub(1)).max(first)
    }
}

/// A decode step.
pub(super) struct Step {
    /// Stream that shows it.
    pub(super) stream: usize,
    /// Streams that decoded.
    pub(super) batch: usize,
    /// Cached tokens of a sequence, mean over the batch, before any budget.
    pub(super) kv_len: f64,
    pub(super) work: Work,
    pub(super) duration_s: f64,
    /// Arrivals of the chunks around it.
    pub(super) between_ns: (i64, i64),
}

/// Steps of the engine in what its streams show: all that decode together show each step. The most gaps of which none overlaps
/// another; arrivals of one step lie apart by much less than a step takes.
pub(super) fn n_distinct(steps: &[&Step]) -> usize {
    let mut gaps: Vec<(i64, i64)> = steps.iter().map(|step| step.between_ns).collect();
    gaps.sort_unstable_by_key(|gap| gap.1);
    let mut last = i64::MIN;
    gaps.retain(|gap| {
        let is_new = gap.0 >= last && gap.0 < gap.1;
        last = if is_new { gap.1 } else { last };
        is_new
    });
    gaps.len()
}

/// What was read off.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) steps: Vec<Step>,
    /// Streams whose prompt an idle server read: nothing else was in flight from sending to the first token.
    pub(super) alone: Vec<usize>,
    pub(super) left_out: Vec<(&'static str, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    PrefillEnds,
    RunEnds,
    BlockEnds,
    PrefillStarts,
    RunStarts,
    BlockStarts,
}

/// What is in flight.
#[derive(Default)]
struct State {
    prefilling: BTreeSet<usize>,
    running: BTreeSet<usize>,
    /// Requests that failed, or that nobody can follow: what the server does for them is not known.
    blocked: BTreeSet<usize>,
}

impl State {
    fn apply(&mut self, event: Event, stream: usize) {
        match event {
            Event::PrefillStarts => self.prefilling.insert(stream),
            Event::PrefillEnds => self.prefilling.remove(&stream),
            Event::RunStarts => self.running.insert(stream),
            Event::RunEnds => self.running.remove(&stream),
            Event::BlockStarts => self.blocked.insert(stream),
            Event::BlockEnds => self.blocked.remove(&stream),
        };
    }
}

/// Times at which a stream changes the state, with what it changes.
fn events(index: usize, stream: &Stream<'_>) -> Vec<(i64, Event, usize)> {
    let row = stream.row;
    let Some(sent) = row.sent_ns else { return Vec::new() };
    match (&row.err, row.first_token_ns, row.last_token_ns) {
        (None, Some(first), Some(last)) => {
            let mut out =
                vec![(sent, Event::PrefillStarts, index), (first, Event::PrefillEnds, index)];
            // What has one token never decodes; its end would sort before its start and be lost.
            if first < last {
                out.extend([(first, Event::RunStarts, index), (last, Event::RunEnds, index)]);
            }
            out
        }
        _ => {
            // Of a request whose end nobody saw the server may hold the slot for ever.
            let end = row.done_ns.or(row.last_token_ns).unwrap_or(i64::MAX);
            vec![(sent, Event::BlockStarts, index), (end, Event::BlockEnds, index)]
        }
    }
}

/// Reads passes off the streams of one server in one repeat.
pub(super) fn read(streams: &[Stream<'_>], budget: Option<f64>) -> Seen {
    let mut events: Vec<_> =
        streams.iter().enumerate().flat_map(|(index, stream)| events(index, stream)).collect();
    events.sort_unstable();
    let (mut seen, mut state, mut at) = (Seen::default(), State::default(), 0);
    while at < events.len() {
        let start = events[at].0;
        while at < events.len() && events[at].0 == start {
            state.apply(events[at].1, events[at].2);
            at += 1;
        }
        if let Some((end, ..)) = events.get(at) {
            span(streams, &state, (start, *end), budget, &mut seen);
        }
    }
    let usable = streams.iter().filter(|it| it.is_measured && it.row.err.is_none());
    let gaps: usize = usable.filter_map(|it| it.tokens.as_ref()).map(Tokens::n_gaps).sum();
    let told: usize = seen.left_out.iter().map(|(_, steps)| steps).sum();
    let across = gaps.saturating_sub(told + seen.steps.len());
    seen.left_out.push(("decode step during which a request came or ended", across));
    seen
}

/// Everything within a span of constant state.
fn span(
    streams: &[Stream<'_>],
    state: &State,
    span: (i64, i64),
    budget: Option<f64>,
    seen: &mut Seen,
) {
    if state.running.is_empty() && state.blocked.is_empty() {
        seen.alone.extend(alone(streams, state, span));
    }
    let tokens: Option<Vec<&Tokens>> =
        state.running.iter().map(|&index| streams[index].tokens.as_ref()).collect();
    let reason = if !state.prefilling.is_empty() {
        Some("decode step while a prompt was on its way")
    } else if !state.blocked.is_empty() {
        Some("decode step beside a request that failed")
    } else if tokens.is_none() {
        Some("decode step beside an answer whose tokens are not known")
    } else {
        None
    };
    for &index in state.running.iter().filter(|&&index| streams[index].is_measured) {
        let Some(own) = &streams[index].tokens else { continue };
        let gaps = own.gaps(span);
        match (&tokens, reason) {
            (Some(tokens), None) => {
                seen.steps.extend(gaps.map(|gap| step(index, own, gap, tokens, budget)));
            }
            (_, reason) => seen.left_out.extend(reason.map(|reason| (reason, gaps.len()))),
        }
    }
}

/// The one stream whose prompt filled the span from end to end.
fn alone(streams: &[Stream<'_>], state: &State, span: (i64, i64)) -> Option<usize> {
    let only = state.prefilling.iter().next().copied().filter(|_| state.prefilling.len() == 1)?;
    let stream = &streams[only];
    let whole = stream.row.sent_ns == Some(span.0) && stream.row.first_token_ns == Some(span.1);
    (whole && stream.is_measured).then_some(only)
}

/// A step of a gap in which several tokens came is the mean of as many steps.
fn step(index: usize, own: &Tokens, gap: usize, all: &[&Tokens], budget: Option<f64>) -> Step {
    let (start, end) = (own.at_ns[gap], own.at_ns[gap + 1]);
    let steps = (own.so_far[gap + 1] - own.so_far[gap]) as f64;
    let lens: Vec<f64> =
        all.iter().map(|tokens| tokens.cached(start) + (steps - 1.0) / 2.0).collect();
    Step {
        stream: index,
        batch: lens.len(),
        kv_len: lens.iter().sum::<f64>() / lens.len() as f64,
        work: Work::decode(lens, budget),
        duration_s: ns_to_s(end - start) / steps,
        between_ns: (start, end),
    }
}
