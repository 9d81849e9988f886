//! What a metric means, as an id: numbers of two tools may be compared where their ids are equal, and only there. Tools agree
//! on names (TTFT, ITL, TPOT) and differ in what they compute, so a name alone says little.
//!
//! Events of one request, all on the client: `due` (when the schedule said), `sent` (handed to the HTTP client),
//! `first_content` and `last_content` (arrival of the first and the last chunk that carried output), `first_choices` and
//! `last_choices` (arrival of the first and the last message with a non-empty `choices`, which may carry no output: the role
//! message of a chat, the empty message with the finish reason), `done` (end of the stream, after usage and `[DONE]`).

/// One definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Definition {
    /// Stable id; parts from general to special, joined by dots.
    pub id: &'static str,
    /// Unit of the number.
    pub unit: &'static str,
    /// How it is computed, in the events above.
    pub formula: &'static str,
    /// What it is, and what to mind.
    pub words: &'static str,
}

/// Suffix of the ids of numbers that hold requests of the steady window alone.
pub const STEADY: &str = ".steady_state";

const fn of(
    id: &'static str,
    unit: &'static str,
    formula: &'static str,
    words: &'static str,
) -> Definition {
    Definition { id, unit, formula, words }
}

/// Every definition, by family.
pub const DEFINITIONS: &[Definition] = &[
    of(
        "ttft.first_content",
        "ms",
        "first_content - sent",
        "Time to the first chunk that carried output. A role message or an empty chunk is no token.",
    ),
    of(
        "ttft.first_content.from_due",
        "ms",
        "first_content - due",
        "The same from when the request was due: waiting in the client counts.",
    ),
    of(
        "ttft.first_choices",
        "ms",
        "first_choices - sent",
        "Time to the first message with `choices`, be it empty: too short where a server sends the role before it computes.",
    ),
    of(
        "ttft.first_choices.from_due",
        "ms",
        "first_choices - due",
        "The same from when the request was due.",
    ),
    of(
        "ttst.second_chunk",
        "ms",
        "second content chunk - first_content",
        "Gap between the first two chunks that carried output.",
    ),
    of(
        "itl.per_token",
        "ms",
        "gaps between arrivals of consecutive tokens, pooled over requests",
        "0 between tokens of one chunk; only where it is known which chunk held how many.",
    ),
    of(
        "itl.per_chunk",
        "ms",
        "gaps between chunks that carried output, pooled over requests",
        "A chunk may hold several tokens; long answers weigh more.",
    ),
    of(
        "itl.per_choices_chunk",
        "ms",
        "gaps between messages with `choices`, pooled over requests",
        "As itl.per_chunk, with messages that carry no output among them: each adds a gap near 0.",
    ),
    of(
        "itl.request_mean",
        "ms",
        "(last_content - first_content) / (output tokens - 1), one value a request",
        "Called ITL by its tool, but a mean over each answer: stalls inside an answer are invisible. The same formula as \
         tpot.request_mean; which tokens it divides by is the tool's choice.",
    ),
    of(
        "itl.request_mean.token_weighted",
        "ms",
        "as itl.request_mean, every request counted once a token after its first",
        "Percentiles are of request means, not of gaps.",
    ),
    of(
        "tpot.request_mean",
        "ms",
        "(last_content - first_content) / (output_tokens - 1), one value a request",
        "Tokens as the server counted; answers of fewer than two tokens, or of one chunk, have none.",
    ),
    of(
        "tpot.request_mean.choices",
        "ms",
        "(last_choices - first_choices) / (output tokens - 1), one value a request",
        "Tokens of usage, or of the answer tokenised again; answers of one token have none.",
    ),
    of(
        "tpot.including_ttft",
        "ms",
        "(last_content - sent) / output tokens, one value a request",
        "Holds the time to the first token.",
    ),
    of(
        "tpot.including_ttft.token_weighted",
        "ms",
        "as tpot.including_ttft, every request counted once a token",
        "Holds the time to the first token.",
    ),
    of(
        "e2e.last_content",
        "ms",
        "last_content - sent",
        "Usage and `[DONE]` come later and are not waited for.",
    ),
    of("e2e.last_content.from_due", "ms", "last_content - due", "The same from when it was due."),
    of(
        "e2e.last_choices",
        "ms",
        "last_choices - sent",
        "The last message may be empty but for its finish reason.",
    ),
    of("e2e.last_choices.from_due", "ms", "last_choices - due", "The same from when it was due."),
    of("e2e.done", "ms", "done - sent", "Until the stream has ended."),
    of(
        "delay.sent_after_due",
        "ms",
        "sent - due",
        "How late the client was; in a closed loop from when the slot came free.",
    ),
    of(
        "throughput.requests_per_s.whole_run",
        "1/s",
        "good requests / (last done - first sent)",
        "Ramp and drain included, and the time of failed requests.",
    ),
    of(
        "throughput.output_tokens_per_s.whole_run",
        "tokens/s",
        "output tokens of good requests / (last done - first sent)",
        "Ramp and drain included. Unknown where one answer was not counted.",
    ),
    of(
        "throughput.output_tokens_per_s.whole_run.peer_count",
        "tokens/s",
        "output tokens as the tool counted / (last done - first sent)",
        "By its own tokenizer, which need not be the server's.",
    ),
    of(
        "throughput.total_tokens_per_s.whole_run",
        "tokens/s",
        "prompt and output tokens of good requests / (last done - first sent)",
        "Adds work of two kinds; prompt tokens from a prefix cache cost nothing.",
    ),
    of(
        "throughput.goodput_per_s.whole_run",
        "1/s",
        "good requests within every limit of the SLO / (last done - first sent)",
        "TTFT and E2E count from due. A limit on an unknown quantity does not hold.",
    ),
    of(
        "throughput.chunks_per_s.peak_1s_bucket",
        "1/s",
        "most messages with `choices` in one second of the run",
        "Called tokens by its tool.",
    ),
    of(
        "concurrency.peak_1s_bucket",
        "requests",
        "most requests that touch one second of the run",
        "Requests that follow one another within a second count together, so it exceeds the cap.",
    ),
    of(
        "requests.failed_share",
        "1",
        "failed requests / requests",
        "Mean over requests; failed ones are in no latency.",
    ),
    of("length.prompt.server_count", "tokens", "prompt_tokens of usage", "As the server counted."),
    of(
        "length.prompt.peer_count",
        "tokens",
        "prompt tokens as the tool counted",
        "By its own tokenizer, which need not be the server's.",
    ),
    of(
        "length.output.server_count",
        "tokens",
        "output tokens of usage or token ids",
        "As the server counted; answers that a full context cut are left out.",
    ),
    of(
        "length.output.peer_count",
        "tokens",
        "output tokens as the tool counted",
        "Usage, chunks, or the answer tokenised again: the tool does not say which.",
    ),
    of(
        "steady.share_of_run",
        "1",
        "length of the steady window / (last done - first sent)",
        "Closed loop: from the first to the last moment with at least 95 % of the requests in flight. Else: from when the \
         requests in flight reach their median until the last one is sent. See analyse/steady.rs.",
    ),
    of(
        "throughput.requests_per_s.steady_state",
        "1/s",
        "good requests done in the steady window / its length",
        "Requests that began before it count when they end in it.",
    ),
    of(
        "throughput.output_tokens_per_s.steady_state",
        "tokens/s",
        "output tokens of good requests done in the steady window / its length",
        "Requests that began before it count when they end in it.",
    ),
    of(
        "ttft.first_content.steady_state",
        "ms",
        "first_content - sent",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "ttft.first_choices.steady_state",
        "ms",
        "first_choices - sent",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "tpot.request_mean.steady_state",
        "ms",
        "(last_content - first_content) / (output_tokens - 1), one value a request",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "tpot.request_mean.choices.steady_state",
        "ms",
        "(last_choices - first_choices) / (output tokens - 1), one value a request",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "e2e.last_content.steady_state",
        "ms",
        "last_content - sent",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "e2e.last_choices.steady_state",
        "ms",
        "last_choices - sent",
        "Of requests that lie wholly within the steady window.",
    ),
    of(
        "text.excess_bits_per_character",
        "bits",
        "bits of the answer - bits of the baseline's answer, per character, under a model of the baseline's other answers",
        "One value a prompt; how much less the answer reads like the baseline's. See analyse/sanity.rs.",
    ),
    of(
        "text.first_difference",
        "characters",
        "first position at which the answer differs from the baseline's",
        "Of answers to the same prompt in the same repeat that differ.",
    ),
    of(
        "text.identical_share",
        "1",
        "answers equal to the baseline's / answers compared",
        "Character by character; only greedy decoding makes them equal.",
    ),
    of(
        "engine.kv_usage.peak",
        "1",
        "largest reading",
        "Part of the KV cache in use, as the engine tells it; peaks between two readings are not seen.",
    ),
    of(
        "engine.kv_usage.mean",
        "1",
        "mean over time",
        "The same, weighted by the time between readings.",
    ),
    of("engine.running.peak", "requests", "largest reading", "Requests being computed."),
    of(
        "engine.waiting.peak",
        "requests",
        "largest reading",
        "Requests that wait inside the engine.",
    ),
    of(
        "engine.preemptions",
        "requests",
        "last count - first count",
        "Requests thrown out of the batch because the KV cache was full.",
    ),
    of(
        "engine.prefix_hit_tokens",
        "tokens",
        "last count - first count",
        "Prompt tokens found in the engine's prefix cache.",
    ),
    of(
        "engine.prefix_hit_rate",
        "1",
        "hits / queries over the cell",
        "Of the prompt tokens looked up.",
    ),
    of(
        "engine.spec_accept_rate",
        "1",
        "accepted / proposed tokens over the cell",
        "Of speculative decoding.",
    ),
    of(
        "engine.offload_read_bytes",
        "bytes",
        "last count - first count",
        "KV cache loaded back from host memory or disk.",
    ),
    of("engine.offload_write_bytes", "bytes", "last count - first count", "KV cache moved out."),
    of(
        "kernel.launch_duration",
        "ms",
        "time of one launch",
        "Of one attention layer; short launches are timed as a batch and divided.",
    ),
    of(
        "kernel.tokens_per_s.per_launch",
        "tokens/s",
        "tokens of one launch / its time",
        "Sequences for decode, cached tokens for prefill and compress; the rate of single launches.",
    ),
];

/// Our own metrics and their ids.
const OWN: [(&str, &str); 33] = [
    ("ttft", "ttft.first_content"),
    ("ttft_due", "ttft.first_content.from_due"),
    ("e2e", "e2e.last_content"),
    ("e2e_due", "e2e.last_content.from_due"),
    ("tpot", "tpot.request_mean"),
    ("itl", "itl.per_token"),
    ("icl", "itl.per_chunk"),
    ("queue_delay", "delay.sent_after_due"),
    ("prompt_tokens", "length.prompt.server_count"),
    ("output_tokens", "length.output.server_count"),
    ("requests_per_s", "throughput.requests_per_s.whole_run"),
    ("output_tokens_per_s", "throughput.output_tokens_per_s.whole_run"),
    ("goodput_per_s", "throughput.goodput_per_s.whole_run"),
    ("failed_share", "requests.failed_share"),
    ("steady_share", "steady.share_of_run"),
    ("steady_requests_per_s", "throughput.requests_per_s.steady_state"),
    ("steady_output_tokens_per_s", "throughput.output_tokens_per_s.steady_state"),
    ("steady_ttft", "ttft.first_content.steady_state"),
    ("steady_tpot", "tpot.request_mean.steady_state"),
    ("steady_e2e", "e2e.last_content.steady_state"),
    ("text_excess_bits", "text.excess_bits_per_character"),
    ("text_first_difference", "text.first_difference"),
    ("text_identical_share", "text.identical_share"),
    ("kv_usage_peak", "engine.kv_usage.peak"),
    ("kv_usage_mean", "engine.kv_usage.mean"),
    ("running_peak", "engine.running.peak"),
    ("waiting_peak", "engine.waiting.peak"),
    ("preemptions", "engine.preemptions"),
    ("prefix_hit_tokens", "engine.prefix_hit_tokens"),
    ("prefix_hit_rate", "engine.prefix_hit_rate"),
    ("spec_accept_rate", "engine.spec_accept_rate"),
    ("offload_read_bytes", "engine.offload_read_bytes"),
    ("offload_write_bytes", "engine.offload_write_bytes"),
];

/// The definition with an id.
pub fn by_id(id: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.id == id)
}

/// The id of one of our own metrics; kernel metrics carry their operation in front (`decode_duration`).
pub fn of_metric(metric: &str) -> Option<&'static str> {
    let own = OWN.iter().find(|(name, _)| *name == metric).map(|(_, id)| *id);
    own.or_else(|| {
        let (op, rest) = metric.split_once('_')?;
        match rest {
            _ if !["prefill", "decode", "compress"].contains(&op) => None,
            "duration" => Some("kernel.launch_duration"),
            "tokens_per_s" => Some("kernel.tokens_per_s.per_launch"),
            _ => None,
        }
    })
}

/// Our metrics of requests with their ids, for tables that explain themselves.
pub fn own() -> impl Iterator<Item = (&'static str, &'static Definition)> {
    OWN.iter().filter_map(|(metric, id)| Some((*metric, by_id(id)?)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_and_every_metric_has_one() {
        let ids: BTreeSet<&str> = DEFINITIONS.iter().map(|definition| definition.id).collect();
        assert_eq!(ids.len(), DEFINITIONS.len(), "an id means one thing");
        assert_eq!(own().count(), OWN.len(), "an id of ours is not in the table");
        assert_eq!(of_metric("decode_duration"), Some("kernel.launch_duration"));
        assert_eq!(of_metric("compress_tokens_per_s"), Some("kernel.tokens_per_s.per_launch"));
        assert_eq!(of_metric("output_duration"), None);
    }

    #[test]
    fn a_steady_number_has_a_whole_run_partner() {
        for steady in DEFINITIONS.iter().filter_map(|d| d.id.strip_suffix(STEADY)) {
            let whole = format!("{steady}.whole_run");
            assert!(by_id(steady).or_else(|| by_id(&whole)).is_some(), "{steady}");
        }
    }
}
