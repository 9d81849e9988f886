//! The grammar of `[target.NAME.engine]`.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Endpoint, PrefixCache,
    value::{Int, List, Real, Sp},
    wire::Seconds,
    wire_metrics::Metrics,
};

/// A server: one that is running (`url`), or one that kvbench starts (`engine` without `url`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineTarget {
    /// Base URL of a running server, without `/v1`. Without it kvbench starts `engine`.
    pub(super) url: Option<Sp<String>>,
    /// Name in engines.toml or in `[engine]`: what to start, or what runs at `url`, so that it can be asked.
    pub(super) engine: Option<Sp<String>>,
    /// Which API to call: `completions` or `chat`.
    pub(super) endpoint: Endpoint,
    /// What to serve: a folder, a file or a name; for a running server the name to ask for. Default for a running one: the
    /// only one that it lists.
    pub(super) model: Option<Sp<String>>,
    /// Name of the method in `[method]` that the running server runs.
    pub(super) method: Option<Sp<String>>,
    /// Names of the methods to start it with, the baseline among them. Default: all in `[method]`.
    pub(super) methods: Option<List<Sp<String>>>,
    /// Words added to the command under every method.
    #[serde(default)]
    pub(super) flags: Vec<Sp<String>>,
    /// Sets of words to measure under every method, each by a name that is added to the target's: speculative decoding,
    /// KV offloading, a batch size.
    #[serde(default)]
    pub(super) variants: BTreeMap<String, Vec<Sp<String>>>,
    /// Program in the place of the command's first word, such as `/opt/llama.cpp/llama-server`.
    pub(super) program: Option<Sp<String>>,
    /// Environment beside the engine's own.
    #[serde(default)]
    pub(super) env: BTreeMap<String, Sp<String>>,
    /// Command that the start command is handed to: `["ssh", "-tt", "box"]`, `["docker", "run", ...]`, `["srun"]`. The word
    /// `{env}` becomes the environment as `KEY=value` words, `{docker-env}` the same behind `-e`; places as in `launch`.
    #[serde(default)]
    pub(super) wrapper: Vec<Sp<String>>,
    /// Address that the engine binds to and that kvbench calls; an IPv6 one with or without brackets.
    #[serde(default = "host")]
    pub(super) host: Sp<String>,
    /// Port to listen on. Default: a free one.
    pub(super) port: Option<Int<1, 65_535>>,
    /// Longest start, seconds. Default: the engine's own.
    pub(super) start_timeout_s: Option<Seconds>,
    /// Version of a running server that does not tell it.
    pub(super) version: Option<Sp<String>>,
    /// What to do about a prefix cache, which would make every prompt but the first cheap: `off`, `salt` (each cell has
    /// its own) or `on` (measured with it).
    #[serde(default)]
    pub(super) prefix_cache: Sp<PrefixCache>,
    /// Longest silence on a stream, seconds.
    #[serde(default = "idle_timeout_s")]
    pub(super) idle_timeout_s: Seconds,
    /// Longest duration of one request, seconds.
    #[serde(default = "request_timeout_s")]
    pub(super) request_timeout_s: Seconds,
    /// Requests sent before measuring and not recorded.
    #[serde(default = "warmup_requests")]
    pub(super) warmup_requests: Int<0, 10_000>,
    /// File that holds the API key. Default: the environment's `KVBENCH_API_KEY`.
    pub(super) api_key_file: Option<PathBuf>,
    /// Sampling temperature, always sent.
    #[serde(default = "temperature")]
    pub(super) temperature: Real<0, 2_000>,
    /// Ask the server to ignore EOS: hides every effect on answer length.
    #[serde(default)]
    pub(super) ignore_eos: bool,
    /// Seconds to wait for running requests after the last was sent, or after Ctrl-C.
    #[serde(default = "drain_s")]
    pub(super) drain_s: Real<0, 86_400_000>,
    /// Ask for `continuous_usage_stats` (vLLM), so that tokens per chunk are known.
    #[serde(default)]
    pub(super) continuous_usage: bool,
    /// Where the server's metrics are read and what they are called there. Default: they are not read.
    pub(super) metrics: Option<Metrics>,
    /// Seconds between two readings of the metrics.
    #[serde(default = "metrics_interval_s")]
    pub(super) metrics_interval_s: Real<100, 3_600_000>,
}

fn host() -> Sp<String> {
    Sp { value: "127.0.0.1".to_owned(), at: 0 }
}

fn idle_timeout_s() -> Seconds {
    Real(60.0)
}

fn request_timeout_s() -> Seconds {
    Real(600.0)
}

fn warmup_requests() -> Int<0, 10_000> {
    Int(2)
}

fn temperature() -> Real<0, 2_000> {
    Real(0.0)
}

fn drain_s() -> Real<0, 86_400_000> {
    Real(30.0)
}

fn metrics_interval_s() -> Real<100, 3_600_000> {
    Real(1.0)
}
