//! Observations of `predict`, from runs or from files of others.

use std::path::PathBuf;

use anyhow::ensure;

use super::eval_files::open;

use crate::{
    analyse::passes,
    cli::ui::Ui,
    predict::{
        Observation,
        file::Origin,
        measured::{self, MeasuredOptions},
    },
    record::Manifest,
};

/// Where measurements come from.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// Folders that `kvbench run` made: kernel rows, and steps of engines.
    #[arg(required_unless_present = "measured")]
    pub runs: Vec<PathBuf>,
    /// Somebody else's measurements: CSV `model,method,bsz,prompt_len,stage,thr`, tokens/s. Several times for several files.
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
        for path in &self.runs {
            let run_id = Some(Manifest::read(path)?.run_id);
            found.origins.push(Origin { run_id, path: path.display().to_string() });
        }
        Ok(())
    }

    fn read_measured(&self, model: Option<&str>, found: &mut Found, ui: &Ui) -> anyhow::Result<()> {
        let usual = MeasuredOptions::default();
        let options = MeasuredOptions {
            budget: self.budget.or(usual.budget),
            generated: self.generated.unwrap_or(usual.generated),
        };
        for path in &self.measured {
            let name = path.display().to_string();
            let read = measured::read_with(open(path)?, &name, model, &options)?;
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
