//! The directions in which vectors differ most.

use rand::RngExt as _;
use rayon::prelude::*;

use crate::stats;

/// Steps of the iteration. It converges by the ratio of neighbouring variances in each; whoever reads the columns needs a subspace that
/// holds most of the variance, not the last digit of every direction.
const STEPS: usize = 12;
/// Part of the longest vector of a step below which another is rounding, and no direction.
const NOTHING: f64 = 1e-9;

/// The first `n` principal components of centred rows of `width` numbers: orthogonal, of length 1, by falling variance, each with its
/// largest number positive. Where the rows span fewer directions the rest are zero. Orthogonal iteration from a seeded start (Golub and
/// Van Loan, "Matrix Computations", section 8.2; as subspace iteration in Halko et al. 2011), which costs `rows x width x n` a step.
pub(super) fn components(rows: &[Vec<f32>], width: usize, n: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = stats::seeded(seed);
    let mut basis: Vec<Vec<f64>> =
        (0..n).map(|_| (0..width).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    for _ in 0..STEPS {
        basis = basis.par_iter().map(|direction| spread(rows, direction)).collect();
        orthonormalise(&mut basis);
    }
    basis.into_iter().map(signed).collect()
}

/// `X' X v`.
fn spread(rows: &[Vec<f32>], direction: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; direction.len()];
    for row in rows {
        let along: f64 = row.iter().zip(direction).map(|(a, b)| f64::from(*a) * b).sum();
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += along * f64::from(*value));
    }
    sum
}

/// Gram and Schmidt's process, modified, and twice: once leaves a part of the directions before where they are close.
fn orthonormalise(basis: &mut [Vec<f64>]) {
    let longest = basis.iter().map(|vector| length(vector)).fold(0.0, f64::max);
    for at in 0..basis.len() {
        let (before, rest) = basis.split_at_mut(at);
        let Some(vector) = rest.first_mut() else { continue };
        for other in before.iter().chain(before.iter()) {
            let along: f64 = vector.iter().zip(other).map(|(a, b)| a * b).sum();
            vector.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
        let own = length(vector);
        let scale = if own > NOTHING * longest { 1.0 / own } else { 0.0 };
        vector.iter_mut().for_each(|value| *value *= scale);
    }
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn signed(vector: Vec<f64>) -> Vec<f32> {
    let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let sign = if largest.is_some_and(|largest| largest < 0.0) { -1.0 } else { 1.0 };
    vector.into_iter().map(|value| (sign * value) as f32).collect()
}

#[cfg(test)]
mod tests {
    use rand_distr::{Distribution as _, Normal};

    use super::*;

    /// Rows along the diagonals of two planes, with variances of 25 and 4, and a bit of noise everywhere.
    #[test]
    fn planted_directions_are_found_in_their_order() {
        let mut rng = stats::seeded(3);
        let mut normal = |scale: f64| Normal::new(0.0, scale).unwrap().sample(&mut rng);
        let rows: Vec<Vec<f32>> = (0..400)
            .map(|_| {
                let (first, second) = (normal(5.0), normal(2.0));
                let row = [first, first, second, -second, 0.0, 0.0];
                row.iter().map(|value| (value + normal(0.1)) as f32).collect()
            })
            .collect();
        let found = components(&rows, 6, 2, 1);
        let half = 0.5_f32.sqrt();
        let expected = [[half, half, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, half, -half, 0.0, 0.0]];
        for (found, expected) in found.iter().zip(expected) {
            let along: f32 = found.iter().zip(expected).map(|(a, b)| a * b).sum();
            assert!(along.abs() > 0.999, "{found:?}");
        }
    }

    #[test]
    fn directions_that_are_not_there_are_zero() {
        let rows: Vec<Vec<f32>> = (-20..=20).map(|at| vec![at as f32, 0.0, 0.0]).collect();
        let found = components(&rows, 3, 3, 1);
        assert!((found[0][0] - 1.0).abs() < 1e-6, "{found:?}");
        assert!(found[1..].iter().flatten().all(|value| value.abs() < 1e-6), "{found:?}");
        assert!(components(&[], 2, 1, 1)[0].iter().all(|value| value.abs() < 1e-12));
    }
}
