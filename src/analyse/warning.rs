//! What a reader must know before believing a number. Each says what is wrong and what to do about it.

use std::fmt;

use crate::record::manifest::Verdict;

/// Something that speaks against a number.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// The run was slowed down on purpose (`KVBENCH_TEST_SLOWDOWN`).
    Slowed {
        /// How many times as long the CPU kernels took.
        factor: f64,
    },
    /// Cells of the plan without rows, or cut short.
    Interrupted {
        /// Planned cells that did not finish.
        unfinished: usize,
        /// Planned cells.
        planned: usize,
    },
    /// Kernels that failed their check against f64.
    Unverified {
        /// Points, as `method at workload`.
        points: Vec<String>,
    },
    /// Cells that carry only errors.
    FailedCells {
        /// Cells.
        cells: usize,
        /// The first error.
        example: String,
    },
    /// Requests that failed.
    FailedRequests {
        /// Failed.
        failed: usize,
        /// Sent.
        total: usize,
        /// The most frequent class.
        example: String,
    },
    /// Requests that were sent late: the generator, not the server, made them wait.
    LateGenerator {
        /// Point.
        point: String,
        /// 99th percentile (or maximum of a small sample) of `sent - due`.
        delay_ms: f64,
    },
    /// The load client itself was the bottleneck.
    Client {
        /// Cell.
        cell: String,
        /// What the client says of its own times there.
        verdict: Verdict,
        /// Why, in words.
        reasons: Vec<String>,
    },
    /// Served cells of which nothing tells whether the client kept up: kvbench was killed after them.
    ClientUnknown {
        /// Cells.
        cells: usize,
    },
    /// An engine did not prove to be configured as its cell says.
    Proof {
        /// Cell.
        cell: String,
        /// What that does to it.
        verdict: Verdict,
        /// Why, in words.
        reasons: Vec<String>,
    },
    /// Answers that do not read like the baseline's: the engine may not do what its flags say.
    Garbled {
        /// Point.
        point: String,
        /// What was seen.
        reasons: Vec<String>,
    },
    /// No 99th percentile, since the sample cannot hold one.
    FewSamples {
        /// Points whose latency lacks it.
        points: usize,
        /// Smallest sample.
        smallest: usize,
    },
    /// The machine's read bandwidth moved while the run went on.
    Drift {
        /// Fastest block median / slowest block median.
        ratio: f64,
    },
    /// No read-bandwidth probe, so nothing tells how busy the machine was.
    NoProbe,
    /// The A/A control differs from the baseline it is a copy of.
    AaOutside {
        /// Points where its interval excludes 1.
        points: usize,
        /// Points with an A/A control.
        of: usize,
        /// Largest distance from 1.
        worst: f64,
    },
    /// Only one repeat: the spread between runs is unknown.
    OneRepeat,
    /// Answers cut at `max_tokens`: their length, and every rate made of it, is a lower bound.
    Truncated {
        /// Cut.
        truncated: usize,
        /// Good answers.
        of: usize,
    },
    /// Requests whose tokens nobody counted.
    TokensUnknown {
        /// Requests.
        requests: usize,
        /// Good requests.
        of: usize,
    },
    /// Answers whose tokens the server counts otherwise than the workload's tokenizer, stop tokens aside.
    AnswersMiscounted {
        /// Cell.
        cell: String,
        /// Answers whose counts are far apart.
        far: u64,
        /// Answers with both counts.
        of: u64,
        /// Tokens of all of them, the server's count over ours.
        ratio: f64,
    },
    /// Prompts that are not as long for the server as they were counted here: it read something else.
    PromptsMiscounted {
        /// Cell.
        cell: String,
        /// Prompts that differ.
        differ: u64,
        /// Prompts with both counts.
        of: u64,
        /// Largest difference, the server's count less ours.
        worst: i64,
    },
    /// Prompt tokens served from a prefix cache.
    PrefixCache {
        /// Tokens from the cache.
        cached: i64,
        /// Prompt tokens of the same requests.
        of: i64,
    },
    /// Prompt tokens that the engine itself says it found in its prefix cache.
    EnginePrefixHits {
        /// Point.
        point: String,
        /// Tokens found.
        hits: f64,
        /// Tokens looked up, where the engine tells.
        queries: Option<f64>,
    },
    /// Requests that the engine threw out of its batch for want of cache.
    Preempted {
        /// Point.
        point: String,
        /// How often.
        preemptions: f64,
    },
    /// Readings of the engine's metrics that failed.
    EngineUnread {
        /// Point.
        point: String,
        /// Failed.
        failed: usize,
        /// Readings.
        of: usize,
    },
}

impl Warning {
    /// What the warning does to the verdict.
    pub fn severity(&self) -> Verdict {
        match self {
            Warning::Unverified { .. } | Warning::FailedCells { .. } | Warning::Slowed { .. } => {
                Verdict::Invalid
            }
            Warning::FewSamples { .. }
            | Warning::OneRepeat
            | Warning::Truncated { .. }
            | Warning::Preempted { .. }
            | Warning::EngineUnread { .. } => Verdict::Valid,
            Warning::FailedRequests { failed, total, .. } if failed == total => Verdict::Invalid,
            Warning::Client { verdict, .. } | Warning::Proof { verdict, .. } => *verdict,
            _ => Verdict::Suspect,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Slowed { factor } => f.write_str(&slowed(*factor)),
            Warning::Interrupted { unfinished, planned } => write!(
                f,
                "{unfinished} of {planned} cells are unfinished; their points are missing or rest on fewer samples: \
                 go on with `kvbench run --resume`"
            ),
            Warning::Unverified { points } => write!(
                f,
                "{} failed the check against f64 and must not be used: run `kvbench kernels verify` and report it",
                points.join(", ")
            ),
            Warning::FailedCells { cells, example } => {
                write!(f, "{cells} cells could not be measured (first: {example}): mend the cause and run them again")
            }
            Warning::FailedRequests { failed, total, example } => write!(
                f,
                "{failed} of {total} requests failed (most often: {example}); latencies hold the others only, which \
                 flatters an overloaded server: lower the load or look into the server's log"
            ),
            Warning::LateGenerator { point, delay_ms } => write!(
                f,
                "{point}: requests left up to {delay_ms:.1} ms after they were due, so read `ttft_due`, not `ttft`: \
                 give the client more CPU or lower the load"
            ),
            Warning::Client { cell, reasons, .. } => f.write_str(&starved(cell, reasons)),
            Warning::ClientUnknown { cells } => write!(
                f,
                "{cells} served cells were measured before kvbench was killed, so nothing tells whether the client kept \
                 up in them: measure them again to be sure"
            ),
            Warning::Proof { cell, reasons, .. } => f.write_str(&unproven(cell, reasons)),
            Warning::Garbled { point, reasons } => f.write_str(&garbled(point, reasons)),
            Warning::FewSamples { points, smallest } => write!(
                f,
                "{points} points have no p99 (smallest sample {smallest}, {} needed): add requests or samples",
                crate::stats::needed_for(99)
            ),
            Warning::Drift { .. } | Warning::NoProbe | Warning::AaOutside { .. } => {
                f.write_str(&machine_moved(self))
            }
            Warning::OneRepeat => f.write_str(
                "each point was measured once, so intervals do not hold the spread between runs: set `repeats = 3` or more",
            ),
            Warning::Truncated { truncated, of } => write!(
                f,
                "{truncated} of {of} answers were cut at `max_tokens`: their true length is unknown; raise `max_tokens` \
                 to compare lengths"
            ),
            Warning::TokensUnknown { requests, of } => write!(
                f,
                "{requests} of {of} good requests have no token count from the server, so no token rate holds them: \
                 use a server that sends `usage`"
            ),
            Warning::AnswersMiscounted { .. } | Warning::PromptsMiscounted { .. } => {
                f.write_str(&miscounted(self))
            }
            Warning::EnginePrefixHits { .. }
            | Warning::Preempted { .. }
            | Warning::EngineUnread { .. } => f.write_str(&engine_told(self)),
            Warning::PrefixCache { cached, of } => write!(
                f,
                "{cached} of {of} prompt tokens came from a prefix cache, so TTFT is not that of a fresh prompt: switch \
                 prefix caching off on the server"
            ),
        }
    }
}

/// Loud, since its numbers look like any others.
fn slowed(factor: f64) -> String {
    format!(
        "THIS RUN IS A TEST AND NO MEASUREMENT: its CPU kernels were made to take {factor} times as long \
         (KVBENCH_TEST_SLOWDOWN); unset the variable and run again"
    )
}

fn starved(cell: &str, reasons: &[String]) -> String {
    format!(
        "{cell}: the client was part of what was measured ({}): give it more CPU, keep the server off its cores, or \
         lower the load; `kvbench doctor --client` tells what it can carry here",
        reasons.join("; ")
    )
}

fn unproven(cell: &str, reasons: &[String]) -> String {
    format!(
        "{cell}: the engine did not prove to be what the cell says ({}): look into its log and its flags",
        reasons.join("; ")
    )
}

fn garbled(point: &str, reasons: &[String]) -> String {
    format!(
        "{point}: {}; read some of its answers in requests.parquet before its speed is believed",
        reasons.join("; ")
    )
}

/// How far the machine itself can be trusted; empty for other warnings.
fn machine_moved(warning: &Warning) -> String {
    match warning {
        Warning::Drift { ratio } => format!(
            "read bandwidth moved {ratio:.1}x within the run: other guests share this machine. Compare only within a \
             block (speed-ups are paired), or run again when it is quiet"
        ),
        Warning::NoProbe => "no read-bandwidth probe was recorded, so GB/s cannot be judged: run with the current kvbench".to_owned(),
        Warning::AaOutside { points, of, worst } => format!(
            "the A/A control differs from its own baseline at {points} of {of} points (by up to {:.1} %): differences \
             below the noise floor mean nothing; add samples or repeats, or quieten the machine",
            worst * 100.0
        ),
        _ => String::new(),
    }
}

/// What engines told of themselves that speaks against a number; empty for other warnings.
fn engine_told(warning: &Warning) -> String {
    match warning {
        Warning::EnginePrefixHits { point, hits, queries } => format!(
            "{point}: {hits} prompt tokens{} came from the engine's prefix cache, so its TTFT is not that of fresh \
             prompts: switch prefix caching off on the server",
            queries.map(|queries| format!(" of {queries}")).unwrap_or_default()
        ),
        Warning::Preempted { point, preemptions } => format!(
            "{point}: {preemptions} requests were preempted because the KV cache was full, and computed again: \
             latencies there hold that work"
        ),
        Warning::EngineUnread { point, failed, of } => format!(
            "{point}: {failed} of {of} readings of the engine's metrics failed, so its peaks may be higher than shown"
        ),
        _ => String::new(),
    }
}

/// Where the server's token counts and the tokenizer's part; empty for other warnings.
fn miscounted(warning: &Warning) -> String {
    match warning {
        Warning::AnswersMiscounted { cell, far, of, ratio } => format!(
            "{cell}: in {far} of {of} answers the server's token count is far from the tokenizer's ({ratio:.2}x over all), \
             so one of them is wrong: check that `tokenizer` is the model's, and whether the server hides reasoning"
        ),
        Warning::PromptsMiscounted { cell, differ, of, worst } => format!(
            "{cell}: the server counts {differ} of {of} prompts otherwise than the tokenizer (by up to {worst:+} tokens), so \
             it read something else: check `tokenizer`, `chat_template`, and whether the engine adds BOS"
        ),
        _ => String::new(),
    }
}
