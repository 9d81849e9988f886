//! What a decode step adds to a KIVI cache: one token (its K and V join the rings, the V row it displaces is quantised), and
//! now and then a flush of K's full residual.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{
    base::{Base, Rows},
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    kivi_cache::{KiviCache, Params},
    paged::copies,
    program::Source,
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Shape, Verification, Work,
        data::{Kind, Place},
    },
    method::quant,
};

const THREADS: u32 = 128;
/// Tokens of a tile: its codes are what a block keeps in shared memory.
const TILE: usize = 16;

/// One rotated copy: a cache before the step, and the new token's K and V `[seq][head][d]`.
struct Copy {
    cache: KiviCache,
    new: [Buffer; 2],
}

/// See the module's docs.
pub(crate) struct KiviStep {
    base: Base,
    params: Params,
    op: Op,
    append: Function,
    flush: Function,
    copies: Vec<Copy>,
    /// Tokens of each sequence after the step.
    after: Buffer,
}

impl KiviStep {
    /// Makes caches of one token less than the step leaves behind. An append to `kv_len` tokens leaves `kv_len + 1`; a flush
    /// happens at a whole number of residuals, the last one up to `kv_len`, or the first.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let params = Params::of(&spec.method)?;
        let flushed = |len: usize| len.max(params.residual) / params.residual * params.residual - 1;
        let lens = spec.shape.kv_lens.iter();
        let before: Vec<usize> = match spec.op {
            Op::Flush => lens.map(|&len| flushed(len)).collect(),
            _ => lens.copied().collect(),
        };
        ensure!(
            !before.contains(&0),
            "residual: expected at least 2 tokens for a flush, got {}",
            params.residual
        );
        let shape = Shape { kv_lens: before, ..spec.shape.clone() };
        let spec = KernelSpec { shape, ..spec.clone() };
        let base = Base::new(device, &spec)?;
        let d = base.heads.d;
        let function = |name| device.function(&params.instance(Source::KiviPack, name, "", d));
        let after: Vec<i32> = spec
            .shape
            .kv_lens
            .iter()
            .map(|&len| i32::try_from(len + 1))
            .collect::<Result<_, _>>()?;
        let mut step = Self {
            op: spec.op,
            append: function("append_kivi")?,
            flush: function("flush_kivi")?,
            copies: Vec::new(),
            after: Buffer::of(device, &after)?,
            params,
            base,
        };
        for copy in 0..copies(spec.rotate_bytes, step.base.cache_bytes()) {
            let copy = step.copy(copy)?;
            step.copies.push(copy);
        }
        Ok(step)
    }

    /// Bytes that one launch reads and writes.
    fn touched_bytes(&self) -> u64 {
        let (d, Params { bits, group, residual }) = (self.base.heads.d as u64, self.params);
        let row = d * bits as u64 / 8 + 4 * d / group as u64;
        let heads = (self.base.spec.shape.kv_lens.len() * self.base.heads.kv) as u64;
        heads
            * match self.op {
                Op::Flush => residual as u64 * (2 * d + row),
                // K and V come in and go to the rings; the displaced row is read and packed.
                _ => 4 * 2 * d + 2 * d + row,
            }
    }

    fn copy(&self, copy: usize) -> Result<Copy> {
        let (device, spec) = (&self.base.device, &self.base.spec);
        let seed = spec.seed ^ copy as u64;
        let cache =
            KiviCache::new(device, self.params, self.base.heads, &spec.shape.kv_lens, seed)?;
        let copy_of = Copy { cache, new: self.base.new_token(copy)? };
        self.reset(copy, &copy_of)?;
        Ok(copy_of)
    }

    /// The state before the step: the prompt, and for a flush the token that fills the residual.
    fn reset(&self, copy: usize, at: &Copy) -> Result<()> {
        let [k, v] = self.base.raw(copy, &at.cache.lens)?;
        at.cache.pack(&k, &v)?;
        if self.op == Op::Flush {
            self.queue_append(at)?;
        }
        self.base.device.sync()
    }

    fn launch(&self, blocks: usize) -> Launch {
        let shape = &self.base.spec.shape;
        Launch {
            grid: grid(blocks, self.base.heads.kv, shape.kv_lens.len()),
            block: THREADS,
            smem_bytes: TILE * self.base.heads.d,
        }
    }

    fn queue_append(&self, Copy { cache, new: [k, v] }: &Copy) -> Result<()> {
        let [_, _, vc, vs, kr, vr] = cache.pools();
        let mut args = vec![k.arg(), v.arg(), cache.lens.lens.arg(), cache.pages.arg()];
        args.extend([vc, vs, kr, vr]);
        for n in [cache.pages.maxp, self.params.residual] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        self.base.device.launch(self.append, self.launch(1), &args)
    }

    fn queue_flush(&self, cache: &KiviCache) -> Result<()> {
        let [kc, ks, _, _, kr, _] = cache.pools();
        let mut args = vec![kr, self.after.arg(), cache.pages.arg(), kc, ks];
        for n in [cache.pages.maxp, self.params.residual] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        let blocks = self.params.residual / self.params.group;
        self.base.device.launch(self.flush, self.launch(blocks), &args)
    }

    /// Quantised tokens of K and V after the step.
    fn quantised(&self, after: usize) -> (usize, usize) {
        let (before, residual) = (after - 1, self.params.residual);
        let nk = if self.op == Op::Flush { after } else { before / residual * residual };
        (nk, after.saturating_sub(residual))
    }

    /// What the cache must hold after the step, in f64.
    fn expected(&self, at: Place, after: usize) -> Rows {
        let (d, (nk, nv)) = (self.base.heads.d, self.quantised(after));
        let rows = |kind| self.base.random.host.rows_f64(kind, at, after, d);
        let (mut k, mut v) = (rows(Kind::Key), rows(Kind::Value));
        let bits = if self.params.bits == 4 { 4 } else { 2 };
        quant::per_channel(&mut k, nk, d, self.params.group, bits);
        quant::per_token(&mut v, nv, d, self.params.group, bits);
        (k, v)
    }
}

impl Prepared for KiviStep {
    fn op(&self) -> Op {
        self.op
    }

    fn work(&self) -> Work {
        Work { bytes_moved: self.touched_bytes(), flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.copies[0].cache.poison()?;
        self.reset(0, &self.copies[0])?;
        self.queue(0)?;
        let cache = &self.copies[0].cache;
        self.base.check_rows(
            |at, len| cache.stored((at.seq, at.head), len + 1, self.quantised(len + 1)),
            |at, len| self.expected(at, len + 1),
        )
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let copy = &self.copies[copy];
        if self.op == Op::Flush { self.queue_flush(&copy.cache) } else { self.queue_append(copy) }
    }

    fn resident_bytes(&self) -> u64 {
        let one =
            |copy: &Copy| copy.cache.bytes() + copy.new.iter().map(Buffer::bytes).sum::<u64>();
        self.copies.iter().map(one).sum()
    }
}
