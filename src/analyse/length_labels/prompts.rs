//! The prompts of a run, built again and known by their hash.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::{
    plan::{self, Arrival, Task},
    record::Manifest,
    scenario::{DatasetFormat, Endpoint, Scenario, Workload},
    workload::{self, dataset::sha256_hex, sha256_file},
};

/// A prompt as the scenario makes it.
pub(super) struct Prompt {
    /// What is said to the model, without a chat template.
    pub(super) text: String,
    /// The data set that the row names, else the workload.
    pub(super) task: String,
}

/// Prompts by workload and sha256 of what is sent.
pub(super) struct Prompts(HashMap<(String, String), Prompt>);

impl Prompts {
    /// Builds the prompts of the workloads that were sent.
    pub(super) fn of(
        manifest: &Manifest,
        scenario: &Scenario,
        sent: &BTreeSet<&str>,
        files: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let mut prompts = Self(HashMap::new());
        for named in scenario.workloads.iter().filter(|named| sent.contains(named.name.as_str())) {
            let kind = placed(manifest, &named.kind, files)?;
            let tasks = tasks(&kind)?;
            for (endpoint, arrival, seed) in lists(scenario, &named.name, &kind) {
                let whole = whole(&kind);
                for request in workload::build(whole.as_ref().unwrap_or(&kind), &arrival, seed)? {
                    let key =
                        (named.name.clone(), sha256_hex(request.text_for(endpoint).as_bytes()));
                    let task = tasks.get(&request.sample_id).unwrap_or(&named.name);
                    let prompt = || Prompt { text: request.prompt.clone(), task: task.clone() };
                    if request.turn == 0 {
                        prompts.0.entry(key).or_insert_with(prompt);
                    }
                }
            }
        }
        Ok(prompts)
    }

    pub(super) fn find(&self, workload: &str, sha256: &str) -> Option<&Prompt> {
        self.0.get(&(workload.to_owned(), sha256.to_owned()))
    }
}

/// A data set that needs no tokenizer is built whole: every repeat's prompts are among its rows, whichever were drawn.
fn whole(kind: &Workload) -> Option<Workload> {
    let mut kind = kind.clone();
    match &mut kind {
        Workload::Dataset { n_requests, tokens: None, .. } => *n_requests = None,
        _ => return None,
    }
    Some(kind)
}

/// The lists of requests that hold all prompts of a workload: each as it is made for an endpoint by a seed.
fn lists(scenario: &Scenario, workload: &str, kind: &Workload) -> Vec<(Endpoint, Arrival, u64)> {
    let is_whole = whole(kind).is_some() || draws_nothing(kind);
    let mut seen: Vec<(Endpoint, u64)> = Vec::new();
    let mut lists = Vec::new();
    for cell in plan::expand(scenario).iter().filter(|cell| cell.workload == workload) {
        let Task::Serve { target, arrival, .. } = &cell.task else { continue };
        let seed = if is_whole { 0 } else { plan::cell_seed(scenario.seed, cell) };
        if seen.contains(&(target.endpoint, seed)) {
            continue;
        }
        seen.push((target.endpoint, seed));
        // Times do not matter here; a trace's own are the only ones that its requests can have.
        let arrival = match arrival {
            Arrival::Replay { speed } => Arrival::Replay { speed: *speed },
            _ => Arrival::Closed { concurrency: 1 },
        };
        lists.push((target.endpoint, arrival, seed));
    }
    lists
}

/// Every row is sent, so that the seed decides their order alone.
fn draws_nothing(kind: &Workload) -> bool {
    matches!(kind, Workload::Dataset { n_requests: None, .. })
}

/// Data sets by id of the row, where rows name one. An id of two data sets names none.
fn tasks(kind: &Workload) -> anyhow::Result<HashMap<String, String>> {
    let mut tasks: HashMap<String, String> = HashMap::new();
    let Workload::Dataset { path, format, .. } = kind else { return Ok(tasks) };
    if *format == DatasetFormat::Sharegpt {
        return Ok(tasks);
    }
    let mut twice = BTreeSet::new();
    for sample in workload::dataset::read(path, *format)?.0 {
        let Some(reference) = sample.reference else { continue };
        let known = tasks.insert(sample.id.clone(), reference.dataset.clone());
        if known.is_some_and(|known| known != reference.dataset) {
            twice.insert(sample.id);
        }
    }
    tasks.retain(|id, _| !twice.contains(id));
    Ok(tasks)
}

/// The workload with its file where it lies now; the file must have the hash that the manifest states.
fn placed(manifest: &Manifest, kind: &Workload, files: &[PathBuf]) -> anyhow::Result<Workload> {
    let mut kind = kind.clone();
    let path = match &mut kind {
        Workload::Dataset { path, .. } => path,
        Workload::Trace(trace) => &mut trace.path,
        // A forced answer is one token, whose length is nobody's choice: such rows are left out before this.
        Workload::Shapes { .. }
        | Workload::Synthetic { .. }
        | Workload::Dialogues(_)
        | Workload::Forced(_) => {
            return Ok(kind);
        }
    };
    *path = place(manifest, path, files)?;
    Ok(kind)
}

fn place(manifest: &Manifest, path: &Path, files: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let shown = path.display().to_string();
    let input = manifest.inputs.iter().find(|input| input.path == shown).with_context(|| {
        format!("manifest.json: expected {shown} among `inputs`, got a manifest without it")
    })?;
    for file in files {
        if sha256_file(file)? == input.sha256 {
            return Ok(file.clone());
        }
    }
    let hint = "\n  hint: name a copy of the run's own file with --data FILE";
    let sha256 = sha256_file(path)
        .with_context(|| format!("{shown}: expected the data set of the run, got none{hint}"))?;
    ensure!(
        sha256 == input.sha256,
        "{shown}: expected sha256 {} as when the run was made, got {sha256}{hint}",
        input.sha256
    );
    Ok(path.to_owned())
}
