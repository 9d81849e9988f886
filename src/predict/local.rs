//! What a curve leaves at each measured point, spread to the places between.

use serde::{Deserialize, Serialize};

use super::{Work, curve::exact, domain::axes};

/// Neighbours that a correction is made of.
const NEIGHBOURS: usize = 4;
/// Squared distance in log units below which a place is that of a knot.
const SAME: f64 = 1e-18;

/// Log ratios of measured to fitted time at measured points: between them the mean of the four nearest, weighted by the inverse of
/// their distance on logarithmic axes (sequences or new tokens; tokens a sequence). Such a mean cannot leave the range of what it is
/// made of, so the correction is never larger than one that was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// In ascending order of `y`.
    knots: Vec<Knot>,
}

/// One measured point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knot {
    /// Log of sequences (decode) or new tokens (prefill).
    #[serde(deserialize_with = "exact")]
    pub x: f64,
    /// Log of tokens a sequence reads.
    #[serde(deserialize_with = "exact")]
    pub y: f64,
    /// `ln(measured / fitted)`.
    #[serde(deserialize_with = "exact")]
    pub log_ratio: f64,
}

fn position(work: &Work) -> (f64, f64) {
    let (size, kv_len) = axes(work);
    let new = match work.phase {
        super::Phase::Decode => 0.0,
        super::Phase::Prefill => work.new_tokens / work.batch.max(1.0),
    };
    (size.max(1.0).ln(), (kv_len + new).max(1.0).ln())
}

impl Local {
    /// From passes and `ln(measured / fitted)`; `None` of none.
    pub fn of(points: impl IntoIterator<Item = (Work, f64)>) -> Option<Self> {
        let knot = |(work, log_ratio): (Work, f64)| {
            let (x, y) = position(&work);
            Knot { x, y, log_ratio }
        };
        let mut knots: Vec<Knot> = points.into_iter().map(knot).collect();
        knots.sort_by(|a, b| a.y.total_cmp(&b.y));
        (!knots.is_empty()).then_some(Self { knots })
    }

    /// Whether `y` ascends, which the search relies on: a file may hold anything.
    pub(super) fn is_sorted(&self) -> bool {
        self.knots.is_sorted_by(|a, b| a.y <= b.y)
    }

    /// What it was made of.
    pub(super) fn log_ratios(&self) -> impl Iterator<Item = f64> + '_ {
        self.knots.iter().map(|knot| knot.log_ratio)
    }

    /// What the fitted time is to be multiplied with.
    pub fn factor(&self, work: &Work) -> f64 {
        let (x, y) = position(work);
        let mut near = [(f64::INFINITY, 0.0); NEIGHBOURS];
        let start = self.knots.partition_point(|knot| knot.y < y);
        // Outwards in `y` until even the next step alone is farther than the fourth nearest.
        let (mut below, mut above) = (start, start);
        loop {
            let down = below.checked_sub(1).map(|at| self.knots[at]);
            let up = self.knots.get(above).copied();
            let gap = |knot: Option<Knot>| knot.map_or(f64::INFINITY, |knot| (knot.y - y).powi(2));
            let knot = if gap(down) <= gap(up) { down } else { up };
            let Some(knot) = knot.filter(|knot| (knot.y - y).powi(2) <= near[NEIGHBOURS - 1].0)
            else {
                break;
            };
            if gap(down) <= gap(up) {
                below -= 1
            } else {
                above += 1
            }
            insert(&mut near, ((knot.x - x).powi(2) + (knot.y - y).powi(2), knot.log_ratio));
        }
        weighted(&near).exp()
    }
}

fn insert(near: &mut [(f64, f64); NEIGHBOURS], one: (f64, f64)) {
    if let Some(at) = near.iter().position(|held| one.0 < held.0) {
        near[at..].rotate_right(1);
        near[at] = one;
    }
}

fn weighted(near: &[(f64, f64); NEIGHBOURS]) -> f64 {
    if near[0].0 < SAME {
        let same = near.iter().filter(|held| held.0 < SAME);
        let (n, sum) = same.fold((0.0, 0.0), |(n, sum), held| (n + 1.0, sum + held.1));
        return sum / n;
    }
    let found = near.iter().filter(|held| held.0.is_finite());
    let (weights, sum) = found.fold((0.0, 0.0), |(weights, sum), (square, log_ratio)| {
        let weight = 1.0 / square.sqrt();
        (weights + weight, sum + weight * log_ratio)
    });
    sum / weights
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn decode(batch: u32, kv_len: f64) -> Work {
        Work::decode((0..batch).map(|_| kv_len), None)
    }

    #[test]
    fn a_knot_gives_its_own_ratio() {
        let local =
            Local::of([(decode(1, 100.0), 0.1), (decode(2, 100.0), -0.2), (decode(2, 400.0), 0.0)])
                .unwrap();
        assert!((local.factor(&decode(2, 100.0)).ln() + 0.2).abs() < 1e-12);
        assert!(Local::of([]).is_none());
    }

    proptest! {
        /// The search that stops early finds what a search of all knots finds, and never leaves their range.
        #[test]
        fn nearest_are_nearest(
            knots in vec((1_u32..40, 1.0..5000.0_f64, -0.3..0.3_f64), 1..60), batch in 1_u32..60, kv_len in 1.0..9000.0_f64
        ) {
            let points: Vec<(Work, f64)> = knots.iter().map(|(b, k, r)| (decode(*b, *k), *r)).collect();
            let local = Local::of(points.clone()).unwrap();
            let at = decode(batch, kv_len);
            let (x, y) = position(&at);
            let mut all: Vec<(f64, f64)> = points.iter().map(|(work, ratio)| {
                let (kx, ky) = position(work);
                ((kx - x).powi(2) + (ky - y).powi(2), *ratio)
            }).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut near = [(f64::INFINITY, 0.0); NEIGHBOURS];
            for (slot, one) in near.iter_mut().zip(all) { *slot = one; }
            let factor = local.factor(&at).ln();
            prop_assert!((factor - weighted(&near)).abs() < 1e-9);
            let low = knots.iter().map(|k| k.2).fold(f64::INFINITY, f64::min);
            let high = knots.iter().map(|k| k.2).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(low - 1e-12 <= factor && factor <= high + 1e-12);
        }
    }
}
