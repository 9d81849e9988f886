//! The grammar of the proxy's configuration as the file spells it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    value::{Int, Ordered, Real, Sp},
    wire::Tokens,
};
use crate::route::Rule;

/// A stretch of time, seconds; a time-out of nothing would refuse everything.
type Timeout = Real<1, 86_400_000>;
/// A coefficient of step times, seconds.
type Coefficient = Real<0, 3_600_000>;

/// Configuration of `kvbench route serve`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Name of the runs that it records, `[-a-z0-9]+`.
    pub(super) name: Sp<String>,
    /// Seed of rules that draw.
    #[serde(default = "seed")]
    pub(super) seed: Int<0, { i64::MAX }>,
    /// The method that compresses nothing: where a guard sends what it is not sure of.
    pub(super) baseline: Sp<String>,
    /// Address and port to listen on.
    #[serde(default = "listen")]
    pub(super) listen: Sp<String>,
    /// Listen on an address that other machines reach; needs `token_env`.
    #[serde(default)]
    pub(super) public: bool,
    /// Variable of the environment with the token that clients send as `Authorization: Bearer`. Default: none is asked for.
    pub(super) token_env: Option<Sp<String>>,
    /// Folder below which a run folder with one row a request is made.
    #[serde(default = "results")]
    pub(super) results: PathBuf,
    /// Bytes of a prompt that make a token, where its tokens are not known.
    #[serde(default = "bytes_per_token")]
    pub(super) bytes_per_token: Real<100, 64_000>,
    /// The engines.
    pub(super) engine: Ordered<ProxyEngine>,
    /// How one of them is chosen.
    pub(super) policy: Policy,
    /// What clients may do at most.
    #[serde(default)]
    pub(super) limits: Limits,
    /// How engines are watched.
    #[serde(default)]
    pub(super) health: Health,
    /// When an engine that fails is left alone.
    #[serde(default)]
    pub(super) breaker: Breaker,
}

fn seed() -> Int<0, { i64::MAX }> {
    Int(0)
}

fn listen() -> Sp<String> {
    Sp { value: "127.0.0.1:8900".to_owned(), at: 0 }
}

fn results() -> PathBuf {
    "results".into()
}

fn bytes_per_token() -> Real<100, 64_000> {
    Real(4.0)
}

/// One engine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyEngine {
    /// Where it answers, such as `http://127.0.0.1:8081`: the part before `/v1`.
    pub(super) url: Sp<String>,
    /// The method that its KV cache is compressed by.
    pub(super) method: Sp<String>,
    /// Name of the model there, put in the place of the one that the client names. Default: the client's.
    pub(super) model: Option<Sp<String>>,
    /// Variable of the environment with the key that it asks for.
    pub(super) key_env: Option<Sp<String>>,
    /// Path of its health check; any 2xx is good.
    #[serde(default = "health_path")]
    pub(super) health: Sp<String>,
    /// Path of its Prometheus metrics. Default: own counts alone.
    pub(super) metrics: Option<Sp<String>>,
    /// Most sequences that it computes at a time.
    pub(super) max_num_seqs: Int<1, 65_536>,
    /// Most tokens of a step. Default: no limit.
    pub(super) max_batched_tokens: Option<Sp<Tokens>>,
    /// Whether a long prompt may be computed in several steps.
    #[serde(default = "yes")]
    pub(super) chunked_prefill: bool,
    /// Tokens that its KV cache holds. Default: as many as are needed.
    pub(super) kv_tokens: Option<Int<1, 1_000_000_000>>,
    /// Most tokens of a sequence that its method keeps. Default: all.
    pub(super) kv_budget: Option<Tokens>,
    /// What its steps take: needed by rules that predict times.
    pub(super) speed: Option<Speed>,
}

fn health_path() -> Sp<String> {
    Sp { value: "/health".to_owned(), at: 0 }
}

fn yes() -> bool {
    true
}

/// What steps take.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Speed {
    /// Numbers.
    Linear(Linear),
    /// A file of `kvbench predict fit`.
    Model(SpeedModel),
}

/// Step times that are linear in what a step works on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Linear {
    /// Of every step, seconds.
    pub(super) step_s: Coefficient,
    /// Of every sequence that decodes, seconds.
    pub(super) per_sequence_s: Coefficient,
    /// Of every cached token that decoding reads, seconds.
    pub(super) per_kv_token_s: Coefficient,
    /// Of every prompt, seconds.
    pub(super) per_prompt_s: Coefficient,
    /// Of every token of a prompt, seconds.
    pub(super) per_prompt_token_s: Coefficient,
    /// Of every pair of a prompt's token and a token that it attends to, seconds.
    pub(super) per_pair_s: Coefficient,
}

/// A fitted model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SpeedModel {
    /// The file, relative to the working directory.
    pub(super) path: PathBuf,
    /// Part of the subject's name in it.
    pub(super) subject: String,
    /// Name of the method in it. Default: the engine's.
    pub(super) method: Option<String>,
}

/// How an engine is chosen.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    /// The rule.
    pub(super) rule: Sp<Rule>,
    /// What is known of lengths.
    pub(super) length: ProxyLength,
    /// Keeps requests from methods that may break their answers. Default: nothing does.
    pub(super) guard: Option<Guard>,
}

/// What is known of lengths of answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProxyLength {
    /// The same for all, tokens; less where a request's `max_tokens` is less.
    Constant(Real<1_000, 1_048_576_000>),
    /// A file of `kvbench predict length fit`.
    Model(PathBuf),
}

/// A guard.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Guard {
    /// A file of `kvbench route risks`.
    pub(super) risks: PathBuf,
    /// Highest upper confidence bound of the excess rate of negatives under which a method is safe, of one.
    pub(super) epsilon: Real<0, 1_000>,
}

/// What clients may do at most.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    /// Bytes of a body (413).
    pub(super) body_bytes: Sp<Int<1, 1_073_741_824>>,
    /// Bytes of all bodies that are held at a time, at least `body_bytes`; a request that would need more is answered 503.
    pub(super) buffer_bytes: Sp<Int<1, 1_099_511_627_776>>,
    /// Bytes of a head (431).
    pub(super) header_bytes: Int<256, 1_048_576>,
    /// Fields of a head (431), of which the parser takes at most 100.
    pub(super) header_fields: Int<1, 100>,
    /// Open connections; more are answered 503 and closed.
    pub(super) connections: Int<1, 1_000_000>,
    /// Requests in work at a time; more are answered 503.
    pub(super) requests: Int<1, 1_000_000>,
    /// Seconds for a head (408).
    pub(super) header_s: Timeout,
    /// Seconds for a body (408).
    pub(super) body_s: Timeout,
    /// Seconds for which a connection may rest between requests.
    pub(super) idle_s: Timeout,
    /// Seconds for which a client may read nothing of what waits for it.
    pub(super) write_s: Timeout,
    /// Seconds to connect to an engine.
    pub(super) connect_s: Timeout,
    /// Seconds until the first byte of an engine's answer (504).
    pub(super) first_byte_s: Timeout,
    /// Seconds between two pieces of an engine's answer; longer, and the answer is broken off.
    pub(super) stall_s: Timeout,
    /// Seconds for which streams may go on when the proxy is told to end.
    pub(super) drain_s: Timeout,
    /// Attempts on a request, the first among them.
    pub(super) attempts: Int<1, 16>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: Sp { value: Int(8 << 20), at: 0 },
            buffer_bytes: Sp { value: Int(256 << 20), at: 0 },
            header_bytes: Int(16 << 10),
            header_fields: Int(64),
            connections: Int(16_384),
            requests: Int(4096),
            header_s: Real(10.0),
            body_s: Real(30.0),
            idle_s: Real(60.0),
            write_s: Real(60.0),
            connect_s: Real(5.0),
            first_byte_s: Real(120.0),
            stall_s: Real(120.0),
            drain_s: Real(30.0),
            attempts: Int(3),
        }
    }
}

/// How engines are watched.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    /// Seconds between two checks of an engine.
    pub(super) interval_s: Timeout,
    /// Seconds that a check may take.
    pub(super) timeout_s: Timeout,
    /// Seconds between two looks at the files of models and risks, which are read anew when they change.
    pub(super) reload_s: Timeout,
    /// Seconds that a row of `route_engines` covers.
    pub(super) record_s: Timeout,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval_s: Real(1.0),
            timeout_s: Real(2.0),
            reload_s: Real(2.0),
            record_s: Real(10.0),
        }
    }
}

/// When an engine that fails is left alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Breaker {
    /// Failures in a row that open it.
    pub(super) failures: Int<1, 1000>,
    /// Seconds that it stays open at least.
    pub(super) open_s: Timeout,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: Int(3), open_s: Real(5.0) }
    }
}
