//! References of a run's answers, from the data sets that its scenario names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::{
    record::{Manifest, RequestRow},
    scenario::{DatasetFormat, Scenario, Workload},
    workload::{Reference, dataset, sha256_file},
};

/// What the rows of a workload are scored against; `None` for an id that several rows of the file have.
type Rows = HashMap<String, Option<Option<Reference>>>;

/// References of every workload that was sent.
pub(super) struct References {
    /// `None` for a workload without references.
    workloads: BTreeMap<String, Option<Rows>>,
}

impl References {
    /// Reads the data sets of the workloads that occur in `requests`.
    pub(super) fn read(
        manifest: &Manifest,
        requests: &[RequestRow],
        files: &[PathBuf],
    ) -> anyhow::Result<Self> {
        let sent: BTreeSet<&str> = requests.iter().map(|row| row.workload.as_str()).collect();
        let mut workloads = BTreeMap::new();
        for name in sent {
            let file = data_file(manifest, name, files)?;
            let rows = file.map(|(path, format)| rows(&path, format)).transpose()?;
            workloads.insert(name.to_owned(), rows);
        }
        Ok(Self { workloads })
    }

    /// The reference of a row, or why there is none.
    pub(super) fn of(&self, workload: &str, sample_id: &str) -> Result<&Reference, &'static str> {
        let Some(Some(rows)) = self.workloads.get(workload) else {
            return Err("its workload has no references");
        };
        match rows.get(sample_id) {
            None => Err("its id is in no row of the data set"),
            Some(None) => Err("its id is in several rows of the data set"),
            Some(Some(None)) => Err("its row has no reference"),
            Some(Some(Some(reference))) => Ok(reference),
        }
    }
}

fn rows(path: &Path, format: DatasetFormat) -> anyhow::Result<Rows> {
    let (samples, _) = dataset::read(path, format)?;
    let mut rows = Rows::new();
    for sample in samples {
        let reference = sample.reference;
        rows.entry(sample.id).and_modify(|known| *known = None).or_insert(Some(reference));
    }
    Ok(rows)
}

/// Where the file of a workload with references lies, and its format: one of `files` with the hash that the manifest states, else the scenario's
/// own path, whose file must still have that hash. `None` for a workload without references.
///
/// # Errors
/// The manifest's scenario does not parse, or no file has the hash.
pub fn data_file(
    manifest: &Manifest,
    workload: &str,
    files: &[PathBuf],
) -> anyhow::Result<Option<(PathBuf, DatasetFormat)>> {
    let facts = &manifest.scenario;
    let origin = facts.path.as_deref().unwrap_or("manifest.json");
    let scenario = Scenario::parse(&facts.text, origin).with_context(|| {
        format!("{}: expected the scenario of a run of ours in its manifest", manifest.run_id)
    })?;
    let named = scenario.workloads.iter().find(|named| named.name == workload);
    let Some(Workload::Dataset { path, format, .. }) = named.map(|named| &named.kind) else {
        return Ok(None);
    };
    if !format.has_references() {
        return Ok(None);
    }
    let format = *format;
    let shown = path.display().to_string();
    let input = manifest.inputs.iter().find(|input| input.path == shown);
    let input = input.with_context(|| {
        format!("manifest.json: expected {shown} among `inputs`, got a manifest without it")
    })?;
    if files.is_empty() {
        let sha256 = sha256_file(path).with_context(|| {
            format!("{shown}: expected the data set of workload {workload}\n  hint: name its place with --data FILE")
        })?;
        if sha256 != input.sha256 {
            bail!(
                "{shown}: expected sha256 {} as when the run was made, got {sha256}\n  hint: put the old file back, or name a copy of it with --data FILE",
                input.sha256
            );
        }
        return Ok(Some((path.clone(), format)));
    }
    for file in files {
        if sha256_file(file)? == input.sha256 {
            return Ok(Some((file.clone(), format)));
        }
    }
    bail!(
        "--data: expected a copy of {shown} (sha256 {}), got {} with other contents\n  hint: scores of another file would not be this run's",
        input.sha256,
        files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
    )
}
