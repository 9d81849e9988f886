//! [`Op::Compress`](crate::kernel::Op::Compress): a prompt's fp16 K and V into the method's cache.
//!
//! Counted bytes: what is read (all of K and V for quantisers and fp16's copy; the kept rows, and for H2O and SnapKV all
//! f32 scores, for methods that select) plus the cache that is written, without H2O's scores. Counted operations: none.
//!
//! Checked: what the packed cache gives back against the reference round trip in f64, by relative L2 of K and of V, at
//! the gate of 16-bit data for every method: one code in a hundred thousand may be a step off at a rounding tie.

use half::f16;
use rayon::prelude::*;

use super::{
    Plan,
    caches::Caches,
    compress::{Compress, kept},
    layout::HeadParts,
};
use crate::kernel::check::{self, Error, relative};
use crate::kernel::data::{Data, Kind, Place, needs_scores};
use crate::{
    kernel::{Kernel, Op, Verification, Work},
    method::{Method, select},
};

/// A prepared compression.
pub(crate) struct Bulk {
    plan: Plan,
    data: Data,
    caches: Caches,
    /// K, V and scores of each (copy, seq, kv head).
    inputs: Vec<Input>,
}

struct Input {
    k: Vec<f16>,
    v: Vec<f16>,
    scores: Vec<f32>,
}

impl Bulk {
    /// Makes inputs and room for the caches.
    pub(crate) fn new(plan: Plan) -> anyhow::Result<Bulk> {
        let data = Data::new(plan.spec.seed);
        let (method, shape) = (&plan.spec.method, &plan.spec.shape);
        let tokens: usize = shape.kv_lens.iter().sum();
        let input_bytes = (tokens * shape.heads_kv * shape.head_dim * 4) as u64;
        let copies = plan.copies(input_bytes);
        let caches = Caches::empty(method, shape, copies)?;
        let heads = shape.kv_lens.len() * shape.heads_kv;
        let inputs = (0..copies * heads).into_par_iter().map(|i| {
            let (seq, head) = (i % heads / shape.heads_kv, i % shape.heads_kv);
            input(&plan, &data, Place { copy: i / heads, seq, head })
        });
        let inputs = inputs.collect();
        Ok(Bulk { plan, data, caches, inputs })
    }

    fn check_head(&self, at: Place, error: &mut Error) {
        let shape = &self.plan.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let mut k = self.data.rows_f64(Kind::Key, at, len, d);
        let mut v = self.data.rows_f64(Kind::Value, at, len, d);
        self.plan.spec.method.round_trip(&mut k, &mut v, d);
        if let Some(kept) = reference_kept(&self.plan.spec.method, len, &self.data.scores(at, len))
        {
            let rows = |x: &[f64]| kept.iter().flat_map(|&t| x[t * d..][..d].to_vec()).collect();
            (k, v) = (rows(&k), rows(&v));
        }
        let (stored_k, stored_v) = self.caches.head(at).dequantise();
        if stored_k.len() != k.len() || stored_v.len() != v.len() {
            return error.fail();
        }
        error.add(relative(stored_k.into_iter(), &k));
        error.add(relative(stored_v.into_iter(), &v));
    }
}

fn reference_kept(method: &Method, len: usize, scores: &[f32]) -> Option<Vec<usize>> {
    let scores: Vec<f64> = scores.iter().map(|&x| f64::from(x)).collect();
    match *method {
        Method::Streaming { sink, window } => Some(select::streaming(len, sink, window)),
        Method::H2o { heavy, recent } => Some(select::h2o(&scores, heavy, recent)),
        Method::Snapkv { window, budget, .. } => Some(select::snapkv(&scores, len, window, budget)),
        _ => None,
    }
}

fn input(plan: &Plan, data: &Data, at: Place) -> Input {
    let (len, d) = (plan.spec.shape.kv_lens[at.seq], plan.spec.shape.head_dim);
    let (mut k, mut v) = (vec![f16::ZERO; len * d], vec![f16::ZERO; len * d]);
    data.fill(Kind::Key, at, d, &mut k);
    data.fill(Kind::Value, at, d, &mut v);
    let scores = if needs_scores(&plan.spec.method) { data.scores(at, len) } else { Vec::new() };
    Input { k, v, scores }
}

impl Kernel for Bulk {
    fn op(&self) -> Op {
        Op::Compress
    }

    fn work(&self) -> Work {
        let (method, shape) = (&self.plan.spec.method, &self.plan.spec.shape);
        let per_sequence = |&len: &usize| {
            let rows = method.kept_tokens(len) * shape.head_dim * 4;
            let scores = if needs_scores(method) { 4 * len } else { 0 };
            let own =
                if matches!(method, Method::H2o { .. }) { 4 * method.kept_tokens(len) } else { 0 };
            ((rows + scores - own) * shape.heads_kv) as u64
                + method.cache_bytes(len, shape.heads_kv, shape.head_dim)
        };
        Work { bytes_moved: shape.kv_lens.iter().map(per_sequence).sum(), flops: 0 }
    }

    fn verify(&mut self) -> anyhow::Result<Verification> {
        self.caches.poison(0);
        self.launch(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.plan.spec) {
            self.check_head(at, &mut error);
        }
        Ok(error.verification_half())
    }

    fn copies(&self) -> usize {
        self.caches.copies()
    }

    fn launch(&mut self, copy: usize) -> anyhow::Result<()> {
        let copy = copy % self.copies();
        let (method, shape) = (&self.plan.spec.method, &self.plan.spec.shape);
        let heads = shape.kv_lens.len() * shape.heads_kv;
        let (inputs, isa) = (&self.inputs[copy * heads..(copy + 1) * heads], self.plan.isa);
        self.caches.for_each(copy, |seq, head, layout, bytes| {
            let input = &inputs[seq * shape.heads_kv + head];
            let kept = kept(method, shape.kv_lens[seq], &input.scores);
            let out = HeadParts::new(bytes, layout);
            isa.dispatch(Compress { layout, k: &input.k, v: &input.v, kept: kept.as_deref(), out });
        });
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        let inputs: usize =
            self.inputs.iter().map(|i| 2 * (i.k.len() + i.v.len()) + 4 * i.scores.len()).sum();
        self.caches.bytes() + self.data.bytes() + inputs as u64
    }
}
