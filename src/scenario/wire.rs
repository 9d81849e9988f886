//! The grammar as the file spells it. Each struct refuses unknown keys and each choice is a table of its own
//! (`[target.x.kernel]`): with `untagged` or `flatten` the line of an error would be lost.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    DatasetFormat, Device, MethodOrder, PromptLayout, TraceFormat,
    value::{Int, List, Ordered, Real, Sp},
    wire_engine::Engine,
    wire_target::EngineTarget,
};
use crate::{kernel::Op, method::Pooling};

mod forced;
mod load;
mod think;

pub(super) use forced::Forced;
pub(super) use load::{Burst, Load, Ramp, RateList, Saturation};
pub(super) use think::Think;

/// Longest context that can be asked for.
pub(super) const TOKENS_MAX: i64 = 1 << 20;

/// A number of tokens.
pub(super) type Tokens = Int<1, TOKENS_MAX>;
/// Width of a code.
pub(super) type Bits = Int<2, 4>;
/// Values that share a scale.
pub(super) type Group = Int<8, 128>;
type Batch = Int<1, 4096>;
type Count = Int<1, 1_000_000>;
type InFlight = Int<1, 65_536>;
type Rate = Real<1, 100_000_000>;
/// A stretch of time.
pub(super) type Seconds = Real<1, 604_800_000>;

/// A kvbench scenario: what is measured, where, and how it is compared.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Name of the experiment, `[-a-z0-9]+`: the first part of every cell id.
    pub(super) name: Sp<String>,
    /// Seed of everything random: prompts, arrivals, kernel data.
    #[serde(default = "seed")]
    pub(super) seed: Int<0, { i64::MAX }>,
    /// How often each point is measured.
    #[serde(default = "repeats")]
    pub(super) repeats: Int<1, 100>,
    /// Name of the method that all others are compared with.
    pub(super) baseline: Sp<String>,
    /// Measure the baseline a second time as `<baseline>-aa`, the noise floor. Default: true if there is a kernel target.
    pub(super) aa_control: Option<Sp<bool>>,
    /// Order in which the configurations of engines are measured: `interleaved` (forth in even repeats, back in odd ones),
    /// `randomised` (another order each repeat, seeded) or `grouped` (all repeats of one, then the next: fewest starts).
    #[serde(default)]
    pub(super) order: MethodOrder,
    /// Telemetry samples per second.
    #[serde(default = "telemetry_hz")]
    pub(super) telemetry_hz: Real<100, 100_000>,
    /// Limits within which an answer is on time, for goodput; without it there is no goodput.
    pub(super) slo: Option<Sp<Slo>>,
    /// How kernels are timed.
    #[serde(default)]
    pub(super) timing: Timing,
    /// Model shapes beside the presets.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(super) model: Ordered<Model>,
    /// Engines beside those of engines.toml, or in the place of one.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(super) engine: Ordered<Engine>,
    /// Where to measure.
    pub(super) target: Ordered<Target>,
    /// What to compare.
    pub(super) method: Ordered<Method>,
    /// What to send or launch.
    pub(super) workload: Ordered<Workload>,
    /// How to send it; a grid of shapes needs none.
    #[serde(default)]
    #[schemars(extend("default" = {}))]
    pub(super) load: Ordered<Load>,
}

fn seed() -> Int<0, { i64::MAX }> {
    Int(0)
}

fn repeats() -> Int<1, 100> {
    Int(1)
}

fn telemetry_hz() -> Real<100, 100_000> {
    Real(10.0)
}

/// Service-level objective of one request: every limit given must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Slo {
    /// Time to first token, milliseconds.
    pub(super) ttft_ms: Option<Real<1, 86_400_000_000>>,
    /// Time per output token after the first, milliseconds.
    pub(super) tpot_ms: Option<Real<1, 86_400_000_000>>,
    /// Whole request, milliseconds.
    pub(super) e2e_ms: Option<Real<1, 86_400_000_000>>,
}

/// How a kernel is timed.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timing {
    /// Launches before the first sample.
    pub(super) warmup: Int<0, 10_000>,
    /// Fewest samples.
    pub(super) min_samples: Sp<Int<1, 100_000>>,
    /// Most samples; equal to `min_samples` switches the stop rule off.
    pub(super) max_samples: Int<1, 100_000>,
    /// Stop when the 95 % interval of the median is narrower than this part of it.
    pub(super) target_rel_ci: Real<1, 1_000>,
    /// Stop a block (all methods at one shape) after this many seconds.
    pub(super) max_seconds: Real<1, 86_400_000>,
    /// Distinct data cycled through, as a multiple of the last-level cache.
    pub(super) rotate_llc: Real<0, 64_000>,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            warmup: Int(2),
            min_samples: Sp { value: Int(10), at: 0 },
            max_samples: Int(200),
            target_rel_ci: Real(0.02),
            max_seconds: Real(10.0),
            rotate_llc: Real(2.0),
        }
    }
}

/// Head shape of a model, as in its published config.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    /// Layers; kernels measure one.
    pub(super) num_layers: Int<1, 1024>,
    /// Query heads.
    pub(super) num_heads: Int<1, 1024>,
    /// KV heads; divides `num_heads`.
    pub(super) num_kv_heads: Sp<Int<1, 1024>>,
    /// Head dimension, a multiple of 32: what our kernels cover.
    pub(super) head_dim: Sp<Int<32, 256>>,
}

/// Where to measure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Target {
    /// Our own kernels: one attention layer at a model's head shape.
    Kernel(KernelTarget),
    /// An OpenAI-compatible server, running or to be started.
    Engine(Box<EngineTarget>),
}

/// Our own kernels.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelTarget {
    /// A preset or a name in `[model]`.
    pub(super) model: Sp<String>,
    /// Which device runs the kernels.
    #[serde(default = "device")]
    pub(super) device: Device,
    /// Worker threads. Default: all cores.
    pub(super) threads: Option<Int<1, 1024>>,
    /// Tokens of a page of the KV cache on CUDA, 16 or 64. KIVI's page is 128 and the CPU's cache is not paged.
    #[serde(default = "page")]
    #[schemars(extend("enum" = [16, 64]))]
    pub(super) page: Sp<Int<1, 4096>>,
    /// Degrees of tensor parallelism: the heads of one rank are measured, on one device.
    #[serde(default = "tensor_parallel")]
    pub(super) tensor_parallel: List<Sp<Int<1, 1024>>>,
    /// What would join the ranks: without it communication is not modelled.
    pub(super) link: Option<Link>,
    /// Names of the methods to run, the baseline among them. Default: all in `[method]`.
    pub(super) methods: Option<List<Sp<String>>>,
}

fn device() -> Device {
    Device::Auto
}

fn page() -> Sp<Int<1, 4096>> {
    Sp { value: Int(16), at: 0 }
}

fn tensor_parallel() -> List<Sp<Int<1, 1024>>> {
    List(vec![Sp { value: Int(1), at: 0 }])
}

/// What joins the ranks of a tensor-parallel target, for a model of their all-reduce.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    /// What one rank sends in one direction, GB/s.
    pub(super) bandwidth_gb_s: Real<1, 100_000_000>,
    /// An empty message from one rank to the next, microseconds.
    pub(super) latency_us: Real<0, 1_000_000_000>,
}

/// A compression method; parameters have no defaults, they are the method.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    /// Half precision, nothing removed.
    Fp16(Empty),
    /// 8 bits per token and head.
    Int8(Empty),
    /// 4 bits per token and head.
    Int4(Empty),
    /// e4m3, scale 1.
    Fp8(Empty),
    /// bfloat16, nothing removed.
    Bf16(Empty),
    /// e4m3 with one scale per token and head, as vLLM.
    Fp8TokenHead(Empty),
    /// KIVI (arXiv 2402.02750).
    Kivi(Kivi),
    /// GEAR (arXiv 2403.05527); without outliers it is GEAR-L.
    Gear(Gear),
    /// TurboQuant at 4 bits, as vLLM's `turboquant_4bit_nc`.
    Turboquant4(Empty),
    /// StreamingLLM (arXiv 2309.17453).
    Streaming(Streaming),
    /// H2O (arXiv 2306.14048).
    H2o(H2o),
    /// SnapKV (arXiv 2404.14469).
    Snapkv(Snapkv),
    /// What an engine does, by its name in the engine's `kv` table.
    Engine(EngineMethod),
}

/// A method of an engine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineMethod {
    /// Name in the engine's `kv` table, such as `q4_0` or `fp8_e5m2`.
    pub(super) kv: Sp<String>,
    /// Words added to the command.
    #[serde(default)]
    pub(super) flags: Vec<Sp<String>>,
    /// Sampling temperature in place of the target's.
    pub(super) temperature: Option<Real<0, 2_000>>,
    /// Added to the sampling seed.
    #[serde(default = "seed")]
    pub(super) seed: Int<0, { i64::MAX }>,
}

/// A method without parameters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}

/// Parameters of KIVI.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kivi {
    /// Code width, 2 or 4.
    pub(super) bits: Sp<Bits>,
    /// Group size: tokens of one channel (K), channels of one token (V); a power of two that divides the head dimension.
    pub(super) group: Sp<Group>,
    /// Newest tokens kept in fp16; a multiple of `group`.
    pub(super) residual: Sp<Tokens>,
}

/// Parameters of GEAR.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Gear {
    /// Code width, 2 or 4.
    pub(super) bits: Sp<Bits>,
    /// Group size: tokens of one channel (K), channels of one token (V); a power of two that divides the head dimension.
    pub(super) group: Sp<Group>,
    /// Newest tokens kept in fp16 until they are flushed together; a multiple of `group`.
    pub(super) residual: Sp<Tokens>,
    /// Rank of the low-rank term for a prompt: 2, 4, 6 or 8.
    pub(super) rank: Sp<Int<2, 8>>,
    /// Rank for a flushed residual: 2, 4, 6 or 8.
    pub(super) flush_rank: Sp<Int<2, 8>>,
    /// Rounds of the power iteration.
    pub(super) iterations: Int<1, 100>,
    /// Part of the entries kept apart as outliers, 0.02 in the paper; 0 is GEAR-L.
    pub(super) outliers: Real<0, 499>,
}

/// Parameters of StreamingLLM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Streaming {
    /// First tokens kept.
    pub(super) sink: Int<0, TOKENS_MAX>,
    /// Last tokens kept.
    pub(super) window: Tokens,
}

/// Parameters of H2O.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct H2o {
    /// Heavy hitters kept per kv head.
    pub(super) heavy: Tokens,
    /// Last tokens kept.
    pub(super) recent: Tokens,
}

/// Parameters of SnapKV.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Snapkv {
    /// Last queries of the prompt that vote; always kept.
    pub(super) window: Tokens,
    /// Tokens kept of the prompt, window included.
    pub(super) budget: Sp<Tokens>,
    /// How votes are smoothed along tokens: `avg` or `max`.
    pub(super) pooling: Pooling,
    /// Width of the smoothing, odd.
    pub(super) pool_width: Sp<Int<1, 1023>>,
}

/// What to send or launch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Workload {
    /// A grid of kernel shapes.
    Shapes(Shapes),
    /// Prompts of a file.
    Dataset(Dataset),
    /// Prompts made of words, with drawn lengths.
    Synthetic(Synthetic),
    /// Lengths, and mostly times, of a real service's requests; prompts made of words.
    Trace(Trace),
    /// Answers of a finished run, given up to some places: how probable is it that the model stops there?
    Forced(Forced),
}

/// A grid of kernel shapes; every combination is measured.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Shapes {
    /// Operations: `prefill`, `decode`, `compress`, `read`.
    pub(super) ops: List<Op>,
    /// Batch sizes.
    pub(super) batch: List<Batch>,
    /// Cached tokens per sequence.
    pub(super) kv_len: List<Tokens>,
}

/// Prompts of a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Dataset {
    /// The file, relative to the working directory.
    pub(super) path: Sp<PathBuf>,
    /// Its format: `sharegpt` or `longbench`.
    pub(super) format: DatasetFormat,
    /// How many rows to draw, seeded, without replacement. Default: all, in drawn order.
    pub(super) n_requests: Option<Count>,
    /// In which prompt rows of LongBench's tasks are sent: `task` (LongBench's own) or `neutral`. Default: `task`.
    pub(super) prompt: Option<Sp<PromptLayout>>,
    /// Longest answer asked for, tokens. Default: the longest answer of each row's LongBench task.
    pub(super) max_tokens: Option<Sp<Tokens>>,
    /// Whether answers end by themselves: `free`, `{ fixed = 256 }` or `matched`. Default: `free`.
    pub(super) mode: Option<AnswerMode>,
    /// Most turns of a conversation that are sent, each after the answer to the one before.
    #[serde(default = "turns")]
    pub(super) turns: Int<1, 64>,
    /// Seconds from the end of an answer to the next turn. Default: none.
    pub(super) think_s: Option<Think>,
    /// A `tokenizer.json` or a folder that holds one: prompts are counted as a server counts them.
    pub(super) tokenizer: Option<Sp<PathBuf>>,
    /// Longest prompt, tokens: longer ones keep their first and their last half. Needs `tokenizer`.
    pub(super) max_prompt_tokens: Option<Sp<Tokens>>,
    /// Apply a chat template before sending to `completions`: `auto` for the model's own, or a file. Needs `tokenizer`.
    pub(super) chat_template: Option<Sp<String>>,
    /// The day that `strftime_now` tells to the template. Default: `2024-07-26`, so that prompts do not change overnight.
    pub(super) template_date: Option<Sp<String>>,
}

/// How long answers are.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AnswerMode {
    /// As long as the model makes them.
    Free,
    /// Every answer this long, tokens: the server is asked to ignore the end.
    Fixed(Tokens),
    /// Free, and scored a second time at the length of the baseline's answer.
    Matched,
}

fn turns() -> Int<1, 64> {
    Int(1)
}

/// Prompts made of words.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Synthetic {
    /// Requests.
    pub(super) n_requests: Count,
    /// Prompt length, tokens: exact with `tokenizer`, else about one word each. Of a later turn of a conversation what is new.
    pub(super) prompt_tokens: Length,
    /// Answer length asked for, tokens.
    pub(super) output_tokens: Length,
    /// Turns of each conversation, each sent after the answer to the one before; `n_requests` then counts conversations.
    #[serde(default = "turns")]
    pub(super) turns: Int<1, 64>,
    /// Seconds from the end of an answer to the next turn. Default: none.
    pub(super) think_s: Option<Sp<Think>>,
    /// A `tokenizer.json` or a folder that holds one: prompts are counted as a server counts them.
    pub(super) tokenizer: Option<Sp<PathBuf>>,
    /// Apply a chat template before sending to `completions`: `auto` for the model's own, or a file. Needs `tokenizer`.
    pub(super) chat_template: Option<Sp<String>>,
    /// The day that `strftime_now` tells to the template. Default: `2024-07-26`, so that prompts do not change overnight.
    pub(super) template_date: Option<Sp<String>>,
}

/// Requests of a trace file, in its order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Trace {
    /// The file, relative to the working directory.
    pub(super) path: Sp<PathBuf>,
    /// Its format: `mooncake`, `azure`, `burstgpt` or `lengths`.
    pub(super) format: TraceFormat,
    /// How many rows to send, the first ones of the window. Default: all.
    pub(super) n_requests: Option<Count>,
    /// Start of the window, seconds after the file's earliest row. Default: that row.
    pub(super) start_s: Option<Sp<Real<0, 604_800_000>>>,
    /// Length of the window, seconds. Default: to the end.
    pub(super) duration_s: Option<Sp<Seconds>>,
    /// A `tokenizer.json` or a folder that holds one: prompts have exactly the trace's lengths as a server counts them.
    pub(super) tokenizer: Option<Sp<PathBuf>>,
    /// Apply a chat template before sending to `completions`: `auto` for the model's own, or a file. Needs `tokenizer`.
    pub(super) chat_template: Option<Sp<String>>,
    /// The day that `strftime_now` tells to the template. Default: `2024-07-26`, so that prompts do not change overnight.
    pub(super) template_date: Option<Sp<String>>,
}

/// Distribution of a length.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Length {
    /// Always this.
    Fixed(Tokens),
    /// Uniform on `min` to `max`, both included.
    Uniform(Uniform),
    /// Log-normal, clamped to 1 to `max`.
    Lognormal(Lognormal),
}

/// Bounds of a uniform length.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Uniform {
    /// Shortest.
    pub(super) min: Sp<Tokens>,
    /// Longest.
    pub(super) max: Tokens,
}

/// Parameters of a log-normal length.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lognormal {
    /// Median.
    pub(super) median: Sp<Real<1_000, { TOKENS_MAX * 1000 }>>,
    /// Standard deviation of the logarithm.
    pub(super) sigma: Real<0, 5_000>,
    /// Longest.
    pub(super) max: Tokens,
}
