//! Causal attention over a prompt, and what a method adds to it: H2O's column sums, SnapKV's window scores and choice.
//! Quantising and writing the cache is `Op::Compress`.

use std::sync::Arc;

use anyhow::Result;
use half::f16;

use super::{
    base::Base,
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    paged::{copies, scale_log2},
    program::{Instance, Source},
    select::{Chooser, Rule},
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Verification, Work,
        check::{self, Error},
        cpu::prefill::{dot, first_scored, log_sum_exp_error, picks, set_error},
        data::{Kind, Place},
    },
    method::{Method, select},
};

/// Rows of a tile, and threads of a block.
const TILE: usize = 64;
const THREADS: u32 = 128;

/// Kernels of this file.
pub(crate) fn instances() -> Vec<Instance> {
    let both = |d| [prefill(d), columns(d)];
    [64, 128].into_iter().flat_map(both).collect()
}

fn prefill(d: usize) -> Instance {
    Instance::at(Source::Prefill, "prefill", d)
}

fn columns(d: usize) -> Instance {
    Instance::at(Source::Prefill, "column_sums", d)
}

/// What a method takes from the attention of a prompt.
struct Scored {
    function: Function,
    /// Queries that count: the last ones.
    window: usize,
    sums: Buffer,
    /// SnapKV's smoothed scores and choice.
    chosen: Option<(Buffer, Chooser)>,
}

/// See the module's docs.
pub(crate) struct Prefill {
    base: Base,
    lens: Ragged,
    function: Function,
    /// q, K and V.
    copies: Vec<[Buffer; 3]>,
    out: Buffer,
    lse: Buffer,
    scored: Option<Scored>,
}

impl Prefill {
    /// Makes data.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let base = Base::new(device, spec)?;
        let (shape, d) = (&spec.shape, base.heads.d);
        let lens = Ragged::new(device, &shape.kv_lens)?;
        let rows = lens.tokens() * shape.heads_q;
        let bytes = (rows * d * 2 + lens.tokens() * shape.heads_kv * d * 4) as u64;
        let mut all = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, bytes) {
            let q = base.random.rows(Kind::Query, copy, (&lens, shape.heads_q, d))?;
            let [k, v] = base.raw(copy, &lens)?;
            all.push([q, k, v]);
        }
        Ok(Self {
            function: device.function(&prefill(d))?,
            out: Buffer::poisoned(device, (rows * d * 2) as u64)?,
            lse: Buffer::poisoned(device, (rows * 4) as u64)?,
            scored: scored(&base, &lens)?,
            copies: all,
            lens,
            base,
        })
    }

    fn launch(&self, heads: usize, stages: usize) -> Launch {
        let tile_bytes = TILE * self.base.heads.d * 2;
        let blocks = self.lens.longest().div_ceil(TILE);
        let grid = grid(blocks, heads, self.lens.host.len());
        Launch { grid, block: THREADS, smem_bytes: stages * tile_bytes }
    }

    fn queue_scores(&self, scored: &Scored, [q, k, _]: &[Buffer; 3]) -> Result<()> {
        let shape = &self.base.spec.shape;
        let group = shape.heads_q / shape.heads_kv;
        let mut args = vec![q.arg(), k.arg(), self.lse.arg()];
        args.extend([self.lens.lens.arg(), self.lens.starts.arg(), scored.sums.arg()]);
        for n in [group, scored.window] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        args.extend([Arg::F32(scale_log2(shape.head_dim)), Arg::F32(1.0 / group as f32)]);
        let launch = self.launch(shape.heads_kv, 1);
        self.base.device.launch(scored.function, launch, &args)?;
        let Some((pooled, chooser)) = &scored.chosen else { return Ok(()) };
        if let Method::Snapkv { pooling, pool_width, .. } = self.base.spec.method {
            chooser.smooth((&scored.sums, pooled), &self.lens, (pooling, pool_width))?;
        }
        chooser.queue(pooled, &self.lens)
    }

    fn query(&self, at: Place, row: usize) -> Vec<f64> {
        let d = self.base.heads.d;
        let row = self.base.random.host.row(Kind::Query, at, row, d);
        row.iter().map(|x| x.to_f64()).collect()
    }

    /// Natural logarithms of the sums of exponentials of one query head.
    fn lse_of(&self, seq: usize, head: usize) -> Result<Vec<f32>> {
        let (shape, len) = (&self.base.spec.shape, self.lens.host[seq]);
        let first = self.lens.start(seq) * shape.heads_q + head * len;
        let lse = self.lse.read::<f32>((first * 4) as u64, len)?;
        Ok(lse.into_iter().map(|x| x * std::f32::consts::LN_2).collect())
    }

    fn check_head(&self, at: Place, error: &mut Error) -> Result<()> {
        let shape = &self.base.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let group = shape.heads_q / shape.heads_kv;
        let host = &self.base.random.host;
        let (k, v) = (host.rows_f64(Kind::Key, at, len, d), host.rows_f64(Kind::Value, at, len, d));
        for head in at.head * group..(at.head + 1) * group {
            let first = self.lens.start(at.seq) * shape.heads_q + head * len;
            let lse = self.lse_of(at.seq, head)?;
            for row in picks(len) {
                let (query, seen) = (self.query(Place { head, ..at }, row), (row + 1) * d);
                let expected = select::attention(&query, &k[..seen], &v[..seen]);
                let out: Vec<f16> = self.out.read(((first + row) * d * 2) as u64, d)?;
                error.add_vector(&out, &expected);
                error.add(log_sum_exp_error(&query, &k[..seen], lse[row]));
            }
        }
        match &self.scored {
            Some(scored) => self.check_scores(scored, at, &k, error),
            None => Ok(()),
        }
    }

    /// Columns against f64 scores over the kernel's own log-sum-exp, whose rows were checked before.
    fn check_scores(&self, scored: &Scored, at: Place, k: &[f64], error: &mut Error) -> Result<()> {
        let shape = &self.base.spec.shape;
        let (len, d) = (shape.kv_lens[at.seq], shape.head_dim);
        let group = shape.heads_q / shape.heads_kv;
        let first = self.lens.start(at.seq) * shape.heads_kv + at.head * len;
        let columns: Vec<f32> = scored.sums.read((first * 4) as u64, len)?;
        let oldest = first_scored(&self.base.spec.method, len);
        for column in picks(len) {
            let mut expected = 0.0;
            for head in at.head * group..(at.head + 1) * group {
                let lse = self.lse_of(at.seq, head)?;
                for (row, lse) in lse.iter().enumerate().skip(oldest.max(column)) {
                    let query = self.query(Place { head, ..at }, row);
                    let s = dot(&query, &k[column * d..][..d]) / (d as f64).sqrt();
                    expected += (s - f64::from(*lse)).exp() / group as f64;
                }
            }
            error.add_scalar(Some(f64::from(columns[column])), expected);
        }
        let Method::Snapkv { window, budget, pooling, pool_width } = self.base.spec.method else {
            return Ok(());
        };
        let Some((_, chooser)) = &scored.chosen else { return Ok(()) };
        let columns: Vec<f64> = columns.into_iter().map(f64::from).collect();
        let pooled = select::pool(&columns[..len.saturating_sub(window)], pooling, pool_width);
        let expected = select::snapkv(&pooled, len, window, budget);
        let head = at.seq * shape.heads_kv + at.head;
        let chosen = chooser.chosen(head, self.base.spec.method.kept_tokens(len))?;
        error.add(set_error(&chosen, &expected, &pooled));
        Ok(())
    }
}

/// What the method adds, if anything.
fn scored(base: &Base, lens: &Ragged) -> Result<Option<Scored>> {
    let (device, method) = (&base.device, &base.spec.method);
    let window = match *method {
        Method::H2o { .. } => lens.longest(),
        Method::Snapkv { window, .. } => window,
        _ => return Ok(None),
    };
    let scores = || Buffer::poisoned(device, (lens.tokens() * base.heads.kv * 4) as u64);
    let kept: Vec<usize> = lens.host.iter().map(|&len| method.kept_tokens(len)).collect();
    let rule = Rule::of(method).filter(|_| matches!(method, Method::Snapkv { .. }));
    let chosen = rule
        .map(|rule| {
            Ok::<_, anyhow::Error>((scores()?, Chooser::new(device, rule, base.heads.kv, &kept)?))
        })
        .transpose()?;
    let function = device.function(&columns(base.heads.d))?;
    Ok(Some(Scored { function, window, sums: scores()?, chosen }))
}

impl Prepared for Prefill {
    fn op(&self) -> Op {
        Op::Prefill
    }

    /// q, K, V and the output once; two products over the causal half, and H2O's and SnapKV's scores one more over the rows
    /// that count.
    fn work(&self) -> Work {
        let (shape, d) = (&self.base.spec.shape, self.base.heads.d as u64);
        let (heads_q, heads_kv) = (shape.heads_q as u64, shape.heads_kv as u64);
        let tokens = self.lens.tokens() as u64;
        let pairs = |len: u64, rows: u64| rows * len - rows * rows.saturating_sub(1) / 2;
        let mut flops = 0;
        for &len in &self.lens.host {
            let len = len as u64;
            flops += 4 * d * heads_q * pairs(len, len);
            if let Some(scored) = &self.scored {
                flops += 2 * d * heads_q * pairs(len, len.min(scored.window as u64));
            }
        }
        Work { bytes_moved: 2 * d * tokens * (2 * heads_q + 2 * heads_kv), flops }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.out.fill(0xFF)?;
        self.lse.fill(0xFF)?;
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.base.spec) {
            self.check_head(at, &mut error)?;
        }
        Ok(error.verification_half())
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let rows = &self.copies[copy];
        let shape = &self.base.spec.shape;
        let mut args: Vec<Arg> = rows.iter().map(Buffer::arg).collect();
        args.extend([self.lens.lens.arg(), self.lens.starts.arg()]);
        args.extend([self.out.arg(), self.lse.arg()]);
        args.push(Arg::I32(i32::try_from(shape.heads_q / shape.heads_kv)?));
        args.push(Arg::F32(scale_log2(shape.head_dim)));
        self.base.device.launch(self.function, self.launch(shape.heads_q, 4), &args)?;
        match &self.scored {
            Some(scored) => self.queue_scores(scored, rows),
            None => Ok(()),
        }
    }

    fn resident_bytes(&self) -> u64 {
        let rows: u64 = self.copies.iter().flatten().map(Buffer::bytes).sum();
        rows + self.out.bytes() + self.lse.bytes()
    }
}
