//! The experiment of a router: its TOML grammar, and the domain type it becomes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    predict::simulate::{EngineConfig, LinearTimes},
    route::{
        PolicySpec,
        experiment::{LoadPlan, NamedSkill, PoolPlan, Slo},
        world::LengthShift,
    },
};

use super::{LengthDist, ScenarioError, Trace, error, limit};

mod check;
#[cfg(test)]
mod tests;
mod wire;

/// A validated experiment of the router; files that it names are not read yet.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteScenario {
    /// Name, `[-a-z0-9]+`.
    pub name: String,
    /// The text it was parsed from, for the manifest.
    pub text: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Simulations of each cell.
    pub n_seeds: u32,
    /// The methods, in file order.
    pub methods: Vec<RouteMethod>,
    /// Place of the baseline among them.
    pub baseline: usize,
    /// Pools, in file order.
    pub pools: Vec<PoolPlan>,
    /// Traces, in file order.
    pub traces: Vec<RouteTrace>,
    /// Loads, one a value of a sweep, in file order.
    pub loads: Vec<LoadPlan>,
    /// Skills, in file order.
    pub skills: Vec<NamedSkill>,
    /// Policies, in file order.
    pub policies: Vec<PolicySpec>,
    /// When an answer is on time.
    pub slo: Option<Slo>,
    /// What is reported first.
    pub headline: Headline,
}

/// Places of what is reported first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headline {
    /// In [`RouteScenario::pools`].
    pub pool: usize,
    /// In [`RouteScenario::traces`].
    pub trace: usize,
    /// In [`RouteScenario::loads`].
    pub load: usize,
    /// In [`RouteScenario::skills`].
    pub skill: usize,
}

/// A method as it is in the simulated world.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMethod {
    /// Its name.
    pub name: String,
    /// What its steps take.
    pub speed: Speed,
    /// How its engines batch.
    pub config: EngineConfig,
    /// How its lengths differ from the baseline's.
    pub shift: LengthShift,
    /// Share of prompts that it breaks beyond chance, by task; `""` for tasks that are not listed.
    pub excess: BTreeMap<String, f64>,
    /// Where its numbers are from: what they are of, and the sentence of the file.
    pub sources: Vec<(&'static str, String)>,
}

/// What steps take.
#[derive(Debug, Clone, PartialEq)]
pub enum Speed {
    /// A sum of costs.
    Linear(LinearTimes),
    /// A file of `kvbench predict fit`.
    Model {
        /// The file, relative to the working directory.
        path: PathBuf,
        /// A part of the subject that is meant; `""` for any.
        subject: String,
        /// The method as the file calls it.
        method: String,
    },
}

/// A trace under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTrace {
    /// Its name.
    pub name: String,
    /// Requests of one simulation.
    pub n_requests: usize,
    /// Where they are from.
    pub source: TraceSource,
}

/// Where requests are from.
#[derive(Debug, Clone, PartialEq)]
pub enum TraceSource {
    /// Drawn lengths.
    Synthetic {
        /// Of prompts.
        prompt_tokens: LengthDist,
        /// Of the baseline's answers.
        output_tokens: LengthDist,
        /// Tasks and their weights; empty for requests without a task.
        tasks: Vec<(String, f64)>,
    },
    /// A file.
    File {
        /// Which, and which part of it.
        trace: Trace,
        /// Longest request, prompt and answer together; `None` for no limit.
        max_request_tokens: Option<u64>,
        /// Whether rows are drawn in any order.
        is_sample: bool,
        /// The task of all its requests.
        task: Option<String>,
    },
}

impl RouteScenario {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The file cannot be read, or a [`ScenarioError`] with line, column and hint.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = super::read_text(path)?;
        Ok(Self::parse(&text, &path.display().to_string())?)
    }

    /// The same, of a file that [`Self::is_meant`] to be one; `None` of another.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_if_meant(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = super::read_text(path)?;
        if !Self::is_meant(&text) {
            return Ok(None);
        }
        Ok(Some(Self::parse(&text, &path.display().to_string())?))
    }

    /// Checks a text; `origin` stands before the line number in errors. Never panics.
    ///
    /// # Errors
    /// The first fault found, with its place and what to do about it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ScenarioError> {
        Self::checked(text).map_err(|fault| fault.locate(text, origin))
    }

    fn checked(text: &str) -> Result<Self, error::Fault> {
        limit::text(text)?;
        let file: wire::File = toml::from_str(text).map_err(|error| error::translate(&error))?;
        check::scenario(&file, text)
    }

    /// Whether a text looks like an experiment of the router and not like one of engines and kernels: it has a table of pools and
    /// none of targets.
    pub fn is_meant(text: &str) -> bool {
        let has = |table: &str| text.lines().any(|line| line.trim_start().starts_with(table));
        has("[pool.") && !has("[target.")
    }

    /// Cells: simulations that its lists multiply to, without those of the pools of the baseline alone.
    pub fn n_cells(&self) -> usize {
        let lists = [&self.pools.len(), &self.traces.len(), &self.loads.len(), &self.skills.len()];
        lists.into_iter().product::<usize>() * self.policies.len() * self.n_seeds as usize
    }
}

/// JSON Schema of the file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(wire::File).to_value()
}
