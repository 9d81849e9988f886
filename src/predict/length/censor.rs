//! Answers that were cut: their own length is at least what was seen.
//!
//! A quantile loss that takes a cut answer for a whole one pulls every quantile down. Here a cut answer is spread to the right, as Efron
//! (1967) does for distribution functions, Portnoy (2003) for quantile regression and Wang and Wang (2009) with weights that depend on the
//! features: a part of it stays at the cut, the rest goes above everything. For quantile q and an answer that was cut at c, the part that
//! stays is `(q - F(c)) / (1 - F(c))`, or nothing where F(c) exceeds q; F is the answer's own distribution function. With it, the
//! estimating equation has the same root as with whole answers as long as q is reached below the largest cut, and nobody can know more.
//!
//! F is taken from the residuals of a first fit of the median, by Kaplan and Meier (1958): lengths differ between prompts in where
//! they lie, and less in how they spread. The first fit itself uses the F of all prompts together.

use super::{Sample, gbdt::Label, to_log};

/// A distribution function from values of which some are only known to be exceeded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve(Vec<(f64, f64)>);

/// A value that was seen, or that is exceeded, with a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// The value.
    pub value: f64,
    /// Whether the true value is larger.
    pub censored: bool,
    /// At least 0.
    pub weight: f64,
}

impl Curve {
    /// The estimator of Kaplan and Meier; at a tie whole values come before cut ones.
    pub fn of(mut seen: Vec<Seen>) -> Self {
        seen.sort_by(|a, b| a.value.total_cmp(&b.value).then(a.censored.cmp(&b.censored)));
        let mut at_risk: f64 = seen.iter().map(|seen| seen.weight).sum();
        let mut above = 1.0;
        let mut steps: Vec<(f64, f64)> = Vec::new();
        for Seen { value, censored, weight } in seen {
            if !censored && at_risk > 0.0 {
                above *= (1.0 - weight / at_risk).max(0.0);
                steps.push((value, 1.0 - above));
            }
            at_risk -= weight;
        }
        Self(steps)
    }

    /// Share of values that do not exceed `value`.
    pub fn at(&self, value: f64) -> f64 {
        let below = self.0.partition_point(|(step, _)| *step <= value);
        below.checked_sub(1).map_or(0.0, |last| self.0[last].1)
    }

    /// The smallest value that at least `q` do not exceed; `None` where cuts hide it.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let first = self.0.partition_point(|(_, below)| *below < q - 1e-9);
        self.0.get(first).map(|(value, _)| *value)
    }
}

/// The answers of a sample, or for the middle its median, with weights that sum to 1.
pub fn seen(sample: &Sample, q: f64) -> Vec<Seen> {
    if is_middle(q) {
        let one = |(value, censored)| Seen { value, censored, weight: 1.0 };
        return sample.median().map(one).into_iter().collect();
    }
    let weight = 1.0 / sample.lengths.len().max(1) as f64;
    let one = |length: &super::Length| Seen {
        value: to_log(length.tokens),
        censored: length.censored,
        weight,
    };
    sample.lengths.iter().map(one).collect()
}

fn is_middle(q: f64) -> bool {
    (q - 0.5).abs() < 1e-9
}

/// What the forest of quantile `q` is fitted to, for one sample. `curve` is of values less `centre`.
pub fn labels(sample: &Sample, q: f64, curve: &Curve, centre: f64) -> Vec<Label> {
    let mut labels = Vec::new();
    for Seen { value, censored, weight } in seen(sample, q) {
        let below = if censored { curve.at(value - centre) } else { 0.0 };
        let stays = match (censored, below < q) {
            (false, _) => 1.0,
            (true, true) => (q - below) / (1.0 - below),
            (true, false) => 0.0,
        };
        if stays > 0.0 {
            labels.push(Label { value, weight: weight * stays });
        }
        if stays < 1.0 {
            labels.push(Label { value: f64::INFINITY, weight: weight * (1.0 - stays) });
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::length::Length;

    fn seen(value: f64, censored: bool) -> Seen {
        Seen { value, censored, weight: 1.0 }
    }

    /// Kaplan and Meier by hand: 1, 2+, 3, 4+ -> F(1) = 1/4, F(3) = 1 - 3/4 * 1/2 = 5/8, and no more is known.
    #[test]
    fn the_curve_is_that_of_kaplan_and_meier() {
        let curve =
            Curve::of(vec![seen(3.0, false), seen(1.0, false), seen(4.0, true), seen(2.0, true)]);
        for (at, expected) in [(0.5, 0.0), (1.0, 0.25), (2.5, 0.25), (3.0, 0.625), (9.0, 0.625)] {
            assert!((curve.at(at) - expected).abs() < 1e-12, "{at}");
        }
        assert_eq!((curve.quantile(0.25), curve.quantile(0.5)), (Some(1.0), Some(3.0)));
        assert_eq!(curve.quantile(0.9), None);
        assert!(Curve::default().at(1.0).abs() < 1e-12);
    }

    #[test]
    fn a_cut_answer_is_spread_to_the_right() {
        let length = |tokens, censored| Length { tokens, censored };
        let sample = Sample {
            prompt: String::new(),
            family: 0,
            task: None,
            max_tokens: 9,
            method: "m".into(),
            lengths: vec![length(3, false), length(9, true)],
        };
        let curve = Curve::of(vec![seen(1.0, false), seen(2.0, false)]);
        // F = 1/2 at the cut, whose log is 2.3 and lies at 1.3 from the centre.
        let all = labels(&sample, 0.9, &curve, 1.0);
        assert_eq!(all.len(), 3);
        assert!((all[1].weight - 0.5 * 0.8).abs() < 1e-12, "{all:?}");
        assert!(all[2].value.is_infinite() && (all[2].weight - 0.5 * 0.2).abs() < 1e-12);
        // Below the median of the residuals nothing stays.
        let low = labels(&sample, 0.1, &curve, 1.0);
        assert!(low.len() == 2 && low[1].value.is_infinite(), "{low:?}");
        let sum: f64 = all.iter().map(|label| label.weight).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
