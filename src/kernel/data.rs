//! Random data: the same seed gives the same q, K, V and token scores, whatever the method.
//!
//! One block of 2^20 standard normals is made per kernel by a counter-based generator (SplitMix64 of the index, then
//! Box-Muller). A row of K, V or q is a window of that block at a hashed place, so any row can be made again at any
//! time and gigabytes are made at copying speed. Rows differ unless two hashes collide, one pair in 10^6; rows whose windows
//! overlap are shifted against each other and stay uncorrelated channel by channel.

use half::f16;
use rayon::prelude::*;

use crate::method::Method;

/// Normals in the block.
pub(crate) const BLOCK: usize = 1 << 20;

/// What a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Query, by query head.
    Query = 1,
    /// Key, by kv head.
    Key = 2,
    /// Value, by kv head.
    Value = 3,
    /// A token's eviction score, by kv head.
    Score = 4,
}

/// One sequence's head of one rotated copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Rotated copy.
    pub(crate) copy: usize,
    /// Sequence.
    pub(crate) seq: usize,
    /// Query head or kv head.
    pub(crate) head: usize,
}

/// Source of all rows.
pub(crate) struct Data {
    seed: u64,
    block: Vec<f16>,
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Two normals from one counter. The uniform under the logarithm is never 0.
fn normals(seed: u64, i: u64) -> [f16; 2] {
    let bits = mix(seed ^ mix(i));
    let u = ((bits >> 40) as f32 + 1.0) / 16_777_217.0;
    let angle = (bits & 0xFF_FFFF) as f32 / 16_777_216.0 * std::f32::consts::TAU;
    let r = (-2.0 * u.ln()).sqrt();
    [f16::from_f32(r * angle.cos()), f16::from_f32(r * angle.sin())]
}

impl Data {
    /// Makes the block.
    pub(crate) fn new(seed: u64) -> Data {
        let mut block = vec![f16::ZERO; BLOCK];
        block.par_chunks_mut(2).with_min_len(4096).enumerate().for_each(|(i, pair)| {
            pair.copy_from_slice(&normals(seed, i as u64));
        });
        Data { seed, block }
    }

    fn hash(&self, kind: Kind, at: Place, token: usize) -> u64 {
        let place =
            (at.copy as u64) << 48 | (at.seq as u64) << 32 | (at.head as u64) << 8 | kind as u64;
        mix(mix(self.seed ^ mix(place)) ^ token as u64)
    }

    /// The row of one token.
    pub(crate) fn row(&self, kind: Kind, at: Place, token: usize, d: usize) -> &[f16] {
        let start = self.hash(kind, at, token) % (BLOCK - d) as u64;
        &self.block[start as usize..][..d]
    }

    /// Rows of the first `out.len() / d` tokens.
    pub(crate) fn fill(&self, kind: Kind, at: Place, d: usize, out: &mut [f16]) {
        for (token, row) in out.chunks_exact_mut(d).enumerate() {
            row.copy_from_slice(self.row(kind, at, token, d));
        }
    }

    /// All rows of one head in f64.
    pub(crate) fn rows_f64(&self, kind: Kind, at: Place, tokens: usize, d: usize) -> Vec<f64> {
        (0..tokens).flat_map(|t| self.row(kind, at, t, d)).map(|x| x.to_f64()).collect()
    }

    /// Eviction scores of one head, uniform on (0, 1): they stand for what a prefill has accumulated. Which tokens they
    /// pick does not change what a decode step or a gather costs; the scores of a real prefill are `Op::Prefill`.
    pub(crate) fn scores(&self, at: Place, tokens: usize) -> Vec<f32> {
        let score = |t| ((self.hash(Kind::Score, at, t) >> 40) as f32 + 0.5) / 16_777_216.0;
        (0..tokens).map(score).collect()
    }

    /// The block of normals, for devices that make the same rows from it.
    pub(crate) fn block(&self) -> &[f16] {
        &self.block
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        (self.block.len() * 2) as u64
    }
}

/// Whether the method chooses tokens by score.
pub(crate) fn needs_scores(method: &Method) -> bool {
    matches!(method, Method::H2o { .. } | Method::Snapkv { .. })
}
