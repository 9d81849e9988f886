//! Least squares whose coefficients cannot be negative.
//!
//! A cost is a sum of costs: an overhead, so much a sequence, so much a cached token. A negative one would be noise that was fitted,
//! and it is what makes an extrapolation end below zero. With the handful of columns that a step has, every set of them can be tried,
//! which needs no stopping rule and no tolerance.

/// Most columns: every set of them is tried.
pub const COLUMNS_MAX: usize = 8;
/// Share of a unit column that must be left beside the others for the column to count as independent.
const INDEPENDENT: f64 = 1e-10;

/// Coefficients `x >= 0` that make the sum over rows of `(sum_j x[j] columns[j] - target)^2` least.
///
/// The minimum is the unconstrained one of its own support (the conditions of Karush, Kuhn and Tucker say so), hence the best of
/// all supports whose unconstrained minimum has no negative coefficient. Columns are scaled to unit length and reduced by Householder
/// reflections, not by normal equations, which would square their condition number.
///
/// `None` without rows or columns, with more than [`COLUMNS_MAX`] columns, columns of another length, or a number that is not finite.
pub fn nnls(columns: &[Vec<f64>], target: &[f64]) -> Option<Vec<f64>> {
    let shaped = !target.is_empty() && (1..=COLUMNS_MAX).contains(&columns.len());
    let finite = |column: &[f64]| {
        column.len() == target.len() && column.iter().all(|value| value.is_finite())
    };
    if !shaped || !finite(target) || !columns.iter().all(|column| finite(column)) {
        return None;
    }
    let norms: Vec<f64> = columns.iter().map(|column| norm(column)).collect();
    let mut scaled: Vec<Vec<f64>> =
        columns.iter().zip(&norms).map(|(column, norm)| unit(column, *norm)).collect();
    let mut reduced = target.to_vec();
    reflect(&mut scaled, &mut reduced);
    // What lies below the triangle no coefficient reaches: it is the same for every support.
    let height = columns.len().min(target.len());
    reduced.truncate(height);
    scaled.iter_mut().for_each(|column| column.truncate(height));
    let mut best = (norm(&reduced), vec![0.0; columns.len()]);
    for support in 1..1_usize << columns.len() {
        let members: Vec<usize> =
            (0..columns.len()).filter(|column| support >> column & 1 == 1).collect();
        let Some((off, values)) = unconstrained(&scaled, &members, &reduced) else { continue };
        if off < best.0 && values.iter().all(|value| *value >= 0.0) {
            best = (off, vec![0.0; columns.len()]);
            for (member, value) in members.iter().zip(values) {
                best.1[*member] = value / norms[*member];
            }
        }
    }
    Some(best.1)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn unit(column: &[f64], norm: f64) -> Vec<f64> {
    let by = if norm > 0.0 { norm } else { 1.0 };
    column.iter().map(|value| value / by).collect()
}

/// Makes the columns upper triangular, in place, and turns the target along.
fn reflect(columns: &mut [Vec<f64>], target: &mut [f64]) {
    for pivot in 0..columns.len().min(target.len()) {
        let below = norm(&columns[pivot][pivot..]);
        if below <= 0.0 {
            continue;
        }
        let mut mirror = columns[pivot][pivot..].to_vec();
        mirror[0] += below.copysign(mirror[0]);
        let square: f64 = mirror.iter().map(|value| value * value).sum();
        let turn = |column: &mut [f64]| {
            let along: f64 = mirror.iter().zip(&column[pivot..]).map(|(m, c)| m * c).sum();
            for (value, m) in column[pivot..].iter_mut().zip(&mirror) {
                *value -= 2.0 * along / square * m;
            }
        };
        columns[pivot..].iter_mut().for_each(|column| turn(column));
        turn(target);
    }
}

/// Distance from the target and coefficients of the members; `None` where they depend on each other: fewer of them do as well.
fn unconstrained(
    columns: &[Vec<f64>],
    members: &[usize],
    target: &[f64],
) -> Option<(f64, Vec<f64>)> {
    let n = members.len();
    if n > target.len() {
        return None;
    }
    let mut chosen: Vec<Vec<f64>> = members.iter().map(|member| columns[*member].clone()).collect();
    let mut turned = target.to_vec();
    reflect(&mut chosen, &mut turned);
    let mut values = vec![0.0; n];
    for row in (0..n).rev() {
        if chosen[row][row].abs() < INDEPENDENT {
            return None;
        }
        let known: f64 = (row + 1..n).map(|column| chosen[column][row] * values[column]).sum();
        values[row] = (turned[row] - known) / chosen[row][row];
    }
    Some((norm(&turned[n..]), values))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn off(columns: &[Vec<f64>], target: &[f64], x: &[f64]) -> f64 {
        let row = |at: usize| columns.iter().zip(x).map(|(c, x)| c[at] * x).sum::<f64>();
        (0..target.len()).map(|at| (row(at) - target[at]).powi(2)).sum()
    }

    #[test]
    fn a_positive_solution_is_that_of_plain_least_squares() {
        // y = 2 + 3 x, exactly.
        let columns = vec![vec![1.0; 4], vec![0.0, 1.0, 2.0, 3.0]];
        let x = nnls(&columns, &[2.0, 5.0, 8.0, 11.0]).unwrap();
        assert!((x[0] - 2.0).abs() < 1e-12 && (x[1] - 3.0).abs() < 1e-12, "{x:?}");
    }

    #[test]
    fn what_would_be_negative_is_zero() {
        let columns = vec![vec![1.0; 3], vec![0.0, 1.0, 2.0]];
        assert!(nnls(&columns, &[3.0, 2.0, 1.0]).is_some_and(|x| x[1].abs() < 1e-15));
        assert_eq!(nnls(&columns, &[-1.0, -1.0, -1.0]), Some(vec![0.0, 0.0]));
    }

    #[test]
    fn columns_of_very_different_size_are_no_trouble() {
        let kv: Vec<f64> = (1..40).map(|k| f64::from(k) * 3e7).collect();
        let target: Vec<f64> = kv.iter().map(|kv| 0.03 + 2e-10 * kv).collect();
        let x = nnls(&[vec![1.0; 39], kv], &target).unwrap();
        assert!((x[0] / 0.03 - 1.0).abs() < 1e-9 && (x[1] / 2e-10 - 1.0).abs() < 1e-9, "{x:?}");
    }

    #[test]
    fn equal_columns_and_few_rows_still_have_an_answer() {
        let x = nnls(&[vec![1.0; 3], vec![1.0; 3]], &[2.0; 3]).unwrap();
        assert!((x[0] + x[1] - 2.0).abs() < 1e-12);
        let x = nnls(&[vec![1.0], vec![2.0], vec![4.0]], &[8.0]).unwrap();
        assert!((x[0] + 2.0 * x[1] + 4.0 * x[2] - 8.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_and_nan_have_none() {
        assert_eq!(nnls(&[], &[1.0]), None);
        assert_eq!(nnls(&[vec![]], &[]), None);
        assert_eq!(nnls(&[vec![f64::NAN]], &[1.0]), None);
        assert_eq!(nnls(&[vec![1.0, 2.0]], &[1.0]), None);
    }

    proptest! {
        /// Projected gradient descent, which shares no step with the solver, does no better.
        #[test]
        fn no_descent_beats_it(rows in vec((0.1..2.0_f64, 0.1..2.0_f64, 0.1..2.0_f64, -1.0..3.0_f64), 3..12)) {
            let columns: Vec<Vec<f64>> = vec![
                rows.iter().map(|r| r.0).collect(),
                rows.iter().map(|r| r.1).collect(),
                rows.iter().map(|r| r.2).collect(),
            ];
            let target: Vec<f64> = rows.iter().map(|r| r.3).collect();
            let solved = nnls(&columns, &target).unwrap();
            prop_assert!(solved.iter().all(|x| *x >= 0.0));
            let step = 1.0 / columns.iter().map(|c| norm(c).powi(2)).sum::<f64>();
            let mut x = [0.5; 3];
            for _ in 0..3000 {
                let gap: Vec<f64> = (0..target.len())
                    .map(|at| (0..3).map(|j| columns[j][at] * x[j]).sum::<f64>() - target[at])
                    .collect();
                for j in 0..3 {
                    let slope: f64 = columns[j].iter().zip(&gap).map(|(c, g)| c * g).sum();
                    x[j] = (x[j] - step * slope).max(0.0);
                }
            }
            let (best, descended) = (off(&columns, &target, &solved), off(&columns, &target, &x));
            prop_assert!(best <= descended + 1e-9, "{best} {descended}");
            // Converged far enough that the comparison can fail the other way round as well.
            prop_assert!(descended <= best + 0.05 * (1.0 + best), "{best} {descended}");
        }
    }
}
