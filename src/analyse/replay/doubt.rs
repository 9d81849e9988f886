//! Cells whose times are to be doubted: an error of a replay may be theirs, and not the simulation's.

use crate::analyse::observed_trace::CellTrace;

/// Cells that a replay rests on.
#[derive(Default)]
pub(super) struct Used<'a> {
    /// Those that step times were fitted to.
    pub(super) calibrated: Vec<&'a CellTrace>,
    /// Those that were simulated.
    pub(super) judged: Vec<&'a CellTrace>,
}

/// Why a cell is doubted.
type Doubt = fn(&CellTrace) -> Option<&str>;

impl Used<'_> {
    /// How many are SUSPECT; no cell is both calibrated on and judged.
    pub(super) fn n_suspect(&self) -> usize {
        let all = self.calibrated.iter().chain(&self.judged);
        all.filter(|trace| trace.suspect.is_some()).count()
    }

    /// How many of each are INVALID or SUSPECT, with a reason of one of them.
    pub(super) fn notes(&self) -> Vec<String> {
        let roles = [("calibration", &self.calibrated), ("judged", &self.judged)];
        let doubts: [(&str, Doubt); 2] = [
            ("INVALID, and used because of --keep-invalid", |trace| trace.invalid.as_deref()),
            ("SUSPECT, so the error may be the measurement's", |trace| trace.suspect.as_deref()),
        ];
        let say = |(role, cells): (&str, &Vec<&CellTrace>), (what, why): (&str, Doubt)| {
            let reasons: Vec<&str> = cells.iter().filter_map(|trace| why(trace)).collect();
            let first = reasons.first()?;
            let n = reasons.len();
            Some(format!("{n} of {} {role} cells are {what} (such as: {first})", cells.len()))
        };
        roles.into_iter().flat_map(|role| doubts.map(|doubt| say(role, doubt))).flatten().collect()
    }
}
