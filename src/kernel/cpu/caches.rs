//! The caches of all sequences and kv heads, all rotated copies, made in parallel.

use half::f16;
use rayon::prelude::*;

use super::{
    arena::Arena,
    compress::{Compress, kept},
    layout::{HeadParts, HeadRef, Layout},
    simd::Isa,
};
use crate::kernel::data::{Data, Kind, Place, needs_scores};
use crate::{kernel::Shape, method::Method};

/// Caches of one method at one shape.
pub(crate) struct Caches {
    /// One layout per sequence.
    pub(crate) layouts: Vec<Layout>,
    /// Kv heads of a sequence.
    heads: usize,
    /// First byte of each (sequence, head), then the end.
    offsets: Vec<usize>,
    arenas: Vec<Arena>,
}

impl Caches {
    /// Room for `copies` copies.
    pub(crate) fn empty(method: &Method, shape: &Shape, copies: usize) -> anyhow::Result<Caches> {
        let layouts: Vec<Layout> =
            shape.kv_lens.iter().map(|&n| Layout::new(method, n, shape.head_dim)).collect();
        let mut offsets = vec![0];
        for layout in &layouts {
            for _ in 0..shape.heads_kv {
                offsets.push(offsets[offsets.len() - 1] + layout.total);
            }
        }
        let bytes = offsets[offsets.len() - 1];
        let arenas = (0..copies).map(|_| Arena::zeroed(bytes)).collect::<anyhow::Result<_>>()?;
        Ok(Caches { layouts, heads: shape.heads_kv, offsets, arenas })
    }

    /// Makes the data and compresses it, all copies.
    pub(crate) fn fill(&mut self, isa: Isa, method: &Method, shape: &Shape, data: &Data) {
        for copy in 0..self.arenas.len() {
            self.for_each(copy, |seq, head, layout, bytes| {
                let (len, d) = (shape.kv_lens[seq], shape.head_dim);
                let at = Place { copy, seq, head };
                let (mut k, mut v) = (vec![f16::ZERO; len * d], vec![f16::ZERO; len * d]);
                data.fill(Kind::Key, at, d, &mut k);
                data.fill(Kind::Value, at, d, &mut v);
                let scores = if needs_scores(method) { data.scores(at, len) } else { Vec::new() };
                let kept = kept(method, len, &scores);
                let out = HeadParts::new(bytes, layout);
                isa.dispatch(Compress { layout, k: &k, v: &v, kept: kept.as_deref(), out });
            });
        }
    }

    /// Runs `f(seq, head, layout, bytes)` for every head of a copy, in parallel.
    pub(crate) fn for_each(
        &mut self,
        copy: usize,
        f: impl Fn(usize, usize, &Layout, &mut [u8]) + Sync,
    ) {
        let mut rest = self.arenas[copy].bytes_mut();
        let mut pieces = Vec::with_capacity(self.offsets.len() - 1);
        for span in self.offsets.windows(2) {
            let (piece, tail) = rest.split_at_mut(span[1] - span[0]);
            pieces.push(piece);
            rest = tail;
        }
        let (heads, layouts) = (self.heads, &self.layouts);
        pieces.into_par_iter().with_max_len(1).enumerate().for_each(|(i, bytes)| {
            f(i / heads, i % heads, &layouts[i / heads], bytes);
        });
    }

    /// One head's cache.
    pub(crate) fn head(&self, at: Place) -> HeadRef<'_> {
        let i = at.seq * self.heads + at.head;
        let bytes = &self.arenas[at.copy].bytes()[self.offsets[i]..self.offsets[i + 1]];
        HeadRef::new(bytes, &self.layouts[at.seq])
    }

    /// Overwrites a copy with 0xFF: NaN as f16 and as e4m3.
    pub(crate) fn poison(&mut self, copy: usize) {
        self.arenas[copy].bytes_mut().fill(0xFF);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        self.arenas.iter().map(|a| a.bytes().len() as u64).sum()
    }

    /// Rotated copies.
    pub(crate) fn copies(&self) -> usize {
        self.arenas.len()
    }
}
