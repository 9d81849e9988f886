//! Observations of `predict`, from runs or from files of others.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::ensure;

use super::eval_files::open;

use crate::{
    analyse::passes,
    cli::ui::Ui,
    predict::{
        Observation, columns,
        file::Origin,
        measured::{self, MeasuredOptions},
    },
    record::Manifest,
    workload::dataset::sha256_hex,
};

/// Where measurements come from.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// Folders that `kvbench run` made: kernel rows, and steps of engines.
    #[arg(required_unless_present = "measured")]
    pub runs: Vec<PathBuf>,
    /// Somebody else's measurements: CSV `model,method,bsz,prompt_len,stage,thr`, tokens/s; the method whose name starts with None is
    /// the baseline. Several times for several files.
    #[arg(long, value_name = "FILE")]
    pub measured: Vec<PathBuf>,
    /// Tokens that methods of a --measured file keep which drop tokens (names that start with h2o, stream or snap).
    #[arg(long, value_name = "TOKENS", requires = "measured")]
    pub budget: Option<f64>,
    /// Tokens a sequence has beyond `prompt_len` at the decode step that a row of --measured stands for: half of those generated.
    #[arg(long, value_name = "TOKENS", requires = "measured")]
    pub generated: Option<f64>,
}

/// What was read.
pub(super) struct Found {
    pub(super) observations: Vec<Observation>,
    pub(super) origins: Vec<Origin>,
    /// What no observation rests on: reason, and rows.
    pub(super) left_out: Vec<(String, usize)>,
}

/// What was given already, by what tells it apart, with where it lay. The same numbers twice would pass for repeats that agree to the
/// last digit.
#[derive(Default)]
struct Once<'a>(BTreeMap<String, &'a Path>);

impl<'a> Once<'a> {
    /// `what` is what the second one would be, in words.
    fn add(&mut self, key: &str, path: &'a Path, what: &str) -> anyhow::Result<()> {
        let before = self.0.insert(key.to_owned(), path);
        ensure!(
            before.is_none(),
            "{}: expected measurements of its own, got {what} as {}\n  hint: give each once; measuring anew is what makes a repeat",
            path.display(),
            before.unwrap_or(path).display()
        );
        Ok(())
    }
}

impl SourceArgs {
    /// Reads all of it and says what is left out; `model` narrows subjects to those whose model holds it, in any case.
    pub(super) fn read(&self, model: Option<&str>, ui: &Ui) -> anyhow::Result<Found> {
        let mut found =
            Found { observations: Vec::new(), origins: Vec::new(), left_out: Vec::new() };
        self.read_runs(model, &mut found)?;
        self.read_measured(model, &mut found, ui)?;
        for (reason, rows) in &found.left_out {
            ui.note(&format!("left out: {rows} x {reason}"));
        }
        ensure!(
            !found.observations.is_empty(),
            "expected passes that were timed, got none\n  hint: what was left out, and why, stands above; `kvbench report` says what failed"
        );
        Ok(found)
    }

    fn read_runs(&self, model: Option<&str>, found: &mut Found) -> anyhow::Result<()> {
        if self.runs.is_empty() {
            return Ok(());
        }
        let mut ids = Once::default();
        for path in &self.runs {
            let run_id = Manifest::read(path)?.run_id;
            ids.add(&run_id, path, &format!("run {run_id}"))?;
            let path = path.display().to_string();
            found.origins.push(Origin { run_id: Some(run_id), path });
        }
        let passes = passes::load(&self.runs)?;
        let mut observations = passes.observations;
        if let Some(model) = model {
            let wanted = model.to_lowercase();
            let n_before = observations.len();
            observations.retain(|one| one.subject.model.to_lowercase().contains(&wanted));
            if observations.len() < n_before {
                let reason = format!("observation of a model that is not called {model}");
                found.left_out.push((reason, n_before - observations.len()));
            }
        }
        found.observations.extend(observations);
        let left_out = passes.left_out.into_iter().chain(passes.steps_left_out);
        found.left_out.extend(left_out.map(|one| (one.reason, one.rows)));
        Ok(())
    }

    fn read_measured(&self, model: Option<&str>, found: &mut Found, ui: &Ui) -> anyhow::Result<()> {
        let usual = MeasuredOptions::default();
        let options = MeasuredOptions {
            budget: self.budget.or(usual.budget),
            generated: self.generated.unwrap_or(usual.generated),
        };
        let mut contents = Once::default();
        for path in &self.measured {
            let name = path.display().to_string();
            let content = columns::unpacked(open(path)?, &name)?;
            contents.add(&sha256_hex(&content), path, "the same content")?;
            let read = measured::read_with(&content[..], &name, model, &options)?;
            let budget = read.iter().find_map(|one| one.budget).filter(|_| self.budget.is_none());
            if let Some(budget) = budget {
                ui.note(&format!(
                    "{name}: does not tell how many tokens methods keep that drop some; {budget} assumed (--budget)"
                ));
            }
            found.observations.extend(read);
            found.origins.push(Origin { run_id: None, path: name });
        }
        Ok(())
    }
}
