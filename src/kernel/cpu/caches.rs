//! The caches of all sequences and kv heads, all rotated copies, made in parallel.

use half::f16;
use rayon::prelude::*;

use super::{
    arena::Arena,
    compress::{Input, compress},
    gear::{Extras, Marks, mark_values},
    layout::{HeadParts, HeadRef, Layout},
    simd::Isa,
};
use crate::kernel::data::{Data, Kind, Place};
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
    /// What GEAR keeps beside its codes, by copy, sequence and head.
    extras: Vec<Vec<Extras>>,
}

/// Outliers of V of every sequence where the method is GEAR, else nothing; `row(seq, head, token)` gives V.
pub(crate) fn marks<'a>(
    isa: Isa,
    method: &Method,
    shape: &Shape,
    row: impl Fn(usize, usize, usize) -> &'a [f16] + Sync,
) -> Vec<Marks> {
    let Method::Gear(gear) = method else { return Vec::new() };
    let mark = |(seq, &len): (usize, &usize)| {
        let n = method.quantised_tokens(len).1;
        let size = (n, shape.heads_kv, shape.head_dim);
        mark_values(isa, gear, size, |head, token| row(seq, head, token))
    };
    shape.kv_lens.iter().enumerate().map(mark).collect()
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
        let extras = |layout: &Layout| match method {
            Method::Gear(gear) => Extras::new(gear, layout.kq, shape.heads_kv, layout.d),
            _ => Extras::default(),
        };
        let copy = |_| {
            let heads = |layout| std::iter::repeat_with(move || extras(layout));
            layouts.iter().flat_map(|layout| heads(layout).take(shape.heads_kv)).collect()
        };
        let extras = (0..copies).map(copy).collect();
        Ok(Caches { layouts, heads: shape.heads_kv, offsets, arenas, extras })
    }

    /// Makes the data and compresses it, all copies.
    pub(crate) fn fill(&mut self, isa: Isa, method: &Method, shape: &Shape, data: &Data) {
        for copy in 0..self.arenas.len() {
            let marks = marks(isa, method, shape, |seq, head, token| {
                data.row(Kind::Value, Place { copy, seq, head }, token, shape.head_dim)
            });
            self.for_each(copy, |seq, head, layout, out| {
                let input = Input::new(method, shape, data, Place { copy, seq, head });
                compress(isa, method, layout, &input, (marks.get(seq), head), out);
            });
        }
    }

    /// Runs `f(seq, head, layout, parts)` for every head of a copy, in parallel.
    pub(crate) fn for_each(
        &mut self,
        copy: usize,
        f: impl Fn(usize, usize, &Layout, HeadParts<'_>) + Sync,
    ) {
        let mut rest = self.arenas[copy].bytes_mut();
        let mut pieces = Vec::with_capacity(self.offsets.len() - 1);
        for span in self.offsets.windows(2) {
            let (piece, tail) = rest.split_at_mut(span[1] - span[0]);
            pieces.push(piece);
            rest = tail;
        }
        let (heads, layouts) = (self.heads, &self.layouts);
        let pieces = pieces.into_par_iter().zip(&mut self.extras[copy]);
        pieces.with_max_len(1).enumerate().for_each(|(i, (bytes, extras))| {
            let layout = &layouts[i / heads];
            f(i / heads, i % heads, layout, HeadParts::new(bytes, layout, extras));
        });
    }

    /// One head's cache.
    pub(crate) fn head(&self, at: Place) -> HeadRef<'_> {
        let i = at.seq * self.heads + at.head;
        let bytes = &self.arenas[at.copy].bytes()[self.offsets[i]..self.offsets[i + 1]];
        HeadRef::new(bytes, &self.layouts[at.seq], &self.extras[at.copy][i])
    }

    /// Overwrites a copy with 0xFF: NaN as f16 and as e4m3.
    pub(crate) fn poison(&mut self, copy: usize) {
        self.arenas[copy].bytes_mut().fill(0xFF);
        self.extras[copy].iter_mut().for_each(Extras::poison);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        let extras: usize = self.extras.iter().flatten().map(Extras::bytes).sum();
        self.arenas.iter().map(|a| a.bytes().len() as u64).sum::<u64>() + extras as u64
    }

    /// Rotated copies.
    pub(crate) fn copies(&self) -> usize {
        self.arenas.len()
    }
}
