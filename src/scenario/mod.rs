//! The TOML grammar of an experiment, and the domain type it becomes: if a [`Scenario`] exists, it is valid.
//!
//! `wire` is the file's spelling, `value` the values that check themselves, `check` what they must agree on.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{kernel::Op, method::Method, record::manifest::SloFacts};

mod check;
mod control;
mod dataset;
pub mod engine;
mod engine_target;
mod error;
mod forced;
pub mod gates;
mod host;
mod limit;
mod load;
mod method;
mod metrics;
mod places;
mod preset;
pub mod proxy;
pub mod route;
pub mod secret;
mod start;
mod target;
mod targets;
mod think;
mod tokens;
mod trace;
mod value;
mod wire;
mod wire_engine;
mod wire_metrics;
mod wire_proxy;
mod wire_target;
mod workload;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

pub use control::Control;
pub use dataset::{AnswerMode, DatasetFormat, PromptLayout};
pub use engine::{Engine, KvSetting, StopSignal};
pub use error::ScenarioError;
pub use forced::{Forced, Logprobs, StopToken, TokenName};
pub use host::Host;
pub use load::{Load, NamedLoad};
pub use metrics::{
    MetricKind, MetricName, MetricsFormat, MetricsSpec, Scale, SourceError, SourceName,
};
pub use route::RouteScenario;
pub use start::{Command, Spot, Start};
pub use targets::{
    Device, Endpoint, EngineTarget, KernelTarget, PAGES, Place, PrefixCache, Sampling, Target,
    TargetKind,
};
pub use think::TimeDist;
pub use trace::{Trace, TraceFormat};

/// Longest name.
const NAME_MAX: usize = 64;
/// What names are made of, as a regular expression.
const NAME_PATTERN: &str = "^[-a-z0-9]+$";

/// A validated experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Name, `[-a-z0-9]+`: first part of every cell id.
    pub name: String,
    /// The text it was parsed from, for the manifest.
    pub text: String,
    /// Seed of everything random.
    pub seed: u64,
    /// How often each point is measured.
    pub repeats: u32,
    /// Name of the method that all others are compared with.
    pub baseline: String,
    /// Whether the baseline is measured a second time under the name `<baseline>-aa`: the noise floor.
    pub aa_control: bool,
    /// Order in which the configurations of engines are measured.
    pub order: MethodOrder,
    /// Limits within which an answer is on time, for goodput.
    pub slo: Option<Slo>,
    /// Where to measure, in file order.
    pub targets: Vec<Target>,
    /// What to compare, in file order.
    pub methods: Vec<NamedMethod>,
    /// What to send or launch, in file order.
    pub workloads: Vec<NamedWorkload>,
    /// How to send it, in file order. Kernel shape grids need none.
    pub loads: Vec<NamedLoad>,
    /// How kernels are timed.
    pub timing: Timing,
    /// Telemetry rate.
    pub telemetry_hz: f64,
}

/// Service-level objective of one request; every limit given must hold.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Slo {
    /// TTFT limit.
    pub ttft_ms: Option<f64>,
    /// TPOT limit.
    pub tpot_ms: Option<f64>,
    /// E2E latency limit.
    pub e2e_ms: Option<f64>,
}

impl From<Slo> for SloFacts {
    fn from(slo: Slo) -> Self {
        Self { ttft_ms: slo.ttft_ms, tpot_ms: slo.tpot_ms, e2e_ms: slo.e2e_ms }
    }
}

/// A name and a method.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedMethod {
    /// Key in `[method]`.
    pub name: String,
    /// The method; `None` where only an engine knows what it does.
    pub method: Option<Method>,
}

impl NamedMethod {
    /// A method of ours under a name.
    pub fn new(name: &str, method: Method) -> Self {
        Self { name: name.to_owned(), method: Some(method) }
    }

    /// The method of a kernel cell.
    ///
    /// # Panics
    /// It is an engine's: no scenario that was checked gives such a one to a kernel target.
    pub fn ours(&self) -> &Method {
        self.method.as_ref().expect("kernel cells have a method of ours: the scenario was checked")
    }
}

/// In which order the configurations of engines are measured.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum MethodOrder {
    /// Forth in even repeats, back in odd ones: a drift that is linear in time cancels.
    #[default]
    Interleaved,
    /// Another order each repeat, from the seed.
    Randomised,
    /// All repeats of one configuration, then the next: fewest starts, no guard against drift.
    Grouped,
}

/// Head shape of a model, from its published config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Preset or key in `[model]`.
    pub name: String,
    /// Layers; kernels measure one.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// KV heads.
    pub num_kv_heads: usize,
    /// Head dimension.
    pub head_dim: usize,
}

impl ModelShape {
    /// The preset of that name, such as `llama-2-7b`.
    pub fn preset(name: &str) -> Option<Self> {
        preset::find(name)
    }

    /// What one of `ranks` holds: its part of the query heads with the KV heads they look at. Where there are more ranks
    /// than KV heads, each holds one, and the heads are held more than once, as engines do.
    pub fn rank(&self, ranks: usize) -> Self {
        Self {
            num_heads: self.num_heads / ranks,
            num_kv_heads: (self.num_kv_heads / ranks).max(1),
            ..self.clone()
        }
    }

    /// Whether the heads can be dealt out evenly to `ranks`.
    fn splits(&self, ranks: usize) -> bool {
        let (heads, kv_heads) = (self.num_heads, self.num_kv_heads);
        heads.is_multiple_of(ranks)
            && (kv_heads.is_multiple_of(ranks) || ranks.is_multiple_of(kv_heads))
    }

    /// Names of all presets.
    pub fn preset_names() -> Vec<&'static str> {
        preset::names().to_vec()
    }
}

/// A name and a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedWorkload {
    /// Key in `[workload]`.
    pub name: String,
    /// The workload.
    pub kind: Workload,
}

/// What to send or launch.
#[derive(Debug, Clone, PartialEq)]
pub enum Workload {
    /// A grid of kernel shapes.
    Shapes {
        /// Operations.
        ops: Vec<Op>,
        /// Batch sizes.
        batch: Vec<usize>,
        /// Cached tokens per sequence.
        kv_len: Vec<usize>,
    },
    /// Prompts of a file.
    Dataset {
        /// The file, relative to the working directory.
        path: PathBuf,
        /// Its format.
        format: DatasetFormat,
        /// How many rows to draw (seeded, without replacement); `None` = all.
        n_requests: Option<usize>,
        /// In which prompt a row of LongBench is sent.
        prompt: PromptLayout,
        /// `max_tokens` of each request; `None` = each LongBench task's own.
        max_tokens: Option<u32>,
        /// Whether answers end by themselves.
        mode: AnswerMode,
        /// Most turns of a conversation that are sent.
        turns: usize,
        /// From the end of an answer to the next turn; `None` = at once.
        think: Option<TimeDist>,
        /// How prompts are counted, cut and rendered.
        tokens: Option<TokenRules>,
    },
    /// Prompts made of words, with drawn lengths.
    Synthetic {
        /// Requests.
        n_requests: usize,
        /// Prompt length in tokens.
        prompt_tokens: LengthDist,
        /// Answer length in tokens (`max_tokens`).
        output_tokens: LengthDist,
        /// How prompts are counted and rendered; without it a word is taken for a token.
        tokens: Option<TokenRules>,
    },
    /// Conversations made of words, with drawn lengths.
    Dialogues(Dialogues),
    /// Requests of a trace file, in its order.
    Trace(Trace),
    /// Answers of a finished run, continued.
    Forced(Forced),
}

/// Conversations made of words.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialogues {
    /// Conversations.
    pub n_conversations: usize,
    /// Turns of each, at least 2.
    pub turns: usize,
    /// From the end of an answer to the next turn; `None` = at once.
    pub think: Option<TimeDist>,
    /// Length of what is new in each turn, tokens.
    pub prompt_tokens: LengthDist,
    /// Answer length in tokens (`max_tokens`), drawn for each turn.
    pub output_tokens: LengthDist,
    /// How prompts are counted; without it a word is taken for a token.
    pub tokens: Option<TokenRules>,
}

impl Workload {
    /// The file it is read from.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Workload::Dataset { path, .. } | Workload::Trace(Trace { path, .. }) => Some(path),
            Workload::Forced(forced) => Some(&forced.rows),
            Workload::Shapes { .. } | Workload::Synthetic { .. } | Workload::Dialogues(_) => None,
        }
    }

    /// The same with this number of requests, conversations or continued answers; a grid of shapes as it is.
    pub fn with_requests(&self, n: usize) -> Self {
        let mut workload = self.clone();
        match &mut workload {
            Workload::Dataset { n_requests, .. } | Workload::Trace(Trace { n_requests, .. }) => {
                *n_requests = Some(n)
            }
            Workload::Synthetic { n_requests, .. } => *n_requests = n,
            Workload::Dialogues(dialogues) => dialogues.n_conversations = n,
            Workload::Forced(forced) => forced.n_prompts = Some(n),
            Workload::Shapes { .. } => {}
        }
        workload
    }

    /// How its prompts are counted, cut and rendered; `None` without a tokenizer.
    pub fn tokens(&self) -> Option<&TokenRules> {
        match self {
            Workload::Dataset { tokens, .. } | Workload::Synthetic { tokens, .. } => {
                tokens.as_ref()
            }
            Workload::Dialogues(dialogues) => dialogues.tokens.as_ref(),
            Workload::Trace(trace) => trace.tokens.as_ref(),
            Workload::Shapes { .. } | Workload::Forced(_) => None,
        }
    }

    /// Whether its answers end by themselves.
    pub fn mode(&self) -> AnswerMode {
        match self {
            Workload::Dataset { mode, .. } => *mode,
            Workload::Forced(_) => AnswerMode::Forced,
            _ => AnswerMode::Free,
        }
    }

    /// Whether its requests have times of their own.
    pub fn has_times(&self) -> bool {
        matches!(self, Workload::Trace(trace) if trace.format != TraceFormat::Lengths)
    }
}

/// How prompts are counted, cut and rendered on this side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// A `tokenizer.json` or the folder of one, relative to the working directory.
    pub tokenizer: PathBuf,
    /// Longest prompt, everything included that a server counts; longer ones lose their middle.
    pub max_prompt_tokens: Option<u32>,
    /// Chat template that prompts go through; `None` = they are sent as they are.
    pub chat_template: Option<TemplateSource>,
    /// The day that `strftime_now` tells to the template.
    pub template_date: jiff::civil::Date,
}

/// Where a chat template is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateSource {
    /// The model's own, beside its tokenizer.
    Model,
    /// A file.
    File(PathBuf),
}

/// Distribution of a length in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LengthDist {
    /// Always this.
    Fixed(u32),
    /// Uniform on [min, max].
    Uniform {
        /// Shortest.
        min: u32,
        /// Longest.
        max: u32,
    },
    /// Log-normal with this median and sigma of the logarithm, clamped to [1, max].
    Lognormal {
        /// Median.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
        /// Longest.
        max: u32,
    },
}

/// How a kernel is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Launches before the first sample.
    pub warmup: usize,
    /// Fewest samples.
    pub min_samples: usize,
    /// Most samples; equal to `min_samples` switches the stop rule off.
    pub max_samples: usize,
    /// Stop when the 95 % interval of the median is narrower than this part of it.
    pub target_rel_ci: f64,
    /// Stop a block (all methods at one shape) after this many seconds.
    pub max_seconds: f64,
    /// Distinct data cycled through, as a multiple of the last-level cache.
    pub rotate_llc: f64,
}

impl Scenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or a [`ScenarioError`] with line, column and hint.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = read_text(path)?;
        Ok(Self::parse(&text, &path.display().to_string())?)
    }

    /// Checks a text; `origin` stands before the line number in errors. Never panics.
    ///
    /// # Errors
    /// The first fault found, with its place and what to do about it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        Self::checked(text).map_err(|fault| fault.locate(text, origin))
    }

    fn checked(text: &str) -> Result<Self, error::Fault> {
        limit::text(text)?;
        if RouteScenario::is_meant(text) {
            let message = "expected what engines or kernels are measured with, got an experiment of the router";
            return Err(error::Fault::new(0, message, "run it with `kvbench route simulate`"));
        }
        let file: wire::File = toml::from_str(text).map_err(|error| error::translate(&error))?;
        check::scenario(file, text)
    }
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| {
        format!(
            "{}: cannot read the scenario\n  hint: the path is relative to the working directory",
            path.display()
        )
    })?;
    String::from_utf8(bytes).with_context(|| {
        format!("{}: expected UTF-8 text\n  hint: save the file as UTF-8", path.display())
    })
}

/// JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(wire::File).to_value()
}

impl LengthDist {
    /// The longest length that can be drawn.
    pub fn max(&self) -> u32 {
        match *self {
            LengthDist::Fixed(n) => n,
            LengthDist::Uniform { max, .. } | LengthDist::Lognormal { max, .. } => max,
        }
    }
}
