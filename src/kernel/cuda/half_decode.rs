//! Decode over 16-bit K and V: fp16 and bf16, and StreamingLLM, H2O and SnapKV over the tokens they keep.

use std::sync::Arc;

use anyhow::Result;

use super::{
    data::{Ragged, Random, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    h2o::Scores,
    half_cache::{HalfCache, Heads, Kept, is_rotated, rope_table, rotate, storage},
    paged::{Workspace, copies, scale_log2, splits},
    program::{Instance, Source},
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Verification, Work,
        check::{self, Error},
        cpu::compress,
        data::{Kind, Place},
    },
    method::{Method, select},
};

/// Warps of a block, and stages of 16 tokens that each keeps in flight.
const WARPS: usize = 4;
const STAGES: usize = 3;
/// Tokens of a tile.
const TILE: usize = 16;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    let mut all = Vec::new();
    let h2o = Method::H2o { heavy: 1, recent: 1 };
    let streaming = Method::Streaming { sink: 4, window: 508 };
    for d in [64, 128] {
        for page in [16, 64] {
            for method in [&Method::Fp16, &Method::Bf16, &h2o, &streaming] {
                all.push(instance(method, page, d));
            }
        }
    }
    all
}

fn instance(method: &Method, page: usize, d: usize) -> Instance {
    let scores = matches!(method, Method::H2o { .. });
    let expression = format!(
        "decode_half<{}, {WARPS}, {STAGES}, {page}, {scores}, {}>",
        storage(method),
        is_rotated(method)
    );
    Instance::at(Source::DecodeHalf, expression, d).counting((2 * TILE * d) as u32)
}

/// Shared memory of a block: the stages of all warps. What `finish` needs is less.
fn smem_bytes(d: usize) -> usize {
    WARPS * STAGES * 2 * TILE * d * 2
}

/// One rotated copy of the data.
struct Copy {
    cache: HalfCache,
    q: Buffer,
    scores: Option<Scores>,
}

/// Tokens by slot with the stride of their rows, and H2O's state; none where the method keeps tokens by position.
type Choice = (Option<(Buffer, usize)>, Option<Scores>);

/// A prepared decode step.
pub(crate) struct HalfDecode {
    device: Arc<dyn Device>,
    spec: KernelSpec,
    random: Random,
    function: Function,
    copies: Vec<Copy>,
    work: Workspace,
    /// Rotary table, and the query's position in the text and in the cache.
    rope: Option<[Buffer; 3]>,
}

impl HalfDecode {
    /// Makes data and caches.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let (method, shape) = (&spec.method, &spec.shape);
        let (batch, d) = (shape.kv_lens.len(), shape.head_dim);
        let random = Random::new(device, spec.seed)?;
        let rope = is_rotated(method).then(|| rope(device, spec)).transpose()?;
        let heads = batch * shape.heads_kv;
        let longest = kept_lens(spec).into_iter().max().unwrap_or(1);
        let resident = device.limits().resident(smem_bytes(d));
        let n_splits = splits(device.limits(), heads, longest, resident);
        let group = shape.heads_q / shape.heads_kv;
        let mut decode = Self {
            device: Arc::clone(device),
            spec: spec.clone(),
            function: device.function(&instance(method, spec.page, d))?,
            random,
            copies: Vec::new(),
            work: Workspace::new(device, heads, (group, d), n_splits)?,
            rope,
        };
        for copy in 0..copies(spec.rotate_bytes, decode.cache_bytes()) {
            let copy = decode.copy(copy)?;
            decode.copies.push(copy);
        }
        Ok(decode)
    }

    fn cache_bytes(&self) -> u64 {
        let shape = &self.spec.shape;
        let one = |&len: &usize| self.spec.method.cache_bytes(len, shape.heads_kv, shape.head_dim);
        shape.kv_lens.iter().map(one).sum()
    }

    fn copy(&self, copy: usize) -> Result<Copy> {
        let (device, shape) = (&self.device, &self.spec.shape);
        let heads = Heads { kv: shape.heads_kv, d: shape.head_dim };
        let kept = kept_lens(&self.spec);
        let place = (self.spec.page, self.spec.seed ^ copy as u64);
        let cache = HalfCache::new(device, &self.spec.method, heads, (&kept, 0), place)?;
        let lens = Ragged::new(device, &shape.kv_lens)?;
        let rows = |kind| self.random.rows(kind, copy, (&lens, heads.kv, heads.d));
        let (k, v) = (rows(Kind::Key)?, rows(Kind::Value)?);
        let (index, scores) = self.choose(copy, &kept)?;
        let which = match (&index, &self.spec.method) {
            (Some((tokens, stride)), _) => Kept::Index((tokens, *stride)),
            (None, &Method::Streaming { sink, .. }) => Kept::Ends { sinks: sink },
            _ => Kept::All,
        };
        cache.pack((&k, &v), &lens, &which, self.rope.as_ref().map(|[table, ..]| table))?;
        let ones = Ragged::new(device, &vec![1; shape.kv_lens.len()])?;
        let q = self.random.rows(Kind::Query, copy, (&ones, shape.heads_q, heads.d))?;
        // The raw rows go when this returns: the device must be done with them.
        device.sync()?;
        Ok(Copy { cache, q, scores })
    }

    /// The tokens that a method keeps by score, with the stride of their rows, and H2O's state.
    fn choose(&self, copy: usize, kept: &[usize]) -> Result<Choice> {
        let shape = &self.spec.shape;
        match self.spec.method {
            Method::H2o { .. } | Method::Snapkv { .. } => {
                let stride = kept.iter().copied().max().unwrap_or(1);
                let mut index = vec![-1_i32; shape.kv_lens.len() * shape.heads_kv * stride];
                let mut acc = vec![f32::NAN; index.len()];
                for (seq, &len) in shape.kv_lens.iter().enumerate() {
                    for head in 0..shape.heads_kv {
                        let at = Place { copy, seq, head };
                        let scores = self.random.host.scores(at, len);
                        let tokens = compress::kept(&self.spec.method, len, &scores);
                        let first = (seq * shape.heads_kv + head) * stride;
                        for (slot, token) in tokens.into_iter().flatten().enumerate() {
                            index[first + slot] = i32::try_from(token)?;
                            acc[first + slot] = scores[token];
                        }
                    }
                }
                let scores = matches!(self.spec.method, Method::H2o { .. })
                    .then(|| Scores::new(&self.device, &self.spec, (&index, &acc), stride))
                    .transpose()?;
                let tokens = Buffer::of(&self.device, &index)?;
                Ok((Some((tokens, stride)), scores))
            }
            _ => Ok((None, None)),
        }
    }

    fn check_head(&self, at: Place, before: &[f32], error: &mut Error) -> Result<()> {
        let shape = &self.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let copy = &self.copies[0];
        let (k, v) = copy.cache.stored(at.seq, at.head)?;
        let out = self.work.output(at.seq * shape.heads_kv + at.head)?;
        let mut row = vec![0.0; k.len() / d];
        for h in 0..group {
            let place = Place { head: at.head * group + h, ..at };
            let query = self.random.host.rows_f64(Kind::Query, place, 1, d);
            let p = self.probabilities(&query, &k, at.seq);
            let mut expected = vec![0.0; d];
            for (p, value) in p.iter().zip(v.chunks(d)) {
                expected.iter_mut().zip(value).for_each(|(sum, v)| *sum += p * v);
            }
            error.add_vector(&out[h * d..][..d], &expected);
            row.iter_mut().zip(&p).for_each(|(sum, p)| *sum += p / group as f64);
        }
        match &copy.scores {
            Some(scores) => scores.check(at, before, &row, error),
            None => Ok(()),
        }
    }

    /// Attention of one query over the stored keys, with StreamingLLM's two positions.
    fn probabilities(&self, query: &[f64], k: &[f64], seq: usize) -> Vec<f64> {
        let Method::Streaming { sink, .. } = self.spec.method else {
            return select::softmax_row(query, k);
        };
        let d = query.len();
        let (len, kept) = (self.spec.shape.kv_lens[seq], k.len() / d);
        let turned = |position| {
            let mut row = query.to_vec();
            rotate(&mut row, position);
            row
        };
        let (text, cache) = (turned(len - 1), turned(kept - 1));
        let dot = |slot: usize, key: &[f64]| {
            let q = if slot < sink { &cache } else { &text };
            q.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() / (d as f64).sqrt()
        };
        let scores: Vec<f64> = k.chunks(d).enumerate().map(|(slot, key)| dot(slot, key)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        scores.iter().map(|s| (s - max).exp() / sum).collect()
    }

    fn args(&self, copy: &Copy) -> Result<Vec<Arg>> {
        let shape = &self.spec.shape;
        let [table, text, cache] = match &self.rope {
            Some(rope) => [rope[0].arg(), rope[1].arg(), rope[2].arg()],
            None => [Arg::Ptr(0); 3],
        };
        let sinks = match self.spec.method {
            Method::Streaming { sink, .. } => sink,
            _ => 0,
        };
        let (scores, slots) = match &copy.scores {
            Some(scores) => (scores.raw(), scores.slots()),
            None => (Arg::Ptr(0), 0),
        };
        let mut args = vec![copy.q.arg(), table, text, cache];
        args.extend(copy.cache.pools());
        args.extend([copy.cache.pages.arg(), copy.cache.kept.lens.arg()]);
        args.extend(self.work.args());
        let group = shape.heads_q / shape.heads_kv;
        args.push(scores);
        for n in [group, copy.cache.pages.maxp, slots, sinks] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.push(Arg::F32(scale_log2(shape.head_dim)));
        Ok(args)
    }
}

/// Tokens in the cache of each sequence.
fn kept_lens(spec: &KernelSpec) -> Vec<usize> {
    spec.shape.kv_lens.iter().map(|&len| spec.method.kept_tokens(len)).collect()
}

/// Table up to the longest text, and the positions of the newest token, whose query is attended.
fn rope(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<[Buffer; 3]> {
    let longest = spec.shape.kv_lens.iter().copied().max().unwrap_or(1);
    let newest = |lens: &[usize]| -> Result<Vec<i32>> {
        Ok(lens.iter().map(|&len| i32::try_from(len - 1)).collect::<Result<_, _>>()?)
    };
    Ok([
        Buffer::of(device, &rope_table(longest, spec.shape.head_dim))?,
        Buffer::of(device, &newest(&spec.shape.kv_lens)?)?,
        Buffer::of(device, &newest(&kept_lens(spec))?)?,
    ])
}

impl Prepared for HalfDecode {
    fn op(&self) -> Op {
        Op::Decode
    }

    fn work(&self) -> Work {
        let shape = &self.spec.shape;
        let stored = (kept_lens(&self.spec).iter().sum::<usize>() * shape.heads_kv) as u64;
        let io = 2 * 2 * (shape.kv_lens.len() * shape.heads_q * shape.head_dim) as u64;
        // H2O's scores are read with the cache and written back.
        let written = if self.copies[0].scores.is_some() { 4 * stored } else { 0 };
        let group = (shape.heads_q / shape.heads_kv) as u64;
        Work {
            bytes_moved: self.cache_bytes() + io + written,
            flops: 4 * shape.head_dim as u64 * stored * group,
        }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.work.poison()?;
        let before = match &self.copies[0].scores {
            Some(scores) => scores.accumulated()?,
            None => Vec::new(),
        };
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.spec) {
            self.check_head(at, &before, &mut error)?;
        }
        Ok(error.verification(&self.spec.method))
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let copy = &self.copies[copy];
        let shape = &self.spec.shape;
        let launch = Launch {
            grid: grid(self.work.splits, shape.heads_kv, shape.kv_lens.len()),
            block: (WARPS * 32) as u32,
            smem_bytes: smem_bytes(shape.head_dim),
        };
        self.device.launch(self.function, launch, &self.args(copy)?)?;
        match &copy.scores {
            Some(scores) => scores.queue(&self.spec, &self.work, &copy.cache.kept),
            None => Ok(()),
        }
    }

    fn resident_bytes(&self) -> u64 {
        let one = |copy: &Copy| {
            copy.cache.bytes() + copy.q.bytes() + copy.scores.as_ref().map_or(0, Scores::bytes)
        };
        self.copies.iter().map(one).sum::<u64>() + self.work.bytes()
    }

    fn lane_instructions(&self) -> Option<u64> {
        let shape = &self.spec.shape;
        let tokens = kept_lens(&self.spec).iter().sum::<usize>();
        let elements = (2 * tokens * shape.heads_kv * shape.head_dim) as f64;
        let each = self.device.instructions_per_element(self.function)?;
        Some((each * elements).round() as u64)
    }
}
