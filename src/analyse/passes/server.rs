//! What a cell was measured on: engine, version, device, model, as the manifest tells.

use serde_json::Value;

use super::Run;
use crate::{
    predict::{Source, Subject},
    scenario::{EngineTarget, PrefixCache, TargetKind, secret},
};

/// What stands where the run does not tell.
const UNKNOWN: &str = "unknown";

/// Words that tell an engine how many ranks share a layer: vLLM's, LMDeploy's and SGLang's.
const RANKS: [&str; 5] = ["--tensor-parallel-size", "-tp", "--tp", "--tp-size", "--tp_size"];

impl Run<'_> {
    /// The target of a cell, which carries the name of its variant, and that variant.
    fn engine_variant(&self, target: &str) -> Option<(&EngineTarget, &str)> {
        let targets = &self.scenario.as_ref()?.targets;
        targets.iter().find_map(|known| match &known.kind {
            TargetKind::Engine(engine) => {
                let mut variants = engine.variants(&known.name).into_iter();
                let (_, variant) = variants.find(|(name, _)| name == target)?;
                Some((engine.as_ref(), variant))
            }
            TargetKind::Kernel(_) => None,
        })
    }

    fn engine_target(&self, target: &str) -> Option<&EngineTarget> {
        self.engine_variant(target).map(|(engine, _)| engine)
    }

    /// What its server was started with beside the engine's own words and the method's: a server with other slots, threads or batches is
    /// another one, whatever its target is called.
    fn started_with(&self, target: &str) -> Option<String> {
        let (engine, variant) = self.engine_variant(target)?;
        let start = engine.start()?;
        let off = engine.engine.as_ref().filter(|_| engine.prefix_cache == PrefixCache::Off);
        let off = off.map(|engine| engine.prefix_cache.off_flags.as_slice()).unwrap_or_default();
        let variant = start.variants.get(variant).map(Vec::as_slice).unwrap_or_default();
        let program = start.program.as_slice();
        let words = [&start.wrapper, program, off, variant, &start.flags].concat();
        let env = start.env.iter();
        let env = env.map(|(name, value)| format!("{name}={}", secret::hidden_value(name, value)));
        let all: Vec<String> = env.chain(secret::hidden(&words)).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    /// Whether no prompt of this target can have been in a prefix cache unless its row says so.
    pub(super) fn has_no_prefix_cache(&self, target: &str) -> bool {
        self.engine_target(target).is_some_and(|it| it.prefix_cache == PrefixCache::Off)
    }

    /// What the server of a target said when it served a method.
    fn said(&self, target: &str, method: &str) -> Option<&Value> {
        let of = |said: &&Value| said["proof"]["target"].as_str() == Some(target);
        let mut servers = self.data.manifest.engines.values().filter(of);
        let exact = |said: &&Value| said["proof"]["method"].as_str() == Some(method);
        servers.clone().find(exact).or_else(|| servers.next())
    }

    /// Engine with its version; a server that told neither goes by the name of its target.
    pub(super) fn subject(&self, target: &str, method: &str) -> Subject {
        let said = self.said(target, method);
        let text = |path: &str| Some(said?.pointer(path)?.as_str()?.to_owned());
        let name = text("/proof/engine").or_else(|| text("/facts/owned_by"));
        let version = text("/proof/version").or_else(|| text("/facts/version"));
        let engine = match (name, version) {
            (Some(name), Some(version)) => format!("{name} {version}"),
            (Some(name), None) => name,
            (None, _) => target.to_owned(),
        };
        let asked = self.engine_target(target).and_then(|it| it.model.clone());
        Subject {
            source: Source::Engine,
            target: Some(target.to_owned()),
            engine,
            device: self.device(),
            model: asked.or_else(|| text("/facts/models/0")).unwrap_or_else(|| UNKNOWN.to_owned()),
            tensor_parallel: said.map_or(1, ranks),
            started_with: self.started_with(target),
        }
    }

    /// The accelerators that were watched, else the CPU of the machine that kvbench ran on. A server elsewhere is not seen.
    fn device(&self) -> String {
        let mut seen: Vec<&str> = Vec::new();
        let column = self.data.telemetry.column("device").and_then(|column| column.str());
        for device in column.iter().flat_map(|devices| devices.iter().flatten()) {
            if device != "host" && !seen.contains(&device) {
                seen.push(device);
            }
        }
        let cpu = || self.data.manifest.machine.cpu_model.clone();
        if seen.is_empty() { cpu().unwrap_or_else(|| UNKNOWN.to_owned()) } else { seen.join(", ") }
    }
}

/// Ranks that the server's command asks for; engines take one where nothing is said.
fn ranks(said: &Value) -> u32 {
    let words = match &said["proof"]["process_arguments"] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).collect(),
        _ => said["proof"]["command"].as_str().unwrap_or_default().split_whitespace().collect(),
    };
    let words: Vec<&str> = words;
    let told = words.iter().enumerate().find_map(|(at, word)| match word.split_once('=') {
        Some((flag, value)) if RANKS.contains(&flag) => value.parse().ok(),
        _ if RANKS.contains(word) => words.get(at + 1)?.parse().ok(),
        _ => None,
    });
    told.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::ranks;

    #[test]
    fn ranks_are_read_off_the_command() {
        let said = json!({"proof": {"process_arguments": ["vllm", "--tensor-parallel-size", "4"]}});
        assert_eq!(ranks(&said), 4);
        assert_eq!(ranks(&json!({"proof": {"command": "lmdeploy serve --tp=2"}})), 2);
        assert_eq!(ranks(&json!({"proof": {"command": "llama-server -m x"}})), 1);
    }
}
