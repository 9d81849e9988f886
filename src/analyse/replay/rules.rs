//! The rules of the engine that served a cell, from the words it was started with.

use anyhow::bail;
use serde_json::Value;

use crate::{
    predict::simulate::{EngineConfig, Mixing, Tiles},
    record::Manifest,
    scenario::Scenario,
};

/// Rules that the user states, in the place of what the run tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stated {
    /// Most sequences at a time.
    pub max_num_seqs: Option<usize>,
    /// Most tokens of a step.
    pub max_batched_tokens: Option<u64>,
    /// How prompts and decoding share steps.
    pub mixing: Option<Mixing>,
    /// Tokens of the KV cache.
    pub kv_tokens: Option<u64>,
    /// Tokens of a block.
    pub block_tokens: Option<u64>,
}

/// Rules, and what has to be said about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    /// The rules.
    pub(super) config: EngineConfig,
    /// Tokens of the cache that the slots of llama-server share. No rule of the simulation: where they are full the server ends all
    /// answers with an error, and nothing waits or is thrown out as it would in a pool of blocks.
    pub(super) shared_tokens: Option<u64>,
    /// What they leave out.
    pub(super) notes: Vec<String>,
}

/// Flags of an engine, each with all its names, and its own value where none is given.
struct Known {
    engine: &'static str,
    seqs: (&'static [&'static str], Option<u64>),
    step: (&'static [&'static str], Option<u64>),
    pass: (&'static [&'static str], Option<u64>),
    block: (&'static [&'static str], u64),
    /// Whether requests wait for blocks of a pool. llama.cpp gives each slot its context, and a prompt that does not fit is refused;
    /// for slots that share one, see [`Rules::shared_tokens`].
    has_pool: bool,
    mixing: fn(u64) -> Mixing,
    chunked_prefill: bool,
}

/// How many slots llama-server has.
const SLOTS: [&str; 2] = ["-np", "--parallel"];

/// llama-server: its help at the commit that `scenarios/engines.toml` names. vLLM's limits depend on the device, LMDeploy's on its
/// version, so they have no default here.
const KNOWN: [Known; 3] = [
    Known {
        engine: "llamacpp",
        seqs: (&SLOTS, None),
        step: (&["-b", "--batch-size"], Some(2048)),
        pass: (&["-ub", "--ubatch-size"], Some(512)),
        block: (&[], 1),
        has_pool: false,
        mixing: |ubatch_tokens| Mixing::Slots { ubatch_tokens },
        chunked_prefill: true,
    },
    Known {
        engine: "vllm",
        seqs: (&["--max-num-seqs"], None),
        step: (&["--max-num-batched-tokens"], None),
        pass: (&[], Some(0)),
        block: (&["--block-size"], 16),
        has_pool: true,
        mixing: |_| Mixing::DecodeFirst,
        chunked_prefill: true,
    },
    Known {
        engine: "lmdeploy",
        seqs: (&["--max-batch-size"], None),
        step: (&["--max-prefill-token-num"], None),
        pass: (&[], Some(0)),
        block: (&["--cache-block-seq-len"], 64),
        has_pool: true,
        mixing: |_| Mixing::PrefillFirst,
        chunked_prefill: true,
    },
];

/// Rules of the engine that served a method on a target.
///
/// # Errors
/// A limit that neither the run nor the user tells.
pub(super) fn rules(
    manifest: &Manifest,
    (target, method): (&str, &str),
    stated: &Stated,
) -> anyhow::Result<Rules> {
    let said = said(manifest, target, method);
    let engine = said.and_then(|said| said["proof"]["engine"].as_str());
    let known = KNOWN.iter().find(|known| Some(known.engine) == engine);
    let words = said.map(words).unwrap_or_default();
    let flag = |(names, own): (&[&str], Option<u64>)| number(&words, names).or(own);
    let told = |of: fn(&Known) -> (&'static [&'static str], Option<u64>)| {
        known.and_then(|known| flag(of(known)))
    };
    let seqs = stated.max_num_seqs.or(told(|k| k.seqs).and_then(|n| usize::try_from(n).ok()));
    let pass = told(|k| k.pass);
    let mixing = stated.mixing.or(known.zip(pass).map(|(known, pass)| (known.mixing)(pass)));
    let (Some(max_num_seqs), Some(mixing)) = (seqs, mixing) else {
        let (what, hint) = match seqs {
            None => ("how many sequences it computes at a time", "--max-num-seqs N"),
            Some(_) => ("how it mixes prompts and decoding", "--mixing decode-first"),
        };
        bail!(
            "{target}, {method}: expected the run to tell {what}, got nothing of it for {}\n  hint: say it with `{hint}`",
            engine.unwrap_or("an unknown engine")
        );
    };
    let block_tokens = stated
        .block_tokens
        .or(known.and_then(|k| flag((k.block.0, Some(k.block.1)))))
        .unwrap_or(16);
    if let Some(tokens) = stated.kv_tokens.filter(|tokens| *tokens < block_tokens) {
        bail!(
            "{target}, {method}: expected a KV cache of a block ({block_tokens} tokens) or more, got {tokens} tokens\n  hint: give more with `--kv-tokens N`, or smaller blocks with `--block-tokens N`"
        );
    }
    let pool = said.filter(|_| known.is_some_and(|k| k.has_pool)).and_then(kv_tokens);
    let max_batched_tokens = stated.max_batched_tokens.or(told(|k| k.step));
    let config = EngineConfig {
        max_num_seqs,
        max_batched_tokens,
        chunked_prefill: known.is_none_or(|k| k.chunked_prefill) && max_batched_tokens.is_some(),
        mixing,
        kv_blocks: stated.kv_tokens.or(pool).map(|tokens| (tokens / block_tokens).max(1)),
        block_tokens,
        kv_budget: budget(manifest, method),
        // What a method of ours keeps is chosen when the whole prompt has been read.
        evicts_after_prefill: true,
        context_tokens: context(said, engine, &words, max_num_seqs),
        tiles: tiles(engine, &words),
    };
    config.check().map_err(|error| anyhow::anyhow!("{target}, {method}: {error}"))?;
    let slots_share = engine == Some("llamacpp") && is_unified(&words);
    let size = || number(&words, &["-c", "--ctx-size"]).filter(|tokens| *tokens > 0);
    let shared_tokens = size().or_else(|| said.and_then(kv_tokens)).filter(|_| slots_share);
    let notes = notes(&config, engine, slots_share.then_some(shared_tokens));
    Ok(Rules { config, shared_tokens, notes })
}

/// `shared` is the size of the cache that slots of llama-server share, `None` where they share none.
fn notes(config: &EngineConfig, engine: Option<&str>, shared: Option<Option<u64>>) -> Vec<String> {
    let mut notes = Vec::new();
    if engine == Some("llamacpp") && config.max_num_seqs > 1 {
        match shared {
            None => notes.push("llama-server is not known to have run with -kvu: without, it cuts a step into passes of neighbouring slots, which is simulated as one pass".to_owned()),
            Some(None) => notes.push("the slots of llama-server share one cache, and the run does not tell its size (-c): whether prompts and answers fit is not looked at".to_owned()),
            Some(Some(_)) => {}
        }
    }
    if config.max_batched_tokens.is_none() {
        notes.push("no limit of tokens a step is known, so prompts are never cut: say --max-batched-tokens where there is one".to_owned());
    }
    if config.kv_blocks.is_none() && engine != Some("llamacpp") {
        notes.push("the size of the KV cache is not known, so nothing waits for blocks: say --kv-tokens where they run short".to_owned());
    }
    notes
}

/// Whether all slots share one cache: by the last word on it, else where the server itself chooses how many slots it has.
fn is_unified(words: &[String]) -> bool {
    let told = |word: &String| match word.as_str() {
        "-kvu" | "--kv-unified" => Some(true),
        "-no-kvu" | "--no-kv-unified" => Some(false),
        _ => None,
    };
    let own = || !words.is_empty() && number(words, &SLOTS).is_none();
    words.iter().rev().find_map(told).unwrap_or_else(own)
}

/// What the server of a target said when it served a method.
fn said<'a>(manifest: &'a Manifest, target: &str, method: &str) -> Option<&'a Value> {
    let of = |said: &&Value| said["proof"]["target"].as_str() == Some(target);
    let mut servers = manifest.engines.values().filter(of);
    let exact = |said: &&Value| said["proof"]["method"].as_str() == Some(method);
    servers.clone().find(exact).or_else(|| servers.next())
}

fn words(said: &Value) -> Vec<String> {
    match &said["proof"]["process_arguments"] {
        Value::Array(words) => words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => {
            let command = said["proof"]["command"].as_str().unwrap_or_default();
            command.split_whitespace().map(str::to_owned).collect()
        }
    }
}

/// The word behind a flag, `-np 4` or `--parallel=4`; the last one counts, as engines read it.
fn word<'a>(words: &'a [String], names: &[&str]) -> Option<&'a str> {
    let at = |(at, word): (usize, &'a String)| match word.split_once('=') {
        Some((flag, value)) if names.contains(&flag) => Some(value),
        _ if names.contains(&word.as_str()) => words.get(at + 1).map(String::as_str),
        _ => None,
    };
    words.iter().enumerate().rev().find_map(at)
}

/// The number behind a flag.
fn number(words: &[String], names: &[&str]) -> Option<u64> {
    word(words, names)?.parse().ok()
}

fn kv_tokens(said: &Value) -> Option<u64> {
    let told = said["proof"]["tells"]["kv_tokens"].as_str()?;
    told.parse::<f64>().ok().filter(|tokens| *tokens >= 1.0).map(|tokens| tokens as u64)
}

/// Names of the types of keys and of values, and what ggml computes in tiles: both of them f16, its own choice, or both f32.
const TYPES: [&[&str]; 2] = [&["-ctk", "--cache-type-k"], &["-ctv", "--cache-type-v"]];
const TILED: [&str; 2] = ["f16", "f32"];

/// Tiles of llama.cpp's flash attention on a CPU over one cache for all slots. With layers on a GPU (`-ngl`), without flash attention, or
/// with a cache a slot, attention is computed otherwise.
fn tiles(engine: Option<&str>, words: &[String]) -> Option<Tiles> {
    let [keys, values] = TYPES.map(|names| word(words, names).unwrap_or("f16"));
    let has_flash =
        !matches!(word(words, &["-fa", "--flash-attn"]), Some("off" | "0" | "disabled"));
    let on_cpu = number(words, &["-ngl", "--gpu-layers", "--n-gpu-layers"]).unwrap_or(0) == 0;
    let tiled = keys == values && TILED.contains(&keys) && has_flash && on_cpu;
    (engine == Some("llamacpp") && tiled && is_unified(words)).then_some(Tiles::GGML_CPU)
}

/// Tokens of one sequence, as the server told or as its words have it. llama-server gives every slot all of a shared cache, else an
/// equal part of it, in whole lots of 256 (`llama_context`); a model that was trained on less allows less, which only the server tells.
fn context(
    said: Option<&Value>,
    engine: Option<&str>,
    words: &[String],
    seqs: usize,
) -> Option<u64> {
    let told = said.and_then(|said| said["proof"]["tells"]["max_model_len"].as_str());
    if let Some(told) = told.and_then(|told| told.parse().ok()).filter(|tokens| *tokens > 0) {
        return Some(told);
    }
    match engine {
        Some("llamacpp") => {
            let all = number(words, &["-c", "--ctx-size"]).filter(|tokens| *tokens > 0)?;
            let part = if is_unified(words) { all } else { all / (seqs as u64).max(1) };
            Some(part.next_multiple_of(256))
        }
        Some("vllm") => number(words, &["--max-model-len"]),
        Some("lmdeploy") => number(words, &["--session-len"]),
        _ => None,
    }
}

/// Most tokens that a method of ours keeps; what an engine evicts under a method of its own is not known here.
fn budget(manifest: &Manifest, method: &str) -> Option<u64> {
    let scenario = Scenario::parse(&manifest.scenario.text, "the run's scenario").ok()?;
    let named = scenario.methods.iter().find(|named| named.name == method)?;
    let most = named.method.as_ref()?.kept_tokens(usize::MAX);
    (most < usize::MAX).then_some(most as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::manifest::example;

    fn told(engine: &str, words: &[&str]) -> Manifest {
        let mut manifest = example("r", &["example/t/f16/w/closed-1/0"]);
        let proof = json!({
            "target": "t", "method": "f16", "engine": engine, "process_arguments": words,
            "tells": { "kv_tokens": "4096" }
        });
        manifest.engines.insert("t/f16".to_owned(), json!({ "proof": proof }));
        manifest
    }

    fn of(manifest: &Manifest, stated: &Stated) -> anyhow::Result<Rules> {
        rules(manifest, ("t", "f16"), stated)
    }

    #[test]
    fn flags_are_rules() {
        let words = ["llama-server", "-np", "2", "-c", "2048", "-np", "4", "-ub=256", "-kvu"];
        let Rules { config, notes, .. } =
            of(&told("llamacpp", &words), &Stated::default()).unwrap();
        let expected = EngineConfig {
            max_num_seqs: 4,
            max_batched_tokens: Some(2048),
            chunked_prefill: true,
            mixing: Mixing::Slots { ubatch_tokens: 256 },
            kv_blocks: None,
            block_tokens: 1,
            kv_budget: None,
            evicts_after_prefill: true,
            context_tokens: Some(2048),
            tiles: Some(Tiles::GGML_CPU),
        };
        assert_eq!((config, notes.len()), (expected, 0));
        let split = of(&told("llamacpp", &words[..7]), &Stated::default()).unwrap();
        assert!(split.notes[0].contains("-kvu"), "{:?}", split.notes);
        let vllm = ["vllm", "serve", "--max-num-seqs", "8", "--max-num-batched-tokens=512"];
        let Rules { config, .. } = of(&told("vllm", &vllm), &Stated::default()).unwrap();
        assert_eq!((config.max_num_seqs, config.kv_blocks), (8, Some(256)));
        assert_eq!((config.mixing, config.chunked_prefill), (Mixing::DecodeFirst, true));
    }

    #[test]
    fn what_nobody_tells_has_to_be_said() {
        let error = of(&told("vllm", &["vllm"]), &Stated::default()).unwrap_err().to_string();
        assert!(error.contains("--max-num-seqs") && error.starts_with("t, f16:"), "{error}");
        let unknown = told("novel", &["novel"]);
        let seqs = Stated { max_num_seqs: Some(3), ..Stated::default() };
        let error = of(&unknown, &seqs).unwrap_err().to_string();
        assert!(error.contains("--mixing"), "{error}");
        let stated = Stated {
            mixing: Some(Mixing::PrefillFirst),
            kv_tokens: Some(160),
            block_tokens: Some(32),
            ..seqs
        };
        let Rules { config, notes, .. } = of(&unknown, &stated).unwrap();
        assert_eq!((config.kv_blocks, config.max_batched_tokens, notes.len()), (Some(5), None, 1));
        let small = Stated { kv_tokens: Some(31), ..stated };
        let error = of(&unknown, &small).unwrap_err().to_string();
        assert!(error.contains("a block (32 tokens) or more, got 31 tokens"), "{error}");
        let tight = Stated { max_batched_tokens: Some(2), ..stated };
        assert!(of(&unknown, &tight).unwrap_err().to_string().contains("max_batched_tokens"));
    }

    #[test]
    fn a_sequence_has_its_context() {
        let of = |engine: &str, words: &[&str]| {
            let stated = Stated { max_num_seqs: Some(4), ..Stated::default() };
            of(&told(engine, words), &stated).unwrap().config.context_tokens
        };
        assert_eq!(of("llamacpp", &["llama-server", "-c", "2048", "-np", "4"]), Some(512));
        assert_eq!(of("llamacpp", &["llama-server", "-c", "2000", "-np", "4", "-kvu"]), Some(2048));
        assert_eq!(of("llamacpp", &["llama-server", "-np", "4"]), None, "the model's own");
        assert_eq!(of("vllm", &["vllm", "--max-model-len=900"]), Some(900));
        let mut said = told("llamacpp", &["llama-server", "-c", "2048", "-np", "4", "-kvu"]);
        said.engines.get_mut("t/f16").unwrap()["proof"]["tells"]["max_model_len"] = json!("512");
        let rules = rules(&said, ("t", "f16"), &Stated::default()).unwrap();
        assert_eq!(rules.config.context_tokens, Some(512), "what the server told comes first");
    }

    #[test]
    fn slots_may_share_one_cache() {
        let of = |words: &[&str]| {
            let words = [&["llama-server", "-c", "2048"][..], words].concat();
            let stated = Stated { max_num_seqs: Some(4), ..Stated::default() };
            of(&told("llamacpp", &words), &stated).unwrap()
        };
        let shared = of(&["-np", "4", "-kvu"]);
        assert_eq!((shared.shared_tokens, shared.config.kv_blocks), (Some(2048), None));
        assert_eq!(of(&["-np", "4"]).shared_tokens, None);
        assert_eq!(of(&["-kvu", "-np", "4", "--no-kv-unified"]).shared_tokens, None);
        assert_eq!(of(&[]).shared_tokens, Some(2048), "its own default where it chooses -np");
        let logged = of(&["-np", "4", "-kvu", "-c", "0"]);
        assert_eq!((logged.shared_tokens, logged.notes.len()), (Some(4096), 0));
        let mut silent = told("llamacpp", &["llama-server", "-np", "4", "-kvu"]);
        silent.engines.get_mut("t/f16").unwrap()["proof"]["tells"] = json!({});
        let silent = rules(&silent, ("t", "f16"), &Stated::default()).unwrap();
        assert!(silent.notes[0].contains("does not tell its size"), "{:?}", silent.notes);
    }
}
