//! Models on disk: `{"schema": "kvbench-throughput/2", "created_from": [...], "models": [...]}`.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Phase, Subject, fault,
    model::{Model, Steps},
};

/// What this version writes and reads.
pub const SCHEMA: &str = "kvbench-throughput/2";
/// What it reads as well: models there do not tell which rows they were fitted to, nor how their server was started.
pub const SCHEMA_BEFORE: &str = "kvbench-throughput/1";

/// Fitted models and where they come from. JSON; times in seconds; numbers come back to the last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// [`SCHEMA`], or [`SCHEMA_BEFORE`] of an older file.
    pub schema: String,
    /// Runs and files that were fitted; each model tells which of them, and which rows, are its own.
    pub created_from: Vec<Origin>,
    /// One a subject, method (with its budget) and phase.
    pub models: Vec<Model>,
}

/// A run, or a file of measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Id of the run; `None` of a file.
    pub run_id: Option<String>,
    /// Where it lay.
    pub path: String,
}

/// The part that tells versions apart.
#[derive(Deserialize)]
struct Versioned {
    schema: String,
}

impl Origin {
    /// What models call it by: the id of a run, the path of a file.
    pub fn name(&self) -> &str {
        self.run_id.as_deref().unwrap_or(&self.path)
    }
}

impl ModelFile {
    /// Models with their origin.
    pub fn new(created_from: Vec<Origin>, models: Vec<Model>) -> Self {
        Self { schema: SCHEMA.to_owned(), created_from, models }
    }

    /// As written to a file.
    ///
    /// # Errors
    /// A number that JSON cannot hold.
    pub fn text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads what [`ModelFile::text`] wrote; `name` is where from, for errors.
    ///
    /// # Errors
    /// No JSON, another schema, or a model that contradicts itself.
    pub fn parse(text: &str, name: &str) -> anyhow::Result<Self> {
        let hint = "\n  hint: write the file anew with `kvbench predict fit`";
        let versioned: Versioned = serde_json::from_str(text).map_err(|error| {
            anyhow::anyhow!("{name}: expected a file of `kvbench predict fit`, got {error}{hint}")
        })?;
        let schema = versioned.schema;
        if ![SCHEMA, SCHEMA_BEFORE].contains(&schema.as_str()) {
            bail!("{name}: expected schema {SCHEMA} or {SCHEMA_BEFORE}, got {schema}{hint}");
        }
        let file: Self = serde_json::from_str(text).with_context(|| {
            format!("{name}: expected a whole file of schema {schema}, got another")
        })?;
        ensure!(!file.models.is_empty(), "{name}: expected a model, got none{hint}");
        if let Some(fault) = fault::of_file(&file) {
            bail!("{name}: {fault}{hint}");
        }
        Ok(file)
    }

    /// Subjects that `text` calls, see [`Subject::is_called`].
    ///
    /// # Errors
    /// None of them.
    pub fn subjects(&self, text: &str) -> anyhow::Result<BTreeSet<&Subject>> {
        let all: BTreeSet<&Subject> = self.models.iter().map(|model| &model.subject).collect();
        let called: BTreeSet<&Subject> =
            all.iter().copied().filter(|subject| subject.is_called(text)).collect();
        ensure!(
            !called.is_empty(),
            "--subject: expected a part of one of the subjects in the file, got `{text}`\n  hint: they are {}",
            all.into_iter().map(Subject::full).collect::<Vec<_>>().join("; ")
        );
        Ok(called)
    }

    /// Step times of a method on the one subject that `subject` calls; of a method with several budgets, of the first.
    /// `None` where prefill or decode of it was not fitted.
    pub fn steps(&self, subject: &str, method: &str) -> Option<Steps<'_>> {
        let of = |phase: Phase| {
            self.models.iter().find(|model| {
                model.phase == phase && model.method == method && model.subject.is_called(subject)
            })
        };
        Some(Steps { prefill: of(Phase::Prefill)?, decode: of(Phase::Decode)? })
    }
}
