//! Workloads that continue the answers of a finished run, to ask how willing the model is to stop there.

use std::path::{Path, PathBuf};

use super::{
    Endpoint, EngineTarget, Scenario, TargetKind, Workload, error::Fault, value::Sp, wire,
};

/// Answers of a finished run, given to the model up to some places: each place is one request for one token, of which only the
/// log-probability of the stop token is kept. Every method is asked about the very same texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Forced {
    /// Folder of the run.
    pub run: PathBuf,
    /// Its table of requests.
    pub rows: PathBuf,
    /// Workload of that run; `None` = the only one whose answers end by themselves.
    pub workload: Option<String>,
    /// Method of that run whose answers are continued; `None` = its baseline.
    pub method: Option<String>,
    /// Places in each answer, evenly over its characters, the last at its end.
    pub positions: usize,
    /// Answers to continue, in the run's order; `None` = all that ended by themselves.
    pub n_prompts: Option<usize>,
    /// The token by which the model ends an answer.
    pub stop: StopToken,
    /// How many of the likeliest tokens the server is asked to list.
    pub top: u32,
}

/// The token by which a model ends an answer, as servers may name it; at least one name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopToken {
    /// Its text, such as `</s>`.
    pub text: Option<String>,
    /// Its id in the vocabulary.
    pub id: Option<i64>,
}

/// How an engine lists the log-probabilities of the likeliest tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Most tokens that it lists.
    pub most: u32,
    /// Whether it can name a token by its text.
    pub by_text: bool,
    /// Whether it can name a token by its id.
    pub by_id: bool,
    /// Request fields that make it name tokens by their ids, sent where the stop token's id is known.
    pub id_request: std::collections::BTreeMap<String, serde_json::Value>,
}

/// What a list of log-probabilities names a token by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TokenName {
    /// By its text.
    Text,
    /// By its id.
    Id,
}

pub(super) fn build(name: &Sp<String>, wire: &wire::Forced) -> Result<Workload, Fault> {
    let not_empty = |empty: bool, key: &str, at: usize, example: &str| {
        if !empty {
            return Ok(());
        }
        let message = format!("expected `{key}` to be named, got an empty text");
        Err(Fault::new(at, message, format!("for example `{example}`")))
    };
    let is_empty = |path: &Path| path.as_os_str().is_empty();
    not_empty(is_empty(&wire.run.value), "run", wire.run.at, "results/20260101-120000-lengths")?;
    if let Some(text) = &wire.stop_token {
        not_empty(text.value.is_empty(), "stop_token", text.at, "</s>")?;
    }
    if wire.stop_token.is_none() && wire.stop_token_id.is_none() {
        let message = format!(
            "expected `stop_token` or `stop_token_id` in `{}`, got neither: which token ends an answer is not guessed",
            name.value
        );
        let hint = "add what the model's `generation_config.json` calls `eos_token_id`, or llama-server's `/props` `eos_token`";
        return Err(Fault::new(name.at, message, hint));
    }
    Ok(Workload::Forced(Forced {
        run: wire.run.value.clone(),
        rows: wire.run.value.join("requests.parquet"),
        workload: wire.workload.clone(),
        method: wire.method.clone(),
        positions: wire.positions.usize(),
        n_prompts: wire.n_prompts.map(|n| n.usize()),
        stop: StopToken {
            text: wire.stop_token.as_ref().map(|text| text.value.clone()),
            id: wire.stop_token_id.map(|id| id.0),
        },
        top: wire.top.u32(),
    }))
}

/// Every target must be able to continue a text and to list log-probabilities.
pub(super) fn fit_targets(scenario: &Scenario, file: &wire::File) -> Result<(), Fault> {
    for ((name, _), workload) in file.workload.0.iter().zip(&scenario.workloads) {
        let Workload::Forced(forced) = &workload.kind else { continue };
        for target in &scenario.targets {
            let wrong = match &target.kind {
                TargetKind::Kernel(_) => Some((
                    "engine targets only, got the kernel target".to_owned(),
                    "kernels make no probabilities: move one of the two into a scenario of its own"
                        .to_owned(),
                )),
                TargetKind::Engine(engine) => unfit(engine, forced),
            };
            if let Some((wanted, hint)) = wrong {
                let message = format!(
                    "expected, for the forced answers of `{}`, {wanted} `{}`",
                    name.value, target.name
                );
                return Err(Fault::new(name.at, message, hint));
            }
        }
    }
    Ok(())
}

/// What is wrong with a target, in words that its name follows, and the remedy.
fn unfit(target: &EngineTarget, forced: &Forced) -> Option<(String, String)> {
    let said = |wanted: String, hint: &str| Some((wanted, hint.to_owned()));
    if target.endpoint == Endpoint::Chat {
        return said(
            "`endpoint = \"completions\"`, got `chat` on the target".to_owned(),
            "a chat endpoint ends each message itself and cannot go on with a begun answer: set `endpoint = \"completions\"`, and continue a run that had it as well",
        );
    }
    if target.ignore_eos {
        return said(
            "an engine that may stop, got `ignore_eos = true` on the target".to_owned(),
            "remove `ignore_eos`: it takes the stop token out of the probabilities",
        );
    }
    let engine = target.engine.as_ref()?;
    let Some(logprobs) = &engine.logprobs else {
        return said(
            format!(
                "an engine that is known to list log-probabilities, got `{}` on the target",
                engine.name
            ),
            "add `[engine.NAME.logprobs]` with `most` and `named_by` if its completions API takes `logprobs`",
        );
    };
    if forced.top > logprobs.most {
        return said(
            format!(
                "`top` to be at most {} (what {} lists), got {} for the target",
                logprobs.most, engine.title, forced.top
            ),
            "lower `top`",
        );
    }
    let named = forced.stop.id.is_some() && logprobs.by_id
        || forced.stop.text.is_some() && logprobs.by_text;
    if !named {
        let key = if logprobs.by_id { "stop_token_id" } else { "stop_token" };
        return said(
            format!("`{key}`, by which {} names tokens, got none for the target", engine.title),
            "add it: a stop token under another name would be taken for one that is not listed",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
name = "x"
baseline = "f16"
[target.l.engine]
engine = "llamacpp"
model = "m.gguf"
endpoint = "completions"
[method.f16.engine]
kv = "f16"
[workload.stops.forced]
run = "results/r"
stop_token_id = 2
[load.c.closed]
concurrency = [1]
"#;

    #[test]
    fn defaults_and_keys() {
        let scenario = Scenario::parse(TEXT, "test").unwrap();
        let Workload::Forced(forced) = &scenario.workloads[0].kind else { panic!("forced") };
        assert_eq!((forced.positions, forced.top, forced.n_prompts), (8, 20, None));
        assert_eq!(forced.stop, StopToken { text: None, id: Some(2) });
        assert_eq!(
            scenario.workloads[0].kind.file(),
            Some(Path::new("results/r/requests.parquet"))
        );
        assert!(scenario.has_fixed_lengths("l", "stops"), "one token has no length to speak of");
        let full = TEXT.replace(
            "stop_token_id = 2",
            "stop_token_id = 2\nstop_token = \"</s>\"\nworkload = \"w\"\nmethod = \"q8\"\npositions = 3\nn_prompts = 9\ntop = 500",
        );
        let scenario = Scenario::parse(&full, "test").unwrap();
        let Workload::Forced(forced) = &scenario.workloads[0].kind else { panic!("forced") };
        assert_eq!((forced.workload.as_deref(), forced.method.as_deref()), (Some("w"), Some("q8")));
        assert_eq!((forced.positions, forced.n_prompts, forced.top), (3, Some(9), 500));
    }

    #[track_caller]
    fn refused(from: &str, to: &str, wanted: &[&str]) {
        assert!(TEXT.contains(from), "{from}");
        let error = Scenario::parse(&TEXT.replace(from, to), "test").unwrap_err().to_string();
        for part in wanted {
            assert!(error.contains(part), "{part:?} not in {error}");
        }
        assert!(error.contains("hint: "), "{error}");
    }

    #[test]
    fn what_cannot_tell_is_refused_with_the_remedy() {
        let id = "stop_token_id = 2";
        refused(id, "", &["`stop_token` or `stop_token_id`", "not guessed", "eos_token"]);
        refused(id, "stop_token = \"</s>\"", &["`stop_token_id`, by which llama.cpp names tokens"]);
        refused(id, "stop_token_id = 2\ntop = 0", &["from 1 to 1000"]);
        refused(id, "stop_token_id = 2\nstop_token = \"\"", &["`stop_token` to be named"]);
        refused("\"results/r\"", "\"\"", &["`run` to be named"]);
        refused("\"completions\"", "\"chat\"", &["got `chat`", "set `endpoint = \"completions\"`"]);
        refused(
            "endpoint = \"completions\"",
            "endpoint = \"completions\"\nignore_eos = true",
            &["`ignore_eos = true`", "remove `ignore_eos`"],
        );
        let vllm = TEXT.replace("llamacpp", "vllm").replace("kv = \"f16\"", "kv = \"auto\"");
        let most = vllm.replace(id, "stop_token_id = 2\ntop = 21");
        let error = Scenario::parse(&most, "test").unwrap_err().to_string();
        assert!(error.contains("at most 20 (what vLLM lists), got 21"), "{error}");
        Scenario::parse(&vllm, "test").unwrap();
        Scenario::parse(&vllm.replace(id, "stop_token = \"</s>\""), "test").unwrap();
        let silent = TEXT.replace("llamacpp", "lmdeploy").replace("kv = \"f16\"", "kv = \"auto\"");
        let error = Scenario::parse(&silent, "test").unwrap_err().to_string();
        assert!(error.contains("known to list log-probabilities, got `lmdeploy`"), "{error}");
    }

    #[test]
    fn kernels_are_refused() {
        let kernel =
            format!("{TEXT}[target.cpu.kernel]\nmodel = \"llama-2-7b\"\n[method.fp16.fp16]\n")
                .replace("baseline = \"f16\"", "baseline = \"fp16\"")
                .replace("[target.l.engine]", "[target.l.engine]\nmethods = [\"fp16\"]")
                .replace("[method.f16.engine]\nkv = \"f16\"\n", "");
        let error = Scenario::parse(&kernel, "test").unwrap_err().to_string();
        assert!(error.contains("got the kernel target `cpu`"), "{error}");
    }
}
