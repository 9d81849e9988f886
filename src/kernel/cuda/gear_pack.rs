//! GEAR's compression as a sequence of launches: outliers, quantisation, lists, power iteration, factors; K, then V.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    gear_cache::{Batch, GearCache, params},
    half_cache::Heads,
    kivi_cache::Params,
    program::{Instance, Source},
};
use crate::method::{
    Gear,
    gear::{self, RANK_MAX, Side},
};

const THREADS: u32 = 128;
/// Threads of the kernels that look for outliers.
const OUT_THREADS: usize = 256;
/// Channels that share a block of `gear_outliers_k`.
const CHANNELS: usize = 16;
const TILE: usize = 16;
const CHUNK: usize = 32;
/// Rows of a block of the power iteration: fewer would be all overhead.
const ROWS_PER_BLOCK: usize = 64;
/// Blocks of the power iteration wanted an SM.
const BLOCKS_PER_SM: usize = 8;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    let mut all = Vec::new();
    for d in [64, 128] {
        let names = ["gear_outliers_k", "gear_outliers_v", "gear_counts", "gear_offsets"];
        all.extend(names.map(|name| plain(name, d)));
        all.extend(["gear_entries", "append_gear"].map(|name| plain(name, d)));
        for params in Params::all(d) {
            all.extend(["gear_pack_k", "gear_pack_v"].map(|name| packer(params, name, d)));
        }
        for rank in (2..=RANK_MAX).step_by(2) {
            all.extend(["gear_power", "gear_reduce", "gear_factors"].map(|n| ranked(n, rank, d)));
        }
    }
    all
}

/// A kernel without template arguments.
pub(crate) fn plain(name: &str, d: usize) -> Instance {
    Instance::at(Source::Gear, name, d)
}

fn packer(params: Params, name: &str, d: usize) -> Instance {
    params.instance(Source::Gear, name, "", d)
}

fn ranked(name: &str, rank: usize, d: usize) -> Instance {
    Instance::at(Source::Gear, format!("{name}<{rank}>"), d)
}

/// Functions and scratch of one shape, used for one batch after another.
pub(crate) struct Compressor {
    device: Arc<dyn Device>,
    gear: Gear,
    heads: Heads,
    n_seqs: usize,
    rank: usize,
    /// Tokens of the longest sequence that are compressed.
    longest: usize,
    /// Blocks of a round of the power iteration.
    parts: usize,
    find: [Function; 2],
    pack: [Function; 2],
    /// `gear_counts`, `gear_offsets`, `gear_entries`.
    lists: [Function; 3],
    /// `gear_power`, `gear_reduce`, `gear_factors`.
    iterate: [Function; 3],
    mask: Buffer,
    error: Buffer,
    means: [Buffer; 2],
    start: Buffer,
    p: Buffer,
    q: Buffer,
    partial: Buffer,
    inverse: Buffer,
}

impl Compressor {
    /// For source rows of `rows` tokens, all KV heads each, of which the longest sequence has `longest` to compress.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        (gear, rank): (Gear, usize),
        heads: Heads,
        (n_seqs, rows, longest): (usize, usize, usize),
    ) -> Result<Self> {
        let (d, params) = (heads.d, params(gear)?);
        let all = n_seqs * heads.kv;
        let wanted = (BLOCKS_PER_SM * device.limits().n_sm).div_ceil(all.max(1));
        let parts = wanted.clamp(1, longest.div_ceil(ROWS_PER_BLOCK).max(1));
        let pool = |bytes: usize| Buffer::poisoned(device, bytes as u64);
        let function = |instance: Instance| device.function(&instance);
        let start: Vec<f32> = gear::start(d, rank).into_iter().map(|x| x as f32).collect();
        Ok(Self {
            device: Arc::clone(device),
            find: [function(plain("gear_outliers_k", d))?, function(plain("gear_outliers_v", d))?],
            pack: [
                function(packer(params, "gear_pack_k", d))?,
                function(packer(params, "gear_pack_v", d))?,
            ],
            lists: [
                function(plain("gear_counts", d))?,
                function(plain("gear_offsets", d))?,
                function(plain("gear_entries", d))?,
            ],
            iterate: [
                function(ranked("gear_power", rank, d))?,
                function(ranked("gear_reduce", rank, d))?,
                function(ranked("gear_factors", rank, d))?,
            ],
            mask: pool(rows * heads.kv * d / 8)?,
            error: pool(rows * heads.kv * d * 2)?,
            means: [pool(all * d * 4)?, pool(rows * 4)?],
            start: Buffer::of(device, &start)?,
            p: pool(all * d * rank * 4)?,
            q: pool(rows * heads.kv * rank * 4)?,
            partial: pool(all * parts * (d * rank + rank * rank) * 4)?,
            inverse: pool(all * rank * rank * 4)?,
            gear,
            heads,
            n_seqs,
            rank,
            longest,
            parts,
        })
    }

    /// Queues the compression of a batch from `rows` of K and of V.
    ///
    /// # Errors
    /// A launch was refused.
    pub(crate) fn queue(&self, cache: &GearCache, rows: [Arg; 2], batch: Batch) -> Result<()> {
        if self.longest == 0 {
            return Ok(());
        }
        for (side, rows) in [Side::Key, Side::Value].into_iter().zip(rows) {
            self.find_outliers(side, rows, cache.jobs(batch))?;
            self.quantise(cache, side, rows, batch)?;
            if self.gear.outliers > 0.0 {
                self.list(cache, side, batch)?;
            }
            self.approximate(cache, side, batch)?;
        }
        Ok(())
    }

    fn launch(
        &self,
        function: Function,
        blocks: usize,
        threads: u32,
        smem: usize,
        args: &[Arg],
    ) -> Result<()> {
        let grid = grid(blocks, self.heads.kv, self.n_seqs);
        self.device.launch(function, Launch { grid, block: threads, smem_bytes: smem }, args)
    }

    fn find_outliers(&self, side: Side, rows: Arg, jobs: Arg) -> Result<()> {
        let mut args = vec![rows, jobs, self.mask.arg(), self.means[side as usize].arg()];
        let (function, threads) = (self.find[side as usize], OUT_THREADS as u32);
        match side {
            Side::Key => {
                let words = 2 * 256 * CHANNELS + 4 * CHANNELS + 3 * OUT_THREADS;
                self.launch(function, self.heads.d / CHANNELS, threads, words * 4, &args)
            }
            Side::Value => {
                args.push(Arg::I32(i32::try_from(self.heads.kv)?));
                let words = 2 * 256 + 4 + 3 * OUT_THREADS + self.heads.kv * self.heads.d / 16;
                let grid = grid(self.longest, 1, self.n_seqs);
                let launch = Launch { grid, block: threads, smem_bytes: words * 4 };
                self.device.launch(function, launch, &args)
            }
        }
    }

    fn quantise(&self, cache: &GearCache, side: Side, rows: Arg, batch: Batch) -> Result<()> {
        let [kc, ks, vc, vs, ..] = cache.kivi.pools();
        let (blocks, codes, scales) = match side {
            Side::Key => (self.longest / self.gear.group, kc, ks),
            Side::Value => (self.longest / CHUNK, vc, vs),
        };
        let args = [
            rows,
            cache.jobs(batch),
            self.mask.arg(),
            self.means[side as usize].arg(),
            cache.kivi.pages.arg(),
            codes,
            scales,
            self.error.arg(),
            Arg::I32(i32::try_from(cache.kivi.pages.maxp)?),
        ];
        self.launch(self.pack[side as usize], blocks, THREADS, TILE * self.heads.d, &args)
    }

    /// The lists of outliers.
    fn list(&self, cache: &GearCache, side: Side, batch: Batch) -> Result<()> {
        let ([table, entries], jobs) = (cache.outliers(side), cache.jobs(batch));
        let [counts, offsets, write] = self.lists;
        let stride = Arg::I32(i32::try_from(cache.tiles())?);
        let tiles = self.longest / TILE;
        self.launch(counts, tiles, 32, 0, &[jobs, self.mask.arg(), table, stride])?;
        let heads = Arg::I32(i32::try_from(self.heads.kv)?);
        let is_v = Arg::I32(i32::from(side == Side::Value));
        let launch = Launch {
            grid: grid(1, 1, self.n_seqs),
            block: OUT_THREADS as u32,
            smem_bytes: OUT_THREADS * 4,
        };
        self.device.launch(offsets, launch, &[jobs, table, heads, stride, is_v])?;
        let args = [jobs, self.mask.arg(), table, self.error.arg(), entries, stride];
        self.launch(write, tiles, 32, 0, &args)
    }

    /// The power iteration and its factors.
    fn approximate(&self, cache: &GearCache, side: Side, batch: Batch) -> Result<()> {
        let ([a, b], jobs, [power, reduce, factors]) =
            (cache.factors(side), cache.jobs(batch), self.iterate);
        let (d, rank) = (self.heads.d, self.rank);
        let int = |n: usize| i32::try_from(n).map(Arg::I32);
        let part_bytes = (d * rank + rank * rank) * 4;
        for round in 0..self.gear.iterations {
            let last = int(usize::from(round + 1 == self.gear.iterations))?;
            let (p, p_stride) = if round == 0 { (&self.start, 0) } else { (&self.p, d * rank) };
            let args = [
                self.error.arg(),
                jobs,
                p.arg(),
                self.partial.arg(),
                self.q.arg(),
                int(p_stride)?,
                last,
            ];
            self.launch(power, self.parts, THREADS, part_bytes, &args)?;
            let args = [
                self.partial.arg(),
                self.p.arg(),
                self.inverse.arg(),
                b,
                int(self.parts)?,
                last,
                int(batch as usize)?,
                int(cache.rank())?,
                int(usize::from(side == Side::Key))?,
            ];
            self.launch(reduce, 1, THREADS, (2 * rank * rank + 8) * 4, &args)?;
        }
        let args = [
            jobs,
            self.q.arg(),
            self.inverse.arg(),
            cache.kivi.pages.arg(),
            a,
            int(cache.kivi.pages.maxp)?,
            int(cache.rank())?,
            int(usize::from(side == Side::Value))?,
        ];
        let blocks = self.longest.div_ceil(THREADS as usize);
        self.launch(factors, blocks, THREADS, 0, &args)
    }

    /// Bytes of scratch.
    pub(crate) fn bytes(&self) -> u64 {
        let all = [&self.mask, &self.error, &self.p, &self.q, &self.partial, &self.inverse];
        all.iter().map(|buffer| buffer.bytes()).sum::<u64>()
            + self.means.iter().map(Buffer::bytes).sum::<u64>()
    }
}
