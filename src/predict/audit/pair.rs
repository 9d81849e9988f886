//! Two files against each other, row by row.

use std::collections::BTreeMap;

use super::{
    Finding, Kind, Sheet,
    series::{self, Series},
};
use crate::{predict::columns::Columns, stats};

/// Fewest rows, and fewest different values, that can tell a copy from a coincidence.
const ROWS_MIN: usize = 8;
/// Share of the rows that must agree: a copy may have been touched up in some.
const AGREE_MIN: f64 = 0.95;
/// Deviation that arithmetic on written digits may leave, as a share of the value.
const ARITHMETIC: f64 = 1e-6;

/// Findings of a pair, A before B.
pub(super) fn findings(a: &Sheet, b: &Sheet) -> Vec<Finding> {
    let files = [&a.table, &b.table];
    if a.sha256 == b.sha256 {
        let rows = a.table.len();
        let same = Finding::new(Kind::IdenticalFiles, &files, "");
        return vec![Finding { n_rows: rows, n_compared: rows, ..same }];
    }
    let noted = |kind: Kind| Finding { flagged: false, ..Finding::new(kind, &files, "") };
    let mut found = Vec::new();
    let mut joined = joined(&a.table, &b.table, &[]);
    if joined.is_empty() {
        let names = names_of_each(&a.table, &b.table);
        joined = self::joined(&a.table, &b.table, &names);
        if joined.is_empty() {
            return vec![noted(Kind::NothingJoined)];
        }
        let n_rows = joined.values().map(Vec::len).sum();
        let columns = names.iter().map(|name| (*name).to_owned()).collect();
        let n_compared = a.table.len();
        found.push(Finding { columns, n_rows, n_compared, ..noted(Kind::JoinedWithout) });
    }
    let pair = Pair { a: &a.table, b: &b.table, joined };
    if !pair.can_tell() {
        let n_rows = pair.joined.values().map(Vec::len).sum();
        found.push(Finding { n_rows, ..noted(Kind::TooFewJoined) });
    }
    for column in a.table.headers.iter().filter(|it| series::is_measured(it) && b.table.has(it)) {
        found.extend(pair.column(column));
    }
    found
}

/// Phase with the rows of A and B that have the same keys.
type Joined = BTreeMap<Option<String>, Vec<(usize, usize)>>;

/// Columns of words that both have, of which each file has one and the two differ: they tell the files apart and no row.
fn names_of_each<'a>(a: &'a Columns, b: &Columns) -> Vec<&'a str> {
    let only = |table: &Columns, header: &str| {
        let mut values = table.texts(header).ok()?;
        values.dedup();
        let [one] = values[..] else { return None };
        one.parse::<f64>().is_err().then(|| one.to_owned())
    };
    let is_name = |header: &&str| match (only(a, header), only(b, header)) {
        (Some(a), Some(b)) => a != b,
        _ => false,
    };
    let keys = a.headers.iter().filter(|header| !series::is_measured(header) && b.has(header));
    keys.map(String::as_str).filter(is_name).collect()
}

/// Joins on all columns that both have and that are no measurement, but those that do not count; of several rows with the same keys the first goes with the
/// first.
fn joined(a: &Columns, b: &Columns, uncounted: &[&str]) -> Joined {
    let keys: Vec<&str> = a
        .headers
        .iter()
        .filter(|header| !series::is_measured(header) && b.has(header))
        .map(String::as_str)
        .filter(|header| !uncounted.contains(header))
        .collect();
    let mut rows: BTreeMap<Vec<String>, Vec<usize>> = BTreeMap::new();
    for (row, key) in keys_of(b, &keys).into_iter().enumerate() {
        rows.entry(key).or_default().push(row);
    }
    // Taken from the end.
    rows.values_mut().for_each(|rows| rows.reverse());
    let phases = series::phases(a);
    let mut joined = Joined::new();
    for (row, key) in keys_of(a, &keys).into_iter().enumerate() {
        if let Some(other) = rows.get_mut(&key).and_then(Vec::pop) {
            joined.entry(phases[row].clone()).or_default().push((row, other));
        }
    }
    joined
}

/// Numbers are the same however they are written: `0` and `0.0`.
fn keys_of(table: &Columns, keys: &[&str]) -> Vec<Vec<String>> {
    let columns: Vec<Vec<&str>> = keys.iter().filter_map(|key| table.texts(key).ok()).collect();
    let plain = |text: &str| match text.parse::<f64>() {
        Ok(number) => number.to_string(),
        Err(_) => text.to_owned(),
    };
    (0..table.len()).map(|row| columns.iter().map(|column| plain(column[row])).collect()).collect()
}

/// How well a relation holds.
struct Fit {
    factor: f64,
    offset: f64,
    n_agree: usize,
    max_rel_deviation: f64,
}

struct Pair<'a> {
    a: &'a Columns,
    b: &'a Columns,
    joined: Joined,
}

impl Pair<'_> {
    /// Whether any column has enough in common to tell a copy from a coincidence.
    fn can_tell(&self) -> bool {
        let columns = self.a.headers.iter().filter(|it| series::is_measured(it) && self.b.has(it));
        columns.filter(|column| !series::is_spread(column)).any(|column| {
            let both = Series::of(self.a, column).zip(Series::of(self.b, column));
            both.is_some_and(|(a, b)| {
                self.joined.values().any(|rows| is_enough(&fine(&a, &b, rows)))
            })
        })
    }

    fn column(&self, column: &str) -> Vec<Finding> {
        let (Some(a), Some(b)) = (Series::of(self.a, column), Series::of(self.b, column)) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (phase, rows) in &self.joined {
            let finding = if series::is_spread(column) {
                self.spread(column, (&a, &b), phase, rows)
            } else {
                self.values(column, (&a, &b), rows)
            };
            found.extend(finding.map(|finding| Finding { phase: phase.clone(), ..finding }));
        }
        found
    }

    /// The simplest relation that holds of a column.
    fn values(
        &self,
        column: &str,
        (a, b): (&Series, &Series),
        rows: &[(usize, usize)],
    ) -> Option<Finding> {
        let pairs = fine(a, b, rows);
        let fit = relation(&pairs, b.finest)?;
        let kind = if fit.offset.abs() > 0.0 {
            Kind::AffineCopy
        } else if (fit.factor - 1.0).abs() <= ARITHMETIC {
            Kind::IdenticalColumns
        } else {
            Kind::ConstantMultiple
        };
        Some(Finding {
            factor: Some(fit.factor),
            offset: (kind == Kind::AffineCopy).then_some(fit.offset),
            max_rel_deviation: Some(fit.max_rel_deviation),
            n_rows: fit.n_agree,
            n_compared: pairs.len(),
            ..Finding::new(kind, &[self.a, self.b], column)
        })
    }

    /// A spread that is A's to the last digit, where the mean is not.
    fn spread(
        &self,
        column: &str,
        (a, b): (&Series, &Series),
        phase: &Option<String>,
        rows: &[(usize, usize)],
    ) -> Option<Finding> {
        let known: Vec<(f64, f64)> =
            both(a, b, rows).into_iter().filter(|(a, b)| *a > 0.0 && *b > 0.0).collect();
        let firsts: Vec<f64> = known.iter().map(|(a, _)| *a).collect();
        let equal = known.iter().filter(|(a, b)| (a / b - 1.0).abs() <= ARITHMETIC).count();
        if series::distinct(&firsts) < ROWS_MIN || (equal as f64) < AGREE_MIN * known.len() as f64 {
            return None;
        }
        let mean = format!("{}mean", column.trim_end_matches("std"));
        let (mean_a, mean_b) = (Series::of(self.a, &mean)?, Series::of(self.b, &mean)?);
        let rows = self.joined.get(phase)?;
        let means = fine(&mean_a, &mean_b, rows);
        let mut ratios: Vec<f64> = means.iter().map(|(a, b)| b / a).collect();
        let factor = stats::median(&mut ratios).filter(|it| (it - 1.0).abs() > 1e-3)?;
        Some(Finding {
            factor: Some(factor),
            n_rows: equal,
            n_compared: known.len(),
            ..Finding::new(Kind::UnscaledSpread, &[self.a, self.b], column)
        })
    }
}

/// Values that both rows have.
fn both(a: &Series, b: &Series, rows: &[(usize, usize)]) -> Vec<(f64, f64)> {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    rows.iter().filter_map(|&(i, j)| Some((finite(a.values[i])?, finite(b.values[j])?))).collect()
}

/// Those that are written finely enough for noise to show.
fn fine(a: &Series, b: &Series, rows: &[(usize, usize)]) -> Vec<(f64, f64)> {
    let is_fine = |pair: &(f64, f64)| pair.0 > 0.0 && pair.1 > 0.0 && a.is_fine(pair.0);
    both(a, b, rows).into_iter().filter(is_fine).collect()
}

/// Whether so many, and so different, tell a copy from a coincidence.
fn is_enough(pairs: &[(f64, f64)]) -> bool {
    let firsts: Vec<f64> = pairs.iter().map(|(a, _)| *a).collect();
    pairs.len() >= ROWS_MIN && series::distinct(&firsts) >= ROWS_MIN
}

/// `B = s A`, else `B = s A + o`; `None` where neither holds, or too little is there to tell.
fn relation(pairs: &[(f64, f64)], unit: f64) -> Option<Fit> {
    if !is_enough(pairs) {
        return None;
    }
    let enough = |fit: &Fit| fit.n_agree as f64 >= AGREE_MIN * pairs.len() as f64;
    let multiple = judge(pairs, unit, factor(pairs)?, 0.0);
    if enough(&multiple) {
        return Some(multiple);
    }
    let (factor, offset) = affine(pairs)?;
    Some(judge(pairs, unit, factor, offset)).filter(enough)
}

fn judge(pairs: &[(f64, f64)], unit: f64, factor: f64, offset: f64) -> Fit {
    let off = |&(a, b): &(f64, f64)| (factor * a + offset - b).abs();
    let holds = |pair: &&(f64, f64)| off(pair) <= 0.5 * unit + ARITHMETIC * pair.1;
    Fit {
        factor,
        offset,
        n_agree: pairs.iter().filter(holds).count(),
        max_rel_deviation: pairs.iter().map(|pair| off(pair) / pair.1).fold(0.0, f64::max),
    }
}

/// Median ratio of the largest quarter, in which rounding weighs least.
fn factor(pairs: &[(f64, f64)]) -> Option<f64> {
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|x, y| y.0.total_cmp(&x.0));
    sorted.truncate(pairs.len().div_ceil(4).max(ROWS_MIN));
    stats::median(&mut sorted.iter().map(|(a, b)| b / a).collect::<Vec<_>>())
}

/// Least squares of the relative error. `None` where the first values are all alike, or the slope is not above 0.
fn affine(pairs: &[(f64, f64)]) -> Option<(f64, f64)> {
    let weight = |b: f64| 1.0 / (b * b);
    let total: f64 = pairs.iter().map(|(_, b)| weight(*b)).sum();
    let mean = |of: fn(&(f64, f64)) -> f64| {
        pairs.iter().map(|pair| weight(pair.1) * of(pair)).sum::<f64>() / total
    };
    let (mean_a, mean_b) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut along, mut square) = (0.0, 0.0);
    for (a, b) in pairs {
        along += weight(*b) * (a - mean_a) * (b - mean_b);
        square += weight(*b) * (a - mean_a).powi(2);
    }
    let slope = along / square;
    (slope.is_finite() && slope > 0.0).then_some((slope, mean_b - slope * mean_a))
}
