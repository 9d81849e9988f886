//! Rows of runs as what predictors are fitted to: what a forward pass worked on, and what it took.
//!
//! - `kernel`: launches of one attention layer of ours. A repeat's value is the median of its launches.
//! - `engine`: whole steps of a server, read off the arrivals of tokens at the client.
//!
//! Nothing is dropped unsaid: every row is either used or counted under the reason why it is not.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    predict::{
        Observation, Pass, Subject, Work,
        origin::{Numbers, Rows},
    },
    scenario::Scenario,
};

use super::RunData;

mod engine;
mod kernel;
mod server;
#[cfg(test)]
mod tests;
mod timeline;

/// Everything that runs tell about forward passes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Passes {
    /// What was observed, by subject, method and work.
    pub observations: Vec<Observation>,
    /// Rows that no observation rests on. With `n_rows_used` they are all rows of the runs.
    pub left_out: Vec<LeftOut>,
    /// Rows that an observation rests on.
    pub n_rows_used: usize,
    /// Gaps between tokens of usable answers that are no clean decode step; `rows` counts gaps.
    pub steps_left_out: Vec<LeftOut>,
}

/// Rows left out for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Why, in words.
    pub reason: String,
    /// How many.
    pub rows: usize,
}

/// Reads runs. Rows of one subject add their repeats, whichever run they come from.
///
/// # Errors
/// A folder that is no run, or a table without the columns of this version.
pub fn load(runs: &[PathBuf]) -> anyhow::Result<Passes> {
    let mut found = Collected::default();
    // One run at a time: requests hold the texts of all answers.
    for path in runs {
        add(&RunData::load(path)?, &mut found)?;
    }
    Ok(found.finish())
}

/// The same of runs that were read already.
///
/// # Errors
/// A table without the columns of this version.
pub fn of(runs: &[RunData]) -> anyhow::Result<Passes> {
    let mut found = Collected::default();
    for data in runs {
        add(data, &mut found)?;
    }
    Ok(found.finish())
}

fn add(data: &RunData, found: &mut Collected) -> anyhow::Result<()> {
    let run = Run::new(data);
    kernel::add(&run, found)?;
    engine::add(&run, found)
}

/// A run with its scenario.
struct Run<'a> {
    data: &'a RunData,
    /// An imported run has none.
    scenario: Option<Scenario>,
}

/// A method as rows name it, resolved.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    /// The A/A control goes by the baseline's name: it is another repeat of it.
    name: String,
    is_baseline: bool,
    /// With the parameters, so that namesakes of two runs stay apart; empty for an engine's own method.
    label: String,
    /// Most tokens a sequence that it keeps; `None` for one that keeps all, and for one that only an engine knows.
    budget: Option<f64>,
    /// Whether the scenario says what it keeps.
    is_ours: bool,
}

impl<'a> Run<'a> {
    fn new(data: &'a RunData) -> Self {
        let text = &data.manifest.scenario.text;
        Self { data, scenario: Scenario::parse(text, "the run's scenario").ok() }
    }

    /// Rows of this run.
    fn rows(&self, numbers: impl IntoIterator<Item = u64>) -> Rows {
        let rows: Numbers = numbers.into_iter().collect();
        Rows { from: self.data.manifest.run_id.clone(), rows }
    }

    fn method(&self, name: &str) -> Told {
        let baseline = &self.data.manifest.scenario.baseline;
        let name = if name == self.data.aa_method() { baseline.as_str() } else { name };
        let methods = self.scenario.iter().flat_map(|scenario| &scenario.methods);
        let ours =
            methods.filter(|named| named.name == name).find_map(|named| named.method.as_ref());
        // What keeps everything keeps any number of tokens.
        let most = ours.map(|method| method.kept_tokens(usize::MAX));
        Told {
            name: name.to_owned(),
            is_baseline: name == baseline,
            label: ours.map(|method| method.label()).unwrap_or_default(),
            budget: most.filter(|most| *most < usize::MAX).map(|most| most as f64),
            is_ours: ours.is_some(),
        }
    }
}

/// What makes rows repeats of one another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    subject: Subject,
    method: String,
    label: String,
    /// Where they were measured: repeats of one point stay together, those of two points apart.
    place: String,
    /// Phase and shape, exact for kernels and a bin for engines.
    shape: Vec<i64>,
}

/// Observations as they come in.
#[derive(Default)]
struct Collected {
    groups: BTreeMap<Key, Group>,
    left_out: BTreeMap<String, usize>,
    steps_left_out: BTreeMap<String, usize>,
    n_rows_used: usize,
}

struct Group {
    is_baseline: bool,
    budget: Option<f64>,
    /// Work of each repeat: in a bin they differ a little.
    works: Vec<Work>,
    repeats_s: Vec<f64>,
    rows: Vec<Rows>,
}

/// One repeat of something.
struct Repeat {
    work: Work,
    duration_s: f64,
    /// Rows of the run that it was read off.
    rows: Rows,
}

impl Collected {
    fn leave_out(&mut self, reason: &str, rows: usize) {
        if rows > 0 {
            *self.left_out.entry(reason.to_owned()).or_default() += rows;
        }
    }

    fn leave_steps_out(&mut self, reason: &str, steps: usize) {
        if steps > 0 {
            *self.steps_left_out.entry(reason.to_owned()).or_default() += steps;
        }
    }

    fn observe(&mut self, key: Key, method: &Told, repeat: Repeat) {
        let group = self.groups.entry(key).or_insert_with(|| Group {
            is_baseline: method.is_baseline,
            budget: method.budget,
            works: Vec::new(),
            repeats_s: Vec::new(),
            rows: Vec::new(),
        });
        group.works.push(repeat.work);
        group.repeats_s.push(repeat.duration_s);
        group.rows.push(repeat.rows);
    }

    fn finish(self) -> Passes {
        let counted = |counts: BTreeMap<String, usize>| {
            counts.into_iter().map(|(reason, rows)| LeftOut { reason, rows }).collect()
        };
        Passes {
            observations: self.groups.into_iter().filter_map(observation).collect(),
            left_out: counted(self.left_out),
            n_rows_used: self.n_rows_used,
            steps_left_out: counted(self.steps_left_out),
        }
    }
}

fn observation((key, group): (Key, Group)) -> Option<Observation> {
    Some(Observation {
        subject: key.subject,
        method: key.method,
        is_baseline: group.is_baseline,
        budget: group.budget,
        pass: Pass { work: Work::mean(&group.works)?, repeats_s: group.repeats_s },
        rows: Rows::merged(&group.rows),
    })
}
