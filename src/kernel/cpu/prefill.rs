//! [`Op::Prefill`](crate::kernel::Op::Prefill): causal attention of a prompt, tiled, plus the scores that H2O (all
//! queries) and SnapKV (the last `window`, pooled, with the top-k chosen) collect. Both take a second pass over
//! `q . k` with the log-sum-exp that the first has left, as a flash kernel would have to.
//!
//! Counted bytes: q, K, V, output (fp16), log-sum-exp (f32) and the method's scores (f32), each once. Counted operations:
//! `4 D` per visible (query, key) pair and query head, and `2 D` per pair of the second pass.

use half::f16;
use rayon::prelude::*;

use super::{
    Plan,
    compress::kept,
    math,
    simd::{Job, Simd},
    tile::{Ahead, Rows, scores, weighted},
};
use crate::kernel::check::{self, Error};
use crate::kernel::data::{Data, Kind, Place};
use crate::{
    kernel::{Kernel, Op, Verification, Work},
    method::{Method, Pooling, select},
};

/// Queries of a tile.
const ROWS: usize = 16;
/// Keys of a tile.
const KEYS: usize = 64;
/// Rows and columns of a head that are checked, at most.
const CHECKED: usize = 16;

/// A prepared prefill.
pub(crate) struct Prefill {
    plan: Plan,
    data: Data,
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    copies: usize,
}

/// One (copy, sequence, kv head).
struct Input {
    /// `[group][len][d]`.
    q: Vec<f16>,
    k: Vec<f16>,
    v: Vec<f16>,
}

/// One (sequence, kv head).
#[derive(Clone)]
struct Output {
    /// `[group][len][d]`.
    out: Vec<f16>,
    /// `[group][len]`.
    lse: Vec<f32>,
    /// Column sums of the method, mean over the group.
    columns: Vec<f32>,
    /// SnapKV's choice.
    kept: Vec<usize>,
}

struct Causal<'a> {
    input: &'a Input,
    len: usize,
    d: usize,
    /// First query of the second pass; `len` when there is none.
    first: usize,
    out: &'a mut Output,
}

/// First query whose attention the method adds up, or `len` where it adds none.
pub(in crate::kernel) fn first_scored(method: &Method, len: usize) -> usize {
    match *method {
        Method::H2o { .. } => 0,
        Method::Snapkv { window, .. } => len.saturating_sub(window),
        _ => len,
    }
}

impl Job for Causal<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let group = self.input.q.len() / (self.len * self.d);
        let mut scratch = Scratch {
            q: vec![0.0; ROWS * self.d],
            o: vec![0.0; ROWS * self.d],
            p: vec![0.0; ROWS * KEYS],
        };
        self.out.columns.fill(0.0);
        for h in 0..group {
            for row in (0..self.len).step_by(ROWS) {
                self.attend(s, h, row, &mut scratch);
            }
            for row in (self.first..self.len).step_by(ROWS) {
                self.add_columns(s, h, row, group, &mut scratch);
            }
        }
    }
}

struct Scratch {
    q: Vec<f32>,
    o: Vec<f32>,
    p: Vec<f32>,
}

impl Causal<'_> {
    /// Queries from `row` as f32, divided by `sqrt(d)`; gives their number.
    #[inline(always)]
    fn load_queries(&self, h: usize, row: usize, q: &mut [f32]) -> usize {
        let n = ROWS.min(self.len - row);
        let scale = 1.0 / (self.d as f32).sqrt();
        let from = &self.input.q[(h * self.len + row) * self.d..][..n * self.d];
        q.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_f32() * scale);
        n
    }

    /// Scores of `n` queries from `row` against the keys from `key`; invisible ones are -inf. Gives the number of keys.
    #[inline(always)]
    fn tile_scores<S: Simd>(
        &self,
        s: S,
        row: usize,
        n: usize,
        key: usize,
        scratch: &mut Scratch,
    ) -> usize {
        let keys = KEYS.min(row + n - key);
        let rows = Rows::of(&self.input.k[key * self.d..(key + keys) * self.d], self.d);
        // SAFETY: `q` holds ROWS queries and `p` KEYS columns for each; KEYS is a multiple of 4.
        unsafe {
            let (q, p) = (scratch.q.as_ptr(), scratch.p.as_mut_ptr());
            scores(s, &rows, q, n, p, KEYS, &mut Ahead::none());
        }
        for i in 0..n {
            let visible = (row + i + 1).saturating_sub(key).min(keys);
            scratch.p[i * KEYS + visible..(i + 1) * KEYS].fill(f32::NEG_INFINITY);
        }
        keys
    }

    #[inline(always)]
    fn attend<S: Simd>(&mut self, s: S, h: usize, row: usize, scratch: &mut Scratch) {
        let (d, n) = (self.d, self.load_queries(h, row, &mut scratch.q));
        let (mut max, mut sum) = ([f32::NEG_INFINITY; ROWS], [0.0; ROWS]);
        scratch.o.fill(0.0);
        for key in (0..row + n).step_by(KEYS) {
            let keys = self.tile_scores(s, row, n, key, scratch);
            for i in 0..n {
                let p = &mut scratch.p[i * KEYS..(i + 1) * KEYS];
                let top = math::max(p).max(max[i]);
                if top > max[i] {
                    let shrink = math::exp(max[i] - top);
                    sum[i] *= shrink;
                    math::scale(&mut scratch.o[i * d..(i + 1) * d], shrink);
                    max[i] = top;
                }
                let visible = (row + i + 1).saturating_sub(key).min(keys);
                math::exp_sum(p, top);
                p[visible..].fill(0.0);
                sum[i] += p.iter().sum::<f32>();
            }
            let rows = Rows::of(&self.input.v[key * d..(key + keys) * d], d);
            // SAFETY: `p` has KEYS columns and `o` has `d` for each of the `n` rows.
            unsafe {
                let (p, o) = (scratch.p.as_ptr(), scratch.o.as_mut_ptr());
                weighted(s, &rows, p, KEYS, n, o, d, &mut Ahead::none());
            }
        }
        for i in 0..n {
            let at = h * self.len + row + i;
            self.out.lse[at] = max[i] + sum[i].ln();
            let out = &mut self.out.out[at * d..(at + 1) * d];
            for (to, x) in out.iter_mut().zip(&scratch.o[i * d..]) {
                *to = f16::from_f32(x / sum[i]);
            }
        }
    }

    #[inline(always)]
    fn add_columns<S: Simd>(
        &mut self,
        s: S,
        h: usize,
        row: usize,
        group: usize,
        scratch: &mut Scratch,
    ) {
        let n = self.load_queries(h, row, &mut scratch.q);
        for key in (0..row + n).step_by(KEYS) {
            let keys = self.tile_scores(s, row, n, key, scratch);
            for i in 0..n {
                let p = &mut scratch.p[i * KEYS..(i + 1) * KEYS];
                let visible = (row + i + 1).saturating_sub(key).min(keys);
                math::exp_sum(p, self.out.lse[h * self.len + row + i]);
                let columns = &mut self.out.columns[key..key + visible];
                columns.iter_mut().zip(p).for_each(|(c, p)| *c += *p / group as f32);
            }
        }
    }
}

/// SnapKV's smoothing in f32, as [`select::pool`].
fn pool(x: &[f32], pooling: Pooling, width: usize) -> Vec<f32> {
    let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    select::pool(&x, pooling, width).into_iter().map(|x| x as f32).collect()
}

impl Prefill {
    /// Makes the inputs.
    pub(super) fn new(plan: Plan) -> anyhow::Result<Prefill> {
        let data = Data::new(plan.spec.seed);
        let shape = &plan.spec.shape;
        let (d, group) = (shape.head_dim, shape.heads_q / shape.heads_kv);
        let tokens: usize = shape.kv_lens.iter().sum();
        let copies = plan.copies((tokens * d * 2 * (shape.heads_q + 2 * shape.heads_kv)) as u64);
        let heads = shape.kv_lens.len() * shape.heads_kv;
        let inputs = (0..copies * heads).into_par_iter().map(|i| {
            let at = Place {
                copy: i / heads,
                seq: i % heads / shape.heads_kv,
                head: i % shape.heads_kv,
            };
            input(&data, at, shape.kv_lens[at.seq], d, group)
        });
        let inputs = inputs.collect();
        let outputs = (0..heads).map(|i| output(shape.kv_lens[i / shape.heads_kv], d, group));
        let outputs = outputs.collect();
        Ok(Prefill { plan, data, inputs, outputs, copies })
    }

    fn check_head(&self, at: Place, error: &mut Error) {
        let shape = &self.plan.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let group = shape.heads_q / shape.heads_kv;
        let output = &self.outputs[at.seq * shape.heads_kv + at.head];
        let k = self.data.rows_f64(Kind::Key, at, len, d);
        let v = self.data.rows_f64(Kind::Value, at, len, d);
        for h in 0..group {
            let place = Place { head: at.head * group + h, ..at };
            for row in picks(len) {
                let query = self.query(place, row);
                let seen = (row + 1) * d;
                let expected = select::attention(&query, &k[..seen], &v[..seen]);
                error.add_vector(&output.out[(h * len + row) * d..][..d], &expected);
                error.add(log_sum_exp_error(&query, &k[..seen], output.lse[h * len + row]));
            }
        }
        self.check_columns(at, &k, output, error);
    }

    /// Columns against f64 scores over the kernel's own log-sum-exp, whose rows were checked above.
    fn check_columns(&self, at: Place, k: &[f64], output: &Output, error: &mut Error) {
        let shape = &self.plan.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let group = shape.heads_q / shape.heads_kv;
        let first = first_scored(&self.plan.spec.method, len);
        if first == len {
            return;
        }
        for column in picks(len) {
            let mut expected = 0.0;
            for h in 0..group {
                let place = Place { head: at.head * group + h, ..at };
                for row in first.max(column)..len {
                    let s = dot(&self.query(place, row), &k[column * d..][..d]) / (d as f64).sqrt();
                    expected += (s - f64::from(output.lse[h * len + row])).exp() / group as f64;
                }
            }
            error.add_scalar(Some(f64::from(output.columns[column])), expected);
        }
        if let Method::Snapkv { window, budget, pooling, pool_width } = self.plan.spec.method {
            let columns: Vec<f64> = output.columns.iter().map(|&x| f64::from(x)).collect();
            let old = len.saturating_sub(window);
            let pooled = select::pool(&columns[..old], pooling, pool_width);
            let expected = select::snapkv(&pooled, len, window, budget);
            error.add(set_error(&output.kept, &expected, &pooled));
        }
    }

    fn query(&self, at: Place, row: usize) -> Vec<f64> {
        let d = self.plan.spec.shape.head_dim;
        self.data.row(Kind::Query, at, row, d).iter().map(|x| x.to_f64()).collect()
    }
}

/// 0 when two ascending sets hold the same scores up to ties, else how far the sums of scores are apart.
pub(in crate::kernel) fn set_error(got: &[usize], expected: &[usize], scores: &[f64]) -> f64 {
    if got.len() != expected.len() || got.windows(2).any(|w| w[0] >= w[1]) {
        return f64::NAN;
    }
    let total = |set: &[usize]| set.iter().filter_map(|&t| scores.get(t)).sum::<f64>();
    let reference = total(expected);
    if reference > 0.0 { (total(got) - reference).abs() / reference } else { 0.0 }
}

pub(in crate::kernel) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(in crate::kernel) fn log_sum_exp_error(query: &[f64], keys: &[f64], got: f32) -> f64 {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let scores: Vec<f64> = keys.chunks(query.len()).map(|k| dot(query, k) * scale).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
    (f64::from(got) - lse).abs() / lse.abs().max(1.0)
}

/// First, last and evenly spaced indices, [`CHECKED`] at most.
pub(in crate::kernel) fn picks(len: usize) -> Vec<usize> {
    if len <= CHECKED {
        return (0..len).collect();
    }
    (0..CHECKED).map(|i| i * (len - 1) / (CHECKED - 1)).collect()
}

fn input(data: &Data, at: Place, len: usize, d: usize, group: usize) -> Input {
    let mut q = vec![f16::ZERO; group * len * d];
    for (h, rows) in q.chunks_exact_mut(len * d).enumerate() {
        data.fill(Kind::Query, Place { head: at.head * group + h, ..at }, d, rows);
    }
    let (mut k, mut v) = (vec![f16::ZERO; len * d], vec![f16::ZERO; len * d]);
    data.fill(Kind::Key, at, d, &mut k);
    data.fill(Kind::Value, at, d, &mut v);
    Input { q, k, v }
}

fn output(len: usize, d: usize, group: usize) -> Output {
    Output {
        out: vec![f16::NAN; group * len * d],
        lse: vec![f32::NAN; group * len],
        columns: vec![f32::NAN; len],
        kept: Vec::new(),
    }
}

impl Kernel for Prefill {
    fn op(&self) -> Op {
        Op::Prefill
    }

    fn work(&self) -> Work {
        let shape = &self.plan.spec.shape;
        let (d, hq, hkv) = (shape.head_dim as u64, shape.heads_q as u64, shape.heads_kv as u64);
        let mut work = Work { bytes_moved: 0, flops: 0 };
        for &len in &shape.kv_lens {
            let first = first_scored(&self.plan.spec.method, len);
            let pairs = |n: usize| (n as u64) * (n as u64 + 1) / 2;
            let second = if first == len { 0 } else { pairs(len) - pairs(first) };
            let scores = if first == len { 0 } else { 4 * hkv };
            work.flops += hq * d * (4 * pairs(len) + 2 * second);
            work.bytes_moved += len as u64 * (2 * d * (2 * hq + 2 * hkv) + 4 * hq + scores);
        }
        work
    }

    fn verify(&mut self) -> anyhow::Result<Verification> {
        for output in &mut self.outputs {
            output.out.fill(f16::NAN);
            output.lse.fill(f32::NAN);
            output.columns.fill(f32::NAN);
        }
        self.launch(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.plan.spec) {
            self.check_head(at, &mut error);
        }
        Ok(error.verification_half())
    }

    fn copies(&self) -> usize {
        self.copies
    }

    fn launch(&mut self, copy: usize) -> anyhow::Result<()> {
        let (method, shape, isa) = (&self.plan.spec.method, &self.plan.spec.shape, self.plan.isa);
        let heads = self.outputs.len();
        let inputs = &self.inputs[copy % self.copies * heads..][..heads];
        let tasks = self.outputs.par_iter_mut().zip(inputs).with_max_len(1).enumerate();
        tasks.for_each(|(i, (out, input))| {
            let (len, d) = (shape.kv_lens[i / shape.heads_kv], shape.head_dim);
            let first = first_scored(method, len);
            isa.dispatch(Causal { input, len, d, first, out });
            if let Method::Snapkv { window, pooling, pool_width, .. } = *method {
                let old = len.saturating_sub(window);
                let mut pooled = pool(&out.columns[..old], pooling, pool_width);
                pooled.resize(len, 0.0);
                out.kept = kept(method, len, &pooled).unwrap_or_default();
            }
        });
        Ok(())
    }

    fn resident_bytes(&self) -> u64 {
        let inputs: usize =
            self.inputs.iter().map(|i| 2 * (i.q.len() + i.k.len() + i.v.len())).sum();
        let outputs: usize = self
            .outputs
            .iter()
            .map(|o| 2 * o.out.len() + 4 * (o.lse.len() + o.columns.len()))
            .sum();
        self.data.bytes() + (inputs + outputs) as u64
    }
}
