//! Kendall's rank correlation with ties, in O(n log n).

use std::cmp::Ordering;

/// Pairs of observations by how their two values order them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PairCounts {
    /// All pairs, `n (n - 1) / 2`.
    pub pairs: u64,
    /// Pairs that both values order the same way.
    pub concordant: u64,
    /// Pairs that they order the opposite way.
    pub discordant: u64,
    /// Pairs with equal x, those with equal y too among them.
    pub tied_x: u64,
    /// Pairs with equal y, those with equal x too among them.
    pub tied_y: u64,
    /// Pairs with equal x and equal y.
    pub tied_both: u64,
}

/// Counts the pairs of `(x, y)`, which are reordered. Values must not be NaN; 0 and -0 are two values.
///
/// Knight (1966): sorted by x and then y, the discordant pairs are the inversions of y, which a merge sort counts.
pub fn pair_counts(values: &mut [(f64, f64)]) -> PairCounts {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let pairs = choose_two(values.len());
    let same_x = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0).is_eq();
    let tied_x = tied(values, same_x);
    let tied_both = tied(values, |a, b| same_x(a, b) && a.1.total_cmp(&b.1).is_eq());
    let mut y: Vec<f64> = values.iter().map(|pair| pair.1).collect();
    let mut spare = y.clone();
    let discordant = inversions(&mut y, &mut spare);
    let tied_y = tied(&y, |a, b| a.total_cmp(b).is_eq());
    let concordant = pairs + tied_both - tied_x - tied_y - discordant;
    PairCounts { pairs, concordant, discordant, tied_x, tied_y, tied_both }
}

/// Kendall's tau-b (Kendall 1945), -1 to 1. `None` where all x or all y are equal: then there is no order to agree with.
pub fn tau_b(values: &mut [(f64, f64)]) -> Option<f64> {
    pair_counts(values).tau_b()
}

impl PairCounts {
    /// See [`tau_b`].
    pub fn tau_b(&self) -> Option<f64> {
        let (by_x, by_y) = ((self.pairs - self.tied_x) as f64, (self.pairs - self.tied_y) as f64);
        let scale = by_x.sqrt() * by_y.sqrt();
        (scale > 0.0).then(|| (self.concordant as f64 - self.discordant as f64) / scale)
    }

    /// Of the pairs with distinct y, the share that x orders as y does; a pair that x ties is a coin flip and counts half.
    /// `None` where all y are equal.
    pub fn accuracy(&self) -> Option<f64> {
        let ordered = self.pairs - self.tied_y;
        let undecided = (self.tied_x - self.tied_both) as f64;
        (ordered > 0).then(|| (self.concordant as f64 + undecided / 2.0) / ordered as f64)
    }
}

fn choose_two(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

/// Pairs within runs of neighbours that are the same.
fn tied<T>(sorted: &[T], same: impl Fn(&T, &T) -> bool) -> u64 {
    sorted.chunk_by(same).map(|run| choose_two(run.len())).sum()
}

/// Sorts and counts pairs that stand the wrong way round. `spare` is as long as `values`.
fn inversions(values: &mut [f64], spare: &mut [f64]) -> u64 {
    let n = values.len();
    if n < 2 {
        return 0;
    }
    let middle = n / 2;
    let mut count = inversions(&mut values[..middle], &mut spare[..middle])
        + inversions(&mut values[middle..], &mut spare[middle..]);
    let (mut left, mut right) = (0, middle);
    for slot in spare.iter_mut() {
        let take_right = left == middle
            || (right < n && values[right].total_cmp(&values[left]) == Ordering::Less);
        if take_right {
            *slot = values[right];
            right += 1;
            count += (middle - left) as u64;
        } else {
            *slot = values[left];
            left += 1;
        }
    }
    values.copy_from_slice(spare);
    count
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn by_force(values: &[(f64, f64)]) -> PairCounts {
        let mut counts = PairCounts::default();
        for (i, a) in values.iter().enumerate() {
            for b in &values[..i] {
                let (x, y) = (a.0.total_cmp(&b.0), a.1.total_cmp(&b.1));
                counts.pairs += 1;
                counts.tied_x += u64::from(x.is_eq());
                counts.tied_y += u64::from(y.is_eq());
                counts.tied_both += u64::from(x.is_eq() && y.is_eq());
                counts.concordant += u64::from(x == y && !x.is_eq());
                counts.discordant += u64::from(x == y.reverse() && !x.is_eq());
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn counts_are_those_of_all_pairs(values in vec((0..6_i32, 0..6_i32), 0..40)) {
            let mut values: Vec<(f64, f64)> =
                values.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
            let expected = by_force(&values);
            prop_assert_eq!(pair_counts(&mut values), expected);
        }
    }

    /// scipy.stats.kendalltau of its own documentation: tau-b -0.4714045207910316.
    #[test]
    fn tau_is_scipys() {
        let mut values = [(12.0, 1.0), (2.0, 4.0), (1.0, 7.0), (12.0, 1.0), (2.0, 0.0)];
        assert!((tau_b(&mut values).unwrap() + 0.471_404_520_791_031_6).abs() < 1e-12);
    }

    #[test]
    fn no_order_is_no_correlation() {
        assert_eq!(tau_b(&mut [(1.0, 1.0), (1.0, 2.0)]), None);
        assert_eq!(tau_b(&mut []), None);
        let counts = pair_counts(&mut [(1.0, 1.0), (1.0, 2.0), (1.0, 2.0)]);
        assert!((counts.accuracy().unwrap() - 0.5).abs() < 1e-12);
        let same = pair_counts(&mut [(1.0, 1.0), (2.0, 1.0)]);
        assert_eq!(same.accuracy(), None);
    }
}
