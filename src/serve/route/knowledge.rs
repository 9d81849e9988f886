//! What a policy knows beside the state of engines, read from files that may change while the proxy runs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

use crate::{
    predict::{
        ModelFile, StepTimes, Work,
        length::Model as LengthModel,
        model::{Model, Steps},
        simulate::{LinearTimes, Times},
    },
    route::{Member, Pool, lengths::Lengths, risk::Risks},
    scenario::proxy::{Proxy, ProxyEngine, ProxyLength, ProxySpeed},
};

/// Pool, lengths and risks as of one reading of the files.
#[derive(Debug)]
pub(super) struct Knowledge {
    /// The engines, with what their steps take.
    pub(super) pool: Pool,
    /// Expected lengths.
    pub(super) lengths: Lengths,
    /// Counts of a guard.
    pub(super) risks: Option<Arc<Risks>>,
}

/// A fitted model of both phases.
struct Fitted {
    prefill: Model,
    decode: Model,
}

impl StepTimes for Fitted {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        Steps { prefill: &self.prefill, decode: &self.decode }.step_s(prefill, decode)
    }
}

impl Knowledge {
    /// Reads every file that a configuration names.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be, with its path.
    pub(super) fn read(proxy: &Proxy) -> anyhow::Result<Self> {
        let engines = proxy.engines.iter().map(member).collect::<anyhow::Result<_>>()?;
        let lengths = match &proxy.length {
            ProxyLength::Constant(tokens) => Lengths::constant(*tokens)?,
            ProxyLength::Model(path) => {
                let model = LengthModel::from_json(&text(path)?, &path.display().to_string())?;
                Lengths::model(model, &proxy.methods).with_context(|| path.display().to_string())?
            }
        };
        let risks = proxy.risks.as_deref().map(risks).transpose()?;
        let (methods, baseline) = (proxy.methods.clone(), proxy.baseline);
        Ok(Self { pool: Pool { methods, baseline, engines }, lengths, risks })
    }
}

/// The files that [`Knowledge::read`] reads.
pub(super) fn files(proxy: &Proxy) -> Vec<PathBuf> {
    let speeds = proxy.engines.iter().filter_map(|engine| match &engine.speed {
        Some(ProxySpeed::Model { path, .. }) => Some(path.clone()),
        _ => None,
    });
    let lengths = match &proxy.length {
        ProxyLength::Model(path) => Some(path.clone()),
        ProxyLength::Constant(_) => None,
    };
    let mut files: Vec<PathBuf> = speeds.chain(lengths).chain(proxy.risks.clone()).collect();
    files.sort();
    files.dedup();
    files
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!(
            "{}: cannot be read\n  hint: the path is relative to the working directory",
            path.display()
        )
    })
}

fn risks(path: &Path) -> anyhow::Result<Arc<Risks>> {
    Ok(Arc::new(Risks::from_json(&text(path)?, &path.display().to_string())?))
}

fn member(engine: &ProxyEngine) -> anyhow::Result<Member> {
    let times: Times = match &engine.speed {
        Some(ProxySpeed::Linear(linear)) => Arc::new(*linear),
        Some(ProxySpeed::Model { path, subject, method }) => {
            Arc::new(fitted(path, subject, method)?)
        }
        // The configuration was checked: no rule that looks at times comes without them.
        None => Arc::new(UNASKED),
    };
    Ok(Member { name: engine.name.clone(), method: engine.method, config: engine.config, times })
}

/// Times that no rule asks for.
const UNASKED: LinearTimes = LinearTimes {
    step_s: 0.0,
    per_sequence_s: 0.0,
    per_kv_token_s: 0.0,
    per_prompt_s: 0.0,
    per_prompt_token_s: 0.0,
    per_pair_s: 0.0,
};

fn fitted(path: &Path, subject: &str, method: &str) -> anyhow::Result<Fitted> {
    let origin = path.display().to_string();
    let file = ModelFile::parse(&text(path)?, &origin)?;
    let steps = file.steps(subject, method).with_context(|| {
        format!(
            "{origin}: expected prefill and decode of method `{method}` on a subject called `{subject}`, got none\n  \
             hint: `kvbench predict throughput` lists what a file holds"
        )
    })?;
    Ok(Fitted { prefill: steps.prefill.clone(), decode: steps.decode.clone() })
}
