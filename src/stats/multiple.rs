//! Many tests at once.

/// Adjusted p-values (Benjamini and Hochberg 1995, step-up): calling those at most `q` an effect keeps the expected share of
/// false calls among the calls at `q`. In the order of the input.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
    let (n, mut least) = (p.len() as f64, 1.0_f64);
    let mut adjusted = vec![1.0; p.len()];
    for (from_top, index) in order.into_iter().enumerate() {
        least = least.min(p[index] * n / (n - from_top as f64));
        adjusted[index] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_values_are_those_of_the_paper() {
        // Fifteen p-values of Benjamini and Hochberg 1995, section 4: four are below 5 %.
        let p = [
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262,
            0.5719, 0.6528, 0.7590, 1.0,
        ];
        let adjusted = benjamini_hochberg(&p);
        assert_eq!(adjusted.iter().filter(|q| **q <= 0.05).count(), 4);
        assert!(
            (adjusted[0] - 0.0015).abs() < 1e-12
                && (adjusted[3] - 0.0095 * 15.0 / 4.0).abs() < 1e-12
        );
        let mut backwards = p;
        backwards.reverse();
        let mut expected = adjusted.clone();
        expected.reverse();
        assert_eq!(benjamini_hochberg(&backwards), expected);
        assert_eq!(benjamini_hochberg(&[]), Vec::<f64>::new());
        assert_eq!(benjamini_hochberg(&[0.9, 0.5]), [0.9, 0.9]);
    }
}
