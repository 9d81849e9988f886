//! What the methods and the columns mean, in a sentence each.

use crate::analyse::definitions;

/// Each metric of requests with the id of its definition, its formula and what to mind.
pub(super) fn definitions() -> Vec<(String, String)> {
    let entry = |(metric, definition): (&str, &definitions::Definition)| {
        let text = format!("{}: {}. {}", definition.id, definition.formula, definition.words);
        (metric.to_owned(), text)
    };
    definitions::own().map(entry).collect()
}

/// `(term, meaning)`.
pub(super) const METHODS: [(&str, &str); 12] = [
    ("fp16", "Half precision, nothing removed: the usual baseline."),
    ("int8", "Eight-bit codes with one fp16 scale and minimum per token and KV head."),
    ("int4", "Four-bit codes with one fp16 scale and minimum per token and KV head."),
    ("fp8", "Eight-bit floats (e4m3) without calibration."),
    ("fp8-token-head", "Eight-bit floats (e4m3) with one f32 scale per token and KV head."),
    ("bf16", "bfloat16, nothing removed."),
    (
        "kivi",
        "Two or four bits; keys grouped along tokens per channel, values along channels per token; the newest tokens stay fp16 (arXiv 2402.02750).",
    ),
    (
        "gear",
        "KIVI's quantisation with a low-rank term for its error and a few outliers kept exactly (arXiv 2403.05527); without outliers GEAR-L.",
    ),
    (
        "turboquant4",
        "Four bits: keys rotated and coded by a codebook of normals, values as int4; as vLLM's turboquant_4bit_nc (arXiv 2504.19874).",
    ),
    (
        "streaming",
        "Keeps the first few tokens and a window of recent ones (StreamingLLM, arXiv 2309.17453).",
    ),
    (
        "h2o",
        "Keeps the tokens that drew most attention so far, and recent ones (arXiv 2306.14048).",
    ),
    (
        "snapkv",
        "Keeps the prompt tokens that the prompt's last queries look at (arXiv 2404.14469).",
    ),
];

/// `(term, meaning)`.
pub(super) const COLUMNS: [(&str, &str); 20] = [
    (
        "n too small",
        "A percentile that the sample cannot hold: smallest and largest observation do not bound it with 95 %. In brackets the observations that there are, and those that it takes: 6 for p50, 36 for p10 and p90, 72 for p95, 368 for p99.",
    ),
    (
        "1.92 [1.88, 1.97]",
        "An estimate with its 95 % bootstrap interval. Empty: nobody could measure it.",
    ),
    (
        "-aa",
        "The baseline measured a second time under another name. What differs from it by no more than it differs from itself is noise.",
    ),
    (
        "speedup",
        "Median time of the baseline over median time of the method, samples paired in time.",
    ),
    (
        "ideal",
        "Bytes the baseline must move over bytes the method must move: the speed-up if only bytes counted.",
    ),
    ("captured", "(speedup - 1) / (ideal - 1): the part of the ideal gain that was reached."),
    (
        "of_limit",
        "The shortest time the launch can take, over the time it took: bytes at the read bandwidth measured beside it, instructions at the issue rate, arithmetic at the tensor cores' peak, whichever is longest. On GPUs.",
    ),
    ("bound", "Which of them it is; `launch` where all are shorter than launching takes."),
    (
        "tp",
        "Degree of tensor parallelism. The heads of one rank were measured on one device; where there are more ranks than KV heads, each holds one and the heads are held more than once. Methods are compared at the same degree.",
    ),
    (
        "modelled",
        "Not measured: a ring all-reduce of the layer's output in fp16 over the link that the scenario states, 2(tp-1)/tp of its bytes over the bandwidth and 2(tp-1) latencies. Faster ways for small messages are not modelled.",
    ),
    (
        "speedup_over_tp1",
        "Measured + modelled on one rank over the same here. Not measured side by side: the interval takes the far ends of both.",
    ),
    ("discarded", "Samples thrown away because the GPU was throttled."),
    ("of_bandwidth", "GB/s of the kernel over the read bandwidth measured in the same blocks."),
    (
        "ttft_due, e2e_due",
        "Latency from when the request was due, so that waiting in the client counts.",
    ),
    ("tpot", "Time from the first to the last token over the tokens after the first."),
    (
        "kv_usage, running, waiting, preemptions, hits, accepted, offload",
        "What the server says of itself. Levels are those of the readings, so a short peak between two is not seen; counts are differences over the cell. Nothing here is measured by kvbench.",
    ),
    (
        "lag, load_lag, sent_late",
        "How long an arrival would have waited for its time stamp on the worst receiving thread; how late the load thread woke; how late requests were sent. All are this client's, not the server's.",
    ),
    (
        "connects, connect",
        "Connections that measured requests had to open, and how long that took; it is part of their TTFT.",
    ),
    ("-", "The server does not tell it; it is not 0."),
    ("goodput", "Good requests within every limit of the scenario's SLO, per second."),
];
