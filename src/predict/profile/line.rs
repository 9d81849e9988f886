//! A curve through points, piecewise linear.

use std::collections::BTreeMap;

use crate::stats;

/// Points by ascending x; of several at one x the median.
#[derive(Debug, Clone)]
pub(super) struct Line {
    points: Vec<(f64, f64)>,
}

impl Line {
    /// Points in any order.
    pub(super) fn of(points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self::by(points, stats::median)
    }

    /// The same with the mean of what is at one x.
    pub(super) fn of_means(points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self::by(points, |ys| stats::mean(ys))
    }

    fn by(
        points: impl IntoIterator<Item = (f64, f64)>,
        middle: fn(&mut [f64]) -> Option<f64>,
    ) -> Self {
        // Lengths are not negative, so their bits are in their order.
        let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (x, y) in points {
            at.entry(x.max(0.0).to_bits()).or_default().push(y);
        }
        let one = |(x, mut ys): (u64, Vec<f64>)| Some((f64::from_bits(x), middle(&mut ys)?));
        Self { points: at.into_iter().filter_map(one).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The value at x, at the nearest end for an x outside; NaN of no points.
    pub(super) fn at(&self, x: f64) -> f64 {
        let above = self.points.partition_point(|point| point.0 < x);
        match (above.checked_sub(1).map(|below| self.points[below]), self.points.get(above)) {
            (Some((x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
            (Some((_, y)), None) | (None, Some(&(_, y))) => y,
            (None, None) => f64::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn lines_go_through_their_points_and_stop_at_the_ends() {
        let line = Line::of([(3.0, 30.0), (1.0, 10.0), (1.0, 12.0), (1.0, 90.0)]);
        for (x, y) in [(0.0, 12.0), (1.0, 12.0), (2.0, 21.0), (3.0, 30.0), (9.0, 30.0)] {
            assert!((line.at(x) - y).abs() < 1e-12, "{x}");
        }
        assert!((Line::of_means([(1.0, 1.0), (1.0, 2.0)]).at(1.0) - 1.5).abs() < 1e-12);
        assert!(Line::of([]).at(1.0).is_nan() && Line::of([]).is_empty());
    }
}
