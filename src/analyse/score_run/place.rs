//! Where a run compares methods: one workload under one load, and one target where several ran the baseline.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use anyhow::{Context as _, bail};

use super::{
    super::{
        Point,
        negatives::{Score, Scores},
    },
    ScoreRow,
};
use crate::{
    record::Manifest,
    scenario::{Control, Scenario},
};

/// Where methods meet the baseline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the workload.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Target of the baseline.
    pub target: String,
    /// Whether no other target ran the baseline there: then methods of every target are compared with it, since one server
    /// runs one method.
    pub is_only: bool,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.is_only {
            write!(f, "{}/", self.target)?;
        }
        write!(f, "{}/{}", self.workload, self.load)
    }
}

impl Place {
    fn holds(&self, row: &ScoreRow) -> bool {
        self.workload == row.workload
            && self.load == row.load
            && (self.is_only || self.target == row.target)
    }
}

/// Places at which the baseline has scores.
pub fn places(manifest: &Manifest, rows: &[ScoreRow]) -> Vec<Place> {
    let mut targets: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.method == manifest.scenario.baseline) {
        let targets = targets.entry((&row.workload, &row.load)).or_default();
        if !targets.contains(&row.target.as_str()) {
            targets.push(&row.target);
        }
    }
    let place = |((workload, load), targets): (&(&str, &str), &Vec<&str>)| -> Vec<Place> {
        let is_only = targets.len() == 1;
        let one = |target: &&str| Place {
            workload: (*workload).to_owned(),
            load: (*load).to_owned(),
            target: (*target).to_owned(),
            is_only,
        };
        targets.iter().map(one).collect()
    };
    targets.iter().flat_map(place).collect()
}

/// What no place holds: several targets ran the baseline there, and its own did not.
pub fn elsewhere(rows: &[ScoreRow], places: &[Place]) -> BTreeSet<Point> {
    let lost = rows.iter().filter(|row| !places.iter().any(|place| place.holds(row)));
    lost.map(ScoreRow::point).collect()
}

/// The place that is asked for, or the only one.
///
/// # Errors
/// No place at all, none of that name, or several and none asked for.
pub fn choose(places: Vec<Place>, asked: Option<&str>) -> anyhow::Result<Place> {
    let names = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (asked, places.as_slice()) {
        (_, []) => bail!(
            "expected scores of the baseline, got none\n  hint: `kvbench score RUN_DIR` says what was left out and why"
        ),
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            bail!("expected one place, got several: {names}\n  hint: choose one with --place")
        }
        (Some(asked), _) => places
            .iter()
            .find(|place| place.to_string() == asked)
            .cloned()
            .with_context(|| format!("--place: expected one of {names}, got `{asked}`")),
    }
}

/// Scores of a baseline and of what is compared with it, from files or from a place of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Subjects {
    /// The baseline, once.
    pub baseline: Scores,
    /// Each method, once.
    pub methods: Vec<Scores>,
    /// The baseline measured again: what it "breaks" is noise.
    pub again: Vec<Scores>,
    /// Every repeat of each method that has several, by its name.
    pub repeats: BTreeMap<String, Vec<Scores>>,
}

impl Subjects {
    /// Drops repeats that share no sample with the baseline (a repeat of a workload that draws some rows of its file may draw
    /// others); returns their names. Of a method of which less than two repeats are left nothing can be confirmed.
    pub fn drop_strangers(&mut self) -> Vec<String> {
        let known: HashSet<(&str, &str)> =
            self.baseline.rows.iter().map(|row| (&*row.dataset, &*row.id)).collect();
        let mut dropped = Vec::new();
        let mut shares = |scores: &Scores| {
            let shares = scores.rows.iter().any(|row| known.contains(&(&*row.dataset, &*row.id)));
            if !shares && !dropped.contains(&scores.name) {
                dropped.push(scores.name.clone());
            }
            shares
        };
        self.again.retain(&mut shares);
        self.repeats.values_mut().for_each(|repeats| repeats.retain(&mut shares));
        self.repeats.retain(|_, repeats| repeats.len() > 1);
        dropped
    }
}

/// What a run holds at a place: the baseline's repeat 0, each method's repeat 0, as noise the baseline's other repeats and
/// every one of its controls that compress nothing (the A/A control, another seed, other rounding with no fewer bits), and all
/// repeats of methods that have several. A control with another temperature is a yardstick of lengths, neither noise nor a
/// method: it is in none of them. Methods are in the order of the plan; where
/// two targets ran a method of one name, they are told apart as `target/method`.
///
/// # Errors
/// No score of the baseline's repeat 0, or no method beside it.
pub fn subjects(manifest: &Manifest, rows: &[ScoreRow], place: &Place) -> anyhow::Result<Subjects> {
    let baseline = manifest.scenario.baseline.as_str();
    let mut controls = controls(manifest);
    controls.entry(format!("{baseline}-aa")).or_insert(Control::Again);
    let sets = sets(manifest, rows, place);
    let mut found = Subjects {
        baseline: Scores { name: baseline.to_owned(), rows: Vec::new() },
        methods: Vec::new(),
        again: Vec::new(),
        repeats: BTreeMap::new(),
    };
    for (point, repeats) in &sets {
        let name = name_of(point, &sets);
        let of = |repeat: i64, name: String| Some(scores(name, rows, repeats.get(&repeat)?));
        let later = |(repeat, _): (&i64, _)| of(*repeat, format!("{name} repeat {repeat}"));
        if point.method == baseline {
            found.baseline.rows = of(0, name.clone()).map(|scores| scores.rows).unwrap_or_default();
            let again = |(repeat, _): (&i64, _)| of(*repeat, format!("baseline repeat {repeat}"));
            found.again.extend(repeats.iter().filter(|(repeat, _)| **repeat > 0).filter_map(again));
        } else if let Some(control) = controls.get(&point.method) {
            if matches!(control, Control::Temperature(_)) {
                continue;
            }
            found.again.extend(of(0, name.clone()));
            found.again.extend(repeats.iter().filter(|(repeat, _)| **repeat > 0).filter_map(later));
        } else {
            // A method whose repeat 0 has no score is compared by its first that has, under a name that says so.
            let first = repeats.keys().next().copied().unwrap_or(0);
            let shown = if first == 0 { name.clone() } else { format!("{name} repeat {first}") };
            found.methods.extend(of(first, shown));
            if repeats.len() > 1 {
                let all = repeats.iter().filter_map(later).collect();
                found.repeats.insert(name.clone(), all);
            }
        }
    }
    if found.baseline.rows.is_empty() {
        bail!(
            "{place}: expected scores of {baseline} in repeat 0, got none\n  hint: `kvbench score RUN_DIR` says what was left out and why"
        );
    }
    if found.methods.is_empty() {
        bail!(
            "{place}: expected scores of a method beside {baseline}, got none\n  hint: a scenario compares methods that are listed under `methods`, or one server each"
        );
    }
    Ok(found)
}

/// Controls of the run's scenario; an imported run has none that could name them.
pub fn controls(manifest: &Manifest) -> BTreeMap<String, Control> {
    let scenario = Scenario::parse(&manifest.scenario.text, "manifest.json");
    scenario.map(|scenario| scenario.controls()).unwrap_or_default()
}

/// Rows of each point by repeat, as indices; points in plan order.
type Sets = Vec<(Point, BTreeMap<i64, Vec<usize>>)>;

fn sets(manifest: &Manifest, rows: &[ScoreRow], place: &Place) -> Sets {
    let mut sets: BTreeMap<Point, BTreeMap<i64, Vec<usize>>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| place.holds(row)) {
        sets.entry(row.point()).or_default().entry(row.repeat).or_default().push(index);
    }
    let mut sets: Sets = sets.into_iter().collect();
    sets.sort_by_key(|(point, _)| manifest.cells.iter().position(|cell| point.is_of(cell)));
    sets
}

fn name_of(point: &Point, sets: &Sets) -> String {
    let alike = sets.iter().filter(|(other, _)| other.method == point.method).count();
    if alike > 1 { format!("{}/{}", point.target, point.method) } else { point.method.clone() }
}

fn scores(name: String, rows: &[ScoreRow], chosen: &[usize]) -> Scores {
    let mut datasets: BTreeMap<&str, Arc<str>> = BTreeMap::new();
    let one = |index: &usize| {
        let row = &rows[*index];
        let dataset = datasets.entry(&row.dataset).or_insert_with(|| row.dataset.as_str().into());
        Score {
            dataset: dataset.clone(),
            id: row.sample_id.as_str().into(),
            score: row.score,
            prompt_sha256: (!row.prompt_sha256.is_empty())
                .then(|| row.prompt_sha256.as_str().into()),
        }
    };
    Scores { name, rows: chosen.iter().map(one).collect() }
}
