//! Observations in the order of time, and how well their mean and their quantiles are known although neighbours resemble each
//! other: the jackknife that leaves out a block of neighbours at a time (Kuensch 1989, Annals of Statistics 17:1217-1241; for
//! quantiles Shao and Wu 1989, 17:1176-1197).
//!
//! Blocks that are long beside the memory of the series are as good as independent, so what lies between neighbours needs no model.
//! An interval that takes requests for independent ones is too narrow by the root of `(1 + r) / (1 - r)` where neighbours correlate
//! with r: by a factor of three for r = 0.8.

/// Blocks: nineteen degrees of freedom, and blocks as long as they can be with that.
const BLOCKS: usize = 20;
/// Fewest observations in a block.
const BLOCK_MIN: usize = 2;

/// Observations with the block of time that each is of.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeOrdered {
    sorted: Vec<f64>,
    /// Block of each of `sorted`.
    block: Vec<u8>,
    /// Observations in each block.
    sizes: Vec<usize>,
    /// Their sum.
    sums: Vec<f64>,
}

impl TimeOrdered {
    /// Values in the order of time. `None` without any, or with a NaN.
    pub fn new(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let n_blocks = BLOCKS.min(values.len() / BLOCK_MIN).max(1);
        let (mut sizes, mut sums) = (vec![0; n_blocks], vec![0.0; n_blocks]);
        let mut tagged = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            let block = at * n_blocks / values.len();
            sizes[block] += 1;
            sums[block] += value;
            tagged.push((*value, block as u8));
        }
        tagged.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let (sorted, block) = tagged.into_iter().unzip();
        Some(Self { sorted, block, sizes, sums })
    }

    /// Observations; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "there is never none")]
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Arithmetic mean.
    pub fn mean(&self) -> f64 {
        self.sums.iter().sum::<f64>() / self.len() as f64
    }

    /// Quantile as in [`super::quantile_sorted`].
    pub fn quantile(&self, q: f64) -> f64 {
        super::quantile_sorted(&self.sorted, q).unwrap_or(f64::NAN)
    }

    /// Variance of the mean; `None` where there are too few observations for blocks.
    pub fn variance_of_mean(&self) -> Option<f64> {
        let (sum, n) = (self.sums.iter().sum::<f64>(), self.len());
        let without = |block: usize| (sum - self.sums[block]) / (n - self.sizes[block]) as f64;
        self.jackknife(without)
    }

    /// Variance of a quantile, likewise.
    pub fn variance_of_quantile(&self, q: f64) -> Option<f64> {
        self.jackknife(|block| self.quantile_without(block, q))
    }

    fn jackknife(&self, without: impl Fn(usize) -> f64) -> Option<f64> {
        let k = self.sizes.len();
        if k < BLOCKS {
            return None;
        }
        let values: Vec<f64> = (0..k).map(without).collect();
        let mean = super::mean(&values)?;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Some(squares * (k - 1) as f64 / k as f64)
    }

    /// The quantile of all blocks but one. Only the values around it are looked at.
    fn quantile_without(&self, block: usize, q: f64) -> f64 {
        let rank = q * (self.len() - self.sizes[block] - 1) as f64;
        let lower = rank.floor() as usize;
        // The wanted value has at least `lower` values before it, whatever was left out.
        let gone = self.block[..lower].iter().filter(|own| usize::from(**own) == block).count();
        let rest = self.sorted[lower..].iter().zip(&self.block[lower..]);
        let mut kept = rest.filter(|(_, own)| usize::from(**own) != block).map(|(value, _)| *value);
        let first = kept.nth(gone).unwrap_or(f64::NAN);
        let part = rank - lower as f64;
        if part > 0.0 { first + part * (kept.next().unwrap_or(first) - first) } else { first }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;
    use crate::stats::{Sample, seeded};

    #[test]
    fn leaving_out_a_block_is_leaving_out_its_values() {
        let mut rng = seeded(3);
        let values: Vec<f64> = (0..101).map(|_| rng.random()).collect();
        let ordered = TimeOrdered::new(&values).unwrap();
        for block in [0, 7, 19] {
            let rest: Vec<f64> = values
                .iter()
                .enumerate()
                .filter(|(at, _)| at * BLOCKS / values.len() != block)
                .map(|(_, value)| *value)
                .collect();
            let sample = Sample::new(rest).unwrap();
            for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
                assert!((ordered.quantile_without(block, q) - sample.quantile(q)).abs() < 1e-15);
            }
        }
        assert_eq!(TimeOrdered::new(&[]), None);
        assert_eq!(TimeOrdered::new(&[1.0, f64::NAN]), None);
        assert_eq!(TimeOrdered::new(&[1.0; 39]).unwrap().variance_of_mean(), None);
    }

    /// Of a series with memory (AR(1), r = 0.8) the jackknife knows the error of the mean and of a quantile; the formula for
    /// independent values is far too small.
    #[test]
    fn memory_is_respected() {
        let mut rng = seeded(4);
        let mut series = || -> Vec<f64> {
            let mut state = 0.0;
            (0..2000)
                .map(|_| {
                    let noise: f64 = StandardNormal.sample(&mut rng);
                    state = 0.8 * state + 0.6 * noise;
                    state
                })
                .collect()
        };
        let runs: Vec<TimeOrdered> =
            (0..300).map(|_| TimeOrdered::new(&series()).unwrap()).collect();
        let seen = |of: &dyn Fn(&TimeOrdered) -> f64| {
            crate::stats::variance(&runs.iter().map(of).collect::<Vec<_>>()).unwrap()
        };
        let said = |of: &dyn Fn(&TimeOrdered) -> Option<f64>| {
            crate::stats::mean(&runs.iter().filter_map(of).collect::<Vec<_>>()).unwrap()
        };
        let mean = said(&TimeOrdered::variance_of_mean) / seen(&TimeOrdered::mean);
        let p90 = said(&|run| run.variance_of_quantile(0.9)) / seen(&|run| run.quantile(0.9));
        let naive = (1.0 / 2000.0) / seen(&TimeOrdered::mean);
        assert!((0.75..1.3).contains(&mean) && (0.7..1.4).contains(&p90), "{mean} {p90}");
        assert!(naive < 0.2, "{naive}");
    }
}
