//! KIVI on the device: a decode step, compressing a prompt, and what a decode step adds to the cache.

use std::sync::Arc;

use anyhow::Result;

use super::{
    base::Base,
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    kivi_cache::{KiviCache, Params},
    paged::{Workspace, copies, scale_log2, splits},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::kernel::{KernelSpec, Op, Verification, Work};

const WARPS: usize = 4;
/// Tokens that a warp handles in one pass of the main loop.
const CHUNK: usize = 32;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    [64, 128]
        .into_iter()
        .flat_map(|d| Params::all(d).into_iter().map(move |p| decode(p, d)))
        .collect()
}

fn decode(params: Params, d: usize) -> Instance {
    let rest = format!(", {WARPS}, {}", stages(params));
    params.instance(Source::Kivi, "decode_kivi", &rest, d).counting((2 * CHUNK * d) as u32)
}

/// Chunks that each warp keeps in flight: about as many bytes for either width.
fn stages(params: Params) -> usize {
    if params.bits == 4 { 3 } else { 4 }
}

/// The stages of all warps, or the tail's rows of K and V, or what `finish` needs, whichever is most.
fn smem_bytes(params: Params, d: usize) -> usize {
    let stage = 2 * CHUNK * d * params.bits / 8 + 4 * d + CHUNK * 4 * d / params.group;
    let tail = 2 * 16 * d * 2;
    let finish = (WARPS * (8 * d + 16) + 4) * 4;
    (WARPS * stages(params) * stage).max(WARPS * tail).max(finish)
}

fn cache(base: &Base, params: Params, copy: usize) -> Result<KiviCache> {
    let seed = base.spec.seed ^ copy as u64;
    KiviCache::new(&base.device, params, base.heads, &base.spec.shape.kv_lens, seed)
}

/// A prepared decode step.
pub(crate) struct KiviDecode {
    base: Base,
    params: Params,
    function: Function,
    caches: Vec<(KiviCache, Buffer)>,
    work: Workspace,
}

impl KiviDecode {
    /// Makes data and caches.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, params) = (Base::new(device, spec)?, Params::of(&spec.method)?);
        let shape = &spec.shape;
        let (d, heads) = (base.heads.d, shape.kv_lens.len() * shape.heads_kv);
        let longest = shape.kv_lens.iter().copied().max().unwrap_or(1);
        let resident = device.limits().resident(smem_bytes(params, d)).min(3);
        // One more for what is not wholly quantised.
        let n_splits = splits(device.limits(), heads, longest, resident) + 1;
        let group = shape.heads_q / shape.heads_kv;
        let function = device.function(&decode(params, d))?;
        let work = Workspace::new(device, heads, (group, d), n_splits)?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = cache(&base, params, copy)?;
            let [k, v] = base.raw(copy, &cache.lens)?;
            cache.pack(&k, &v)?;
            let q = base.queries(copy)?;
            device.sync()?;
            caches.push((cache, q));
        }
        Ok(Self { base, params, function, caches, work })
    }
}

impl Prepared for KiviDecode {
    fn op(&self) -> Op {
        Op::Decode
    }

    fn work(&self) -> Work {
        self.base.decode_work()
    }

    fn verify(&mut self) -> Result<Verification> {
        self.work.poison()?;
        self.queue(0)?;
        let (spec, cache) = (&self.base.spec, &self.caches[0].0);
        self.base.check_decode(&self.work, |at, len| {
            cache.stored((at.seq, at.head), len, spec.method.quantised_tokens(len))
        })
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, q) = &self.caches[copy];
        let shape = &self.base.spec.shape;
        let mut args = vec![q.arg()];
        args.extend(cache.pools());
        args.extend([cache.pages.arg(), cache.lens.lens.arg()]);
        args.extend(self.work.args());
        for n in [shape.heads_q / shape.heads_kv, cache.pages.maxp, self.params.residual] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.push(Arg::F32(scale_log2(shape.head_dim)));
        let launch = Launch {
            grid: grid(self.work.splits, shape.heads_kv, shape.kv_lens.len()),
            block: (WARPS * 32) as u32,
            smem_bytes: smem_bytes(self.params, shape.head_dim),
        };
        self.base.device.launch(self.function, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        self.caches.iter().map(|(cache, q)| cache.bytes() + q.bytes()).sum::<u64>()
            + self.work.bytes()
    }

    fn lane_instructions(&self) -> Option<u64> {
        self.base.lane_instructions(self.function)
    }
}

/// Compressing a prompt.
pub(crate) struct KiviPack {
    base: Base,
    caches: Vec<(KiviCache, [Buffer; 2])>,
}

impl KiviPack {
    /// Makes data and empty caches.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, params) = (Base::new(device, spec)?, Params::of(&spec.method)?);
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = cache(&base, params, copy)?;
            let raw = base.raw(copy, &cache.lens)?;
            caches.push((cache, raw));
        }
        Ok(Self { base, caches })
    }
}

impl Prepared for KiviPack {
    fn op(&self) -> Op {
        Op::Compress
    }

    fn work(&self) -> Work {
        self.base.compress_work()
    }

    fn verify(&mut self) -> Result<Verification> {
        self.caches[0].0.poison()?;
        self.queue(0)?;
        let (spec, cache) = (&self.base.spec, &self.caches[0].0);
        self.base.check_stored(|at, len| {
            cache.stored((at.seq, at.head), len, spec.method.quantised_tokens(len))
        })
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, [k, v]) = &self.caches[copy];
        cache.pack(k, v)
    }

    fn resident_bytes(&self) -> u64 {
        let one =
            |(cache, [k, v]): &(KiviCache, [Buffer; 2])| cache.bytes() + k.bytes() + v.bytes();
        self.caches.iter().map(one).sum()
    }
}
