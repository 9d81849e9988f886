//! KIVI on the device: a decode step, compressing a prompt, and what a decode step adds to the cache.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::{Ragged, Random, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    half_cache::Heads,
    kivi_cache::{KiviCache, Params},
    paged::{Workspace, copies, scale_log2, splits},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Verification, Work,
        check::{self, Error},
        data::{Kind, Place},
    },
    method::select,
};

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

/// What all operations keep: data, parameters, sizes.
struct Base {
    device: Arc<dyn Device>,
    spec: KernelSpec,
    params: Params,
    heads: Heads,
    random: Random,
}

impl Base {
    fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let shape = &spec.shape;
        Ok(Self {
            device: Arc::clone(device),
            spec: spec.clone(),
            params: Params::of(&spec.method)?,
            heads: Heads { kv: shape.heads_kv, d: shape.head_dim },
            random: Random::new(device, spec.seed)?,
        })
    }

    fn cache_bytes(&self) -> u64 {
        let one = |&len: &usize| self.spec.method.cache_bytes(len, self.heads.d);
        self.spec.shape.kv_lens.iter().map(one).sum::<u64>() * self.heads.kv as u64
    }

    fn cache(&self, copy: usize) -> Result<KiviCache> {
        let seed = self.spec.seed ^ copy as u64;
        KiviCache::new(&self.device, self.params, self.heads, &self.spec.shape.kv_lens, seed)
    }

    fn raw(&self, copy: usize, lens: &Ragged) -> Result<[Buffer; 2]> {
        let rows = |kind| self.random.rows(kind, copy, (lens, self.heads.kv, self.heads.d));
        Ok([rows(Kind::Key)?, rows(Kind::Value)?])
    }

    /// What the method gives back for the original rows of a head, in f64.
    fn reference(&self, at: Place, len: usize) -> (Vec<f64>, Vec<f64>) {
        let rows = |kind| self.random.host.rows_f64(kind, at, len, self.heads.d);
        let (mut k, mut v) = (rows(Kind::Key), rows(Kind::Value));
        self.spec.method.round_trip(&mut k, &mut v, self.heads.d);
        (k, v)
    }
}

/// A prepared decode step.
pub(crate) struct KiviDecode {
    base: Base,
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
        let base = Base::new(device, spec)?;
        let shape = &spec.shape;
        let (d, heads) = (base.heads.d, shape.kv_lens.len() * shape.heads_kv);
        let longest = shape.kv_lens.iter().copied().max().unwrap_or(1);
        let resident = (device.limits().smem_sm_bytes / smem_bytes(base.params, d)).clamp(1, 3);
        // One more for what is not wholly quantised.
        let n_splits = splits(device.limits(), heads, longest, resident) + 1;
        let group = shape.heads_q / shape.heads_kv;
        let function = device.function(&decode(base.params, d))?;
        let work = Workspace::new(device, heads, (group, d), n_splits)?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = base.cache(copy)?;
            let [k, v] = base.raw(copy, &cache.lens)?;
            cache.pack(&k, &v)?;
            let ones = Ragged::new(device, &vec![1; shape.kv_lens.len()])?;
            let q = base.random.rows(Kind::Query, copy, (&ones, shape.heads_q, d))?;
            device.sync()?;
            caches.push((cache, q));
        }
        Ok(Self { base, function, caches, work })
    }

    fn check_head(&self, at: Place, error: &mut Error) -> Result<()> {
        let shape = &self.base.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let len = shape.kv_lens[at.seq];
        let quantised = self.base.spec.method.quantised_tokens(len);
        let (k, v) = self.caches[0].0.stored((at.seq, at.head), len, quantised)?;
        let out = self.work.output(at.seq * shape.heads_kv + at.head)?;
        for h in 0..group {
            let place = Place { head: at.head * group + h, ..at };
            let query = self.base.random.host.rows_f64(Kind::Query, place, 1, d);
            error.add_vector(&out[h * d..][..d], &select::attention(&query, &k, &v));
        }
        Ok(())
    }
}

impl Prepared for KiviDecode {
    fn op(&self) -> Op {
        Op::Decode
    }

    fn work(&self) -> Work {
        let shape = &self.base.spec.shape;
        let stored = (shape.kv_lens.iter().sum::<usize>() * shape.heads_kv) as u64;
        let io = 2 * 2 * (shape.kv_lens.len() * shape.heads_q * shape.head_dim) as u64;
        let group = (shape.heads_q / shape.heads_kv) as u64;
        Work {
            bytes_moved: self.base.cache_bytes() + io,
            flops: 4 * shape.head_dim as u64 * stored * group,
        }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.work.poison()?;
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.base.spec) {
            self.check_head(at, &mut error)?;
        }
        Ok(error.verification(&self.base.spec.method))
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
        for n in [shape.heads_q / shape.heads_kv, cache.pages.maxp, self.base.params.residual] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.push(Arg::F32(scale_log2(shape.head_dim)));
        let launch = Launch {
            grid: grid(self.work.splits, shape.heads_kv, shape.kv_lens.len()),
            block: (WARPS * 32) as u32,
            smem_bytes: smem_bytes(self.base.params, shape.head_dim),
        };
        self.base.device.launch(self.function, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        self.caches.iter().map(|(cache, q)| cache.bytes() + q.bytes()).sum::<u64>()
            + self.work.bytes()
    }

    fn lane_instructions(&self) -> Option<u64> {
        let shape = &self.base.spec.shape;
        let tokens = shape.kv_lens.iter().sum::<usize>();
        let elements = (2 * tokens * shape.heads_kv * shape.head_dim) as f64;
        let each = self.base.device.instructions_per_element(self.function)?;
        Some((each * elements).round() as u64)
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
        let base = Base::new(device, spec)?;
        let mut caches = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let cache = base.cache(copy)?;
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
        let shape = &self.base.spec.shape;
        let tokens = shape.kv_lens.iter().sum::<usize>() * shape.heads_kv;
        let raw = (tokens * shape.head_dim * 4) as u64;
        Work { bytes_moved: raw + self.base.cache_bytes(), flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.caches[0].0.poison()?;
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.base.spec) {
            let len = self.base.spec.shape.kv_lens[at.seq];
            let quantised = self.base.spec.method.quantised_tokens(len);
            let (k, v) = self.caches[0].0.stored((at.seq, at.head), len, quantised)?;
            let (expected_k, expected_v) = self.base.reference(at, len);
            error.add(check::relative(k.into_iter(), &expected_k));
            error.add(check::relative(v.into_iter(), &expected_v));
        }
        Ok(error.verification_half())
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
