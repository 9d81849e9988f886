//! What a decode step adds to a cache of 16-bit values: the new token's row, in a new slot, or in the slot that the method
//! gives up for it: StreamingLLM's oldest of the window, H2O's victim.

use std::sync::Arc;

use anyhow::Result;

use super::{
    base::{Base, Rows},
    data::{Ragged, grid},
    device::{Arg, Buffer, Device, Function, Launch},
    half_cache::{HalfCache, Kept, append_instance, is_rotated, rope_table, rotate},
    paged::copies,
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

const THREADS: u32 = 128;

/// One rotated copy.
struct Copy {
    cache: HalfCache,
    new: [Buffer; 2],
    /// Tokens of the prompt by slot, `[seq][KV head][stride]`.
    index: Buffer,
    /// Slot of the new token, by (sequence, KV head).
    slots: Buffer,
    /// H2O's scores and positions.
    state: Option<[Buffer; 2]>,
}

/// See the module's docs.
pub(crate) struct HalfStep {
    base: Base,
    append: Function,
    lens: Ragged,
    /// Position of the new token.
    positions: Buffer,
    rope: Option<Buffer>,
    /// Slots of a row of the index and of H2O's state.
    stride: usize,
    copies: Vec<Copy>,
}

impl HalfStep {
    /// Makes caches of prompts of `kv_len` tokens.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let base = Base::new(device, spec)?;
        let (method, lens) = (&spec.method, &spec.shape.kv_lens);
        let positions: Vec<i32> =
            lens.iter().map(|&len| i32::try_from(len)).collect::<Result<_, _>>()?;
        let longest = lens.iter().copied().max().unwrap_or(1);
        let table = is_rotated(method).then(|| rope_table(longest + 1, base.heads.d));
        let mut step = Self {
            append: device.function(&append_instance(method, spec.page, base.heads.d))?,
            lens: Ragged::new(device, lens)?,
            positions: Buffer::of(device, &positions)?,
            rope: table.map(|table| Buffer::of(device, &table)).transpose()?,
            stride: method.kept_tokens(longest) + 1,
            copies: Vec::new(),
            base,
        };
        for copy in 0..copies(spec.rotate_bytes, step.base.cache_bytes()) {
            let made = step.copy(copy)?;
            step.reset(copy, &made)?;
            step.copies.push(made);
        }
        Ok(step)
    }

    /// A row of K and one of V read and written, and H2O's score and position.
    fn touched_bytes(&self) -> u64 {
        let heads = (self.base.spec.shape.kv_lens.len() * self.base.heads.kv) as u64;
        let state = if matches!(self.base.spec.method, Method::H2o { .. }) { 8 } else { 0 };
        heads * (8 * self.base.heads.d as u64 + state)
    }

    /// Tokens of the prompt by slot, as the method keeps them.
    fn kept(&self, at: Place) -> Vec<usize> {
        let len = self.base.spec.shape.kv_lens[at.seq];
        let scores = self.base.random.host.scores(at, len);
        compress::kept(&self.base.spec.method, len, &scores).unwrap_or_else(|| (0..len).collect())
    }

    /// Where the new token goes.
    fn slot(&self, at: Place) -> usize {
        let (method, len) = (&self.base.spec.method, self.base.spec.shape.kv_lens[at.seq]);
        let kept = method.kept_tokens(len);
        match *method {
            Method::Streaming { sink, window } if len >= sink + window => {
                // The prompt fills the window in order, so its oldest token is the first behind the sinks.
                sink
            }
            Method::H2o { heavy, recent } if len >= heavy + recent => {
                let scores = self.base.random.host.scores(at, len);
                let kept = self.kept(at);
                let mut sums: Vec<f64> = kept.iter().map(|&t| f64::from(scores[t])).collect();
                // With the new token there is one recent token less among those that are kept.
                select::h2o_step(&mut sums, &[], recent - 1).unwrap_or(kept.len() - 1)
            }
            _ => kept,
        }
    }

    fn copy(&self, copy: usize) -> Result<Copy> {
        let (device, spec, heads) = (&self.base.device, &self.base.spec, self.base.heads);
        let lens = &spec.shape.kv_lens;
        let kept: Vec<usize> = lens.iter().map(|&len| spec.method.kept_tokens(len)).collect();
        let place = (spec.page, spec.seed ^ copy as u64);
        let (mut index, mut slots) = (vec![-1; lens.len() * heads.kv * self.stride], Vec::new());
        for (row, tokens) in index.chunks_mut(self.stride).enumerate() {
            let at = Place { copy, seq: row / heads.kv, head: row % heads.kv };
            for (slot, token) in tokens.iter_mut().zip(self.kept(at)) {
                *slot = i32::try_from(token)?;
            }
            slots.push(i32::try_from(self.slot(at))?);
        }
        let is_h2o = matches!(spec.method, Method::H2o { .. });
        let state = is_h2o.then(|| {
            let bytes = (index.len() * 4) as u64;
            Ok::<_, anyhow::Error>([
                Buffer::poisoned(device, bytes)?,
                Buffer::poisoned(device, bytes)?,
            ])
        });
        Ok(Copy {
            cache: HalfCache::new(device, &spec.method, heads, (&kept, 1), place)?,
            new: self.base.new_token(copy)?,
            index: Buffer::of(device, &index)?,
            slots: Buffer::of(device, &slots)?,
            state: state.transpose()?,
        })
    }

    /// The state before the step.
    fn reset(&self, copy: usize, at: &Copy) -> Result<()> {
        let [k, v] = self.base.raw(copy, &self.lens)?;
        let kept = Kept::Index((&at.index, self.stride));
        at.cache.pack((&k, &v), &self.lens, &kept, self.rope.as_ref())?;
        self.base.device.sync()
    }

    /// What the slots must hold after the step.
    fn expected(&self, at: Place) -> Rows {
        let (d, len) = (self.base.heads.d, self.base.spec.shape.kv_lens[at.seq]);
        let (mut tokens, slot) = (self.kept(at), self.slot(at));
        tokens.resize(tokens.len().max(slot + 1), len);
        tokens[slot] = len;
        let row = |kind, token| -> Vec<f64> {
            self.base.random.host.row(kind, at, token, d).iter().map(|x| x.to_f64()).collect()
        };
        let key = |&token: &usize| {
            let mut key = row(Kind::Key, token);
            if is_rotated(&self.base.spec.method) {
                rotate(&mut key, token);
            }
            key
        };
        let values = tokens.iter().flat_map(|&token| row(Kind::Value, token)).collect();
        (tokens.iter().flat_map(key).collect(), values)
    }

    fn check_head(&self, at: Place, error: &mut Error) -> Result<()> {
        let (expected_k, expected_v) = self.expected(at);
        let copy = &self.copies[0];
        let n = expected_k.len() / self.base.heads.d;
        let (k, v) = copy.cache.stored_slots(at.seq, at.head, n)?;
        error.add(check::relative(k.into_iter(), &expected_k));
        error.add(check::relative(v.into_iter(), &expected_v));
        let Some([scores, positions]) = &copy.state else { return Ok(()) };
        let row = (at.seq * self.base.heads.kv + at.head) * self.stride + self.slot(at);
        let score = scores.read::<f32>((row * 4) as u64, 1)?[0];
        let position = positions.read::<i32>((row * 4) as u64, 1)?[0];
        let right = usize::try_from(position) == Ok(self.base.spec.shape.kv_lens[at.seq]);
        // A new token has received no attention yet; what was never written is NaN.
        if !(score.abs() < f32::MIN_POSITIVE && right) {
            error.fail();
        }
        Ok(())
    }
}

impl Prepared for HalfStep {
    fn op(&self) -> Op {
        Op::Append
    }

    fn work(&self) -> Work {
        Work { bytes_moved: self.touched_bytes(), flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.copies[0].cache.poison()?;
        self.reset(0, &self.copies[0])?;
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.base.spec) {
            self.check_head(at, &mut error)?;
        }
        Ok(error.verification(&self.base.spec.method))
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let copy = &self.copies[copy];
        let [k, v] = &copy.new;
        let (acc, pos) = match &copy.state {
            Some([acc, pos]) => (acc.arg(), pos.arg()),
            None => (Arg::Ptr(0), Arg::Ptr(0)),
        };
        let mut args = vec![k.arg(), v.arg(), copy.slots.arg(), self.positions.arg()];
        args.push(copy.cache.pages.arg());
        args.extend(copy.cache.pools());
        args.push(self.rope.as_ref().map_or(Arg::Ptr(0), Buffer::arg));
        args.extend([acc, pos]);
        for n in [copy.cache.pages.maxp, self.stride] {
            args.push(Arg::I32(i32::try_from(n)?));
        }
        let grid = grid(1, self.base.heads.kv, self.base.spec.shape.kv_lens.len());
        let launch = Launch { grid, block: THREADS, smem_bytes: 0 };
        self.base.device.launch(self.append, launch, &args)
    }

    fn resident_bytes(&self) -> u64 {
        let one = |copy: &Copy| {
            let new: u64 = copy.new.iter().map(Buffer::bytes).sum();
            let state: u64 = copy.state.iter().flatten().map(Buffer::bytes).sum();
            copy.cache.bytes() + new + copy.index.bytes() + copy.slots.bytes() + state
        };
        self.copies.iter().map(one).sum()
    }
}
