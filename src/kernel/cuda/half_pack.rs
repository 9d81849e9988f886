//! Compressing a prompt for methods that keep 16-bit values: choosing tokens where the method does, and writing pages.

use std::sync::Arc;

use anyhow::Result;

use super::{
    base::{Base, Rows},
    data::Ragged,
    device::{Buffer, Device},
    half_cache::{HalfCache, Kept, is_rotated, rope_table, rotate},
    paged::copies,
    select::{Chooser, Rule},
    timed::Prepared,
};
use crate::{
    kernel::{
        KernelSpec, Op, Verification, Work,
        check::{self, Error},
        cpu::{compress, prefill::set_error},
        data::{Kind, Place},
    },
    method::{Method, select},
};

struct Copy {
    cache: HalfCache,
    raw: [Buffer; 2],
    scores: Option<Buffer>,
}

/// See the module's docs.
pub(crate) struct HalfPack {
    base: Base,
    lens: Ragged,
    copies: Vec<Copy>,
    chooser: Option<Chooser>,
    rope: Option<Buffer>,
}

impl HalfPack {
    /// Makes data and empty caches. Scores are random, as on the CPU: those of a real prefill are `Op::Prefill`.
    ///
    /// # Errors
    /// Out of memory, no compiler.
    pub(crate) fn new(device: &Arc<dyn Device>, spec: &KernelSpec) -> Result<Self> {
        let base = Base::new(device, spec)?;
        let (shape, method) = (&spec.shape, &spec.method);
        let lens = Ragged::new(device, &shape.kv_lens)?;
        let kept: Vec<usize> = shape.kv_lens.iter().map(|&len| method.kept_tokens(len)).collect();
        let rule = Rule::of(method);
        let chooser =
            rule.map(|rule| Chooser::new(device, rule, base.heads.kv, &kept)).transpose()?;
        let table = is_rotated(method).then(|| rope_table(lens.longest(), base.heads.d));
        let rope = table.map(|table| Buffer::of(device, &table)).transpose()?;
        let mut all = Vec::new();
        for copy in 0..copies(spec.rotate_bytes, base.cache_bytes()) {
            let place = (spec.page, spec.seed ^ copy as u64);
            let scores =
                rule.map(|_| base.random.scores(copy, &lens, base.heads.kv)).transpose()?;
            all.push(Copy {
                cache: HalfCache::new(device, method, base.heads, (&kept, 0), place)?,
                raw: base.raw(copy, &lens)?,
                scores,
            });
        }
        Ok(Self { base, lens, copies: all, chooser, rope })
    }

    /// The tokens of one head by slot, as the device chose them; a choice other than the reference's shows in `error`.
    fn tokens(&self, at: Place, error: &mut Error) -> Result<Vec<usize>> {
        let (method, len) = (&self.base.spec.method, self.base.spec.shape.kv_lens[at.seq]);
        let Some(chooser) = &self.chooser else {
            return Ok(match *method {
                Method::Streaming { sink, window } => select::streaming(len, sink, window),
                _ => (0..len).collect(),
            });
        };
        let head = at.seq * self.base.heads.kv + at.head;
        let chosen = chooser.chosen(head, method.kept_tokens(len))?;
        let scores = self.base.random.host.scores(at, len);
        let expected = compress::kept(method, len, &scores).unwrap_or_default();
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        error.add(set_error(&chosen, &expected, &scores));
        anyhow::ensure!(
            chosen.iter().all(|&token| token < len),
            "a token beyond the prompt was chosen"
        );
        Ok(chosen)
    }

    /// The original rows of `tokens`, K rotated where the method stores it so.
    fn originals(&self, at: Place, tokens: &[usize]) -> Rows {
        let (d, method) = (self.base.heads.d, &self.base.spec.method);
        let row = |kind, token| -> Vec<f64> {
            self.base.random.host.row(kind, at, token, d).iter().map(|x| x.to_f64()).collect()
        };
        let key = |token: usize| {
            let mut key = row(Kind::Key, token);
            if is_rotated(method) {
                rotate(&mut key, token);
            }
            key
        };
        let k = tokens.iter().flat_map(|&token| key(token)).collect();
        (k, tokens.iter().flat_map(|&token| row(Kind::Value, token)).collect())
    }
}

impl Prepared for HalfPack {
    fn op(&self) -> Op {
        Op::Compress
    }

    /// Rows that are kept are read and written; a choice reads every score.
    fn work(&self) -> Work {
        let scores = match &self.chooser {
            Some(_) => 4 * self.lens.tokens() * self.base.heads.kv,
            None => 0,
        };
        Work { bytes_moved: 2 * self.base.cache_bytes() + scores as u64, flops: 0 }
    }

    fn verify(&mut self) -> Result<Verification> {
        self.copies[0].cache.poison()?;
        self.queue(0)?;
        let mut error = Error::default();
        for at in check::sample(&self.base.spec) {
            let tokens = self.tokens(at, &mut error)?;
            let (k, v) = self.copies[0].cache.stored(at.seq, at.head)?;
            let (expected_k, expected_v) = self.originals(at, &tokens);
            error.add(check::relative(k.into_iter(), &expected_k));
            error.add(check::relative(v.into_iter(), &expected_v));
        }
        // bf16 rounds each value by up to 2^-9 of itself.
        Ok(error.verification(&self.base.spec.method))
    }

    fn copies(&self) -> usize {
        self.copies.len()
    }

    fn queue(&self, copy: usize) -> Result<()> {
        let Copy { cache, raw: [k, v], scores } = &self.copies[copy];
        let rope = self.rope.as_ref();
        match (&self.chooser, scores, &self.base.spec.method) {
            (Some(chooser), Some(scores), _) => {
                chooser.queue(scores, &self.lens)?;
                let index = (&chooser.index, chooser.stride);
                cache.pack((k, v), &self.lens, &Kept::Index(index), rope)
            }
            (_, _, &Method::Streaming { sink, .. }) => {
                cache.pack((k, v), &self.lens, &Kept::Ends { sinks: sink }, rope)
            }
            _ => cache.pack((k, v), &self.lens, &Kept::All, rope),
        }
    }

    fn resident_bytes(&self) -> u64 {
        let one = |copy: &Copy| {
            let raw: u64 = copy.raw.iter().map(Buffer::bytes).sum();
            copy.cache.bytes() + raw + copy.scores.as_ref().map_or(0, Buffer::bytes)
        };
        self.copies.iter().map(one).sum()
    }
}
