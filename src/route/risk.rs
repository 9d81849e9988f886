//! From which prompts a method breaks answers, as counts, and how many it may break beyond chance.
//!
//! A *negative* is an answer that falls below what the baseline had (`kvbench negatives`). Baselines that are measured again have
//! negatives too: that is the null, and only what a method has beyond it is harm. The bound of the excess `p_method - p_null` is
//! one-sided, of confidence [`CONFIDENCE`], and made of the bounds of its two parts: `p1 - p0 + sqrt((u1 - p1)^2 + (p0 - l0)^2)`
//! (Newcombe 1998, Statistics in Medicine 17:873-890, method 10; Zou and Donner 2008, Statistics in Medicine 27:1693-1702, for any
//! bounds), with Clopper and Pearson's in the place of Wilson's: those are too low where few negatives are, which is where a guard
//! decides. Method and null answer the same prompts, which makes their difference steadier than that of two samples, so the
//! bound errs on the side of caution.
//!
//! Without a null the bound is that of all negatives: whatever is chance among them counts as harm.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::stats;

/// Format of the file; another number is another format.
pub const SCHEMA: &str = "kvbench-risks/1";
/// Of the bound.
pub const CONFIDENCE: f64 = 0.95;
/// First prompt tokens of the second and later bins, unless told.
pub const EDGES: [u64; 5] = [1024, 2048, 4096, 8192, 16384];

/// Answers, and of them those that are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Answers to prompts that the baseline does well.
    pub n: u64,
    /// Negatives.
    pub negatives: u64,
}

/// What was counted of one method on one task at prompts of one bin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Name of the task.
    pub task: String,
    /// Number of the bin of prompt tokens, see [`Risks::bin`].
    pub bin: usize,
    /// Name of the method.
    pub method: String,
    /// Its answers.
    pub own: Counts,
    /// The baseline's answers when it was measured again; none where it was not.
    pub null: Counts,
}

/// Counts by task, prompt length and method. Each is there once.
#[derive(Debug, Clone, PartialEq)]
pub struct Risks {
    file: File,
    /// Bounds by task, method and bin.
    upper: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>>,
}

/// As it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    /// Where the counts are from, in words.
    source: String,
    /// First prompt tokens of the second and later bins, ascending.
    edges: Vec<u64>,
    cells: Vec<Cell>,
}

impl Counts {
    fn share(self) -> f64 {
        self.negatives as f64 / self.n as f64
    }
}

impl Cell {
    /// Upper bound of the excess rate of negatives, of one; `None` without answers.
    pub fn upper(&self) -> Option<f64> {
        excess_upper(self.own, self.null)
    }
}

/// Upper bound of the excess rate of negatives of `own` over `null`, of one, see the head of this module; `None` without answers.
pub fn excess_upper(own: Counts, null: Counts) -> Option<f64> {
    let high = stats::upper_bound(own.negatives, own.n, CONFIDENCE)?;
    let Some(low) = stats::lower_bound(null.negatives, null.n, CONFIDENCE) else {
        return Some(high);
    };
    let (above, below) = (high - own.share(), null.share() - low);
    Some((own.share() - null.share() + above.hypot(below)).min(1.0))
}

impl Risks {
    /// From counts; `source` says in words where they are from.
    ///
    /// # Errors
    /// Edges that do not ascend; a cell that is there twice, of a bin that is none, or with more negatives than answers.
    pub fn new(source: &str, edges: &[u64], cells: Vec<Cell>) -> anyhow::Result<Self> {
        let file = File {
            schema: SCHEMA.to_owned(),
            source: source.to_owned(),
            edges: edges.to_vec(),
            cells,
        };
        Self::of(file)
    }

    fn of(file: File) -> anyhow::Result<Self> {
        ensure!(
            file.edges.iter().all(|edge| *edge > 0) && file.edges.is_sorted_by(|a, b| a < b),
            "edges: expected prompt tokens in ascending order, got {:?}",
            file.edges
        );
        let mut upper: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>> = BTreeMap::new();
        let mut known = std::collections::BTreeSet::new();
        for cell in &file.cells {
            check(cell, file.edges.len() + 1)?;
            ensure!(
                known.insert((&cell.task, &cell.method, cell.bin)),
                "cell {}: expected it once, got it twice",
                place(cell)
            );
            let methods = upper.entry(cell.task.clone()).or_default();
            let bins = methods.entry(cell.method.clone()).or_default();
            bins.resize(file.edges.len() + 1, None);
            bins[cell.bin] = cell.upper();
        }
        Ok(Self { file, upper })
    }

    /// The bin of a prompt: 0 below the first edge, one more at each edge.
    pub fn bin(edges: &[u64], prompt_tokens: u64) -> usize {
        edges.partition_point(|edge| *edge <= prompt_tokens)
    }

    /// Upper confidence bound of the share of answers that the method breaks beyond chance on such prompts, of one. `None` where
    /// nothing was counted: of an unknown task, of a length or method that no answer was judged for.
    pub fn upper(&self, task: &str, prompt_tokens: u64, method: &str) -> Option<f64> {
        let bins = self.upper.get(task)?.get(method)?;
        bins.get(Self::bin(&self.file.edges, prompt_tokens)).copied().flatten()
    }

    /// What was counted.
    pub fn cells(&self) -> &[Cell] {
        &self.file.cells
    }

    /// First prompt tokens of the second and later bins.
    pub fn edges(&self) -> &[u64] {
        &self.file.edges
    }

    /// Where the counts are from, in words.
    pub fn source(&self) -> &str {
        &self.file.source
    }

    /// As a file, with a line end.
    ///
    /// # Errors
    /// None that counts and names can cause.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(&self.file)? + "\n")
    }

    /// From a file; `origin` stands in errors.
    ///
    /// # Errors
    /// Another schema, a file that is not whole, or counts that are none, see [`Self::new`].
    pub fn from_json(text: &str, origin: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        let hint = "\n  hint: make one with `kvbench route risks`";
        let version: Version = serde_json::from_str(text).with_context(|| {
            format!("{origin}: expected counts of negatives, got something else{hint}")
        })?;
        ensure!(
            version.schema == SCHEMA,
            "{origin}: expected schema {SCHEMA}, got {}{hint}",
            version.schema
        );
        let file: File = serde_json::from_str(text).with_context(|| {
            format!("{origin}: expected whole counts of negatives, got a damaged file{hint}")
        })?;
        Self::of(file).with_context(|| origin.to_owned())
    }
}

fn check(cell: &Cell, n_bins: usize) -> anyhow::Result<()> {
    ensure!(
        cell.bin < n_bins,
        "cell {}: expected a bin below {n_bins}, which the edges make, got {}",
        place(cell),
        cell.bin
    );
    for (name, counts) in [("own", cell.own), ("null", cell.null)] {
        ensure!(
            counts.negatives <= counts.n,
            "cell {}, {name}: expected at most {} negatives of as many answers, got {}",
            place(cell),
            counts.n,
            counts.negatives
        );
    }
    Ok(())
}

fn place(cell: &Cell) -> String {
    format!("{}/{}/{}", cell.task, cell.bin, cell.method)
}

#[cfg(test)]
mod tests {
    use rand_distr::{Binomial, Distribution as _};

    use super::*;

    fn counts(n: u64, negatives: u64) -> Counts {
        Counts { n, negatives }
    }

    fn cell(task: &str, bin: usize) -> Cell {
        let (task, method) = (task.to_owned(), "kivi-4".to_owned());
        Cell { task, bin, method, own: counts(300, 3), null: counts(300, 2) }
    }

    /// What is promised: where the truth is p1 - p0, the bound is at least that in 95 of 100 cases. 2000 draws of it have a
    /// standard error of 0.5 points.
    #[test]
    fn the_bound_holds_as_often_as_it_promises() {
        let mut rng = stats::seeded(5);
        for (n, own, null) in [
            (50, 0.05, 0.0),
            (50, 0.1, 0.1),
            (200, 0.02, 0.01),
            (200, 0.1, 0.08),
            (200, 0.3, 0.2),
            (1000, 0.05, 0.03),
            (1000, 0.005, 0.005),
        ] {
            let mut draw = |p| {
                let drawn = Binomial::new(n, p).unwrap().sample(&mut rng);
                counts(n, drawn)
            };
            let mut holds = || excess_upper(draw(own), draw(null)).unwrap() >= own - null;
            let share = (0..2000).filter(|_| holds()).count() as f64 / 2000.0;
            assert!(share >= 0.94, "{n} answers, {own} against {null}: {share}");
        }
    }

    #[test]
    fn more_answers_tell_more_and_chance_is_set_off() {
        let of = |own, null| excess_upper(own, null).unwrap();
        assert!(of(counts(1000, 10), counts(1000, 10)) < of(counts(100, 1), counts(100, 1)));
        assert!(of(counts(1000, 60), counts(1000, 50)) < of(counts(1000, 60), Counts::default()));
        assert!(of(counts(300, 0), counts(300, 0)) < 0.011);
        assert!(of(counts(10, 0), counts(10, 0)) > 0.2, "ten answers prove nothing");
        assert!((of(counts(5, 5), counts(5, 0)) - 1.0).abs() < 1e-12);
        assert_eq!(excess_upper(Counts::default(), counts(10, 1)), None);
    }

    #[test]
    fn what_was_not_counted_is_not_known() {
        let risks = Risks::new("a test", &EDGES, vec![cell("qa", 1)]).unwrap();
        assert_eq!(risks.upper("qa", 1024, "kivi-4"), cell("qa", 1).upper());
        assert!(risks.upper("qa", 2047, "kivi-4").is_some());
        for (task, tokens, method) in [
            ("qa", 1023, "kivi-4"),
            ("qa", 2048, "kivi-4"),
            ("code", 1500, "kivi-4"),
            ("qa", 1500, "h2o"),
        ] {
            assert_eq!(risks.upper(task, tokens, method), None);
        }
        assert_eq!(Risks::bin(&EDGES, 16384), EDGES.len());
        assert_eq!(Risks::bin(&[], 99), 0);
    }

    #[test]
    fn a_file_comes_back_and_a_bad_one_is_named() {
        let risks = Risks::new("a test", &EDGES, vec![cell("qa", 1), cell("qa", 2)]).unwrap();
        let text = risks.to_json().unwrap();
        assert_eq!(Risks::from_json(&text, "r.json").unwrap(), risks);
        let error = |text: &str| format!("{:#}", Risks::from_json(text, "r.json").unwrap_err());
        assert!(error("{}").contains("r.json: expected counts of negatives"));
        assert!(error(&text.replace("risks/1", "risks/2")).contains("got kvbench-risks/2"));
        assert!(
            error(&text.replace("\"bin\": 2", "\"bin\": 9"))
                .contains("qa/9/kivi-4: expected a bin below 6")
        );
        assert!(error(&text.replace("\"bin\": 2", "\"bin\": 1")).contains("got it twice"));
        assert!(
            error(&text.replace("\"negatives\": 3", "\"negatives\": 301"))
                .contains("own: expected at most 300")
        );
        assert!(error(&text.replace("1024", "4096")).contains("r.json: edges"));
        assert!(error(&text.replace("\"n\": 300", "\"m\": 300")).contains("damaged"));
    }
}
