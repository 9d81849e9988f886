//! The same work under every method, from one or several runs, and what is missing of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use regex::Regex;

use super::metric::{Metric, Source};
use crate::{
    analyse::{
        RunData, judge,
        requests::{Served, by_repeat, rates},
    },
    plan::search::probe_rate,
    record::{
        KernelRow, PROBE_METHOD,
        manifest::{CellFacts, Verdict},
        parquet::TableRow as _,
    },
};

/// Which run, counted from 0 as given, and which repeat of it: what was measured side by side has the same one.
pub(in crate::analyse) type Turn = (usize, i64);

/// A run, opened for comparing its methods.
pub struct Run {
    pub(in crate::analyse) data: RunData,
    pub(in crate::analyse) served: Served,
    pub(in crate::analyse) launches: Vec<KernelRow>,
    /// Cells that are INVALID, with the reasons.
    invalid: BTreeMap<String, String>,
}

/// The work that methods share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Spot {
    /// Host that drove the run; empty where it did not tell.
    pub machine: String,
    /// Target, where the baseline ran on several; else empty: one server runs one method.
    pub target: String,
    /// Workload.
    pub workload: String,
    /// Load with its parameter.
    pub load: String,
    /// Shape of a launch within a replayed workload; empty elsewhere.
    pub shape: String,
}

/// One method at one spot.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::analyse) struct Contender {
    /// The method, with its target where it ran on several.
    pub(in crate::analyse) name: String,
    pub(in crate::analyse) method: String,
    pub(in crate::analyse) target: String,
    pub(in crate::analyse) turns: BTreeMap<Turn, Vec<f64>>,
}

/// One spot with everybody who has a value there.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::analyse) struct Cell {
    pub(in crate::analyse) spot: Spot,
    pub(in crate::analyse) contenders: Vec<Contender>,
}

/// What a method has no value of, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Left {
    /// `workload/load`.
    pub place: String,
    /// Target.
    pub target: String,
    /// Method.
    pub method: String,
    /// Repeats that are missing.
    pub n: usize,
    /// Repeats that were planned.
    pub of: usize,
    /// Why, in words.
    pub why: String,
    /// Whether something was measured that is of no use here.
    pub measured: bool,
}

impl Left {
    pub(in crate::analyse) fn new(
        spot: &Spot,
        who: &Contender,
        (n, of): (usize, usize),
        why: String,
    ) -> Self {
        let (target, method) = (who.target.clone(), who.method.clone());
        let place = format!("{}/{}", spot.workload, spot.load);
        Self { place, target, method, n, of, why, measured: true }
    }
}

impl Run {
    /// Opens a run.
    ///
    /// # Errors
    /// It cannot be judged.
    pub fn of(data: RunData) -> anyhow::Result<Self> {
        let bad = judge(&data)?.cells.into_iter().filter(|cell| cell.verdict == Verdict::Invalid);
        let invalid =
            bad.map(|cell| (cell.cell_id, format!("INVALID: {}", cell.reasons.join("; "))));
        Ok(Self {
            invalid: invalid.collect(),
            served: Served::of(&data)?,
            launches: KernelRow::rows(&data.kernels)?,
            data,
        })
    }

    /// The method all others are compared with.
    pub fn baseline(&self) -> &str {
        &self.data.manifest.scenario.baseline
    }

    /// Planned cells that are saturation searches.
    pub fn n_searches(&self) -> usize {
        let searches = &self.data.manifest.scenario.searches;
        self.data.manifest.cells.iter().filter(|cell| searches.contains_key(&cell.load)).count()
    }

    fn machine(&self) -> String {
        self.data.manifest.machine.hostname.clone().unwrap_or_default()
    }

    /// Planned cells that the filter leaves. A saturation search has no load of its own, so it is none of them.
    pub(in crate::analyse) fn planned<'a>(
        &'a self,
        filter: Option<&'a Regex>,
    ) -> impl Iterator<Item = &'a CellFacts> {
        let searches = &self.data.manifest.scenario.searches;
        self.data.manifest.cells.iter().filter(move |cell| {
            !searches.contains_key(&cell.load)
                && filter.is_none_or(|filter| filter.is_match(&cell.id))
        })
    }

    fn usable(&self, cell_id: &str) -> bool {
        !self.invalid.contains_key(cell_id)
    }

    /// Cells with a row that may be used.
    fn alive(&self) -> BTreeSet<&str> {
        let launched = self.launches.iter().filter(|row| row.duration_ns.is_some());
        let launched = launched.map(|row| row.cell_id.as_str());
        let served = self.served.facts.iter().filter(|facts| !facts.failed);
        launched
            .chain(served.map(|facts| facts.cell_id.as_str()))
            .filter(|id| self.usable(id))
            .collect()
    }

    /// Every observation of a metric: cell, shape, values.
    fn seen(&self, metric: &Metric) -> Vec<(&str, String, Vec<f64>)> {
        let facts = &self.served.facts;
        let request = |values: fn(&crate::analyse::RequestFacts) -> Vec<f64>, failed_too: bool| {
            let wanted = facts.iter().filter(|facts| failed_too || !facts.failed);
            let wanted = wanted.filter(|facts| probe_rate(&facts.point.load).is_none());
            wanted.map(|facts| (facts.cell_id.as_str(), String::new(), values(facts))).collect()
        };
        match metric.source {
            Source::Request(values) => request(values, false),
            Source::Attempt(values) => request(values, true),
            Source::Rate(count) => self.rates(count),
            Source::Launch(op, value) => {
                let launches = self.launches.iter();
                let launches = launches.filter(|row| row.op == op && row.method != PROBE_METHOD);
                let one = |row: &'_ KernelRow| value(row).map(|value| vec![value]);
                launches
                    .filter_map(|row| Some((row.cell_id.as_str(), shape(row), one(row)?)))
                    .collect()
            }
        }
    }

    fn rates(&self, count: fn(&Served, usize) -> Option<f64>) -> Vec<(&str, String, Vec<f64>)> {
        let mut out = Vec::new();
        for (_, rows) in self.served.points(&self.data) {
            for repeat in by_repeat(&self.served, &rows).into_values() {
                let id = self.served.facts[repeat[0]].cell_id.as_str();
                let rate = rates(&self.served, &[repeat], &|row| count(&self.served, row));
                out.extend(rate.map(|rate| (id, String::new(), rate)));
            }
        }
        out
    }

    fn why(&self, cell: &CellFacts, metric: &Metric) -> String {
        if let Some(reason) = self.invalid.get(&cell.id) {
            return reason.clone();
        }
        let errors = self.served.rows.iter().map(|row| (&row.cell_id, &row.err));
        let errors = errors.chain(self.launches.iter().map(|row| (&row.cell_id, &row.err)));
        let mut errors =
            errors.filter(|(id, _)| **id == cell.id).filter_map(|(_, err)| err.as_ref());
        match errors.next() {
            Some(err) => format!("failed: {err}"),
            None if !self.data.finished.contains(&cell.id) => "not finished".to_owned(),
            None => format!("no {} was recorded", metric.name),
        }
    }
}

/// Replayed batches have many shapes; a grid has one a workload.
fn shape(row: &KernelRow) -> String {
    if row.load == "launch" {
        return String::new();
    }
    format!("b{} q{} kv{}/{}", row.batch, row.q_len, row.kv_len, row.kv_tokens)
}

/// All runs must have the same baseline, or a ratio to it has no meaning.
///
/// # Errors
/// They have not.
pub fn one_baseline(runs: &[Run]) -> anyhow::Result<&str> {
    let first = runs.first().map_or("", Run::baseline);
    for run in runs {
        ensure!(
            run.baseline() == first,
            "expected runs of one baseline, got {first} in {} and {} in {}\n  hint: compare them one by one",
            runs[0].data.manifest.run_id,
            run.baseline(),
            run.data.manifest.run_id
        );
    }
    Ok(first)
}

type Seen = BTreeMap<(String, String), BTreeMap<Turn, Vec<f64>>>;

/// Spots of a metric with their contenders, and what is missing.
pub(in crate::analyse) fn gather(
    runs: &[Run],
    metric: &Metric,
    filter: Option<&Regex>,
) -> (Vec<Cell>, Vec<Left>) {
    let mut spots: BTreeMap<Spot, Seen> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        let planned: BTreeMap<&str, &CellFacts> =
            run.planned(filter).map(|cell| (cell.id.as_str(), cell)).collect();
        for (id, shape, values) in run.seen(metric) {
            let Some(cell) = planned.get(id).filter(|_| run.usable(id) && !values.is_empty())
            else {
                continue;
            };
            let seen = spots.entry(Spot { shape, ..spot(run, cell) }).or_default();
            let turns = seen.entry((cell.method.clone(), cell.target.clone())).or_default();
            turns.entry((number, i64::from(cell.repeat))).or_default().extend(values);
        }
    }
    let baseline = runs.first().map_or("", Run::baseline);
    let mut left = missing(runs, metric, filter, &spots);
    let cells: Vec<Cell> =
        spots.into_iter().flat_map(|(spot, seen)| cells(spot, seen, baseline)).collect();
    let cells =
        cells.into_iter().filter_map(|cell| large_enough(cell, metric, &mut left)).collect();
    left.sort();
    (cells, left)
}

fn spot(run: &Run, cell: &CellFacts) -> Spot {
    let (workload, load) = (cell.workload.clone(), cell.load.clone());
    Spot { machine: run.machine(), workload, load, ..Spot::default() }
}

/// One cell, or one a target where the baseline ran on several.
fn cells(spot: Spot, seen: Seen, baseline: &str) -> Vec<Cell> {
    let at = seen.keys().filter(|(method, _)| method == baseline).count();
    let mut groups: BTreeMap<String, Vec<Contender>> = BTreeMap::new();
    for ((method, target), turns) in seen {
        let group = if at > 1 { target.clone() } else { String::new() };
        let contender = Contender { name: method.clone(), method, target, turns };
        groups.entry(group).or_default().push(contender);
    }
    let one = |(target, mut contenders): (String, Vec<Contender>)| {
        let methods: Vec<String> = contenders.iter().map(|c| c.method.clone()).collect();
        for contender in &mut contenders {
            if methods.iter().filter(|method| **method == contender.method).count() > 1 {
                contender.name = format!("{}@{}", contender.method, contender.target);
            }
        }
        Cell { spot: Spot { target, ..spot.clone() }, contenders }
    };
    groups.into_iter().map(one).collect()
}

/// Planned repeats without a value, at spots where somebody has one, or where nobody has any of anything.
fn missing(
    runs: &[Run],
    metric: &Metric,
    filter: Option<&Regex>,
    spots: &BTreeMap<Spot, Seen>,
) -> Vec<Left> {
    let measured: BTreeSet<Spot> =
        spots.keys().map(|spot| Spot { shape: String::new(), ..spot.clone() }).collect();
    let got: BTreeSet<(Spot, &str, &str, Turn)> = spots
        .iter()
        .flat_map(|(spot, seen)| {
            seen.iter().map(move |((method, target), turns)| (spot, method, target, turns))
        })
        .flat_map(|(spot, method, target, turns)| {
            let spot = Spot { shape: String::new(), ..spot.clone() };
            turns.keys().map(move |turn| (spot.clone(), method.as_str(), target.as_str(), *turn))
        })
        .collect();
    let mut counts: BTreeMap<(Spot, &str, &str), Left> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        let alive = run.alive();
        let living: BTreeSet<Spot> = run
            .planned(filter)
            .filter(|cell| alive.contains(cell.id.as_str()))
            .map(|cell| spot(run, cell))
            .collect();
        for cell in run.planned(filter) {
            let spot = spot(run, cell);
            if !measured.contains(&spot) && living.contains(&spot) {
                continue;
            }
            let turn = (number, i64::from(cell.repeat));
            let has =
                got.contains(&(spot.clone(), cell.method.as_str(), cell.target.as_str(), turn));
            let nothing = Left {
                place: format!("{}/{}", cell.workload, cell.load),
                target: cell.target.clone(),
                method: cell.method.clone(),
                n: 0,
                of: 0,
                why: String::new(),
                measured: false,
            };
            let left = counts.entry((spot, &cell.method, &cell.target)).or_insert(nothing);
            left.of += 1;
            if !has {
                left.n += 1;
                if left.why.is_empty() {
                    left.why = run.why(cell, metric);
                }
            }
        }
    }
    counts.into_values().filter(|left| left.n > 0).collect()
}

/// Drops who has too few observations for the statistic, and says so.
fn large_enough(mut cell: Cell, metric: &Metric, left: &mut Vec<Left>) -> Option<Cell> {
    let needed = metric.statistic.needed();
    cell.contenders.retain(|contender| {
        let n: usize = contender.turns.values().map(Vec::len).sum();
        if n < needed {
            let why = format!("n too small for {}: {n} of {needed}", metric.name);
            let repeats = contender.turns.len();
            left.push(Left::new(&cell.spot, contender, (repeats, repeats), why));
        }
        n >= needed
    });
    (!cell.contenders.is_empty()).then_some(cell)
}
