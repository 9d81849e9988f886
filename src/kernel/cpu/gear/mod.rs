//! GEAR on the CPU: what a head keeps beside its codes, how it is made ([`pack`], [`marks`], [`low_rank`]) and how a decode
//! step adds it ([`correct`]). The codes, scales and minima are KIVI's, see [`super::layout`].
//!
//! | part | layout |
//! |---|---|
//! | factor A | `[tile of 128 tokens][rank][128]`, fp16, zeros past the last quantised token |
//! | factor B | `[rank][D]`, fp16 |
//! | outliers | by tile of 16 tokens: places (`token << 8 \| channel`) and fp16 differences in two arrays, u32 offsets |
//!
//! Within a tile the outliers of K lie by channel and those of V by token: K's are added to scores, V's to channels, and so
//! neighbours rarely wait for each other's sum. The arrays are their own allocations and not part of the arena, because
//! only the data tell how many of a token's outliers of V fall into which head.

use half::f16;

use super::decode::TILE;
use crate::method::{Gear, gear::OUTLIER_TILE};

mod correct;
mod low_rank;
mod marks;
mod pack;
#[cfg(test)]
mod tests;

pub(crate) use correct::{LowRank, expand};
pub(crate) use marks::{Marks, mark_values};
pub(crate) use pack::Pack;

/// Zeros behind the differences, so that whole vectors can be read: two of the widest.
const PAD: usize = 32;
/// Bits of a place that hold the channel.
const CHANNEL_BITS: u32 = 8;

/// Factors and outliers of one side, K or V, of a head.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extra {
    /// Factor A in tiles.
    pub(crate) a: Vec<f16>,
    /// Factor B, `[rank][d]`.
    pub(crate) b: Vec<f16>,
    /// First outlier of each tile of 16 tokens, then their number.
    pub(crate) offsets: Vec<u32>,
    /// Where each outlier lies: `token of the tile << 8 | channel`.
    pub(crate) places: Vec<u16>,
    /// What is added there; [`PAD`] zeros follow.
    pub(crate) differences: Vec<f16>,
}

/// Factors and outliers of a head.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Extras {
    /// Of K.
    pub(crate) keys: Extra,
    /// Of V.
    pub(crate) values: Extra,
}

impl Extras {
    /// Room for `n` quantised tokens of one of a layer's `heads` heads.
    pub(crate) fn new(gear: &Gear, n: usize, heads: usize, d: usize) -> Extras {
        if n == 0 {
            return Extras::default();
        }
        let (keys, values) = gear.outliers_of_layer(n, heads, d);
        // A head's share of V's outliers varies; more than this makes the first compression allocate once more.
        let values = values / heads + values / heads / 4;
        Extras {
            keys: Extra::new(n, d, gear.rank, keys / heads),
            values: Extra::new(n, d, gear.rank, values),
        }
    }

    /// Forgets everything: factors become NaN.
    pub(crate) fn poison(&mut self) {
        for side in [&mut self.keys, &mut self.values] {
            side.a.fill(f16::NAN);
            side.b.fill(f16::NAN);
            side.offsets.fill(0);
            side.places.clear();
            side.differences.clear();
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let side = |x: &Extra| {
            let halves = x.a.len() + x.b.len() + x.places.capacity() + x.differences.capacity();
            2 * halves + 4 * x.offsets.len()
        };
        side(&self.keys) + side(&self.values)
    }
}

impl Extra {
    fn new(n: usize, d: usize, rank: usize, outliers: usize) -> Extra {
        Extra {
            a: vec![f16::ZERO; n.next_multiple_of(TILE) * rank],
            b: vec![f16::ZERO; rank * d],
            offsets: vec![0; n.div_ceil(OUTLIER_TILE) + 1],
            places: Vec::with_capacity(outliers),
            differences: Vec::with_capacity(outliers + PAD),
        }
    }

    /// Adds outliers and low-rank term to dequantised `rows`, `[n][d]`.
    pub(crate) fn add_to(&self, rows: &mut [f64], d: usize, rank: usize) {
        for (tile, span) in self.offsets.windows(2).enumerate() {
            for i in span[0] as usize..span[1] as usize {
                let (token, channel) = place(self.places[i]);
                rows[(tile * OUTLIER_TILE + token) * d + channel] += self.differences[i].to_f64();
            }
        }
        for (t, row) in rows.chunks_mut(d).enumerate() {
            for j in 0..rank {
                let a = self.a[(t / TILE * rank + j) * TILE + t % TILE].to_f64();
                let b = &self.b[j * d..][..d];
                row.iter_mut().zip(b).for_each(|(x, b)| *x += a * b.to_f64());
            }
        }
    }
}

/// Token of the tile, and channel.
#[inline(always)]
fn place(place: u16) -> (usize, usize) {
    (usize::from(place >> CHANNEL_BITS), usize::from(place & ((1 << CHANNEL_BITS) - 1)))
}
