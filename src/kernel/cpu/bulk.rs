//! [`Op::Compress`](crate::kernel::Op::Compress): a prompt's fp16 K and V into the method's cache.
//!
//! Counted bytes: what is read (all of K and V for quantisers and fp16's copy; the kept rows, and for H2O and SnapKV all
//! f32 scores, for methods that select) plus the cache that is written, without H2O's scores. Counted operations: none.
//!
//! GEAR's outliers of V are found first, since all heads of a sequence compete for them; then every head stands alone.
//!
//! Checked: what the packed cache gives back against the reference round trip in f64, by relative L2 of K and of V, at
//! the gate of 16-bit data for every method: one code in a hundred thousand may be a step off at a rounding tie.

use rayon::prelude::*;

use super::{
    Plan,
    caches::{Caches, marks},
    compress::{Input, compress},
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

/// K or V of the heads of a sequence, `[tokens][d]` each.
type Heads = Vec<Vec<f64>>;

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
            let at = Place { copy: i / heads, seq, head };
            Input::new(&plan.spec.method, &plan.spec.shape, &data, at)
        });
        let inputs = inputs.collect();
        Ok(Bulk { plan, data, caches, inputs })
    }

    /// What the caches of a sequence's `heads` should give back. All heads are made where they depend on each other.
    fn reference(&self, seq: usize, heads: std::ops::Range<usize>) -> (Heads, Heads) {
        let shape = &self.plan.spec.shape;
        let (len, d) = (shape.kv_lens[seq], shape.head_dim);
        let rows = |kind| {
            let head = |head| self.data.rows_f64(kind, Place { copy: 0, seq, head }, len, d);
            heads.clone().map(head).collect()
        };
        let (mut k, mut v): (Heads, Heads) = (rows(Kind::Key), rows(Kind::Value));
        self.plan.spec.method.round_trip_layer(&mut k, &mut v, d);
        (k, v)
    }

    /// Checks the heads of one sequence.
    fn check_sequence(&self, places: &[Place], error: &mut Error) {
        let all = 0..self.plan.spec.shape.heads_kv;
        let seq = places[0].seq;
        if let Method::Gear(_) = self.plan.spec.method {
            let (k, v) = self.reference(seq, all);
            for &at in places {
                self.check_head(at, &k[at.head], &v[at.head], error);
            }
            return;
        }
        for &at in places {
            let (k, v) = self.reference(seq, at.head..at.head + 1);
            self.check_head(at, &k[0], &v[0], error);
        }
    }

    fn check_head(&self, at: Place, k: &[f64], v: &[f64], error: &mut Error) {
        let shape = &self.plan.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let kept = reference_kept(&self.plan.spec.method, len, &self.data.scores(at, len));
        let rows = |x: &[f64]| match &kept {
            Some(kept) => kept.iter().flat_map(|&t| x[t * d..][..d].to_vec()).collect(),
            None => x.to_vec(),
        };
        let (k, v) = (rows(k), rows(v));
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
        for places in check::sample(&self.plan.spec).chunk_by(|a, b| a.seq == b.seq) {
            self.check_sequence(places, &mut error);
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
        let at = |seq: usize, head: usize| &inputs[seq * shape.heads_kv + head];
        let marks = marks(isa, method, shape, |seq, head, token| {
            &at(seq, head).v[token * shape.head_dim..][..shape.head_dim]
        });
        self.caches.for_each(copy, |seq, head, layout, out| {
            compress(isa, method, layout, at(seq, head), (marks.get(seq), head), out);
        });
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        let inputs: usize =
            self.inputs.iter().map(|i| 2 * (i.k.len() + i.v.len()) + 4 * i.scores.len()).sum();
        self.caches.bytes() + self.data.bytes() + inputs as u64
    }
}
