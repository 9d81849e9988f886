//! Configuration of `kvbench route serve`: which engines stand behind the proxy, how one is chosen, what clients may do.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{
    ScenarioError, check, error,
    error::Fault,
    limit, target,
    value::{Real, Sp},
    wire_proxy as wire,
};
use crate::{
    predict::simulate::{EngineConfig, LinearTimes, Mixing},
    route::{GuardSpec, LengthKnowledge, PolicySpec, RiskKnowledge, Rule, SpeedKnowledge},
};

/// Tokens of a block of an engine's KV cache, of which vLLM's default is 16; it matters little to a router.
const BLOCK_TOKENS: u64 = 16;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// Name of the runs that it records.
    pub name: String,
    /// The text it was parsed from, for the manifest.
    pub text: String,
    /// Seed of rules that draw.
    pub seed: u64,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Variable with the token of clients.
    pub token_env: Option<String>,
    /// Folder of runs.
    pub results: PathBuf,
    /// Bytes of a prompt that make a token.
    pub bytes_per_token: f64,
    /// Names of the methods, in the order of the engines.
    pub methods: Vec<String>,
    /// Place of the baseline among them.
    pub baseline: usize,
    /// The engines, at least one.
    pub engines: Vec<ProxyEngine>,
    /// How one of them is chosen.
    pub policy: PolicySpec,
    /// Where lengths come from.
    pub length: ProxyLength,
    /// File of risks, where there is a guard.
    pub risks: Option<PathBuf>,
    /// What clients may do.
    pub limits: ProxyLimits,
    /// Time between two checks of an engine.
    pub health_every: Duration,
    /// Longest check.
    pub health_timeout: Duration,
    /// Time between two looks at files.
    pub reload_every: Duration,
    /// Time that a row of `route_engines` covers.
    pub record_every: Duration,
    /// Failures in a row that open a breaker.
    pub breaker_failures: u32,
    /// How long it stays open at least.
    pub breaker_open: Duration,
}

/// An engine behind the proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct ProxyEngine {
    /// Its name.
    pub name: String,
    /// Its address without a slash at the end.
    pub url: String,
    /// Place of its method in [`Proxy::methods`].
    pub method: usize,
    /// Name of the model there.
    pub model: Option<String>,
    /// Variable with its key.
    pub key_env: Option<String>,
    /// Path of its health check.
    pub health: String,
    /// Path of its metrics.
    pub metrics: Option<String>,
    /// How it batches.
    pub config: EngineConfig,
    /// Tokens that its KV cache holds.
    pub kv_tokens: Option<u64>,
    /// What its steps take; `None` where no rule asks.
    pub speed: Option<ProxySpeed>,
}

/// Where step times come from.
#[derive(Debug, Clone, PartialEq)]
pub enum ProxySpeed {
    /// Numbers.
    Linear(LinearTimes),
    /// A file of `kvbench predict fit`.
    Model {
        /// The file.
        path: PathBuf,
        /// Part of the subject's name.
        subject: String,
        /// Name of the method in it.
        method: String,
    },
}

/// Where lengths of answers come from.
#[derive(Debug, Clone, PartialEq)]
pub enum ProxyLength {
    /// The same for all, tokens.
    Constant(f64),
    /// A file of `kvbench predict length fit`.
    Model(PathBuf),
}

/// What clients may do at most, and how long anything may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyLimits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Bytes of all bodies that are held at a time.
    pub buffer_bytes: usize,
    /// Bytes of a head.
    pub header_bytes: usize,
    /// Fields of a head.
    pub header_fields: usize,
    /// Open connections.
    pub connections: usize,
    /// Requests in work at a time.
    pub requests: usize,
    /// For a head.
    pub header: Duration,
    /// For a body.
    pub body: Duration,
    /// Between requests of a connection.
    pub idle: Duration,
    /// While a client reads nothing.
    pub write: Duration,
    /// To connect to an engine.
    pub connect: Duration,
    /// Until the first byte of an engine's answer.
    pub first_byte: Duration,
    /// Between two pieces of an engine's answer.
    pub stall: Duration,
    /// For streams to end when the proxy does.
    pub drain: Duration,
    /// Attempts on a request.
    pub attempts: u32,
}

impl Proxy {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or a [`ScenarioError`] with line, column and hint.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "{}: cannot read the configuration\n  hint: the path is relative to the working directory",
                path.display()
            )
        })?;
        let origin = path.display().to_string();
        let text = std::str::from_utf8(&bytes).map_err(|wrong| {
            let sound = String::from_utf8_lossy(&bytes[..wrong.valid_up_to()]);
            let message = "expected UTF-8, got other bytes";
            Fault::new(sound.len(), message, "save the file as UTF-8").locate(&sound, &origin)
        })?;
        Ok(Self::parse(text, &origin)?)
    }

    /// Checks a text; `origin` stands before the line number in errors. Never panics.
    ///
    /// # Errors
    /// The first fault found, with its place and what to do about it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        checked(text).map_err(|fault| fault.locate(text, origin))
    }
}

/// JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(wire::File).to_value()
}

fn checked(text: &str) -> Result<Proxy, Fault> {
    if text.len() > limit::TEXT_BYTES_MAX {
        let message =
            format!("expected at most {} bytes, got {}", limit::TEXT_BYTES_MAX, text.len());
        return Err(Fault::new(0, message, "is this a configuration of the proxy?"));
    }
    let file: wire::File = toml::from_str(text).map_err(|error| error::translate(&error))?;
    check::check_name(&file.name, "`name`")?;
    let methods = methods(&file)?;
    let baseline = baseline(&file, &methods)?;
    let engines = check::named(&file.engine, "engine", |name, wire| engine(name, wire, &methods))?;
    Ok(Proxy {
        name: file.name.value.clone(),
        text: text.to_owned(),
        seed: file.seed.0.unsigned_abs(),
        listen: listen(&file)?,
        token_env: file.token_env.as_ref().map(variable).transpose()?,
        results: file.results.clone(),
        bytes_per_token: file.bytes_per_token.0,
        methods,
        baseline,
        policy: policy(&file)?,
        length: match &file.policy.length {
            wire::ProxyLength::Constant(tokens) => ProxyLength::Constant(tokens.0),
            wire::ProxyLength::Model(path) => ProxyLength::Model(path.clone()),
        },
        risks: file.policy.guard.as_ref().map(|guard| guard.risks.clone()),
        limits: limits(&file.limits)?,
        health_every: seconds(file.health.interval_s),
        health_timeout: seconds(file.health.timeout_s),
        reload_every: seconds(file.health.reload_s),
        record_every: seconds(file.health.record_s),
        breaker_failures: file.breaker.failures.u32(),
        breaker_open: seconds(file.breaker.open_s),
        engines,
    })
}

/// Methods of the engines, each once, in the order of the file.
fn methods(file: &wire::File) -> Result<Vec<String>, Fault> {
    let mut methods: Vec<String> = Vec::new();
    for (_, engine) in &file.engine.0 {
        check::check_name(&engine.method, "`method`")?;
        if !methods.contains(&engine.method.value) {
            methods.push(engine.method.value.clone());
        }
    }
    Ok(methods)
}

fn baseline(file: &wire::File, methods: &[String]) -> Result<usize, Fault> {
    if methods.is_empty() {
        let hint = "add a table such as `[engine.f16]` with `url`, `method` and `max_num_seqs`";
        return Err(Fault::new(0, "expected at least one engine, got none", hint));
    }
    methods.iter().position(|method| *method == file.baseline.value).ok_or_else(|| {
        let names = methods.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = format!(
            "expected the method of one of the engines, got `{}`",
            check::shorten(&file.baseline.value)
        );
        Fault::new(file.baseline.at, message, format!("the engines' methods are {names}"))
    })
}

/// The address; one that other machines reach only when that was said and a token is asked for.
fn listen(file: &wire::File) -> Result<SocketAddr, Fault> {
    let at = file.listen.at;
    let address: SocketAddr = file.listen.value.parse().map_err(|_| {
        let message = format!(
            "expected an IP address and a port, got `{}`",
            check::shorten(&file.listen.value)
        );
        Fault::new(at, message, "write it as `127.0.0.1:8900` or `[::1]:8900`")
    })?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let message = format!("expected an address of this machine alone, got {}", address.ip());
    match (file.public, &file.token_env) {
        (true, Some(_)) => Ok(address),
        (false, _) => {
            Err(Fault::new(at, message, "say `public = true` to be reached by other machines"))
        }
        (true, None) => Err(Fault::new(
            at,
            message,
            "name a `token_env`: a proxy that others reach asks for a token",
        )),
    }
}

/// Name of a variable of the environment.
fn variable(name: &Sp<String>) -> Result<String, Fault> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let text = &name.value;
    if !text.is_empty() && text.len() <= 128 && text.chars().all(part) {
        return Ok(text.clone());
    }
    // What stands there may be the secret itself, so it is not shown.
    let message = "expected the name of a variable of the environment, got something else";
    Err(Fault::new(name.at, message, "write the secret into a variable and its name here"))
}

fn engine(
    name: &Sp<String>,
    wire: &wire::ProxyEngine,
    methods: &[String],
) -> Result<ProxyEngine, Fault> {
    let own = &wire.method.value;
    let kv_tokens = wire.kv_tokens.map(|tokens| tokens.0.unsigned_abs());
    Ok(ProxyEngine {
        name: name.value.clone(),
        url: target::url(&wire.url)?,
        method: methods
            .iter()
            .position(|method| method == own)
            .expect("collected from the engines"),
        model: wire.model.as_ref().map(|model| model.value.clone()),
        key_env: wire.key_env.as_ref().map(variable).transpose()?,
        health: path(&wire.health)?,
        metrics: wire.metrics.as_ref().map(path).transpose()?,
        config: config(wire, kv_tokens)?,
        kv_tokens,
        speed: wire.speed.as_ref().map(|speed| speed_of(speed, own)),
    })
}

fn path(path: &Sp<String>) -> Result<String, Fault> {
    let good = path.value.starts_with('/') && path.value.chars().all(|c| c.is_ascii_graphic());
    if good {
        return Ok(path.value.clone());
    }
    let message =
        format!("expected a path that begins with a slash, got `{}`", check::shorten(&path.value));
    Err(Fault::new(path.at, message, "write it as `/health`"))
}

fn config(wire: &wire::ProxyEngine, kv_tokens: Option<u64>) -> Result<EngineConfig, Fault> {
    let config = EngineConfig {
        max_batched_tokens: wire
            .max_batched_tokens
            .as_ref()
            .map(|tokens| tokens.value.0.unsigned_abs()),
        chunked_prefill: wire.chunked_prefill,
        mixing: Mixing::DecodeFirst,
        kv_blocks: kv_tokens.map(|tokens| (tokens / BLOCK_TOKENS).max(1)),
        block_tokens: BLOCK_TOKENS,
        kv_budget: wire.kv_budget.map(|tokens| tokens.0.unsigned_abs()),
        ..EngineConfig::unlimited(wire.max_num_seqs.usize())
    };
    let at = wire.max_batched_tokens.as_ref().map_or(wire.url.at, |tokens| tokens.at);
    config.check().map_err(|error| Fault::new(at, error.to_string(), error::SEE_README))?;
    Ok(config)
}

fn speed_of(wire: &wire::Speed, method: &str) -> ProxySpeed {
    match wire {
        wire::Speed::Linear(linear) => ProxySpeed::Linear(LinearTimes {
            step_s: linear.step_s.0,
            per_sequence_s: linear.per_sequence_s.0,
            per_kv_token_s: linear.per_kv_token_s.0,
            per_prompt_s: linear.per_prompt_s.0,
            per_prompt_token_s: linear.per_prompt_token_s.0,
            per_pair_s: linear.per_pair_s.0,
        }),
        wire::Speed::Model(model) => ProxySpeed::Model {
            path: model.path.clone(),
            subject: model.subject.clone(),
            method: model.method.clone().unwrap_or_else(|| method.to_owned()),
        },
    }
}

fn policy(file: &wire::File) -> Result<PolicySpec, Fault> {
    let rule = file.policy.rule.value;
    let without = file.engine.0.iter().find(|(_, engine)| engine.speed.is_none());
    if let (true, Some((name, _))) = (asks_for_times(rule), without) {
        let message = format!(
            "expected a speed for every engine under this rule, got none for `{}`",
            name.value
        );
        let hint = format!(
            "add `[engine.{0}.speed.linear]` or `[engine.{0}.speed.model]`, or choose `join_shortest_queue`",
            name.value
        );
        return Err(Fault::new(file.policy.rule.at, message, hint));
    }
    Ok(PolicySpec {
        name: file.name.value.clone(),
        rule,
        length: match file.policy.length {
            wire::ProxyLength::Constant(_) => LengthKnowledge::Constant,
            wire::ProxyLength::Model(_) => LengthKnowledge::Predicted,
        },
        speed: SpeedKnowledge::Predicted,
        guard: file
            .policy
            .guard
            .as_ref()
            .map(|guard| GuardSpec { risk: RiskKnowledge::Learned, epsilon: guard.epsilon.0 }),
    })
}

/// Whether a rule predicts times.
fn asks_for_times(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::StaticBest | Rule::HighestThroughput | Rule::EarliestFinish | Rule::MarginalCost
    )
}

fn limits(wire: &wire::Limits) -> Result<ProxyLimits, Fault> {
    let (body, buffer) = (wire.body_bytes.value, wire.buffer_bytes.value);
    if body.0 > buffer.0 {
        let message = format!(
            "expected `body_bytes` of at most `buffer_bytes`, which is {}, got {}",
            buffer.0, body.0
        );
        let hint =
            "raise `buffer_bytes` or lower `body_bytes`: a larger body would never find room";
        // Either may be the default, which has no place.
        return Err(Fault::new(wire.body_bytes.at.max(wire.buffer_bytes.at), message, hint));
    }
    Ok(ProxyLimits {
        body_bytes: body.usize(),
        buffer_bytes: buffer.usize(),
        header_bytes: wire.header_bytes.usize(),
        header_fields: wire.header_fields.usize(),
        connections: wire.connections.usize(),
        requests: wire.requests.usize(),
        header: seconds(wire.header_s),
        body: seconds(wire.body_s),
        idle: seconds(wire.idle_s),
        write: seconds(wire.write_s),
        connect: seconds(wire.connect_s),
        first_byte: seconds(wire.first_byte_s),
        stall: seconds(wire.stall_s),
        drain: seconds(wire.drain_s),
        attempts: wire.attempts.u32(),
    })
}

fn seconds<const MIN: i64, const MAX: i64>(value: Real<MIN, MAX>) -> Duration {
    Duration::from_secs_f64(value.0)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
