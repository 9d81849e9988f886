//! GEAR on the device: a decode step, compressing a prompt, and what a decode step adds to the cache.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::{
    base::{Base, Rows},
    data::grid,
    device::{Arg, Buffer, Device, Function, Launch},
    gear_cache::{Batch, GearCache, params},
    gear_pack::{Compressor, plain},
    kivi_cache::Params,
    paged::{Workspace, copies, scale_log2, splits},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Shape, Verification, Work,
        data::{Kind, Place},
    },
    method::{
        Gear, Method,
        gear::{RANK_MAX, Side},
    },
};

const WARPS: usize = 4;
/// Chunks of 32 tokens that each warp keeps in flight.
const STAGES: usize = 3;
const CHUNK: usize = 32;
/// Outliers of a chunk and side that are fetched ahead.
const LISTED: usize = 96;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    [64, 128]
        .into_iter()
        .flat_map(|d| Params::all(d).into_iter().map(move |p| decode(p, d)))
        .collect()
}

fn decode(params: Params, d: usize) -> Instance {
    let rest = format!(", {WARPS}, {STAGES}");
    params.instance(Source::DecodeGear, "decode_gear", &rest, d).counting((2 * CHUNK * d) as u32)
}

/// The stages and the scattered tile of all warps, or the tail's rows of K and V, or what `finish` needs.
fn smem_bytes(params: Params, d: usize) -> usize {
    let kivi = 2 * CHUNK * d * params.bits / 8 + 4 * d + CHUNK * 4 * d / params.group;
    let stage = kivi + 2 * (CHUNK * RANK_MAX * 2 + LISTED * 4);
    let tile = 16 * d * 2;
    (WARPS * (STAGES * stage + tile)).max(WARPS * 2 * tile).max((WARPS * (8 * d + 16) + 4) * 4)
}

fn gear_of(method: &Method) -> Result<Gear> {
    match method {
        Method::Gear(gear) => Ok(*gear),
        other => bail!("expected GEAR, got {}", other.label()),
    }
}

/// Room to compress the prompts of a shape.
fn compressor(base: &Base, gear: Gear) -> Result<Compressor> {
    let lens = &base.spec.shape.kv_lens;
    let longest = lens.iter().map(|len| len / gear.residual * gear.residual).max().unwrap_or(0);
    let rows = (lens.len(), lens.iter().sum(), longest);
    Compressor::new(&base.device, (gear, gear.rank), base.heads, rows)
}

fn cache(base: &Base, gear: Gear, copy: usize) -> Result<GearCache> {
    let seed = base.spec.seed ^ copy as u64;
    GearCache::new(&base.device, gear, base.heads, &base.spec.shape.kv_lens, seed)
}

/// Queues the writing of a prompt.
fn pack(compressor: &Compressor, cache: &GearCache, [k, v]: &[Buffer; 2]) -> Result<()> {
    compressor.queue(cache, [k.arg(), v.arg()], Batch::Prompt)?;
    cache.kivi.pack_rings(k, v)
}

/// A prepared decode step.
pub(crate) struct GearDecode {
    base: Base,
    gear: Gear,
    params: Params,
    function: Function,
    caches: Vec<(GearCache, Buffer)>,
    work: Workspace,
}

impl GearDecode {
    /// Makes data and caches.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, gear) = (Base::new(device, spec)?, gear_of(&spec.method)?);
        let (params, shape) = (params(gear)?, &spec.shape);
        let (d, heads) = (base.heads.d, shape.kv_lens.len() * shape.heads_kv);
        let longest = shape.kv_lens.iter().copied().max().unwrap_or(1);
        let resident = device.limits().resident(smem_bytes(params, d)).min(3);
        // One more for the residual.
        let n_splits = splits(device.limits(), heads, longest, resident) + 1;
        let work = Workspace::new(device, heads, (shape.heads_q / shape.heads_kv, d), n_splits)?;
        let function = device.function(&decode(params, d))?;
        let compressor = compressor(&base, gear)?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = cache(&base, gear, copy)?;
            pack(&compressor, &cache, &base.raw(copy, &cache.kivi.lens)?)?;
            let q = base.queries(copy)?;
            device.sync()?;
            caches.push((cache, q));
        }
        Ok(Self { base, gear, params, function, caches, work })
    }
}

impl Prepared for GearDecode {
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
            cache.stored((at.seq, at.head), len, spec.method.quantised_tokens(len).0)
        })
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, q) = &self.caches[copy];
        let shape = &self.base.spec.shape;
        let mut args = vec![q.arg()];
        args.extend(cache.kivi.pools());
        args.extend(cache.args());
        args.extend([cache.kivi.pages.arg(), cache.kivi.lens.lens.arg()]);
        args.extend(self.work.args());
        let group = shape.heads_q / shape.heads_kv;
        let has_outliers = usize::from(self.gear.outliers > 0.0);
        for n in [group, cache.kivi.pages.maxp, self.params.residual, cache.rank(), has_outliers] {
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

/// Rows of every KV head of a sequence, `tokens` of them.
fn heads(base: &Base, kind: Kind, at: Place, tokens: std::ops::Range<usize>) -> Vec<Vec<f64>> {
    let d = base.heads.d;
    let row = |head, token| base.random.host.row(kind, Place { head, ..at }, token, d);
    (0..base.heads.kv)
        .map(|head| tokens.clone().flat_map(|t| row(head, t)).map(|x| x.to_f64()).collect())
        .collect()
}

/// What the reference keeps of one head's tokens, compressed together at a rank.
fn reference(
    base: &Base,
    (gear, rank): (Gear, usize),
    at: Place,
    tokens: std::ops::Range<usize>,
) -> Rows {
    let side = |side, kind| {
        let heads = heads(base, kind, at, tokens.clone());
        let heads: Vec<&[f64]> = heads.iter().map(Vec::as_slice).collect();
        gear.compress_head(side, &heads, at.head, base.heads.d, rank).restored(base.heads.d)
    };
    (side(Side::Key, Kind::Key), side(Side::Value, Kind::Value))
}

/// Reference of a prompt of `len` tokens: its whole residuals, then the rest as it is.
fn reference_prompt(base: &Base, gear: Gear, at: Place, len: usize) -> Rows {
    let n = len / gear.residual * gear.residual;
    let (mut k, mut v) = reference(base, (gear, gear.rank), at, 0..n);
    let rest = |kind| heads(base, kind, at, n..len).swap_remove(at.head);
    k.extend(rest(Kind::Key));
    v.extend(rest(Kind::Value));
    (k, v)
}

/// Compressing a prompt.
pub(crate) struct GearPack {
    base: Base,
    gear: Gear,
    compressor: Compressor,
    caches: Vec<(GearCache, [Buffer; 2])>,
}

impl GearPack {
    /// Makes data and empty caches.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (base, gear) = (Base::new(device, spec)?, gear_of(&spec.method)?);
        let compressor = compressor(&base, gear)?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = cache(&base, gear, copy)?;
            let raw = base.raw(copy, &cache.kivi.lens)?;
            caches.push((cache, raw));
        }
        Ok(Self { base, gear, compressor, caches })
    }
}

impl Prepared for GearPack {
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
        self.base.check_rows(
            |at, len| cache.stored((at.seq, at.head), len, spec.method.quantised_tokens(len).0),
            |at, len| reference_prompt(&self.base, self.gear, at, len),
        )
    }

    fn copies(&self) -> usize {
        self.caches.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let (cache, raw) = &self.caches[copy];
        pack(&self.compressor, cache, raw)
    }

    fn resident_bytes(&self) -> u64 {
        let one =
            |(cache, [k, v]): &(GearCache, [Buffer; 2])| cache.bytes() + k.bytes() + v.bytes();
        self.caches.iter().map(one).sum::<u64>() + self.compressor.bytes()
    }
}

/// One rotated copy of a step: a cache before it, and the new token's K and V `[seq][head][d]`.
struct StepCopy {
    cache: GearCache,
    new: [Buffer; 2],
}

/// What decode steps add to a GEAR cache: a token that joins the residuals (append), and the compression of a full residual.
pub(crate) struct GearStep {
    base: Base,
    gear: Gear,
    op: Op,
    append: Function,
    prompt: Compressor,
    flush: Compressor,
    copies: Vec<StepCopy>,
}

impl GearStep {
    /// Makes caches before the step. An append leaves `kv_len + 1` tokens; a flush happens at a whole number of residuals, the
    /// last one up to `kv_len`, or the first.
    ///
    /// # Errors
    /// Out of memory, no compiler, parameters without a kernel.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let gear = gear_of(&spec.method)?;
        let residual = gear.residual;
        let flushed = |len: usize| len.max(residual) / residual * residual - 1;
        let lens = spec.shape.kv_lens.iter();
        let before = match spec.op {
            Op::Flush => lens.map(|&len| flushed(len)).collect(),
            _ => lens.copied().collect(),
        };
        let shape = Shape { kv_lens: before, ..spec.shape.clone() };
        let spec = KernelSpec { shape, ..spec.clone() };
        let base = Base::new(device, &spec)?;
        let n_seqs = spec.shape.kv_lens.len();
        let rows = (n_seqs, n_seqs * residual, residual);
        let mut step = Self {
            op: spec.op,
            append: device.function(&plain("append_gear", base.heads.d))?,
            prompt: compressor(&base, gear)?,
            flush: Compressor::new(device, (gear, gear.flush_rank), base.heads, rows)?,
            copies: Vec::new(),
            gear,
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
        let (d, heads_kv) = (self.base.heads.d, self.base.heads.kv);
        let residual = self.gear.residual;
        let seqs = self.base.spec.shape.kv_lens.len();
        let per_seq = match self.op {
            Op::Flush => {
                let flushed = Gear { rank: self.gear.flush_rank, ..self.gear };
                let written = Method::Gear(flushed).cache_bytes(residual, heads_kv, d);
                (4 * residual * d * heads_kv) as u64 + written
            }
            // K and V come in and go to the rings.
            _ => (8 * d * heads_kv) as u64,
        };
        per_seq * seqs as u64
    }

    fn copy(&self, copy: usize) -> Result<StepCopy> {
        let cache = cache(&self.base, self.gear, copy)?;
        let made = StepCopy { cache, new: self.base.new_token(copy)? };
        self.reset(copy, &made)?;
        Ok(made)
    }

    /// The state before the step: the prompt, and for a flush the token that fills the residual.
    fn reset(&self, copy: usize, at: &StepCopy) -> Result<()> {
        let raw = self.base.raw(copy, &at.cache.kivi.lens)?;
        pack(&self.prompt, &at.cache, &raw)?;
        if self.op == Op::Flush {
            self.queue_append(at)?;
        }
        self.base.device.sync()
    }

    fn queue_append(&self, StepCopy { cache, new: [k, v] }: &StepCopy) -> Result<()> {
        let [.., kr, vr] = cache.kivi.pools();
        let residual = Arg::I32(i32::try_from(self.gear.residual)?);
        let args = [k.arg(), v.arg(), cache.kivi.lens.lens.arg(), kr, vr, residual];
        let grid = grid(1, self.base.heads.kv, self.base.spec.shape.kv_lens.len());
        self.base.device.launch(self.append, Launch { grid, block: 128, smem_bytes: 0 }, &args)
    }

    fn queue_flush(&self, cache: &GearCache) -> Result<()> {
        let [.., kr, vr] = cache.kivi.pools();
        self.flush.queue(cache, [kr, vr], Batch::Flush)
    }

    /// Quantised tokens when there are `before` and the step has been made.
    fn quantised(&self, before: usize) -> usize {
        let residual = self.gear.residual;
        if self.op == Op::Flush { before + 1 } else { before / residual * residual }
    }

    /// What the cache must hold after the step, in f64.
    fn expected(&self, at: Place, before: usize) -> Rows {
        let (gear, base) = (self.gear, &self.base);
        let prompt = before / gear.residual * gear.residual;
        let (mut k, mut v) = reference_prompt(base, gear, at, prompt);
        let (new_k, new_v) = match self.op {
            Op::Flush => reference(base, (gear, gear.flush_rank), at, prompt..before + 1),
            _ => {
                let rest = |kind| heads(base, kind, at, prompt..before + 1).swap_remove(at.head);
                (rest(Kind::Key), rest(Kind::Value))
            }
        };
        k.extend(new_k);
        v.extend(new_v);
        (k, v)
    }
}

impl Prepared for GearStep {
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
            |at, len| cache.stored((at.seq, at.head), len + 1, self.quantised(len)),
            |at, len| self.expected(at, len),
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
            |copy: &StepCopy| copy.cache.bytes() + copy.new.iter().map(Buffer::bytes).sum::<u64>();
        self.copies.iter().map(one).sum::<u64>() + self.prompt.bytes() + self.flush.bytes()
    }
}
