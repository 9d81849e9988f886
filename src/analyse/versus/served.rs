//! Requests to one number a repeat: distributions and rates, by the definitions of the rest of [`crate::analyse`].

use super::{
    metric::{Metric, RATES, SERVED, STATISTICS},
    side::{Cell, Repeat},
};
use crate::{
    analyse::{Better, requests::facts},
    record::{RequestRow, manifest::SloFacts},
    stats::TimeOrdered,
    units::ns_to_s,
};

/// The requests of one repeat of a cell, as columns.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// When each was sent; those that never were are by when they were due.
    at_ns: Vec<i64>,
    /// In the order of [`SERVED`]; NaN where unknown.
    values: [Vec<f64>; SERVED.len()],
    n_failed: u64,
    first_sent_ns: Option<i64>,
    last_done_ns: Option<i64>,
    /// Output tokens of good requests; `None` once nobody counted one's.
    tokens: Option<i64>,
    /// Good requests within the SLO; `None` without one.
    n_held: Option<u64>,
}

impl Requests {
    pub(super) fn new(slo: Option<SloFacts>) -> Self {
        Self { tokens: Some(0), n_held: slo.map(|_| 0), ..Self::default() }
    }

    /// Adds a request of which the times and counts are filled in.
    pub(super) fn add(&mut self, row: &RequestRow, slo: Option<SloFacts>) {
        let facts = facts(row, slo);
        self.at_ns.push(row.sent_ns.unwrap_or(row.due_ns));
        let answer = facts.answer_tokens.filter(|_| !facts.failed).map(|tokens| tokens as f64);
        let values = [
            facts.ttft_ms,
            facts.ttft_due_ms,
            facts.e2e_ms,
            facts.e2e_due_ms,
            facts.tpot_ms,
            answer,
        ];
        for (column, value) in self.values.iter_mut().zip(values) {
            column.push(value.unwrap_or(f64::NAN));
        }
        self.first_sent_ns = least(self.first_sent_ns, row.sent_ns);
        let done = row.done_ns.or(row.last_token_ns);
        self.last_done_ns =
            least(self.last_done_ns.map(|ns| -ns), done.map(|ns| -ns)).map(|ns| -ns);
        self.n_held = self.n_held.map(|n| n + u64::from(facts.within_slo == Some(true)));
        if facts.failed {
            self.n_failed += 1;
        } else {
            self.tokens = self.tokens.zip(facts.output_tokens).map(|(sum, tokens)| sum + tokens);
        }
    }

    /// Puts what this repeat says into its cell.
    pub(super) fn reduce(mut self, repeat: i64) -> Reduced {
        let mut reduced = Reduced {
            n_rows: self.at_ns.len() as u64,
            n_failed: self.n_failed,
            ..Reduced::default()
        };
        self.rates(repeat, &mut reduced);
        self.in_time();
        for ((stem, definition, unit, better), values) in SERVED.iter().zip(&mut self.values) {
            values.retain(|value| !value.is_nan());
            let Some(ordered) = TimeOrdered::new(values) else { continue };
            for (statistic, percent) in STATISTICS {
                let name = format!("{stem}_{statistic}");
                match value_of(&ordered, percent) {
                    Some((value, variance)) => reduced.measured.push((
                        Metric::new(name, unit, *better, definition),
                        Repeat {
                            repeat,
                            value,
                            n: ordered.len(),
                            within: variance.map(|variance| variance / (value * value)),
                        },
                    )),
                    None => reduced.short.push(name),
                }
            }
        }
        reduced
    }

    /// Blocks of time need the order of time; rows may come in the order in which answers ended.
    fn in_time(&mut self) {
        if self.at_ns.is_sorted() {
            return;
        }
        let mut order: Vec<usize> = (0..self.at_ns.len()).collect();
        order.sort_by_key(|at| self.at_ns[*at]);
        for column in &mut self.values {
            *column = order.iter().map(|at| column[*at]).collect();
        }
    }

    fn rates(&self, repeat: i64, reduced: &mut Reduced) {
        let span = self.first_sent_ns.zip(self.last_done_ns).filter(|(first, last)| last > first);
        let Some((first, last)) = span else { return };
        let n = self.at_ns.len();
        let good = (n as u64 - self.n_failed) as f64;
        let counts = [Some(good), self.tokens.map(|n| n as f64), self.n_held.map(|n| n as f64)];
        for ((name, unit), count) in RATES.iter().zip(counts) {
            if let Some(count) = count {
                let value = count / ns_to_s(last - first);
                let metric = Metric::new(*name, unit, Better::Higher, name);
                reduced.measured.push((metric, Repeat { repeat, value, n, within: None }));
            }
        }
    }
}

/// One repeat, reduced.
#[derive(Debug, Default)]
pub(super) struct Reduced {
    measured: Vec<(Metric, Repeat)>,
    short: Vec<String>,
    n_rows: u64,
    n_failed: u64,
}

impl Reduced {
    pub(super) fn into_cell(self, cell: &mut Cell) {
        cell.n_rows += self.n_rows;
        cell.n_failed += self.n_failed;
        cell.short.extend(self.short);
        self.measured.into_iter().for_each(|(metric, repeat)| cell.add(metric, repeat));
    }
}

fn least(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A statistic with its variance; `None` where the sample is too small to hold it, by the rule of [`crate::stats::Sample::percentile`].
fn value_of(ordered: &TimeOrdered, percent: Option<u32>) -> Option<(f64, Option<f64>)> {
    let Some(percent) = percent else {
        return Some((ordered.mean(), ordered.variance_of_mean()));
    };
    let holds = ordered.len() >= crate::stats::needed_for(percent);
    let q = f64::from(percent) / 100.0;
    holds.then(|| (ordered.quantile(q), ordered.variance_of_quantile(q)))
}
