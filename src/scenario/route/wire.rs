//! The grammar of a router's experiment as the file spells it; the rules of `wire` hold here too.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    route::{LengthKnowledge, RiskKnowledge, Rule, SpeedKnowledge},
    scenario::{
        TraceFormat,
        value::{Int, List, Ordered, Real, Sp},
        wire::{Length, Seconds, Slo, TOKENS_MAX, Tokens},
    },
};

type Rate = Real<1, 100_000_000>;
/// Seconds that a part of a step takes, up to a quarter of an hour.
type StepSeconds = Real<0, 1_000_000>;
/// A part of one.
type Share = Real<0, 1_000>;

/// An experiment of the router: which engines stand behind it, what is asked of them, and by which policies requests are sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct File {
    /// Name of the experiment, `[-a-z0-9]+`.
    pub(in crate::scenario) name: Sp<String>,
    /// Seed of everything random: arrivals, lengths, what breaks, what predictors say, ties that a policy draws.
    #[serde(default = "seed")]
    pub(in crate::scenario) seed: Int<0, { i64::MAX }>,
    /// Simulations of each cell, each with a seed of its own; intervals are over these.
    #[serde(default = "seeds")]
    pub(in crate::scenario) seeds: Int<1, 1000>,
    /// Name of the method that compresses nothing.
    pub(in crate::scenario) baseline: Sp<String>,
    /// Limits within which an answer is on time, for goodput; without it there is no goodput.
    pub(in crate::scenario) slo: Option<Sp<Slo>>,
    /// How engines batch.
    pub(in crate::scenario) engine: Engine,
    /// The methods as they are in the simulated world.
    pub(in crate::scenario) method: Ordered<Method>,
    /// Engines that stand behind the router together.
    pub(in crate::scenario) pool: Ordered<Pool>,
    /// Lengths, tasks and mostly times of requests.
    pub(in crate::scenario) trace: Ordered<Trace>,
    /// How fast requests come.
    pub(in crate::scenario) load: Ordered<Load>,
    /// How good the predictors of the policies are; each policy runs with each.
    pub(in crate::scenario) skill: Ordered<Skill>,
    /// How requests are sent. Round robin, join shortest queue, least memory and three oracles run too where they are not named.
    pub(in crate::scenario) policy: Ordered<Policy>,
    /// What `policies` of the JSON and the first page of the report are of. Default: the first pool, trace, load and skill.
    #[serde(default)]
    pub(in crate::scenario) report: Report,
}

fn seed() -> Int<0, { i64::MAX }> {
    Int(0)
}

fn seeds() -> Int<1, 1000> {
    Int(5)
}

/// How engines batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Engine {
    /// Most sequences that are computed at a time.
    pub(in crate::scenario) max_num_seqs: Sp<Int<1, 65_536>>,
    /// Most tokens of a step, prompts' and decoded ones together. Default: no limit.
    pub(in crate::scenario) max_batched_tokens: Option<Tokens>,
    /// Whether a prompt may be cut where the tokens of a step end.
    #[serde(default)]
    pub(in crate::scenario) chunked_prefill: bool,
    /// How prompts and decoding share steps: `decode-first` (vLLM v1), `prefill-first` (vLLM v0, LMDeploy), `slots` (llama-server).
    pub(in crate::scenario) mixing: Mixing,
    /// Most tokens of a pass, for `slots`.
    #[serde(default = "ubatch_tokens")]
    pub(in crate::scenario) ubatch_tokens: Tokens,
    /// Tokens that the KV cache holds, unless a method says otherwise. Default: no limit.
    pub(in crate::scenario) kv_tokens: Option<Int<1, 1_000_000_000>>,
    /// Tokens of a block of it.
    #[serde(default = "block_tokens")]
    pub(in crate::scenario) block_tokens: Int<1, 4096>,
}

fn ubatch_tokens() -> Tokens {
    Int(512)
}

fn block_tokens() -> Int<1, 4096> {
    Int(16)
}

/// How prompts and decoding share steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::scenario) enum Mixing {
    /// Every sequence that decodes gets its token, prompts what is left.
    DecodeFirst,
    /// While a prompt can be admitted a step holds prompts alone.
    PrefillFirst,
    /// As decode-first, run as passes.
    Slots,
}

/// A method as it is in the simulated world.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Method {
    /// What a step takes.
    pub(in crate::scenario) speed: Speed,
    /// Most tokens of a sequence that it keeps. Default: all.
    pub(in crate::scenario) kv_budget: Option<Tokens>,
    /// Tokens that the KV cache of its engines holds. Default: as `[engine]` says.
    pub(in crate::scenario) kv_tokens: Option<Int<1, 1_000_000_000>>,
    /// How lengths of its answers differ from the baseline's on the same prompt; of every method but the baseline.
    pub(in crate::scenario) length: Option<Sp<LengthShift>>,
    /// Which prompts it breaks beyond chance; of every method but the baseline.
    pub(in crate::scenario) excess: Option<Sp<Excess>>,
}

/// What a step takes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::scenario) enum Speed {
    /// A sum of costs.
    Linear(Linear),
    /// A file of `kvbench predict fit`.
    Model(Model),
}

/// A step that holds prompts and sequences that decode takes the sum of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Linear {
    /// Of every step, seconds.
    pub(in crate::scenario) step_s: StepSeconds,
    /// Of every sequence that decodes, seconds.
    #[serde(default = "nothing")]
    pub(in crate::scenario) per_sequence_s: StepSeconds,
    /// Of every cached token that decoding reads, seconds.
    #[serde(default = "nothing")]
    pub(in crate::scenario) per_kv_token_s: StepSeconds,
    /// Of every prompt of which the step holds tokens, seconds.
    #[serde(default = "nothing")]
    pub(in crate::scenario) per_prompt_s: StepSeconds,
    /// Of every token of a prompt, seconds.
    #[serde(default = "nothing")]
    pub(in crate::scenario) per_prompt_token_s: StepSeconds,
    /// Of every pair of a prompt's token and a token that it attends to, seconds.
    #[serde(default = "nothing")]
    pub(in crate::scenario) per_pair_s: StepSeconds,
    /// Where the numbers are from, in words.
    pub(in crate::scenario) source: Sp<String>,
}

fn nothing() -> StepSeconds {
    Real(0.0)
}

/// A fitted model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Model {
    /// The file, relative to the working directory.
    pub(in crate::scenario) path: Sp<PathBuf>,
    /// A part of the subject that is meant, where the file has several. Default: any.
    #[serde(default)]
    pub(in crate::scenario) subject: String,
    /// The method as the file calls it. Default: the name here.
    pub(in crate::scenario) method: Option<String>,
}

/// `ln(tokens)` of an answer less `ln(tokens)` of the baseline's on the same prompt, as a normal variable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct LengthShift {
    /// Mean.
    pub(in crate::scenario) mean_log: Real<-5_000, 5_000>,
    /// Standard deviation from prompt to prompt.
    pub(in crate::scenario) sigma_log: Real<0, 5_000>,
    /// Where the numbers are from, in words.
    pub(in crate::scenario) source: Sp<String>,
}

/// Share of prompts whose answer is worse than chance explains.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Excess {
    /// Of tasks that are not listed, and of requests without a task; of one.
    pub(in crate::scenario) other: Share,
    /// By task, of one. Default: none.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(in crate::scenario) by_task: Ordered<Share>,
    /// Where the numbers are from, in words.
    pub(in crate::scenario) source: Sp<String>,
}

/// Engines that stand behind the router together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Pool {
    /// Engines of each method.
    pub(in crate::scenario) engines: Ordered<Int<1, 1024>>,
}

/// Where requests are from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::scenario) enum Trace {
    /// Drawn lengths.
    Synthetic(Synthetic),
    /// A file of lengths, and mostly of times.
    File(TraceFile),
}

/// Drawn lengths.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Synthetic {
    /// Requests of one simulation.
    pub(in crate::scenario) n_requests: Int<1, 1_000_000>,
    /// Length of the prompt, tokens.
    pub(in crate::scenario) prompt_tokens: Length,
    /// Length of the baseline's answer, tokens.
    pub(in crate::scenario) output_tokens: Length,
    /// Shares of tasks; they are divided by their sum. Default: requests have no task.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(in crate::scenario) tasks: Ordered<Real<1, 1_000_000>>,
}

/// A file of lengths, and mostly of times.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct TraceFile {
    /// The file, relative to the working directory.
    pub(in crate::scenario) path: Sp<PathBuf>,
    /// Its format: `mooncake`, `azure`, `burstgpt` or `lengths`.
    pub(in crate::scenario) format: TraceFormat,
    /// Requests of one simulation.
    pub(in crate::scenario) n_requests: Sp<Int<1, 1_000_000>>,
    /// Start of the window, seconds after the file's earliest row. Default: that row.
    pub(in crate::scenario) start_s: Option<Sp<Real<0, 604_800_000>>>,
    /// Length of the window, seconds. Default: to the end.
    pub(in crate::scenario) duration_s: Option<Sp<Seconds>>,
    /// Longest request, prompt and answer together; longer ones are left out, and how many is said. Default: none is.
    pub(in crate::scenario) max_request_tokens: Option<Int<2, { 2 * TOKENS_MAX }>>,
    /// Whether rows are drawn in any order (`sample`) or taken as they follow each other (`recorded`).
    #[serde(default)]
    pub(in crate::scenario) order: Order,
    /// The task of all its requests. Default: none.
    pub(in crate::scenario) task: Option<Sp<String>>,
}

/// How rows of a file follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::scenario) enum Order {
    /// Each seed takes another window of the file.
    #[default]
    Recorded,
    /// Each seed draws rows.
    Sample,
}

/// How fast requests come; lists are swept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::scenario) enum Load {
    /// Exponential gaps.
    Poisson(Rates),
    /// Exponential gaps at a share of what a pool of the baseline alone can serve.
    Utilisation(Utilisation),
    /// The times of the trace.
    Recorded(Recorded),
}

/// Exponential gaps.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Rates {
    /// Requests per second.
    pub(in crate::scenario) rate: List<Rate>,
}

/// Exponential gaps at a share of the capacity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Utilisation {
    /// Share of the highest rate with which engines of the baseline, as many as the pool has, keep up; of one.
    pub(in crate::scenario) rho: List<Real<1, 10_000>>,
}

/// The times of the trace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Recorded {
    /// How many times as fast as it was recorded.
    pub(in crate::scenario) speed: List<Rate>,
}

/// How good predictors are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Skill {
    /// Standard deviation of predicted against true `ln(tokens)` of the baseline's answer: 0 knows it.
    pub(in crate::scenario) length_sigma_log: Real<0, 5_000>,
    /// Whether the length predictor knows the mean shift of each method.
    pub(in crate::scenario) knows_shift: bool,
    /// Factor on the believed step times of every method but the baseline: 0.8 believes them 20 % shorter than they are.
    #[serde(default = "unbiased")]
    pub(in crate::scenario) speed_factor: Real<100, 10_000>,
    /// Answers from which a guard has learnt each task, length and method.
    pub(in crate::scenario) guard_answers: Int<0, 1_000_000_000>,
}

fn unbiased() -> Real<100, 10_000> {
    Real(1.0)
}

/// A policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Policy {
    /// How an engine is chosen.
    pub(in crate::scenario) rule: Rule,
    /// What it knows of lengths: `constant`, `predicted` or `oracle`.
    #[serde(default)]
    pub(in crate::scenario) length: LengthKnowledge,
    /// What it knows of speeds: `predicted` or `oracle`.
    #[serde(default)]
    pub(in crate::scenario) speed: SpeedKnowledge,
    /// What it keeps requests away from. Default: nothing.
    pub(in crate::scenario) guard: Option<Guard>,
}

/// Keeps requests from methods that may break their answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Guard {
    /// What it knows: `learned` counts, or as an `oracle` the truth of each prompt.
    #[serde(default)]
    pub(in crate::scenario) risk: RiskKnowledge,
    /// Highest upper confidence bound of the excess rate under which a method is safe, of one.
    pub(in crate::scenario) epsilon: Share,
}

/// What is reported first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::scenario) struct Report {
    /// A pool.
    pub(in crate::scenario) pool: Option<Sp<String>>,
    /// A trace.
    pub(in crate::scenario) trace: Option<Sp<String>>,
    /// A load with its parameter, `poisson-10`.
    pub(in crate::scenario) load: Option<Sp<String>>,
    /// A skill.
    pub(in crate::scenario) skill: Option<Sp<String>>,
}
