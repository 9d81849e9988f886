//! The grammar of `[engine.NAME]`, in `scenarios/engines.toml` and in scenarios: an engine is data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Endpoint, TokenName,
    value::{Int, Ordered, Real, Sp},
    wire_metrics::Metrics,
};

/// `scenarios/engines.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Catalogue {
    /// Engines by name.
    pub(super) engine: Ordered<Engine>,
}

/// How an engine is asked its version, started, probed, watched and stopped, and which flags select which method.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Engine {
    /// Name for people.
    pub(super) title: String,
    /// The APIs it has: `completions`, `chat`.
    pub(super) endpoints: Vec<Endpoint>,
    /// The command that starts it, one word an item. `{model}`, `{name}` (served under), `{host}`, `{port}`, `{address}`
    /// (both, as in a URL) and `{dir}` (where `files` are) are filled in, `{{name}}` writes `{name}`, other braces are text;
    /// the flags of method, variant and target follow.
    pub(super) launch: Sp<Vec<Sp<String>>>,
    /// A command that prints its version within 300 s, for engines that do not tell it over HTTP.
    pub(super) version_command: Option<Vec<Sp<String>>>,
    /// Environment it is started with.
    #[serde(default)]
    pub(super) env: BTreeMap<String, Sp<String>>,
    /// Files it needs, by name; places as in `launch`, and those of `set`. In YAML and JSON a text is quoted as it needs.
    #[serde(default)]
    pub(super) files: BTreeMap<String, Sp<String>>,
    /// Values of further places, filled in as they are, that a method may set.
    #[serde(default)]
    pub(super) set: BTreeMap<String, Sp<String>>,
    /// How to know that it is ready.
    pub(super) health: Health,
    /// How to end it.
    #[serde(default)]
    pub(super) stop: Stop,
    /// What it tells about itself and where. `version`, `max_model_len`, `kv_dtype`, `kv_memory_bytes` and `kv_tokens`
    /// are compared with what was asked for; all others are kept.
    #[serde(default)]
    pub(super) tells: BTreeMap<String, Tells>,
    /// How its KV methods are selected, by our name for a method or the engine's own.
    pub(super) kv: BTreeMap<String, Kv>,
    /// JSON fields that every request carries, because the engine's defaults would change answers.
    #[serde(default)]
    pub(super) request: BTreeMap<String, Scalar>,
    /// How its prefix cache is kept out of the measurement.
    #[serde(default)]
    pub(super) prefix_cache: PrefixCache,
    /// How it lists the log-probabilities of the likeliest tokens. Without it `forced` workloads do not run on it.
    pub(super) logprobs: Option<Logprobs>,
    /// Where its metrics are read and what they are called there.
    pub(super) metrics: Option<Metrics>,
}

/// How an engine's completions API lists log-probabilities.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Logprobs {
    /// Most tokens that it lists as it is started here.
    pub(super) most: Int<1, 1000>,
    /// What it can name a token by: `text`, `id` or both.
    pub(super) named_by: Vec<TokenName>,
    /// Request fields that make it name tokens by their ids.
    #[serde(default)]
    pub(super) id_request: BTreeMap<String, Scalar>,
}

/// When an engine is ready.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Health {
    /// Path that answers 200 once it is.
    pub(super) path: String,
    /// Longest start, seconds.
    pub(super) timeout_s: Real<1_000, 86_400_000>,
}

/// How an engine is ended.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Stop {
    /// First signal.
    pub(super) signal: super::StopSignal,
    /// Seconds until SIGKILL.
    pub(super) grace_s: Real<0, 600_000>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: super::StopSignal::Term, grace_s: Real(30.0) }
    }
}

/// Where a fact stands.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Tells {
    /// In a JSON answer.
    Json(TellsJson),
    /// In a label of a metric.
    Label(TellsLabel),
    /// In the engine's own log: the first group of a regular expression.
    Log(TellsLog),
}

/// A place in a JSON answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TellsJson {
    /// Path of the GET.
    pub(super) path: String,
    /// JSON pointer (RFC 6901).
    pub(super) pointer: String,
}

/// A label of a metric in the Prometheus text, at the path of the target's `metrics` (`/metrics` without).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TellsLabel {
    /// Name of the metric.
    pub(super) metric: String,
    /// Name of the label.
    pub(super) label: String,
}

/// A line of the log, of whose middle part beyond 8 MiB nothing is read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TellsLog {
    /// Regular expression whose first group is the fact.
    pub(super) pattern: Sp<String>,
    /// Factor on a number.
    pub(super) scale: Option<Real<1, 1_000_000_000_000_000>>,
}

/// How one way of keeping the KV cache is selected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kv {
    /// Words added to the command.
    #[serde(default)]
    pub(super) flags: Vec<Sp<String>>,
    /// Places of the engine's `set` that it changes.
    #[serde(default)]
    pub(super) set: BTreeMap<String, Sp<String>>,
    /// What the engine calls it when asked (`tells.kv_dtype`); any of these. Without it nothing is compared.
    #[serde(default)]
    pub(super) told: Vec<String>,
    /// Bits of one stored number. Without it bytes per token are not compared with theory.
    pub(super) bits: Option<Real<1_000, 64_000>>,
    /// Bytes beside them for each token, layer and KV head, K and V together: scales, minima, norms.
    #[serde(default = "no_overhead")]
    pub(super) overhead_bytes: Real<0, 4_096_000>,
}

fn no_overhead() -> Real<0, 4_096_000> {
    Real(0.0)
}

/// How a prefix cache is kept out of the measurement.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PrefixCache {
    /// Words that switch it off.
    pub(super) off_flags: Vec<Sp<String>>,
    /// Request fields that switch it off.
    pub(super) off_request: BTreeMap<String, Scalar>,
    /// Request fields that keep cells apart; `{salt}` is different in every cell.
    pub(super) salt_request: BTreeMap<String, Scalar>,
}

/// A value in a request. Untagged costs the line of an error only where the value is a list or a table.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Real(f64),
    /// Text.
    Text(String),
}
