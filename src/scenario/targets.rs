//! Where a scenario measures: our kernels, or servers.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use super::{Engine, KvSetting, MetricsSpec, ModelShape, Start};
use crate::kernel::allreduce::Link;

/// A name and where it points.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Key in `[target]`.
    pub name: String,
    /// Kernel or engine.
    pub kind: TargetKind,
}

/// Where to measure.
#[derive(Debug, Clone, PartialEq)]
pub enum TargetKind {
    /// Our own kernels: one attention layer at a model's head shape.
    Kernel(KernelTarget),
    /// An OpenAI-compatible server, running or to be started.
    Engine(Box<EngineTarget>),
}

/// Our own kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTarget {
    /// Shape of the layer.
    pub model: ModelShape,
    /// Requested device.
    pub device: Device,
    /// Worker threads; `None` = all cores.
    pub threads: Option<usize>,
    /// Tokens of a page of the KV cache on CUDA, one of [`PAGES`].
    pub page: usize,
    /// Degrees of tensor parallelism whose ranks are measured, one after another on one device.
    pub tensor_parallel: Vec<usize>,
    /// What would join the ranks; `None` = communication is not modelled.
    pub link: Option<Link>,
    /// Names of the methods to run; all of the scenario when the file names none.
    pub methods: Vec<String>,
}

/// Page sizes that there are kernels for; the first is the default and is not in cell ids.
pub const PAGES: [usize; 2] = [16, 64];

/// Which device runs kernels.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// CUDA where a driver and our CUDA kernels are present, else CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

/// A server and how it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineTarget {
    /// Where it runs, or how to start it.
    pub place: Place,
    /// What it is, where that is known.
    pub engine: Option<Arc<Engine>>,
    /// `/v1/completions` or `/v1/chat/completions`.
    pub endpoint: Endpoint,
    /// Model name to ask for; `None` = the only one that `/v1/models` lists.
    pub model: Option<String>,
    /// Methods it is measured under, in file order, the A/A control last. A running server has one.
    pub methods: Vec<String>,
    /// How each of them is selected, where the engine is known; by method, the A/A control among them.
    pub settings: BTreeMap<String, KvSetting>,
    /// Version as the user states it.
    pub version: Option<String>,
    /// What is done about its prefix cache.
    pub prefix_cache: PrefixCache,
    /// Longest silence on a stream before the request is given up.
    pub idle_timeout_s: f64,
    /// Longest duration of one request.
    pub request_timeout_s: f64,
    /// Requests sent before measuring, not recorded as rows.
    pub warmup_requests: usize,
    /// File with the API key (else the environment's `KVBENCH_API_KEY`).
    pub api_key_file: Option<PathBuf>,
    /// Sampling temperature, always sent.
    pub temperature: f64,
    /// Methods that are sampled otherwise.
    pub sampled: BTreeMap<String, Sampling>,
    /// Whether to ask the server to ignore EOS; hides every effect on answer length.
    pub ignore_eos: bool,
    /// Seconds to wait for running requests after Ctrl-C; a run left alone waits for each request's own time-outs.
    pub drain_s: f64,
    /// Whether to ask for `continuous_usage_stats` (vLLM), so that tokens per chunk are known.
    pub continuous_usage: bool,
    /// Where the server's metrics are read; `None` = they are not.
    pub metrics: Option<MetricsSpec>,
    /// Seconds between two readings of them.
    pub metrics_interval_s: f64,
}

/// How answers are sampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 is greedy.
    pub temperature: f64,
    /// Added to the scenario's seed and the repeat's number.
    pub seed: u64,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// It runs already.
    Running {
        /// Base URL without `/v1`.
        url: String,
    },
    /// kvbench starts and ends it, once for each method and repeat.
    Start(Start),
}

impl EngineTarget {
    /// A server that runs at `url`, asked as a scenario without further keys asks.
    pub fn running(url: &str, endpoint: Endpoint, method: &str) -> Self {
        Self {
            place: Place::Running { url: url.to_owned() },
            engine: None,
            endpoint,
            model: None,
            methods: vec![method.to_owned()],
            settings: BTreeMap::new(),
            version: None,
            prefix_cache: PrefixCache::Off,
            idle_timeout_s: 60.0,
            request_timeout_s: 600.0,
            warmup_requests: 2,
            api_key_file: None,
            temperature: 0.0,
            sampled: BTreeMap::new(),
            ignore_eos: false,
            drain_s: 30.0,
            continuous_usage: false,
            metrics: None,
            metrics_interval_s: 1.0,
        }
    }

    /// How answers are sampled under a method.
    pub fn sampling(&self, method: &str) -> Sampling {
        let usual = Sampling { temperature: self.temperature, seed: 0 };
        self.sampled.get(method).copied().unwrap_or(usual)
    }

    /// Its sets of flags: the target's name with each set's, as cell ids have it, and the set's own name, which is empty where
    /// there is only one.
    pub fn variants(&self, target: &str) -> Vec<(String, &str)> {
        let named = |variant: &str| match variant {
            "" => target.to_owned(),
            variant => format!("{target}-{variant}"),
        };
        let Some(start) = self.start() else { return vec![(named(""), "")] };
        start.variants.keys().map(|variant| (named(variant), variant.as_str())).collect()
    }

    /// How it is started; `None` for a running server.
    pub fn start(&self) -> Option<&Start> {
        match &self.place {
            Place::Running { .. } => None,
            Place::Start(start) => Some(start),
        }
    }
}

/// Which API of the server.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
}

/// What is done about an engine's prefix cache.
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
pub enum PrefixCache {
    /// Off where the engine can; what is cached nevertheless is recorded.
    #[default]
    Off,
    /// Each cell has its own salt.
    Salt,
    /// Left as the engine has it, and recorded.
    On,
}
