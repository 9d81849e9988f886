//! A few costs that cannot be negative, fitted on the rows of a profile, in the place of its table.
//!
//! Decode attention: overhead, a sequence, a token of depth, a cached token (`1, b, k, bk`). Prefill attention: `1, c, k, ck, c^2`.
//! Linear operations together: `1, n`, what goes beyond 128 and 256 tokens, and tiles of 128 and 256. Errors are relative: rows are divided by
//! their time.

use super::{AttentionRow, LayerTimes, Profile};
use crate::predict::{Phase, nnls::nnls};

/// Fitted costs, ms.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    decode: Vec<f64>,
    prefill: Vec<f64>,
    linear: Vec<f64>,
}

fn decode(batch: f64, kv_len: f64) -> Vec<f64> {
    vec![1.0, batch, kv_len, batch * kv_len]
}

fn prefill(chunk: f64, kv_len: f64) -> Vec<f64> {
    vec![1.0, chunk, kv_len, chunk * kv_len, chunk * chunk]
}

fn linear(tokens: f64) -> Vec<f64> {
    let beyond = |edge: f64| (tokens - edge).max(0.0);
    let tiles = |size: f64| (tokens / size).ceil();
    vec![1.0, tokens, beyond(128.0), beyond(256.0), tiles(128.0), tiles(256.0)]
}

/// Non-negative costs of least relative error.
fn fit(rows: &[(Vec<f64>, f64)]) -> Result<Vec<f64>, String> {
    let rows: Vec<&(Vec<f64>, f64)> = rows.iter().filter(|(_, ms)| *ms > 0.0).collect();
    let width = rows.first().map_or(0, |(features, _)| features.len());
    let column = |at: usize| rows.iter().map(|(features, ms)| features[at] / ms).collect();
    let columns: Vec<Vec<f64>> = (0..width).map(column).collect();
    nnls(&columns, &vec![1.0; rows.len()])
        .ok_or_else(|| "expected rows with times above 0 in the profile, got none".to_owned())
}

fn cost(coefficients: &[f64], features: &[f64]) -> f64 {
    coefficients.iter().zip(features).map(|(coefficient, feature)| coefficient * feature).sum()
}

impl Roofline {
    /// Fits all three on a profile; rows of no time have no relative error and are not used.
    ///
    /// # Errors
    /// A phase has no row with a time.
    pub fn fit(profile: &Profile) -> Result<Self, String> {
        let of = |phase, features: fn(&AttentionRow) -> Vec<f64>| {
            profile.of(phase).map(|row| (features(row), row.ms)).collect::<Vec<_>>()
        };
        let ops: Vec<_> =
            profile.linear.iter().map(|row| (linear(row.tokens), row.sum_ms())).collect();
        Ok(Self {
            decode: fit(&of(Phase::Decode, |row| decode(row.batch, row.kv_len)))?,
            prefill: fit(&of(Phase::Prefill, |row| prefill(row.chunk, row.kv_len)))?,
            linear: fit(&ops)?,
        })
    }
}

impl LayerTimes for Roofline {
    fn linear_ms(&self, tokens: f64) -> f64 {
        cost(&self.linear, &linear(tokens))
    }

    fn decode_ms(&self, batch: f64, kv_len: f64) -> Result<f64, String> {
        Ok(cost(&self.decode, &decode(batch, kv_len)))
    }

    fn prefill_ms(&self, chunk: f64) -> f64 {
        cost(&self.prefill, &prefill(chunk, 0.0))
    }
}
