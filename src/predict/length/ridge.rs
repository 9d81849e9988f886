//! Ridge regression on rows with few entries or many.

/// Most steps of the solver, which is not asked for more digits than a length has.
const STEPS_MAX: usize = 60;

/// A row: places with their values.
pub(super) type Row = Vec<(u32, f32)>;

/// Weights of `width` places that minimise `|X w - y|^2 + penalty |w|^2`, by conjugate gradients (Hestenes and Stiefel 1952).
pub(super) fn fit(rows: &[Row], width: usize, y: &[f64], penalty: f64) -> Vec<f64> {
    let times = |w: &[f64]| -> Vec<f64> {
        let dot =
            |row: &Row| row.iter().map(|(at, value)| w[*at as usize] * f64::from(*value)).sum();
        rows.iter().map(dot).collect()
    };
    let back = |r: &[f64]| -> Vec<f64> {
        let mut sums = vec![0.0; width];
        for (row, r) in rows.iter().zip(r) {
            row.iter().for_each(|(at, value)| sums[*at as usize] += r * f64::from(*value));
        }
        sums
    };
    let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
    let mut w = vec![0.0; width];
    let mut left = back(y);
    let mut direction = left.clone();
    let (mut size, enough) = (square(&left), 1e-8 * square(&left));
    for _ in 0..STEPS_MAX {
        if size <= enough {
            break;
        }
        let mut bent = back(&times(&direction));
        bent.iter_mut().zip(&direction).for_each(|(bent, along)| *bent += penalty * along);
        let along: f64 = direction.iter().zip(&bent).map(|(a, b)| a * b).sum();
        let step = size / along;
        w.iter_mut().zip(&direction).for_each(|(w, along)| *w += step * along);
        left.iter_mut().zip(&bent).for_each(|(left, bent)| *left -= step * bent);
        let smaller = square(&left);
        direction.iter_mut().zip(&left).for_each(|(d, left)| *d = left + smaller / size * *d);
        size = smaller;
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One place, seen with 1 and 2: w = (1 y1 + 2 y2) / (5 + penalty).
    #[test]
    fn weights_are_those_of_the_formula() {
        let rows = [vec![(1, 1.0)], vec![(1, 2.0)]];
        let w = fit(&rows, 3, &[3.0, 6.0], 10.0);
        assert!(w[0].abs() < 1e-12 && (w[1] - 1.0).abs() < 1e-6 && w[2].abs() < 1e-12, "{w:?}");
        assert_eq!(fit(&[], 2, &[], 1.0), [0.0, 0.0]);
    }
}
