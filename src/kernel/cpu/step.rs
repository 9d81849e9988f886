//! [`Op::Decode`](crate::kernel::Op::Decode): one query token per sequence over the stored cache, the newest token
//! included. Appending that token's K and V (and quantising it) is not part of the launch for any method.
//!
//! H2O's step also adds the attention row, mean over the query group, to the kept tokens' scores and finds the victim,
//! the lowest score among tokens older than `recent`.
//!
//! Counted bytes: the cache as [`Method::cache_bytes`] (with H2O's scores), H2O's scores a second time since they are
//! written, q and the output in fp16. Counted operations: `4 D` per stored token and query head.

use half::f16;
use rayon::prelude::*;

use super::{
    Plan,
    caches::Caches,
    decode::{Decode, Part, TILE, merge},
    math,
};
use crate::kernel::check::{self, Error};
use crate::kernel::data::{Data, Kind, Place};
use crate::{
    kernel::{Kernel, Op, Verification, Work},
    method::{Method, select},
};

/// A prepared decode step.
pub(crate) struct Step {
    plan: Plan,
    data: Data,
    caches: Caches,
    /// Queries `[copy][seq][heads_q][d]`.
    q: Vec<f16>,
    /// Outputs `[seq][heads_q][d]`.
    out: Vec<f16>,
    /// H2O's scores, one vector per (copy, seq, kv head).
    acc: Vec<Vec<f32>>,
    /// H2O's victim per (seq, kv head).
    victims: Vec<Option<usize>>,
}

/// Tokens `lo..hi` of one (sequence, kv head).
struct Span {
    seq: usize,
    head: usize,
    lo: usize,
    hi: usize,
}

impl Step {
    /// Makes data and caches.
    pub(crate) fn new(plan: Plan) -> anyhow::Result<Step> {
        let data = Data::new(plan.spec.seed);
        let copies = plan.copies(plan.cache_bytes());
        let (method, shape) = (&plan.spec.method, &plan.spec.shape);
        let mut caches = Caches::empty(method, shape, copies)?;
        caches.fill(plan.isa, method, shape, &data);
        let rows = shape.kv_lens.len() * shape.heads_q;
        let mut q = vec![f16::ZERO; copies * rows * shape.head_dim];
        for (i, row) in q.chunks_exact_mut(shape.head_dim).enumerate() {
            let at =
                Place { copy: i / rows, seq: i % rows / shape.heads_q, head: i % shape.heads_q };
            row.copy_from_slice(data.row(Kind::Query, at, 0, shape.head_dim));
        }
        let acc = initial_scores(&plan, &data, copies);
        let out = vec![f16::NAN; rows * shape.head_dim];
        let victims = vec![None; shape.kv_lens.len() * shape.heads_kv];
        Ok(Step { plan, data, caches, q, out, acc, victims })
    }

    /// One task a head, or several where heads are too few to keep every thread busy.
    fn spans(&self) -> Vec<Span> {
        let shape = &self.plan.spec.shape;
        let heads = shape.kv_lens.len() * shape.heads_kv;
        let splits = (4 * rayon::current_num_threads()).div_ceil(heads);
        let splits = if heads >= 4 * rayon::current_num_threads() { 1 } else { splits };
        let mut spans = Vec::new();
        for (seq, layout) in self.caches.layouts.iter().enumerate() {
            let step = layout.n.div_ceil(splits).next_multiple_of(TILE);
            for head in 0..shape.heads_kv {
                let from = (0..layout.n).step_by(step);
                spans.extend(from.map(|lo| Span { seq, head, lo, hi: layout.n.min(lo + step) }));
            }
        }
        spans
    }

    fn group_query(&self, at: Place) -> Vec<f32> {
        let shape = &self.plan.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let first =
            ((at.copy * shape.kv_lens.len() + at.seq) * shape.heads_q + at.head * group) * d;
        let scale = 1.0 / (d as f32).sqrt();
        self.q[first..first + group * d].iter().map(|x| x.to_f32() * scale).collect()
    }

    fn run_spans(&self, copy: usize, spans: &[Span]) -> Vec<Part> {
        let keep_scores = matches!(self.plan.spec.method, Method::H2o { .. });
        let run = |span: &Span| {
            let at = Place { copy, seq: span.seq, head: span.head };
            let q = self.group_query(at);
            let head = self.caches.head(at);
            self.plan.isa.dispatch(Decode { head, q: &q, lo: span.lo, hi: span.hi, keep_scores })
        };
        spans.par_iter().with_max_len(1).map(run).collect()
    }

    fn finish(&mut self, copy: usize, spans: &[Span], parts: &[Part]) {
        let shape = &self.plan.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let heads = shape.kv_lens.len() * shape.heads_kv;
        let mut first = 0;
        for i in 0..heads {
            let same = |s: &Span| s.seq * shape.heads_kv + s.head == i;
            let n = spans[first..].iter().take_while(|s| same(s)).count();
            let parts = &parts[first..first + n];
            first += n;
            let (out, lse) = merge(parts, d);
            for (to, from) in self.out[i * group * d..][..group * d].iter_mut().zip(out) {
                *to = f16::from_f32(from);
            }
            if let Method::H2o { recent, .. } = self.plan.spec.method {
                self.victims[i] = accumulate(&mut self.acc[copy * heads + i], parts, &lse, recent);
            }
        }
    }

    fn check_head(&self, at: Place, before: &[f32], error: &mut Error) {
        let shape = &self.plan.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let (k, v) = self.caches.head(at).dequantise();
        let mut row = vec![0.0; k.len() / d];
        for h in 0..group {
            let head = at.head * group + h;
            let query = self.data.rows_f64(Kind::Query, Place { head, ..at }, 1, d);
            let expected = select::attention(&query, &k, &v);
            let first = (at.seq * shape.heads_q + head) * d;
            error.add_vector(&self.out[first..first + d], &expected);
            let p = select::softmax_row(&query, &k);
            row.iter_mut().zip(p).for_each(|(sum, p)| *sum += p / group as f64);
        }
        if let Method::H2o { recent, .. } = self.plan.spec.method {
            let i = at.seq * shape.heads_kv + at.head;
            self.check_scores(i, before, &row, recent, error);
        }
    }

    /// Scores against f64; the victim up to ties, by the value of its score.
    fn check_scores(
        &self,
        i: usize,
        before: &[f32],
        row: &[f64],
        recent: usize,
        error: &mut Error,
    ) {
        let mut expected: Vec<f64> = before.iter().map(|&x| f64::from(x)).collect();
        let victim = select::h2o_step(&mut expected, row, recent);
        error.add_f32(&self.acc[i], &expected);
        match (self.victims[i], victim) {
            (None, None) => {}
            (Some(a), Some(b)) => error.add_scalar(expected.get(a).copied(), expected[b]),
            _ => error.fail(),
        }
    }
}

fn initial_scores(plan: &Plan, data: &Data, copies: usize) -> Vec<Vec<f32>> {
    let Method::H2o { .. } = plan.spec.method else { return Vec::new() };
    let shape = &plan.spec.shape;
    let mut acc = Vec::new();
    for copy in 0..copies {
        for (seq, &len) in shape.kv_lens.iter().enumerate() {
            for head in 0..shape.heads_kv {
                let scores = data.scores(Place { copy, seq, head }, len);
                let kept = super::compress::kept(&plan.spec.method, len, &scores);
                acc.push(kept.into_iter().flatten().map(|t| scores[t]).collect());
            }
        }
    }
    acc
}

/// Adds the step's attention and gives the victim.
fn accumulate(acc: &mut [f32], parts: &[Part], lse: &[f32], recent: usize) -> Option<usize> {
    let heads = lse.len();
    let mut start = 0;
    for part in parts {
        let Some(raw) = &part.raw else { continue };
        let span = raw.len() / heads;
        for (scores, lse) in raw.chunks_exact(span).zip(lse) {
            for (sum, s) in acc[start..start + span].iter_mut().zip(scores) {
                *sum += math::exp((s - lse).min(0.0)) / heads as f32;
            }
        }
        start += span;
    }
    let old = acc.len().saturating_sub(recent);
    (0..old).min_by(|&a, &b| acc[a].total_cmp(&acc[b]))
}

impl Kernel for Step {
    fn op(&self) -> Op {
        Op::Decode
    }

    fn work(&self) -> Work {
        let shape = &self.plan.spec.shape;
        let group = (shape.heads_q / shape.heads_kv) as u64;
        let stored: u64 = self.caches.layouts.iter().map(|l| (l.n * shape.heads_kv) as u64).sum();
        let io = 2 * 2 * (shape.kv_lens.len() * shape.heads_q * shape.head_dim) as u64;
        let written = if self.acc.is_empty() { 0 } else { 4 * stored };
        Work {
            bytes_moved: self.plan.cache_bytes() + io + written,
            flops: 4 * shape.head_dim as u64 * stored * group,
        }
    }

    fn verify(&mut self) -> anyhow::Result<Verification> {
        self.out.fill(f16::NAN);
        let heads = self.victims.len();
        let before: Vec<Vec<f32>> = self.acc.iter().take(heads).cloned().collect();
        self.launch(0)?;
        let mut error = Error::default();
        let none = Vec::new();
        for at in check::sample(&self.plan.spec) {
            let i = at.seq * self.plan.spec.shape.heads_kv + at.head;
            self.check_head(at, before.get(i).unwrap_or(&none), &mut error);
        }
        Ok(error.verification(&self.plan.spec.method))
    }

    fn copies(&self) -> usize {
        self.caches.copies()
    }

    fn launch(&mut self, copy: usize) -> anyhow::Result<()> {
        let copy = copy % self.copies();
        let spans = self.spans();
        let parts = self.run_spans(copy, &spans);
        self.finish(copy, &spans, &parts);
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        let acc: usize = self.acc.iter().map(Vec::len).sum();
        self.caches.bytes()
            + self.data.bytes()
            + (2 * (self.q.len() + self.out.len()) + 4 * acc) as u64
    }
}
