//! How a kernel is held against f64 before it may be timed.
//!
//! Attention is compared per query head by relative L2 `|o - ref| / |ref|`, scores and victims likewise; the worst
//! counts. Outputs are NaN before the run, and a NaN fails. Of large shapes a seeded sample of (sequence, kv head) pairs
//! is checked: [`MAX_HEADS`], the first and the last among them.

use half::f16;

use crate::{
    kernel::data::Place,
    kernel::{KernelSpec, Verification},
    method::Method,
};

/// Most (sequence, kv head) pairs that are checked.
pub(crate) const MAX_HEADS: usize = 8;
/// Gate of 16-bit caches.
pub(crate) const GATE_HALF: f64 = 1e-3;
/// Gate of bf16 caches on tensor cores: probabilities and queries have eight bits of mantissa there.
pub(crate) const GATE_BRAIN: f64 = 5e-3;
/// Gate of quantised caches.
pub(crate) const GATE_QUANTISED: f64 = 2e-3;

/// The pairs to check, of copy 0: all when there are few, else first, last and a seeded draw between.
pub(crate) fn sample(spec: &KernelSpec) -> Vec<Place> {
    let heads = spec.shape.heads_kv;
    let total = spec.shape.kv_lens.len() * heads;
    let place = |i: usize| Place { copy: 0, seq: i / heads, head: i % heads };
    if total <= MAX_HEADS {
        return (0..total).map(place).collect();
    }
    let inner = MAX_HEADS - 2;
    // One from each of equal strata, at a place the seed decides.
    let at = |i: usize| {
        let (from, to) = (1 + i * (total - 2) / inner, 1 + (i + 1) * (total - 2) / inner);
        from + (spec.seed as usize).wrapping_mul(i + 1) % (to - from)
    };
    std::iter::once(0).chain((0..inner).map(at)).chain([total - 1]).map(place).collect()
}

/// The worst relative error seen; NaN sticks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Error(f64);

impl Error {
    /// Takes another error in.
    pub(crate) fn add(&mut self, error: f64) {
        if error.is_nan() || error > self.0 {
            self.0 = if self.0.is_nan() { self.0 } else { error };
        }
    }

    /// Something is wrong that has no size.
    pub(crate) fn fail(&mut self) {
        self.add(f64::NAN);
    }

    /// Relative L2 of fp16 outputs.
    pub(crate) fn add_vector(&mut self, got: &[f16], expected: &[f64]) {
        self.add(relative(got.iter().map(|x| x.to_f64()), expected));
    }

    /// Relative L2 of f32 outputs.
    pub(crate) fn add_f32(&mut self, got: &[f32], expected: &[f64]) {
        self.add(if got.len() == expected.len() {
            relative(got.iter().map(|&x| f64::from(x)), expected)
        } else {
            f64::NAN
        });
    }

    /// Relative error of one number; a missing one fails.
    pub(crate) fn add_scalar(&mut self, got: Option<f64>, expected: f64) {
        self.add(got.map_or(f64::NAN, |got| (got - expected).abs() / expected.abs().max(1e-30)));
    }

    /// Held to the gate of a method.
    pub(crate) fn verification(self, method: &Method) -> Verification {
        let gate = match method {
            Method::Bf16 => GATE_BRAIN,
            method if method.is_quantised() => GATE_QUANTISED,
            _ => GATE_HALF,
        };
        Verification { max_rel_err: self.0, gate }
    }

    /// Held to the gate of 16-bit data.
    pub(crate) fn verification_half(self) -> Verification {
        Verification { max_rel_err: self.0, gate: GATE_HALF }
    }
}

/// `|got - expected| / |expected|`.
pub(crate) fn relative(got: impl Iterator<Item = f64>, expected: &[f64]) -> f64 {
    let (mut wrong, mut size) = (0.0, 0.0);
    for (got, expected) in got.zip(expected) {
        wrong += (got - expected).powi(2);
        size += expected.powi(2);
    }
    if size > 0.0 { (wrong / size).sqrt() } else { wrong.sqrt() }
}
