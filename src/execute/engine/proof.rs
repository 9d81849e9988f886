//! Whether a server is what the scenario says: its version, its model, its flags and the bytes it keeps for a token.
//!
//! What an engine says about itself is evidence of what it was told, not of what it computes: vLLM on a CPU calls its cache
//! `int8_per_token_head` in its metrics and answers garbage. The texts are compared afterwards, from the rows.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use anyhow::Context as _;
use regex::Regex;
use reqwest::{Client, Url};
use serde::Serialize;
use serde_json::Value;

use super::{
    facts, gguf, health::Verdict, http, listener::Listener, log, metrics, session::Session,
};
use crate::scenario::{EngineTarget, KvSetting, Start, engine::Tells};

/// Part of the theory by which the bytes of a token may differ: whole blocks are allocated.
const BYTES_TOLERANCE: f64 = 0.03;

/// What a server said of itself, and what follows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// Base URL.
    pub url: String,
    /// Target with its variant.
    pub target: String,
    /// Method under its scenario name.
    pub method: String,
    /// Engine, where it is known.
    pub engine: Option<String>,
    /// Its version.
    pub version: String,
    /// Who told it: `server`, `command` or `scenario`.
    pub version_source: &'static str,
    /// What `engines.toml` has it asked for; `None` = it did not tell.
    pub tells: BTreeMap<String, Option<String>>,
    /// Bytes it keeps for one cached token, from what it told.
    pub kv_bytes_per_token: Option<f64>,
    /// The same in theory, from the model's config and the method.
    pub kv_bytes_per_token_theory: Option<f64>,
    /// The command it was started with, environment first; `None` for a server that ran already.
    pub command: Option<String>,
    /// The words it runs with, as the kernel has them.
    pub process_arguments: Option<Vec<String>>,
    /// Start to readiness, seconds.
    pub ready_after_s: Option<f64>,
    /// Its log.
    pub log: Option<String>,
    /// Whether the process that listens on its port is the one that was started; `None` for a server that ran already.
    pub listener: Option<Listener>,
    /// Whether it is what was asked for.
    pub verdict: Verdict,
    /// Why not, in words.
    pub reasons: Vec<String>,
}

/// What is asked and what is known about who is asked.
pub(super) struct Question<'a> {
    pub(super) client: &'a Client,
    pub(super) base: &'a Url,
    pub(super) target: &'a EngineTarget,
    /// Target with its variant, as cells name it.
    pub(super) name: &'a str,
    pub(super) method: &'a str,
    /// What the server told without being known.
    pub(super) version: Option<&'a str>,
    pub(super) session: Option<&'a Session>,
}

/// Asks and compares.
///
/// # Errors
/// A sentence for a row: without a version nothing is measured.
pub(super) async fn ask(
    question: &Question<'_>,
    version_command: impl FnOnce() -> Result<Option<String>, String>,
) -> Result<Proof, String> {
    let Told { tells, named, log_left_out } = tells(question).await;
    let (version, version_source) = version(question, &tells, version_command)?;
    let number = |name: &str| tells.get(name)?.as_ref()?.parse::<f64>().ok();
    let told =
        number("kv_memory_bytes").zip(number("kv_tokens")).filter(|(_, tokens)| *tokens > 0.0);
    let setting = question.target.settings.get(question.method);
    let start = question.target.start();
    let (theory, reasons) = match start.zip(setting).map(|(start, kv)| theory(start, kv)) {
        Some(Ok(bytes)) => (bytes, Vec::new()),
        Some(Err(error)) => {
            (None, vec![format!("bytes of a token in theory are not known: {error:#}")])
        }
        None => (None, Vec::new()),
    };
    let mut proof = Proof {
        url: facts::shown(question.base),
        target: question.name.to_owned(),
        method: question.method.to_owned(),
        engine: question.target.engine.as_ref().map(|engine| engine.name.clone()),
        version,
        version_source,
        tells,
        kv_bytes_per_token: told.map(|(bytes, tokens)| bytes / tokens),
        kv_bytes_per_token_theory: theory,
        command: question.session.map(|session| session.words.shown()),
        process_arguments: question
            .session
            .and_then(|session| super::session::arguments(session.pid)),
        ready_after_s: question.session.map(|session| session.ready_after.as_secs_f64()),
        log: question.session.map(|session| session.log.display().to_string()),
        listener: question.session.map(|session| session.listener),
        verdict: Verdict::Valid,
        reasons,
    };
    if let Some(setting) = setting {
        check_type(&mut proof, setting);
    }
    if let Some(session) = question.session {
        check_flags(&mut proof, &session.words.method_flags, start);
    }
    check_bytes(&mut proof);
    check_model(&mut proof, &named, start);
    if log_left_out > 0 {
        let text =
            format!("{log_left_out} bytes in the middle of its log were not searched for facts");
        proof.doubt(Verdict::Valid, text);
    }
    Ok(proof)
}

fn version(
    question: &Question<'_>,
    tells: &BTreeMap<String, Option<String>>,
    command: impl FnOnce() -> Result<Option<String>, String>,
) -> Result<(String, &'static str), String> {
    let told = tells.get("version").cloned().flatten();
    if let Some(version) = told.or_else(|| question.version.map(str::to_owned)) {
        return Ok((version, "server"));
    }
    if let Some(version) = &question.target.version {
        return Ok((version.clone(), "scenario"));
    }
    if let Some(version) = command()? {
        return Ok((version, "command"));
    }
    Err(format!(
        "{}: expected the server to tell its version, got none: without it nothing is measured\n  hint: add `version = \"...\"` to the target, or name its `engine`",
        facts::shown(question.base)
    ))
}

/// What an engine tells.
#[derive(Default)]
struct Told {
    tells: BTreeMap<String, Option<String>>,
    /// Every model that it names.
    named: Vec<String>,
    /// Bytes of its log that were not looked at.
    log_left_out: u64,
}

async fn tells(question: &Question<'_>) -> Told {
    let Some(engine) = &question.target.engine else { return Told::default() };
    let mut named = Vec::new();
    let mut answers: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let mut told = BTreeMap::new();
    let log = read_log(question);
    for (name, place) in &engine.tells {
        let path = match place {
            Tells::Json { path, .. } => Some(path.as_str()),
            Tells::Label { .. } => Some(METRICS),
            Tells::Log { .. } => None,
        };
        if let Some(path) = path
            && !answers.contains_key(path)
        {
            let text = match place {
                Tells::Label { .. } => metrics_text(question).await,
                _ => facts::get_text(question.client, question.base, path).await,
            };
            answers.insert(path, text);
        }
        let text = path.and_then(|path| answers.get(path).cloned().flatten());
        let fact = fact(place, text.as_deref(), log.as_ref());
        if name == "model" {
            named.extend(fact.clone());
            named.extend(text.iter().flat_map(|text| others(place, text)));
        }
        told.insert(name.clone(), fact);
    }
    Told { tells: told, named, log_left_out: log.map_or(0, |log| log.left_out) }
}

/// The same fact of every entry of a list: a pointer such as `/data/0/id` names the first one only.
fn others(place: &Tells, text: &str) -> Vec<String> {
    let (Tells::Json { pointer, .. }, Ok(json)) = (place, serde_json::from_str::<Value>(text))
    else {
        return Vec::new();
    };
    let Some((list, rest)) = pointer.split_once("/0/") else { return Vec::new() };
    let entries = json.pointer(list).and_then(Value::as_array).map(Vec::as_slice);
    let told = |entry: &Value| in_words(entry.pointer(&format!("/{rest}"))?);
    entries.unwrap_or_default().iter().filter_map(told).collect()
}

/// In the place of a path: where the target has its metrics. No path of a URL is empty.
const METRICS: &str = "";
/// Where Prometheus metrics are on a server that is not known to have them elsewhere.
const METRICS_PATH: &str = "/metrics";

/// The target's own metrics; another port of the host is not sent the key.
async fn metrics_text(question: &Question<'_>) -> Option<String> {
    let Some(spec) = &question.target.metrics else {
        return facts::get_text(question.client, question.base, METRICS_PATH).await;
    };
    let (url, own) = metrics::place(question.base, spec);
    // The path is in the URL already.
    if own {
        return facts::get_text_at(question.client, &url).await;
    }
    facts::get_text_at(&http::client(None).ok()?, &url).await
}

/// The ends of the log, where something is told there; `None` where there is no log or it cannot be read.
fn read_log(question: &Question<'_>) -> Option<log::Ends> {
    let engine = question.target.engine.as_ref()?;
    engine.tells.values().find(|place| matches!(place, Tells::Log { .. }))?;
    log::ends(&question.session?.log, log::END_BYTES).ok()
}

fn fact(place: &Tells, text: Option<&str>, log: Option<&log::Ends>) -> Option<String> {
    match place {
        Tells::Json { pointer, .. } => {
            let json: Value = serde_json::from_str(text?).ok()?;
            in_words(json.pointer(pointer)?)
        }
        Tells::Label { metric, label } => label_of(text?, metric, label),
        Tells::Log { pattern, scale } => in_log(&log?.text, pattern, *scale),
    }
}

fn in_words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// The value of a label in the Prometheus text.
fn label_of(text: &str, metric: &str, label: &str) -> Option<String> {
    let pattern = format!(
        r#"(?m)^{}\{{(?:.*,)?{}="((?:[^"\\]|\\.)*)""#,
        regex::escape(metric),
        regex::escape(label)
    );
    let found = Regex::new(&pattern).ok()?.captures(text)?;
    Some(found.get(1)?.as_str().replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// The last match: an engine may correct itself while it starts.
fn in_log(log: &str, pattern: &str, scale: Option<f64>) -> Option<String> {
    let found = Regex::new(pattern).ok()?.captures_iter(log).last()?.get(1)?.as_str().to_owned();
    match scale {
        Some(scale) => Some((found.parse::<f64>().ok()? * scale).to_string()),
        None => Some(found),
    }
}

fn check_type(proof: &mut Proof, setting: &KvSetting) {
    if setting.told.is_empty() {
        return;
    }
    match proof.tells.get("kv_dtype").cloned().flatten() {
        None => proof.doubt(
            Verdict::Suspect,
            format!(
                "the engine did not tell how it keeps its KV cache (expected {})",
                setting.told.join(" or ")
            ),
        ),
        Some(told) if !setting.told.contains(&told) => proof.doubt(
            Verdict::Invalid,
            format!(
                "the engine keeps its KV cache as {told}, expected {}",
                setting.told.join(" or ")
            ),
        ),
        Some(_) => {}
    }
}

/// A wrapper's process runs elsewhere, and its words are the wrapper's. `flags` are those that select the method, with their
/// places filled.
fn check_flags(proof: &mut Proof, flags: &[String], start: Option<&Start>) {
    let (Some(words), Some(start)) = (&proof.process_arguments, start) else { return };
    let there = flags.is_empty() || words.windows(flags.len()).any(|some| some == flags);
    if start.wrapper.is_empty() && !there {
        let text = format!("the process runs without {}", flags.join(" "));
        proof.doubt(Verdict::Suspect, text);
    }
}

fn check_bytes(proof: &mut Proof) {
    let Some((told, theory)) = proof.kv_bytes_per_token.zip(proof.kv_bytes_per_token_theory) else {
        return;
    };
    if (told / theory - 1.0).abs() > BYTES_TOLERANCE {
        proof.doubt(
            Verdict::Suspect,
            format!("the engine keeps {told:.0} bytes for a cached token, theory says {theory:.0}"),
        );
    }
}

/// Ours must be among the models that the server names: by its exact name or path, or by the name that it was told to serve
/// it under. A server with adapters names several.
fn check_model(proof: &mut Proof, named: &[String], start: Option<&Start>) {
    let Some(start) = start.filter(|_| !named.is_empty()) else { return };
    let path = std::path::absolute(&start.model).ok();
    let ours = |told: &String| {
        *told == start.model
            || *told == start.served_name()
            || path.is_some() && std::path::absolute(told).ok() == path
    };
    if !named.iter().any(ours) {
        let text = format!("the engine serves {}, expected {}", named.join(", "), start.model);
        proof.doubt(Verdict::Suspect, text);
    }
}

impl Proof {
    fn doubt(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }
}

/// Bytes that a token takes in theory, where the model is a folder with a `config.json` or a GGUF file; `None` where the
/// model is elsewhere or its layers do not all keep every token.
///
/// # Errors
/// The file is there and cannot be read.
fn theory(start: &Start, setting: &KvSetting) -> anyhow::Result<Option<f64>> {
    let model = Path::new(&start.model);
    if model.is_file() {
        let shape = gguf::shape_of(model).with_context(|| model.display().to_string())?;
        return Ok(shape.and_then(|shape| {
            setting.bytes_of_heads(shape.kv_heads, shape.key_dim, shape.value_dim)
        }));
    }
    let path = model.join("config.json");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        text => text.with_context(|| path.display().to_string())?,
    };
    let config: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let bytes = || {
        let number = |key: &str| usize::try_from(config.get(key)?.as_u64()?).ok();
        let heads = number("num_attention_heads")?;
        let head_dim = number("head_dim").or_else(|| number("hidden_size")?.checked_div(heads))?;
        let kv_heads = number("num_key_value_heads").unwrap_or(heads);
        setting.bytes_per_token(number("num_hidden_layers")?, kv_heads, head_dim)
    };
    Ok(bytes())
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
