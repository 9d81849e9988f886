//! Whether profiles are measurements of their own: files that were made from one another say so in their digits.
//!
//! Two measurements of one operation differ by noise in every row, each by its own amount. A file that was multiplied out of another
//! has one ratio in all rows, to the last digit. Rows are joined on all columns that are no measurement. Where that joins none, columns
//! of words of which each file has one are left out of it, and it is said: two methods never have a row in common while the column that
//! names them counts. A measured column is one that starts with `time_stats.` or carries a unit of time or rate (`_ms`, `thr`, ...).
//!
//! What is flagged:
//! - files, or columns, that are identical;
//! - `B = s A` in at least 95 % of the rows, and `B = s A + o`, up to the rounding of B's last digit and 1e-6;
//! - standard deviations that are those of A while the means are not;
//! - a standard deviation of 0 in every row, a column that never changes and is 1 % of the largest value or more;
//! - values below 0, of 0, or no number; decode rows faster than the device's memory.
//!
//! Rows below 200 units of a file's last digit say nothing about noise, since rounding hides it: such rows, and columns of
//! fewer than 8 different values, are not compared. What they hold is noted, not flagged.

use std::io::Read;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::columns::{Columns, unpacked};
use crate::units::hex;

mod pair;
mod series;
mod single;
#[cfg(test)]
mod tests;

/// A file with its hash.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// Its rows.
    pub table: Columns,
    /// sha256 of what it holds once it is unpacked, hex.
    pub sha256: String,
}

impl Sheet {
    /// Reads a CSV file, gzip or not.
    ///
    /// # Errors
    /// As [`Columns::read`]; a file without any column of measurements.
    pub fn read(reader: impl Read, name: &str) -> anyhow::Result<Self> {
        let bytes = unpacked(reader, name)?;
        let sheet =
            Self { table: Columns::read(&bytes[..], name)?, sha256: hex(&Sha256::digest(&bytes)) };
        anyhow::ensure!(
            sheet.table.headers.iter().any(|header| series::is_measured(header)),
            "{name}: expected a column of measurements (`time_stats.*`, `*_ms`, `thr`, ...), got {}\n  hint: is this a profile?",
            sheet.table.headers.join(", ")
        );
        Ok(sheet)
    }
}

/// What is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Two files hold the same bytes.
    IdenticalFiles,
    /// Columns hold the same numbers.
    IdenticalColumns,
    /// `B = s A`.
    ConstantMultiple,
    /// `B = s A + o`.
    AffineCopy,
    /// The spread is A's, the mean is not.
    UnscaledSpread,
    /// The standard deviation is 0 in every row.
    NoSpread,
    /// One value in every row.
    Constant,
    /// Below 0, 0, or no number.
    Impossible,
    /// More bytes a second than the device's memory gives.
    TooFast,
    /// Files that share no row.
    NothingJoined,
    /// Files that share a row only where columns that name each are left out of the join.
    JoinedWithout,
    /// Files that share too few rows, written finely enough, to tell a copy from a coincidence.
    TooFewJoined,
    /// A check that the file's columns do not allow.
    NotChecked,
}

impl Kind {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::IdenticalFiles => "identical-files",
            Kind::IdenticalColumns => "identical-columns",
            Kind::ConstantMultiple => "constant-multiple",
            Kind::AffineCopy => "affine-copy",
            Kind::UnscaledSpread => "unscaled-spread",
            Kind::NoSpread => "no-spread",
            Kind::Constant => "constant",
            Kind::Impossible => "impossible",
            Kind::TooFast => "too-fast",
            Kind::NothingJoined => "nothing-joined",
            Kind::JoinedWithout => "joined-without",
            Kind::TooFewJoined => "too-few-joined",
            Kind::NotChecked => "not-checked",
        }
    }
}

/// One finding; columns of which the same holds share it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// Whether it speaks against the file; otherwise it is to be known.
    pub flagged: bool,
    /// One file, or A and B.
    pub files: Vec<String>,
    /// Columns of which it holds.
    pub columns: Vec<String>,
    /// `decode`, `prefill`, or what the file's own column of phases says; `None` where it has none.
    pub phase: Option<String>,
    /// `s`.
    pub factor: Option<f64>,
    /// `o`, in the unit of the column.
    pub offset: Option<f64>,
    /// Largest deviation of a row from the relation, as a share of its value.
    pub max_rel_deviation: Option<f64>,
    /// Rows of which it holds, of one column; with several columns the fewest.
    pub n_rows: usize,
    /// Rows that were compared.
    pub n_compared: usize,
}

/// Checks every file, and every pair in the order given. `bandwidth_gb_s` is that of the device's memory.
pub fn audit(sheets: &[Sheet], bandwidth_gb_s: Option<f64>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, sheet) in sheets.iter().enumerate() {
        found.extend(single::findings(&sheet.table, bandwidth_gb_s));
        for other in &sheets[at + 1..] {
            found.extend(pair::findings(sheet, other));
        }
    }
    // What speaks against a file comes first; within that the order of files stays.
    found.sort_by_key(|finding| !finding.flagged);
    merged(found)
}

/// Pairs of files of which no column could be compared.
pub fn not_compared(found: &[Finding]) -> usize {
    let is = |one: &&Finding| matches!(one.kind, Kind::NothingJoined | Kind::TooFewJoined);
    found.iter().filter(is).count()
}

/// Findings that say the same of several columns become one.
fn merged(found: Vec<Finding>) -> Vec<Finding> {
    let mut out: Vec<Finding> = Vec::new();
    for next in found {
        match out.iter_mut().find(|known| is_same(known, &next)) {
            Some(known) => {
                known.columns.extend(next.columns);
                known.max_rel_deviation = larger(known.max_rel_deviation, next.max_rel_deviation);
                known.n_rows = known.n_rows.min(next.n_rows);
                known.n_compared = known.n_compared.min(next.n_compared);
            }
            None => out.push(next),
        }
    }
    out
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

/// Rounding moves a fitted factor a little, and the ratio of means is that of the rows at hand.
fn is_same(a: &Finding, b: &Finding) -> bool {
    let tolerance = if a.kind == Kind::UnscaledSpread { 0.05 } else { 1e-4 };
    let close = |a: Option<f64>, b: Option<f64>, tolerance: f64| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs(),
        (a, b) => a.is_none() && b.is_none(),
    };
    (a.kind, a.flagged, &a.files, &a.phase) == (b.kind, b.flagged, &b.files, &b.phase)
        && close(a.factor, b.factor, tolerance)
        && close(a.offset, b.offset, 1e-2)
}

impl Finding {
    /// A finding without numbers.
    fn new(kind: Kind, files: &[&Columns], column: &str) -> Self {
        Self {
            kind,
            flagged: true,
            files: files.iter().map(|file| file.name.clone()).collect(),
            columns: if column.is_empty() { Vec::new() } else { vec![column.to_owned()] },
            phase: None,
            factor: None,
            offset: None,
            max_rel_deviation: None,
            n_rows: 0,
            n_compared: 0,
        }
    }

    /// The finding in words.
    pub fn sentence(&self) -> String {
        let a = self.files.first().map_or("", String::as_str);
        let b = self.files.get(1).map_or("", String::as_str);
        let of = self.phase.as_ref().map(|phase| format!(" ({phase})")).unwrap_or_default();
        let rows = format!("{} of {} rows", self.n_rows, self.n_compared);
        let what = self.what();
        let off = self.max_rel_deviation.map(|off| format!("{off:.1e}")).unwrap_or_default();
        let factor = self.factor.unwrap_or(f64::NAN);
        match self.kind {
            Kind::IdenticalFiles => format!("{b} holds the same bytes as {a}."),
            Kind::IdenticalColumns => format!("{b}: {what}{of} equal those of {a} in {rows}."),
            Kind::ConstantMultiple => format!(
                "{b}: {what}{of} are those of {a} times {factor:.6} in {rows} (largest deviation {off})."
            ),
            Kind::AffineCopy => format!(
                "{b}: {what}{of} are those of {a} times {factor:.6} plus {:.6} in {rows} (largest deviation {off}).",
                self.offset.unwrap_or(f64::NAN)
            ),
            Kind::UnscaledSpread => format!(
                "{b}: {what}{of} equal those of {a} in {rows}, while the means are about {factor:.2} times theirs."
            ),
            Kind::NoSpread => format!("{a}: {what} are 0 in all {} rows.", self.n_compared),
            Kind::Constant => format!("{a}: {what} never change in {} rows.", self.n_compared),
            Kind::Impossible => format!("{a}: {what} are below 0, 0 or no number in {rows}."),
            Kind::TooFast => format!(
                "{a}: {what} would read fp16 keys and values {factor:.2} times as fast as the memory in {rows}."
            ),
            Kind::NothingJoined => format!("{a} and {b} share no row, so they were not compared."),
            Kind::JoinedWithout => format!(
                "{a} and {b} share no row with all their columns, so {what} did not count: {} of {}'s rows were joined.",
                self.n_rows, a
            ),
            Kind::TooFewJoined => format!(
                "{a} and {b} share {} rows, too few that are different and written finely enough, so they were not compared.",
                self.n_rows
            ),
            Kind::NotChecked => {
                format!("{a}: memory traffic was not checked: {what} is not there.")
            }
        }
    }

    fn what(&self) -> String {
        let shown: Vec<&str> = self.columns.iter().take(3).map(String::as_str).collect();
        let more = self.columns.len().saturating_sub(shown.len());
        let rest = if more > 0 { format!(" and {more} more columns") } else { String::new() };
        format!("{}{rest}", shown.join(", "))
    }
}
