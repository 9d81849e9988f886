//! A GEAR cache on the device: a KIVI cache, the low-rank factors and the outliers. The layout is `kernels/gear.cuh`'s.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use half::f16;

use super::{
    base::Rows,
    device::{Arg, Buffer, Device},
    half_cache::Heads,
    kivi_cache::{KiviCache, PAGE, Params},
};
use crate::method::{
    Gear, Method,
    gear::{OUTLIER_TILE as TILE, Side},
};

/// Tokens of a chunk: what has one segment.
const CHUNK: usize = 32;

/// One side's factors and outliers.
struct Extra {
    /// A, by page.
    a: Buffer,
    /// B, by segment.
    b: Buffer,
    /// Start and number of each tile's outliers.
    table: Buffer,
    entries: Buffer,
}

/// See the module's docs.
pub(crate) struct GearCache {
    /// Codes, scales, rings, pages.
    pub(crate) kivi: KiviCache,
    gear: Gear,
    heads: Heads,
    extras: [Extra; 2],
    segments: Buffer,
    /// Host copy of `segments`.
    segment_of: Vec<i32>,
    jobs: [Buffer; 2],
}

/// Which tokens are compressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Batch {
    /// The whole residuals of a prompt.
    Prompt,
    /// The residual that follows them.
    Flush,
}

impl GearCache {
    /// Empty, poisoned pools for prompts of `lens[seq]` tokens and one residual more each.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        gear: Gear,
        heads: Heads,
        lens: &[usize],
        seed: u64,
    ) -> Result<Self> {
        let params = params(gear)?;
        let kivi = KiviCache::new(device, params, heads, lens, seed)?;
        let (maxp, rank) = (kivi.pages.maxp, stride(gear));
        let (ph, rows) = (kivi.pages.n_pages * heads.kv, lens.len() * heads.kv);
        let all = Jobs::new(gear, heads, lens)?;
        let extra = |entries: usize| -> Result<Extra> {
            let pool = |bytes: usize| Buffer::poisoned(device, bytes as u64);
            Ok(Extra {
                a: pool(ph * PAGE * rank * 2)?,
                b: pool(2 * rows * heads.d * rank * 2)?,
                table: pool(rows * maxp * (PAGE / TILE) * 8)?,
                entries: pool(entries * 4)?,
            })
        };
        let chunks = maxp * (PAGE / CHUNK);
        let mut segment_of = vec![-1; lens.len() * chunks];
        for (seq, row) in segment_of.chunks_mut(chunks).enumerate() {
            let prompt = lens[seq] / gear.residual * gear.residual / CHUNK;
            let own = i32::try_from(seq)?;
            row[..prompt].fill(own);
            row[prompt..].fill(own + i32::try_from(lens.len())?);
        }
        Ok(Self {
            extras: [extra(all.entries[0])?, extra(all.entries[1])?],
            segments: Buffer::of(device, &segment_of)?,
            jobs: [Buffer::of(device, &all.prompt)?, Buffer::of(device, &all.flush)?],
            segment_of,
            gear,
            heads,
            kivi,
        })
    }

    /// Stride of the factors, whose columns beyond a segment's rank are 0.
    pub(crate) fn rank(&self) -> usize {
        stride(self.gear)
    }

    /// The jobs of a batch, see `struct Job` of gear.cuh.
    pub(crate) fn jobs(&self, batch: Batch) -> Arg {
        self.jobs[batch as usize].arg()
    }

    /// A and B of a side.
    pub(crate) fn factors(&self, side: Side) -> [Arg; 2] {
        let extra = &self.extras[side as usize];
        [extra.a.arg(), extra.b.arg()]
    }

    /// Table and entries of a side's outliers.
    pub(crate) fn outliers(&self, side: Side) -> [Arg; 2] {
        let extra = &self.extras[side as usize];
        [extra.table.arg(), extra.entries.arg()]
    }

    /// Entries of the table for each (sequence, KV head).
    pub(crate) fn tiles(&self) -> usize {
        self.kivi.pages.maxp * (PAGE / TILE)
    }

    /// Arguments `ka, va, kb, vb, kt, vt, ke, ve, segments`.
    pub(crate) fn args(&self) -> [Arg; 9] {
        let [k, v] = &self.extras;
        [&k.a, &v.a, &k.b, &v.b, &k.table, &v.table, &k.entries, &v.entries, &self.segments]
            .map(Buffer::arg)
    }

    fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.extras.iter().flat_map(|extra| [&extra.a, &extra.b, &extra.table, &extra.entries])
    }

    /// Fills everything with NaN.
    ///
    /// # Errors
    /// The driver refused.
    pub(crate) fn poison(&self) -> Result<()> {
        self.kivi.poison()?;
        self.buffers().try_for_each(|buffer| buffer.fill(0xFF))
    }

    /// Everything stored of one (sequence, KV head) when it has `len` tokens, `nq` of them quantised: `[token][d]` each.
    ///
    /// # Errors
    /// A launch failed, or a list of outliers points beyond its entries.
    pub(crate) fn stored(&self, at: (usize, usize), len: usize, nq: usize) -> Result<Rows> {
        let (mut k, mut v) = self.kivi.stored(at, len, (nq, nq))?;
        for (side, rows) in [(Side::Key, &mut k), (Side::Value, &mut v)] {
            self.add_low_rank(side, at, &mut rows[..nq * self.heads.d])?;
            if self.gear.outliers > 0.0 {
                self.add_outliers(side, at, &mut rows[..nq * self.heads.d])?;
            }
        }
        Ok((k, v))
    }

    fn add_low_rank(
        &self,
        side: Side,
        (seq, head): (usize, usize),
        rows: &mut [f64],
    ) -> Result<()> {
        let (d, rank, extra) = (self.heads.d, self.rank(), &self.extras[side as usize]);
        let chunks = self.segment_of.len() / self.kivi.lens.host.len();
        let (mut known, mut b): (i32, Vec<f16>) = (-1, Vec::new());
        for (chunk, rows) in rows.chunks_mut(CHUNK * d).enumerate() {
            let segment = self.segment_of[seq * chunks + chunk];
            if segment != known {
                let first = segment.unsigned_abs() as usize * self.heads.kv + head;
                b = extra.b.read((first * d * rank * 2) as u64, d * rank)?;
                known = segment;
            }
            let page = self.kivi.pages.of(seq, chunk * CHUNK) * self.heads.kv + head;
            let first = page * PAGE + chunk * CHUNK % PAGE;
            let a: Vec<f16> = extra.a.read((first * rank * 2) as u64, CHUNK * rank)?;
            for (n, row) in rows.chunks_mut(d).enumerate() {
                for (channel, x) in row.iter_mut().enumerate() {
                    *x += (0..rank)
                        .map(|r| match side {
                            Side::Key => (a[n * rank + r], b[r * d + channel]),
                            Side::Value => (a[value_at(n, r, rank)], b[channel * rank + r]),
                        })
                        .map(|(a, b)| a.to_f64() * b.to_f64())
                        .sum::<f64>();
                }
            }
        }
        Ok(())
    }

    fn add_outliers(
        &self,
        side: Side,
        (seq, head): (usize, usize),
        rows: &mut [f64],
    ) -> Result<()> {
        let (d, extra) = (self.heads.d, &self.extras[side as usize]);
        let first = (seq * self.heads.kv + head) * self.tiles();
        let tiles = rows.len() / d / TILE;
        let table: Vec<u32> = extra.table.read((first * 8) as u64, tiles * 2)?;
        for (rows, place) in rows.chunks_mut(TILE * d).zip(table.chunks(2)) {
            let (start, count) = (place[0] as usize, place[1] as usize);
            ensure!(
                (start + count) * 4 <= extra.entries.bytes() as usize,
                "outliers: expected at most {} entries, got a tile that ends at {}",
                extra.entries.bytes() / 4,
                start + count
            );
            for entry in extra.entries.read::<u32>((start * 4) as u64, count)? {
                let difference = f16::from_bits((entry >> 16) as u16).to_f64();
                rows[(entry & 0xFFFF) as usize % (TILE * d)] += difference;
            }
        }
        Ok(())
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.kivi.bytes() + self.buffers().map(Buffer::bytes).sum::<u64>() + self.segments.bytes()
    }
}

/// Place of token `n` of a chunk and column `r` in V's A.
fn value_at(n: usize, r: usize, rank: usize) -> usize {
    let at = n % 8 / 2 * 4 + n % TILE / 8 * 2 + n % 2;
    (n / TILE * rank + r) * TILE + at
}

fn stride(gear: Gear) -> usize {
    gear.rank.max(gear.flush_rank)
}

/// KIVI's parameters of a GEAR cache.
///
/// # Errors
/// A group or residual without kernels.
pub(crate) fn params(gear: Gear) -> Result<Params> {
    let Gear { bits, group, residual, .. } = gear;
    ensure!(
        residual.is_multiple_of(CHUNK),
        "residual: expected a multiple of {CHUNK} on CUDA, got {residual}"
    );
    Params::of(&Method::Kivi { bits, group, residual })
}

/// What is compressed of each sequence, eight numbers each: `struct Job` of gear.cuh.
struct Jobs {
    prompt: Vec<i32>,
    flush: Vec<i32>,
    /// Room for the outliers of K and of V.
    entries: [usize; 2],
}

impl Jobs {
    fn new(gear: Gear, heads: Heads, lens: &[usize]) -> Result<Self> {
        let mut all = Self { prompt: Vec::new(), flush: Vec::new(), entries: [0, 0] };
        let mut start = 0;
        for &len in lens {
            let n = len / gear.residual * gear.residual;
            let job = all.job(gear, heads, (start * heads.kv, len), (0, n))?;
            all.prompt.extend(job);
            start += len;
        }
        for (seq, &len) in lens.iter().enumerate() {
            let (first, base) = (len / gear.residual * gear.residual, seq * heads.kv);
            let rows = (base * gear.residual, gear.residual);
            let job = all.job(gear, heads, rows, (first, gear.residual))?;
            all.flush.extend(job);
        }
        Ok(all)
    }

    /// Takes room for `n` tokens from `first` on, whose source rows are at `base`, `stride` apart a head.
    fn job(
        &mut self,
        gear: Gear,
        heads: Heads,
        (base, stride): (usize, usize),
        (first, n): (usize, usize),
    ) -> Result<[i32; 8]> {
        let (keys, values) = (gear.outliers_per_end(n), gear.outliers_per_end(heads.kv * heads.d));
        let job = [base, stride, first, n, keys, values, self.entries[0], self.entries[1]];
        let (all_keys, all_values) = gear.outliers_of_layer(n, heads.kv, heads.d);
        self.entries = [self.entries[0] + all_keys, self.entries[1] + all_values];
        let ints = job.iter().map(|&n| i32::try_from(n)).collect::<Result<Vec<i32>, _>>();
        let ints =
            ints.context("expected fewer than 2^31 rows and outliers of a side in a batch")?;
        Ok(std::array::from_fn(|i| ints[i]))
    }
}
