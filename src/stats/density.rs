//! Kernel density estimates.

use super::quantile_sorted;

/// Gaussian kernel density of `values` at each place of `at`, with the bandwidth of [`bandwidth`]. Empty where the values have
/// no spread: a spike has no density.
pub fn density(values: &[f64], at: &[f64]) -> Vec<f64> {
    let Some(width) = bandwidth(values) else { return Vec::new() };
    let scale = 1.0 / (values.len() as f64 * width * (2.0 * std::f64::consts::PI).sqrt());
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let one = |x: &f64| {
        // Beyond eight bandwidths a Gaussian adds less than 1e-14.
        let from = sorted.partition_point(|v| *v < x - 8.0 * width);
        let to = sorted.partition_point(|v| *v <= x + 8.0 * width);
        let kernel = |v: &f64| (-0.5 * ((x - v) / width).powi(2)).exp();
        scale * sorted[from..to].iter().map(kernel).sum::<f64>()
    };
    at.iter().map(one).collect()
}

/// Silverman's rule of thumb (1986, equation 3.31): 0.9 of the smaller of standard deviation and interquartile range / 1.34,
/// times n to the power -1/5. Where the middle half is one value the standard deviation alone decides. `None` without spread.
pub fn bandwidth(values: &[f64]) -> Option<f64> {
    let mean = super::mean(values)?;
    let n = values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let deviation = variance.sqrt();
    if !(deviation.is_finite() && deviation > 0.0) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarters = quantile_sorted(&sorted, 0.75)? - quantile_sorted(&sorted, 0.25)?;
    let spread = if quarters > 0.0 { deviation.min(quarters / 1.34) } else { deviation };
    Some(0.9 * spread * n.powf(-0.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_density_integrates_to_one_and_peaks_where_the_values_are() {
        let values = [0.0, 0.1, 0.2, 0.25, 3.0, 0.15, 0.05];
        let at: Vec<f64> = (-4000..8000).map(|i| f64::from(i) / 1000.0).collect();
        let density = density(&values, &at);
        assert!((density.iter().sum::<f64>() / 1000.0 - 1.0).abs() < 1e-6);
        let peak = density.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        assert!((0.05..0.25).contains(&at[peak]), "{}", at[peak]);
    }

    #[test]
    fn the_bandwidth_is_silvermans() {
        // Of 1..=5: deviation 1.5811, quarters 2 / 1.34 = 1.4925.
        let width = bandwidth(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((width - 0.9 * (2.0 / 1.34) * 5.0_f64.powf(-0.2)).abs() < 1e-12);
        assert_eq!(bandwidth(&[2.0, 2.0]), None);
        assert_eq!(bandwidth(&[2.0]), None);
        assert!(density(&[2.0, 2.0], &[2.0]).is_empty());
        // Half of the values are one: the deviation decides.
        assert!(bandwidth(&[0.0, 0.0, 0.0, 0.0, 0.0, 5.0]).unwrap() > 0.0);
    }
}
