//! The measured grid itself as a predictor: what a fitted curve has to be better than, or as good with fewer points.

use std::collections::BTreeMap;

use super::{Phase, Work, points::Point};

/// Values nearer than this share of each other are one line of the grid.
const SAME: f64 = 1e-6;

/// Times at measured shapes, between them linear: along the tokens of a sequence first, then along the batch. It knows nothing
/// outside, and nothing of a cached prefix that was not measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    planes: Vec<Plane>,
}

/// Shapes with the same cached prefix; decode has one plane.
#[derive(Debug, Clone, PartialEq)]
struct Plane {
    prefix: f64,
    /// By batch, ascending: (tokens, seconds), ascending.
    lines: Vec<(f64, Vec<(f64, f64)>)>,
}

/// Cached prefix (prefill), sequences, tokens a sequence: cached ones before any budget (decode), new ones (prefill).
fn coordinates(work: &Work) -> (f64, f64, f64) {
    let batch = work.batch.max(1.0);
    match work.phase {
        Phase::Decode => (0.0, work.batch, work.cached / batch),
        Phase::Prefill => (work.cached / batch, work.batch, work.new_tokens / batch),
    }
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME * a.abs().max(b.abs())
}

impl Table {
    /// A grid of measured points.
    pub fn of(points: &[&Point]) -> Self {
        let mut by_place: BTreeMap<[u64; 2], Vec<(f64, f64)>> = BTreeMap::new();
        for point in points {
            // Non-negative numbers sort by their bits.
            let (prefix, batch, tokens) = coordinates(&point.work);
            let line = by_place.entry([prefix.to_bits(), batch.to_bits()]).or_default();
            line.push((tokens, point.time_s));
        }
        let mut planes: Vec<Plane> = Vec::new();
        for ([prefix, batch], mut line) in by_place {
            line.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (prefix, batch) = (f64::from_bits(prefix), f64::from_bits(batch));
            match planes.last_mut().filter(|plane| same(plane.prefix, prefix)) {
                Some(plane) => plane.lines.push((batch, line)),
                None => planes.push(Plane { prefix, lines: vec![(batch, line)] }),
            }
        }
        Self { planes }
    }

    /// Seconds; `None` outside of what was measured.
    pub fn time_s(&self, work: &Work) -> Option<f64> {
        let (prefix, batch, tokens) = coordinates(work);
        let plane = self.planes.iter().find(|plane| same(plane.prefix, prefix))?;
        // Only lines that reach the tokens: a grid often lacks its largest corner.
        let column: Vec<(f64, f64)> = plane
            .lines
            .iter()
            .filter_map(|(batch, line)| Some((*batch, linear(line, tokens)?)))
            .collect();
        linear(&column, batch)
    }
}

/// Between two ascending points; `None` outside.
fn linear(line: &[(f64, f64)], x: f64) -> Option<f64> {
    let above = line.partition_point(|point| point.0 < x && !same(point.0, x));
    let (right, y_right) = *line.get(above)?;
    if same(right, x) {
        return Some(y_right);
    }
    let (left, y_left) = *line.get(above.checked_sub(1)?)?;
    Some(y_left + (x - left) / (right - left) * (y_right - y_left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(work: Work, time_s: f64) -> Point {
        Point { work, time_s, noise: None, n_repeats: 1 }
    }

    fn decode(batch: u32, kv_len: f64) -> Work {
        Work::decode((0..batch).map(|_| kv_len), Some(512.0))
    }

    #[test]
    fn between_points_it_is_linear_and_outside_it_is_silent() {
        let points = [
            point(decode(1, 100.0), 1.0),
            point(decode(1, 300.0), 3.0),
            point(decode(5, 100.0), 5.0),
            point(decode(5, 300.0), 7.0),
            point(decode(9, 100.0), 9.0),
        ];
        let table = Table::of(&points.iter().collect::<Vec<_>>());
        let at = |batch, kv_len| table.time_s(&decode(batch, kv_len));
        assert!(at(3, 200.0).is_some_and(|t| (t - 4.0).abs() < 1e-12));
        assert!(at(7, 100.0).is_some_and(|t| (t - 7.0).abs() < 1e-12));
        assert_eq!(
            (at(1, 99.0), at(1, 301.0), at(7, 200.0), at(10, 100.0)),
            (None, None, None, None)
        );
    }

    #[test]
    fn another_cached_prefix_is_another_table() {
        let points = [
            point(Work::prefill([(100.0, 0.0)]), 1.0),
            point(Work::prefill([(200.0, 0.0)]), 2.0),
            point(Work::prefill([(100.0, 512.0)]), 1.5),
        ];
        let table = Table::of(&points.iter().collect::<Vec<_>>());
        let at = |chunk, kv| table.time_s(&Work::prefill([(chunk, kv)]));
        assert!(at(150.0, 0.0).is_some_and(|t| (t - 1.5).abs() < 1e-12));
        assert!(at(100.0, 512.0).is_some_and(|t| (t - 1.5).abs() < 1e-12));
        assert_eq!((at(150.0, 512.0), at(100.0, 256.0)), (None, None));
    }
}
