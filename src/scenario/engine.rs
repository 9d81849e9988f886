//! Engines as data: what `scenarios/engines.toml` and a scenario's own `[engine.NAME]` say, checked.

use std::{collections::BTreeMap, sync::OnceLock};

use super::{
    Endpoint, Logprobs, MetricsSpec, TokenName,
    engine_target::secret_fault,
    error::{self, Fault},
    places, secret,
    value::{Ordered, Sp},
    wire_engine as wire,
};

/// The engines that kvbench knows without being told.
const BUILT_IN: &str = include_str!("../../scenarios/engines.toml");

/// An engine: how it is started, probed, asked, and which flags select which method.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Key in `[engine]`.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// The APIs it has.
    pub endpoints: Vec<Endpoint>,
    /// The command that starts it, with places such as `{port}`.
    pub launch: Vec<String>,
    /// A command that prints its version.
    pub version_command: Option<Vec<String>>,
    /// Environment it is started with.
    pub env: BTreeMap<String, String>,
    /// Files it needs, by name.
    pub files: BTreeMap<String, String>,
    /// Values of places that a method may set.
    pub set: BTreeMap<String, String>,
    /// Path that answers 200 once it is ready.
    pub health_path: String,
    /// Longest start.
    pub start_timeout_s: f64,
    /// First signal that asks it to end.
    pub stop_signal: StopSignal,
    /// Seconds until SIGKILL.
    pub stop_grace_s: f64,
    /// What it tells about itself, by name.
    pub tells: BTreeMap<String, Tells>,
    /// KV settings by name.
    pub kv: BTreeMap<String, KvSetting>,
    /// Fields of every request.
    pub request: BTreeMap<String, serde_json::Value>,
    /// How its prefix cache is kept out.
    pub prefix_cache: PrefixCacheMeans,
    /// How it lists log-probabilities; `None` = not known.
    pub logprobs: Option<Logprobs>,
    /// Where its metrics are read; `None` = it has none.
    pub metrics: Option<MetricsSpec>,
}

/// A signal that asks a process to end.
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
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT, for programs that clean up on Ctrl-C only.
    Int,
}

/// Where an engine tells a fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Tells {
    /// In a JSON answer.
    Json {
        /// Path of the GET.
        path: String,
        /// JSON pointer.
        pointer: String,
    },
    /// In a label of a metric.
    Label {
        /// Name of the metric.
        metric: String,
        /// Name of the label.
        label: String,
    },
    /// In its log.
    Log {
        /// Regular expression; its first group is the fact.
        pattern: String,
        /// Factor on a number.
        scale: Option<f64>,
    },
}

/// How one way of keeping the KV cache is selected, and what to expect of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KvSetting {
    /// Words added to the command.
    pub flags: Vec<String>,
    /// Places set.
    pub set: BTreeMap<String, String>,
    /// What the engine calls it when asked; empty: nothing to compare.
    pub told: Vec<String>,
    /// Bits of one stored number.
    pub bits: Option<f64>,
    /// Bytes beside them for each token, layer and KV head.
    pub overhead_bytes: f64,
}

impl KvSetting {
    /// Bytes of one cached token: `layers x kv_heads x (2 x head_dim x bits / 8 + overhead)`; `None` where the width is
    /// not known.
    pub fn bytes_per_token(&self, layers: usize, kv_heads: usize, head_dim: usize) -> Option<f64> {
        let head_dim = head_dim as f64;
        self.bytes_of_heads(layers as f64 * kv_heads as f64, head_dim, head_dim)
    }

    /// The same of this number of KV heads in all layers, whose keys and values may differ in length.
    pub fn bytes_of_heads(&self, kv_heads: f64, key_dim: f64, value_dim: f64) -> Option<f64> {
        Some(kv_heads * ((key_dim + value_dim) * self.bits? / 8.0 + self.overhead_bytes))
    }
}

/// How a prefix cache is kept out of a measurement.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PrefixCacheMeans {
    /// Words that switch it off.
    pub off_flags: Vec<String>,
    /// Request fields that switch it off.
    pub off_request: BTreeMap<String, serde_json::Value>,
    /// Request fields that keep cells apart.
    pub salt_request: BTreeMap<String, serde_json::Value>,
}

impl Engine {
    /// The setting of that name.
    pub fn setting(&self, name: &str) -> Option<&KvSetting> {
        self.kv.get(name)
    }

    /// Names of its KV settings.
    pub fn setting_names(&self) -> Vec<&str> {
        self.kv.keys().map(String::as_str).collect()
    }
}

/// The engines of `scenarios/engines.toml`, as this binary was built with.
///
/// # Errors
/// The file is not valid, with line and remedy; a test keeps ours valid.
pub fn built_in() -> Result<&'static [Engine], super::ScenarioError> {
    static PARSED: OnceLock<Result<Vec<Engine>, super::ScenarioError>> = OnceLock::new();
    let parse = || {
        let located = |fault: Fault| fault.locate(BUILT_IN, "scenarios/engines.toml");
        let file: wire::Catalogue =
            toml::from_str(BUILT_IN).map_err(|fault| located(error::translate(&fault)))?;
        engines(&file.engine).map_err(located)
    };
    PARSED.get_or_init(parse).as_ref().map(Vec::as_slice).map_err(Clone::clone)
}

/// Checks each entry of `[engine]`.
pub(super) fn engines(tables: &Ordered<wire::Engine>) -> Result<Vec<Engine>, Fault> {
    tables.0.iter().map(|(name, wire)| engine(name, wire)).collect()
}

fn engine(name: &Sp<String>, wire: &wire::Engine) -> Result<Engine, Fault> {
    check_launch(wire)?;
    check_places(wire)?;
    if let Some(given) = secret_in(wire) {
        return Err(secret_fault(name.at, &given));
    }
    if wire.endpoints.is_empty() {
        let message = format!("expected `endpoints` of `{}` to name an API, got none", name.value);
        return Err(Fault::new(name.at, message, "`completions`, `chat` or both"));
    }
    let kv = wire.kv.iter().map(|(key, kv)| (key.clone(), setting(kv))).collect();
    Ok(Engine {
        name: name.value.clone(),
        title: wire.title.clone(),
        endpoints: wire.endpoints.clone(),
        launch: words(&wire.launch.value),
        version_command: wire.version_command.as_deref().map(words),
        env: texts(&wire.env),
        files: texts(&wire.files),
        set: texts(&wire.set),
        health_path: wire.health.path.clone(),
        start_timeout_s: wire.health.timeout_s.0,
        stop_signal: wire.stop.signal,
        stop_grace_s: wire.stop.grace_s.0,
        tells: wire.tells.iter().map(tells).collect::<Result<_, _>>()?,
        kv,
        request: fields(&wire.request),
        prefix_cache: PrefixCacheMeans {
            off_flags: words(&wire.prefix_cache.off_flags),
            off_request: fields(&wire.prefix_cache.off_request),
            salt_request: fields(&wire.prefix_cache.salt_request),
        },
        logprobs: wire.logprobs.as_ref().map(logprobs),
        metrics: wire.metrics.as_ref().map(|metrics| metrics.spec()).transpose()?,
    })
}

/// A server that cannot be told where to listen cannot be started beside others.
fn check_launch(wire: &wire::Engine) -> Result<(), Fault> {
    let everywhere = || wire.launch.value.iter().chain(wire.files.values());
    for place in ["port", "host", "model"] {
        let with = |name| everywhere().any(|word| places::has(&word.value, name));
        if !with(place) && (place == "model" || !with("address")) {
            let message = format!("expected `{{{place}}}` in `launch` or `files`, got none");
            let hint = "kvbench chooses a free port and binds to 127.0.0.1 unless told otherwise";
            return Err(Fault::new(wire.launch.at, message, hint));
        }
    }
    // Below the run folder and nowhere else.
    let plain = |name: &&String| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if let Some(name) = wire.files.keys().find(|name| !plain(name)) {
        let message = format!("expected the names of `files` to be file names, got `{name}`");
        return Err(Fault::new(wire.launch.at, message, "they are written into the run folder"));
    }
    match wire.launch.value.first() {
        Some(Sp { value: program, .. }) if !program.is_empty() && !program.contains('{') => Ok(()),
        _ => Err(Fault::new(
            wire.launch.at,
            "expected the first word of `launch` to be a program",
            "for example `launch = [\"vllm\", \"serve\", \"{model}\", ...]`",
        )),
    }
}

/// A place that nothing fills would reach the engine as text, which may even start with it.
fn check_places(wire: &wire::Engine) -> Result<(), Fault> {
    let names = || wire.set.iter().chain(wire.kv.values().flat_map(|kv| &kv.set));
    if let Some((name, value)) = names().find(|(name, _)| !places::is_name(name)) {
        let message =
            format!("expected a name of `set` to be of `a-z`, `0-9`, `_` and `-`, got `{name}`");
        return Err(Fault::new(
            value.at,
            message,
            "it is written as `{name}` where it is filled in",
        ));
    }
    if let Some((name, value)) =
        wire.set.iter().find(|(name, _)| places::BUILT_IN.contains(&name.as_str()))
    {
        let message = format!("expected `set` to have names of its own, got `{name}`");
        return Err(Fault::new(
            value.at,
            message,
            "kvbench fills that place itself: choose another name",
        ));
    }
    for (kv, setting) in &wire.kv {
        if let Some((name, value)) =
            setting.set.iter().find(|(name, _)| !wire.set.contains_key(*name))
        {
            let message = format!(
                "expected the `set` of `{kv}` to change a place of the engine's `set`, got `{name}`"
            );
            return Err(Fault::new(
                value.at,
                message,
                "give it a value there, for the methods that leave it alone",
            ));
        }
    }
    let known = || places::BUILT_IN.into_iter().chain(wire.set.keys().map(String::as_str));
    let flags = wire.kv.values().flat_map(|kv| &kv.flags).chain(&wire.prefix_cache.off_flags);
    let words = wire.launch.value.iter().chain(wire.version_command.iter().flatten());
    places::check_all(words.chain(wire.env.values()).chain(flags), known())?;
    wire.files.iter().try_for_each(|(name, text)| places::check_file(name, text, known()))
}

pub(super) fn words(wire: &[Sp<String>]) -> Vec<String> {
    wire.iter().map(|word| word.value.clone()).collect()
}

pub(super) fn texts(wire: &BTreeMap<String, Sp<String>>) -> BTreeMap<String, String> {
    wire.iter().map(|(key, text)| (key.clone(), text.value.clone())).collect()
}

/// Everything of an engine that is stored, shown or sent.
fn secret_in(wire: &wire::Engine) -> Option<String> {
    let kv = || wire.kv.values();
    let words = wire.launch.value.iter().chain(wire.version_command.iter().flatten());
    let words = words.chain(&wire.prefix_cache.off_flags).chain(kv().flat_map(|kv| &kv.flags));
    let words = words.chain(wire.files.values()).map(|word| &word.value);
    let tables = [&wire.env, &wire.set].into_iter().chain(kv().map(|kv| &kv.set));
    let cache = &wire.prefix_cache;
    let fields = [&wire.request, &cache.off_request, &cache.salt_request];
    let texts = fields.into_iter().flatten().filter_map(|(name, value)| match value {
        wire::Scalar::Text(text) => Some((name.clone(), text.clone())),
        _ => None,
    });
    secret::in_words(words)
        .or_else(|| tables.map(self::texts).find_map(|table| secret::in_table(&table)))
        .or_else(|| secret::in_table(&texts.collect()))
}

fn tells((name, wire): (&String, &wire::Tells)) -> Result<(String, Tells), Fault> {
    let tells = match wire {
        wire::Tells::Json(json) => {
            Tells::Json { path: json.path.clone(), pointer: json.pointer.clone() }
        }
        wire::Tells::Label(label) => {
            Tells::Label { metric: label.metric.clone(), label: label.label.clone() }
        }
        wire::Tells::Log(log) => {
            let pattern = &log.pattern;
            let groups = regex::Regex::new(&pattern.value).map(|regex| regex.captures_len());
            if !matches!(groups, Ok(2..)) {
                let message =
                    format!("expected a regular expression with a group, got `{}`", pattern.value);
                return Err(Fault::new(pattern.at, message, "put the wanted part into (...)"));
            }
            Tells::Log { pattern: pattern.value.clone(), scale: log.scale.map(|scale| scale.0) }
        }
    };
    Ok((name.clone(), tells))
}

fn setting(wire: &wire::Kv) -> KvSetting {
    KvSetting {
        flags: words(&wire.flags),
        set: texts(&wire.set),
        told: wire.told.clone(),
        bits: wire.bits.map(|bits| bits.0),
        overhead_bytes: wire.overhead_bytes.0,
    }
}

fn logprobs(wire: &wire::Logprobs) -> Logprobs {
    Logprobs {
        most: wire.most.u32(),
        by_text: wire.named_by.contains(&TokenName::Text),
        by_id: wire.named_by.contains(&TokenName::Id),
        id_request: fields(&wire.id_request),
    }
}

fn fields(wire: &BTreeMap<String, wire::Scalar>) -> BTreeMap<String, serde_json::Value> {
    let value = |scalar: &wire::Scalar| match scalar {
        wire::Scalar::Bool(value) => (*value).into(),
        wire::Scalar::Int(value) => (*value).into(),
        wire::Scalar::Real(value) => (*value).into(),
        wire::Scalar::Text(value) => value.clone().into(),
    };
    wire.iter().map(|(key, scalar)| (key.clone(), value(scalar))).collect()
}
