//! What every operation under a quantising method keeps and how it is checked: data, sizes, counts.

use std::sync::Arc;

use anyhow::Result;
use half::f16;

use super::{
    data::{Ragged, Random},
    device::{Buffer, Device, Function},
    half_cache::Heads,
    paged::Workspace,
};
use crate::{
    kernel::{
        KernelSpec, Verification, Work,
        check::{self, Error},
        data::{Kind, Place},
    },
    method::select,
};

/// K and V of one head, `[token][d]` each.
pub(crate) type Rows = (Vec<f64>, Vec<f64>);

/// See the module's docs.
pub(crate) struct Base {
    /// Where it runs.
    pub(crate) device: Arc<dyn Device>,
    /// What was asked for.
    pub(crate) spec: KernelSpec,
    /// KV heads and head dimension.
    pub(crate) heads: Heads,
    /// The data.
    pub(crate) random: Random,
}

impl Base {
    /// Uploads the block of random numbers.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let shape = &spec.shape;
        Ok(Self {
            device: Arc::clone(device),
            spec: spec.clone(),
            heads: Heads { kv: shape.heads_kv, d: shape.head_dim },
            random: Random::new(device, spec.seed)?,
        })
    }

    /// Bytes of the stored cache.
    pub(crate) fn cache_bytes(&self) -> u64 {
        let one = |&len: &usize| self.spec.method.cache_bytes(len, self.heads.kv, self.heads.d);
        self.spec.shape.kv_lens.iter().map(one).sum()
    }

    /// Raw K and V of one copy.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn raw(&self, copy: usize, lens: &Ragged) -> Result<[Buffer; 2]> {
        let rows = |kind| self.random.rows(kind, copy, (lens, self.heads.kv, self.heads.d));
        Ok([rows(Kind::Key)?, rows(Kind::Value)?])
    }

    /// Queries of one copy, `[seq][head][d]`.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn queries(&self, copy: usize) -> Result<Buffer> {
        let ones = Ragged::new(&self.device, &vec![1; self.spec.shape.kv_lens.len()])?;
        self.random.rows(Kind::Query, copy, (&ones, self.spec.shape.heads_q, self.heads.d))
    }

    /// K and V of the token at position `kv_len` of each sequence, one copy: `[seq][KV head][d]` each.
    ///
    /// # Errors
    /// Out of memory.
    pub(crate) fn new_token(&self, copy: usize) -> Result<[Buffer; 2]> {
        let rows = |kind| -> Result<Buffer> {
            let mut rows: Vec<f16> = Vec::new();
            for (seq, &len) in self.spec.shape.kv_lens.iter().enumerate() {
                for head in 0..self.heads.kv {
                    let at = Place { copy, seq, head };
                    rows.extend(self.random.host.row(kind, at, len, self.heads.d));
                }
            }
            Buffer::of(&self.device, &rows)
        };
        Ok([rows(Kind::Key)?, rows(Kind::Value)?])
    }

    fn tokens(&self) -> u64 {
        (self.spec.shape.kv_lens.iter().sum::<usize>() * self.heads.kv) as u64
    }

    /// Counts of a decode step over all tokens.
    pub(crate) fn decode_work(&self) -> Work {
        let (shape, d) = (&self.spec.shape, self.heads.d as u64);
        let io = 2 * 2 * (shape.kv_lens.len() * shape.heads_q) as u64 * d;
        let group = (shape.heads_q / shape.heads_kv) as u64;
        Work { bytes_moved: self.cache_bytes() + io, flops: 4 * d * self.tokens() * group }
    }

    /// Counts of compressing a prompt: the raw rows once, the cache once.
    pub(crate) fn compress_work(&self) -> Work {
        let raw = 4 * self.tokens() * self.heads.d as u64;
        Work { bytes_moved: raw + self.cache_bytes(), flops: 0 }
    }

    /// Lane instructions of the main loop over all elements of K and V.
    pub(crate) fn lane_instructions(&self, function: Function) -> Option<u64> {
        let elements = (2 * self.tokens() * self.heads.d as u64) as f64;
        Some((self.device.instructions_per_element(function)? * elements).round() as u64)
    }

    /// Holds a decode step's outputs to f64 attention over what `stored` reads back.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn check_decode(
        &self,
        work: &Workspace,
        stored: impl Fn(Place, usize) -> Result<Rows>,
    ) -> Result<Verification> {
        let shape = &self.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let mut error = Error::default();
        for at in check::sample(&self.spec) {
            let (k, v) = stored(at, shape.kv_lens[at.seq])?;
            let out = work.output(at.seq * shape.heads_kv + at.head)?;
            for h in 0..group {
                let place = Place { head: at.head * group + h, ..at };
                let query = self.random.host.rows_f64(Kind::Query, place, 1, d);
                error.add_vector(&out[h * d..][..d], &select::attention(&query, &k, &v));
            }
        }
        Ok(error.verification(&self.spec.method))
    }

    /// Holds what `stored` reads back to the method's reference round trip of the original rows.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn check_stored(
        &self,
        stored: impl Fn(Place, usize) -> Result<Rows>,
    ) -> Result<Verification> {
        self.check_rows(stored, |at, len| {
            let rows = |kind| self.random.host.rows_f64(kind, at, len, self.heads.d);
            let (mut k, mut v) = (rows(Kind::Key), rows(Kind::Value));
            self.spec.method.round_trip(&mut k, &mut v, self.heads.d);
            (k, v)
        })
    }

    /// Holds what `stored` reads back to `expected`, both by head and length.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn check_rows(
        &self,
        stored: impl Fn(Place, usize) -> Result<Rows>,
        expected: impl Fn(Place, usize) -> Rows,
    ) -> Result<Verification> {
        let mut error = Error::default();
        for at in check::sample(&self.spec) {
            let len = self.spec.shape.kv_lens[at.seq];
            let ((k, v), (expected_k, expected_v)) = (stored(at, len)?, expected(at, len));
            error.add(check::relative(forgiving(k, &expected_k), &expected_k));
            error.add(check::relative(forgiving(v, &expected_v), &expected_v));
        }
        Ok(error.verification_half())
    }
}

/// A value on the border of two codes may fall to either side, since the device divides in f32 and the reference in f64.
/// Up to one in a thousand values, and one of a short row, may differ by a step of its quantiser; a step is never more than
/// the largest value.
fn forgiving(stored: Vec<f64>, expected: &[f64]) -> impl Iterator<Item = f64> {
    let largest = expected.iter().fold(0.0_f64, |top, x| top.max(x.abs()));
    let differs = |a: f64, b: f64| (a - b).abs() > 1e-3 * largest;
    let at_a_step = |a: f64, b: f64| differs(a, b) && (a - b).abs() <= largest;
    let ties = stored.iter().zip(expected).filter(|(a, b)| at_a_step(**a, **b)).count();
    let forgiven = ties <= 1 + expected.len() / 1000;
    let each = move |(a, b): (f64, f64)| if forgiven && at_a_step(a, b) { b } else { a };
    let expected = expected.to_vec();
    stored.into_iter().zip(expected).map(each).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tie_is_forgiven_and_two_in_a_short_row_are_not() {
        let expected: Vec<f64> = (0..64).map(f64::from).collect();
        let mut stored = expected.clone();
        stored[5] += 1.0;
        assert_eq!(forgiving(stored.clone(), &expected).collect::<Vec<_>>(), expected);
        stored[6] += 1.0;
        assert_eq!(forgiving(stored.clone(), &expected).collect::<Vec<_>>(), stored);
        stored[6] = f64::NAN;
        assert!(forgiving(stored, &expected).any(f64::is_nan));
    }
}
