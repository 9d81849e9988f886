//! What a decode step adds to a cache quantised per (token, KV head): the new token's row, quantised and merged into its tile.

use std::sync::Arc;

use anyhow::Result;

use super::{
    base::{Base, Rows},
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    packed::{Cache, Format},
    paged::copies,
    timed::Prepared,
};
use crate::kernel::{
    KernelSpec, Op, Verification, Work,
    data::{Kind, Place},
};

const THREADS: u32 = 128;

/// One rotated copy: a cache before the step, and the new token's K and V.
struct Copy {
    cache: Cache,
    new: [Buffer; 2],
}

/// See the module's docs.
pub(crate) struct PackedStep {
    base: Base,
    append: Function,
    copies: Vec<Copy>,
}

impl PackedStep {
    /// Makes caches of `kv_len` tokens; the step leaves one more.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, format) = (Base::new(device, spec)?, Format::of(&spec.method)?);
        let append = device.function(&format.append(spec.page, base.heads.d))?;
        let mut step = Self { base, append, copies: Vec::new() };
        for copy in 0..copies(spec.rotate_bytes, step.base.cache_bytes()) {
            let cache = Cache::new(&step.base, format, copy)?;
            let made = Copy { cache, new: step.base.new_token(copy)? };
            step.reset(copy, &made)?;
            step.copies.push(made);
        }
        Ok(step)
    }

    /// A row of K and one of V read, and written as the method keeps them.
    fn touched_bytes(&self) -> u64 {
        let (spec, heads) = (&self.base.spec, self.base.heads);
        let written = spec.method.cache_bytes(1, heads.kv, heads.d);
        spec.shape.kv_lens.len() as u64 * (4 * (heads.kv * heads.d) as u64 + written)
    }

    fn reset(&self, copy: usize, at: &Copy) -> Result<()> {
        at.cache.pack(&self.base.device, &self.base.raw(copy, &at.cache.lens)?)?;
        self.base.device.sync()
    }

    fn expected(&self, at: Place, after: usize) -> Rows {
        let rows = |kind| self.base.random.host.rows_f64(kind, at, after, self.base.heads.d);
        let (mut k, mut v) = (rows(Kind::Key), rows(Kind::Value));
        self.base.spec.method.round_trip(&mut k, &mut v, self.base.heads.d);
        (k, v)
    }
}

impl Prepared for PackedStep {
    fn op(&self) -> Op {
        Op::Append
    }

    fn work(&self) -> Work {
        Work { bytes_moved: self.touched_bytes(), flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.copies[0].cache.pools.iter().try_for_each(|pool| pool.fill(0xFF))?;
        self.reset(0, &self.copies[0])?;
        self.queue(0)?;
        self.base.check_rows(
            |at, len| self.copies[0].cache.stored(at, len + 1),
            |at, len| self.expected(at, len + 1),
        )
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let Copy { cache, new: [k, v] } = &self.copies[copy];
        let mut args = vec![k.arg(), v.arg(), cache.lens.lens.arg(), cache.pages.arg()];
        args.extend(cache.pools.iter().map(Buffer::arg));
        args.push(Arg::I32(i32::try_from(cache.pages.maxp)?));
        let heads = self.base.heads;
        let grid = grid(1, heads.kv, self.base.spec.shape.kv_lens.len());
        let launch = Launch { grid, block: THREADS, smem_bytes: 2 * heads.d };
        self.base.device.launch(self.append, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        let one =
            |copy: &Copy| copy.cache.bytes() + copy.new.iter().map(Buffer::bytes).sum::<u64>();
        self.copies.iter().map(one).sum()
    }
}
