//! A paged cache of 16-bit K and V: fp16, bf16, and every method that keeps tokens as they are (StreamingLLM, H2O, SnapKV).

use std::sync::Arc;

use anyhow::Result;
use half::{bf16, f16};

use super::{
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    paged::Pages,
    program::{Instance, Source},
};
use crate::method::Method;

/// Base of the rotary embedding, as in Llama.
const ROPE_BASE: f64 = 10_000.0;
/// Tokens a block of `pack_half` writes: one a warp.
const TOKENS_PER_BLOCK: usize = 8;

/// Shape of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    /// KV heads.
    pub(crate) kv: usize,
    /// Head dimension.
    pub(crate) d: usize,
}

/// Which tokens of a prompt go into the cache.
pub(crate) enum Kept<'a> {
    /// All.
    All,
    /// The first `sinks` and the newest of the rest.
    Ends {
        /// Sink tokens.
        sinks: usize,
    },
    /// Those named by slot, `[seq][head][stride]`, and the stride.
    Index((&'a Buffer, usize)),
}

/// Name of the storage type in the kernels.
pub(crate) fn storage(method: &Method) -> &'static str {
    if *method == Method::Bf16 { "Brain" } else { "Half" }
}

/// Whether K is stored rotated: only StreamingLLM's positions differ from those in the text.
pub(crate) fn is_rotated(method: &Method) -> bool {
    matches!(method, Method::Streaming { .. })
}

/// Kernels that write such caches.
pub(crate) fn instances() -> Vec<Instance> {
    let mut all = Vec::new();
    for d in [64, 128] {
        for page in [16, 64] {
            for method in [Method::Fp16, Method::Bf16, Method::Streaming { sink: 4, window: 508 }] {
                all.push(pack_instance(&method, page, d));
                all.push(append_instance(&method, page, d));
            }
        }
    }
    all
}

fn pack_instance(method: &Method, page: usize, d: usize) -> Instance {
    let expression = format!("pack_half<{}, {page}, {}>", storage(method), is_rotated(method));
    Instance::at(Source::DecodeHalf, expression, d)
}

/// One more token.
pub(crate) fn append_instance(method: &Method, page: usize, d: usize) -> Instance {
    let expression = format!("append_half<{}, {page}, {}>", storage(method), is_rotated(method));
    Instance::at(Source::DecodeHalf, expression, d)
}

/// `(cos, sin)` of every position below `positions` and every pair of channels, `[position][d / 2][2]`; in f64, rounded once.
pub(crate) fn rope_table(positions: usize, d: usize) -> Vec<f32> {
    let angle = |position: usize, pair: usize| {
        position as f64 * ROPE_BASE.powf(-2.0 * pair as f64 / d as f64)
    };
    let pair = |p: usize, i: usize| [angle(p, i).cos() as f32, angle(p, i).sin() as f32];
    (0..positions).flat_map(|p| (0..d / 2).flat_map(move |i| pair(p, i))).collect()
}

/// Rotates a row by its position, in f64.
pub(crate) fn rotate(row: &mut [f64], position: usize) {
    let half = row.len() / 2;
    for i in 0..half {
        let turn = position as f64 * ROPE_BASE.powf(-(i as f64) / half as f64);
        let (sin, cos) = turn.sin_cos();
        let (a, b) = (row[i], row[i + half]);
        (row[i], row[i + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// Pools with their page table.
pub(crate) struct HalfCache {
    device: Arc<dyn Device>,
    method: Method,
    heads: Heads,
    /// Pages of each sequence.
    pub(crate) pages: Pages,
    /// Tokens in the cache of each sequence.
    pub(crate) kept: Ragged,
    k: Buffer,
    v: Buffer,
    pack: Function,
}

impl HalfCache {
    /// Empty pools for `kept[seq]` tokens and `spare` more each; poisoned.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        method: &Method,
        heads: Heads,
        (kept, spare): (&[usize], usize),
        (page, seed): (usize, u64),
    ) -> Result<Self> {
        let slots: Vec<usize> = kept.iter().map(|n| n + spare).collect();
        let pages = Pages::new(device, &slots, page, seed)?;
        let bytes = (pages.n_pages * heads.kv * page * heads.d * 2) as u64;
        Ok(Self {
            device: Arc::clone(device),
            method: method.clone(),
            heads,
            kept: Ragged::new(device, kept)?,
            k: Buffer::poisoned(device, bytes)?,
            v: Buffer::poisoned(device, bytes)?,
            pack: device.function(&pack_instance(method, page, heads.d))?,
            pages,
        })
    }

    /// Queues the writing of a prompt: raw K and V `[seq][head][token][d]` of `lens` tokens.
    ///
    /// # Errors
    /// The launch was refused.
    pub(crate) fn pack(
        &self,
        (k, v): (&Buffer, &Buffer),
        lens: &Ragged,
        which: &Kept<'_>,
        rope: Option<&Buffer>,
    ) -> Result<()> {
        let (index, stride, sinks) = match which {
            // Slot and token are the same.
            Kept::All => (Arg::Ptr(0), 0, usize::try_from(i32::MAX)?),
            Kept::Ends { sinks } => (Arg::Ptr(0), 0, *sinks),
            Kept::Index((tokens, stride)) => (tokens.arg(), *stride, 0),
        };
        let args = [
            k.arg(),
            v.arg(),
            lens.lens.arg(),
            lens.starts.arg(),
            self.kept.lens.arg(),
            index,
            self.pages.arg(),
            self.k.arg(),
            self.v.arg(),
            rope.map_or(Arg::Ptr(0), Buffer::arg),
            Arg::I32(i32::try_from(self.pages.maxp)?),
            Arg::I32(i32::try_from(stride)?),
            Arg::I32(i32::try_from(sinks)?),
        ];
        let blocks = self.kept.longest().div_ceil(TOKENS_PER_BLOCK);
        let launch = Launch {
            grid: grid(blocks, self.heads.kv, lens.host.len()),
            block: 256,
            smem_bytes: 0,
        };
        self.device.launch(self.pack, launch, &args)
    }

    /// Arguments `kp, vp`.
    pub(crate) fn pools(&self) -> [Arg; 2] {
        [self.k.arg(), self.v.arg()]
    }

    /// Fills the pools with NaN.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn poison(&self) -> Result<()> {
        self.k.fill(0xFF)?;
        self.v.fill(0xFF)
    }

    /// All stored K and V of one (sequence, KV head): `[slot][d]` each.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn stored(&self, seq: usize, head: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        self.stored_slots(seq, head, self.kept.host[seq])
    }

    /// The first `n` slots of one (sequence, KV head): `[slot][d]` each.
    ///
    /// # Errors
    /// A launch failed.
    pub(crate) fn stored_slots(
        &self,
        seq: usize,
        head: usize,
        n: usize,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let (page, d) = (self.pages.page, self.heads.d);
        let (mut k, mut v) = (Vec::with_capacity(n * d), Vec::with_capacity(n * d));
        for from in (0..n).step_by(page) {
            let first = (self.pages.of(seq, from) * self.heads.kv + head) * page * d;
            let count = page.min(n - from) * d;
            k.extend(self.values(&self.k, first, count)?);
            v.extend(self.values(&self.v, first, count)?);
        }
        Ok((k, v))
    }

    fn values(&self, pool: &Buffer, first: usize, count: usize) -> Result<Vec<f64>> {
        let at = (first * 2) as u64;
        Ok(if self.method == Method::Bf16 {
            pool.read::<bf16>(at, count)?.into_iter().map(|x| x.to_f64()).collect()
        } else {
            pool.read::<f16>(at, count)?.into_iter().map(|x| x.to_f64()).collect()
        })
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.k.bytes() + self.v.bytes() + self.pages.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::select;

    /// The paper caches K before the rotary embedding and rotates it by its position in the cache, the query by the last
    /// one. Ours keeps K rotated by its position in the text and rotates the query twice: the same attention.
    #[test]
    fn two_queries_are_streaming_llms_positions() {
        let (len, sinks, window, d) = (300, 4, 60, 64);
        let data = crate::kernel::data::Data::new(5);
        let at = crate::kernel::data::Place { copy: 0, seq: 0, head: 0 };
        let rows = |kind, n| data.rows_f64(kind, at, n, d);
        let (keys, values) = (
            rows(crate::kernel::data::Kind::Key, len),
            rows(crate::kernel::data::Kind::Value, len),
        );
        let query = rows(crate::kernel::data::Kind::Query, 1);
        let kept = select::streaming(len, sinks, window);
        let turned = |row: &[f64], position: usize| {
            let mut row = row.to_vec();
            rotate(&mut row, position);
            row
        };
        let key = |token: usize| &keys[token * d..][..d];
        let value: Vec<f64> = kept.iter().flat_map(|t| values[t * d..][..d].to_vec()).collect();
        let paper: Vec<f64> =
            kept.iter().enumerate().flat_map(|(slot, &t)| turned(key(t), slot)).collect();
        let expected = select::attention(&turned(&query, kept.len() - 1), &paper, &value);

        let scale = 1.0 / (d as f64).sqrt();
        let (text, cache) = (turned(&query, len - 1), turned(&query, kept.len() - 1));
        let scores: Vec<f64> = kept
            .iter()
            .enumerate()
            .map(|(slot, &t)| {
                let q = if slot < sinks { &cache } else { &text };
                q.iter().zip(turned(key(t), t)).map(|(a, b)| a * b).sum::<f64>() * scale
            })
            .collect();
        let sum: f64 = scores.iter().map(|s| s.exp()).sum();
        for (i, expected) in expected.iter().enumerate() {
            let ours: f64 =
                scores.iter().zip(value.chunks(d)).map(|(s, v)| s.exp() / sum * v[i]).sum();
            assert!((ours - expected).abs() < 1e-9, "channel {i}: {ours} and {expected}");
        }
    }
}
