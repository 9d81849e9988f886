//! Marks with what they belong to: a page groups them, a file draws them one after the other.

use super::marks::{Mark, Xy, dashes};

/// What a piece of a panel shows: a number counts the panel's own list of such things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Grid, axes, labels, and what is said where there is no data.
    Frame,
    Reference(usize),
    Series(usize),
    Note(usize),
}

/// Marks that belong to one thing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) panel: usize,
    pub(super) of: Of,
    pub(super) marks: Vec<Mark>,
    /// Whether its lines are dashed.
    pub(super) is_dashed: bool,
    /// Where the points of a series stand, in their order; only once a series.
    pub(super) places: Vec<Xy>,
}

impl Piece {
    pub(super) fn new(panel: usize, of: Of, marks: Vec<Mark>) -> Self {
        Self { panel, of, marks, is_dashed: false, places: Vec::new() }
    }

    /// Its marks as a backend without dashes draws them.
    pub(super) fn drawn(self) -> Vec<Mark> {
        let dashed = |mark| match mark {
            Mark::Path { points, color, width } => dashes(&points, color, width),
            other => vec![other],
        };
        if self.is_dashed { self.marks.into_iter().flat_map(dashed).collect() } else { self.marks }
    }
}
