//! The time of a pass as a sum of costs.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::value::RawValue;

use super::{Phase, Work, nnls::nnls};

/// Most terms of a curve.
pub const TERMS_MAX: usize = 5;

/// Which costs are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Terms {
    /// `a + b n + c attended` ([`Work::features`]): a whole step, where weights are read once and each token is multiplied with them.
    Step,
    /// One attention kernel, with `k` cached tokens and `c` new ones a sequence. Decode: 1, b, k, bk (a short grid leaves part of a
    /// device idle, so the time depends on k even where b is 1). Prefill: 1, n, k, nk, nc (cached and new tokens are read by
    /// different loops).
    Kernel,
}

/// One cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficient {
    /// What it is multiplied with, `1` for the overhead.
    pub term: String,
    /// `s`, `s/sequence`, ...
    pub unit: String,
    /// How much; never negative.
    #[serde(deserialize_with = "exact")]
    pub value: f64,
}

/// A sum of costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Which.
    pub terms: Terms,
    /// One a term, in the order of [`Terms::names`].
    pub coefficients: Vec<Coefficient>,
}

/// A pass and the seconds it took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The pass.
    pub work: Work,
    /// Seconds.
    pub time_s: f64,
}

/// A number as it stands in the file, to the last bit: `serde_json` alone may be off by one unit in the last place.
pub(super) fn exact<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let raw = Box::<RawValue>::deserialize(from)?;
    let value: f64 = raw
        .get()
        .parse()
        .map_err(|_| D::Error::custom(format!("expected a number, got {}", raw.get())))?;
    if value.is_finite() { Ok(value) } else { Err(D::Error::custom("expected a finite number")) }
}

/// As [`exact`], where there may be none.
pub(super) fn exact_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(from)?;
    raw.map(|raw| exact(&*raw).map_err(D::Error::custom)).transpose()
}

impl Terms {
    /// Term and unit of its coefficient.
    pub fn names(self, phase: Phase) -> &'static [(&'static str, &'static str)] {
        match (self, phase) {
            (Terms::Step, Phase::Decode) => {
                &[("1", "s"), ("batch", "s/sequence"), ("sum(kv_eff)", "s/cached token")]
            }
            (Terms::Step, Phase::Prefill) => &[
                ("1", "s"),
                ("new_tokens", "s/token"),
                ("sum(chunk*(kv+chunk/2))", "s/pair of tokens"),
            ],
            (Terms::Kernel, Phase::Decode) => &[
                ("1", "s"),
                ("batch", "s/sequence"),
                ("kv_eff", "s/cached token of a sequence"),
                ("sum(kv_eff)", "s/cached token"),
            ],
            (Terms::Kernel, Phase::Prefill) => &[
                ("1", "s"),
                ("new_tokens", "s/token"),
                ("kv", "s/cached token of a sequence"),
                ("new_tokens*kv", "s/pair of tokens"),
                ("new_tokens*chunk", "s/pair of tokens"),
            ],
        }
    }

    /// Values of the terms, and how many there are.
    pub fn of(self, work: &Work) -> ([f64; TERMS_MAX], usize) {
        let [one, new, attended] = work.features();
        let batch = work.batch.max(1.0);
        match (self, work.phase) {
            (Terms::Step, _) => ([one, new, attended, 0.0, 0.0], 3),
            (Terms::Kernel, Phase::Decode) => ([one, new, attended / batch, attended, 0.0], 4),
            (Terms::Kernel, Phase::Prefill) => {
                let kv = work.cached / batch;
                ([one, new, kv, new * kv, new * new / batch], 5)
            }
        }
    }
}

impl Curve {
    /// The costs that leave the least squared relative error: a fit to seconds would be one to the longest passes alone.
    /// `None` without rows, or with a time that is not positive and finite.
    pub fn fit(rows: &[Row], terms: Terms) -> Option<Self> {
        let phase = rows.first()?.work.phase;
        if rows.iter().any(|row| !(row.time_s > 0.0 && row.time_s.is_finite())) {
            return None;
        }
        let names = terms.names(phase);
        let mut columns = vec![Vec::with_capacity(rows.len()); names.len()];
        for row in rows {
            let (values, _) = terms.of(&row.work);
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value / row.time_s);
            }
        }
        let values = nnls(&columns, &vec![1.0; rows.len()])?;
        let coefficient = |((term, unit), value): (&(&str, &str), f64)| Coefficient {
            term: (*term).to_owned(),
            unit: (*unit).to_owned(),
            value,
        };
        Some(Self { terms, coefficients: names.iter().zip(values).map(coefficient).collect() })
    }

    /// Seconds of a pass.
    pub fn time_s(&self, work: &Work) -> f64 {
        let (values, _) = self.terms.of(work);
        self.coefficients.iter().zip(values).map(|(cost, value)| cost.value * value).sum()
    }

    /// Seconds of a pass that does nothing.
    pub fn overhead_s(&self) -> f64 {
        self.coefficients.first().map_or(0.0, |cost| cost.value)
    }

    /// The same, all costs multiplied.
    pub fn scaled(&self, factor: f64) -> Self {
        let mut out = self.clone();
        out.coefficients.iter_mut().for_each(|cost| cost.value *= factor);
        out
    }

    /// The factor on this curve that leaves the least squared relative error; `None` where the curve is zero everywhere.
    pub fn factor(&self, rows: &[Row]) -> Option<f64> {
        let ratios = rows.iter().map(|row| self.time_s(&row.work) / row.time_s);
        let (sum, square) = ratios.fold((0.0, 0.0), |(s, q), ratio| (s + ratio, q + ratio * ratio));
        (square > 0.0 && square.is_finite()).then(|| sum / square)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(batch: u32, kv_len: f64, time_s: impl Fn(f64, f64) -> f64) -> Row {
        let work = Work::decode((0..batch).map(|_| kv_len), None);
        Row { work, time_s: time_s(work.batch, work.attended) }
    }

    fn grid(time_s: impl Fn(f64, f64) -> f64 + Copy) -> Vec<Row> {
        let kv = [256.0, 1024.0, 4096.0];
        [1, 4, 16].iter().flat_map(|b| kv.map(|kv| decode(*b, kv, time_s))).collect()
    }

    #[test]
    fn planted_costs_come_back() {
        let curve = Curve::fit(&grid(|b, kv| 0.03 + 2e-4 * b + 1e-7 * kv), Terms::Step).unwrap();
        for (cost, planted) in curve.coefficients.iter().zip([0.03, 2e-4, 1e-7]) {
            assert!((cost.value / planted - 1.0).abs() < 1e-9, "{cost:?}");
        }
        assert!((curve.overhead_s() - 0.03).abs() < 1e-10);
    }

    #[test]
    fn planted_costs_of_a_prefill_come_back() {
        let chunk = [(128.0, 0.0), (512.0, 0.0), (512.0, 2048.0), (2048.0, 1024.0)];
        let rows: Vec<Row> = chunk
            .iter()
            .map(|shape| {
                let work = Work::prefill([*shape]);
                Row { work, time_s: 0.01 + 1e-4 * work.new_tokens + 3e-9 * work.attended }
            })
            .collect();
        let curve = Curve::fit(&rows, Terms::Step).unwrap();
        for (cost, planted) in curve.coefficients.iter().zip([0.01, 1e-4, 3e-9]) {
            assert!((cost.value / planted - 1.0).abs() < 1e-7, "{cost:?}");
        }
    }

    /// A time that falls with the batch cannot be: the fit says flat, not negative.
    #[test]
    fn what_is_faster_than_any_sum_of_costs_stays_non_negative() {
        let curve = Curve::fit(&grid(|b, _| 0.03 / b), Terms::Kernel).unwrap();
        assert!(curve.coefficients.iter().all(|cost| cost.value >= 0.0), "{curve:?}");
        let huge = decode(4096, 1e6, |_, _| 1.0);
        assert!(curve.time_s(&huge.work) > 0.0);
    }

    #[test]
    fn one_factor_is_found_again() {
        let rows = grid(|b, kv| 0.03 + 2e-4 * b + 1e-7 * kv);
        let curve = Curve::fit(&rows, Terms::Step).unwrap();
        let slower: Vec<Row> = rows.iter().map(|r| Row { time_s: 1.25 * r.time_s, ..*r }).collect();
        assert!((curve.factor(&slower).unwrap() - 1.25).abs() < 1e-9);
        assert!((curve.scaled(2.0).time_s(&rows[0].work) / rows[0].time_s - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_time_of_zero_is_no_time() {
        let mut rows = grid(|_, _| 1.0);
        rows[0].time_s = 0.0;
        assert_eq!(Curve::fit(&rows, Terms::Step), None);
        assert_eq!(Curve::fit(&[], Terms::Step), None);
    }
}
