//! Compression of one head: outliers aside, quantise, then the low-rank part of the error that is left.

use half::f16;

use super::{
    super::{
        compress::{Grouped, Rule, keys_per_channel, values},
        decode::TILE,
        layout::{Codec, HeadParts, Layout},
        simd::{Job, Simd},
        tile::widen,
    },
    CHANNEL_BITS, Extra, PAD,
    low_rank::low_rank,
    marks::{Marks, mark_keys},
};
use crate::method::{
    Gear,
    gear::{OUTLIER_TILE, Side},
};

/// The job: K and V `[len][d]` of head `head` into its cache.
pub(crate) struct Pack<'a> {
    /// The parameters.
    pub(crate) gear: &'a Gear,
    /// Where things go.
    pub(crate) layout: &'a Layout,
    /// Keys.
    pub(crate) k: &'a [f16],
    /// Values.
    pub(crate) v: &'a [f16],
    /// Outliers of V, all heads of the sequence.
    pub(crate) marks: &'a Marks,
    /// Which of them this is.
    pub(crate) head: usize,
    /// The cache.
    pub(crate) out: HeadParts<'a>,
}

/// Outliers of one side of one head.
struct Found<'a> {
    side: Side,
    marks: &'a Marks,
    /// First word of the head in a token's marks, and how many are its.
    first: usize,
    words: usize,
}

impl Found<'_> {
    /// Calls `take` with every marked channel of a token.
    #[inline(always)]
    fn each(&self, token: usize, mut take: impl FnMut(usize)) {
        for (i, &word) in self.marks.row(token, self.first, self.words).iter().enumerate() {
            let mut word = word;
            while word != 0 {
                take(i * 32 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }

    #[inline(always)]
    fn mean(&self, token: usize, channel: usize) -> f16 {
        match self.side {
            Side::Key => self.marks.means[channel],
            Side::Value => self.marks.means[token],
        }
    }

    /// The rows with means in the place of outliers.
    #[inline(always)]
    fn without(&self, rows: &[f16], d: usize) -> Vec<f16> {
        let mut rows = rows.to_vec();
        for (token, row) in rows.chunks_exact_mut(d).enumerate() {
            self.each(token, |channel| row[channel] = self.mean(token, channel));
        }
        rows
    }
}

impl Job for Pack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pack { gear, layout, k, v, marks, head, out } = self;
        let (d, n) = (layout.d, layout.kq);
        out.k_full.copy_from_slice(&k[n * d..]);
        out.v_full.copy_from_slice(&v[n * d..]);
        let Codec::Int { bits, .. } = layout.codec else { return };
        if n == 0 {
            return;
        }
        let (k, v, words) = (&k[..n * d], &v[..n * d], d / 32);
        let how = Grouped { d, bits, group: gear.group, rule: Rule::Even };
        let mut back = vec![0.0; n * d];
        let marked = mark_keys(gear, k, d);
        let found = Found { side: Side::Key, marks: &marked, first: 0, words };
        let rows = found.without(k, d);
        keys_per_channel(s, &rows, how, out.k_codes, out.k_params, &mut back);
        correct(s, gear, &found, k, d, &mut back, &mut out.extras.keys);
        let found = Found { side: Side::Value, marks, first: head * words, words };
        let rows = found.without(v, d);
        values(s, &rows, how, out.v_codes, out.v_params, &mut back);
        correct(s, gear, &found, v, d, &mut back, &mut out.extras.values);
    }
}

/// Keeps the outliers and the low-rank part of `rows - back`; `back` becomes the error.
#[inline(always)]
fn correct<S: Simd>(
    s: S,
    gear: &Gear,
    found: &Found<'_>,
    rows: &[f16],
    d: usize,
    back: &mut [f32],
    out: &mut Extra,
) {
    let mut wide = vec![0.0; d];
    for (row, back) in rows.chunks_exact(d).zip(back.chunks_exact_mut(d)) {
        widen(s, row, &mut wide);
        back.iter_mut().zip(&wide).for_each(|(back, x)| *back = x - *back);
    }
    take_outliers(found, d, back, out);
    let (a, b) = low_rank(s, back, d, gear.rank, gear.iterations);
    out.b.iter_mut().zip(b).for_each(|(to, x)| *to = f16::from_f32(x));
    out.a.fill(f16::ZERO);
    let n = rows.len() / d;
    for (j, column) in a.chunks_exact(n).enumerate() {
        for (tile, part) in column.chunks(TILE).enumerate() {
            let to = &mut out.a[(tile * gear.rank + j) * TILE..];
            to.iter_mut().zip(part).for_each(|(to, x)| *to = f16::from_f32(*x));
        }
    }
}

/// Moves the outliers' differences out of `error`, which has zeros there afterwards.
#[inline(always)]
fn take_outliers(found: &Found<'_>, d: usize, error: &mut [f32], out: &mut Extra) {
    out.places.clear();
    out.differences.clear();
    let mut tile = Vec::new();
    for (i, error) in error.chunks_mut(OUTLIER_TILE * d).enumerate() {
        out.offsets[i] = out.places.len() as u32;
        tile.clear();
        for (token, error) in error.chunks_exact_mut(d).enumerate() {
            found.each(i * OUTLIER_TILE + token, |channel| {
                let place = (token << CHANNEL_BITS | channel) as u16;
                tile.push((place, f16::from_f32(error[channel])));
                error[channel] = 0.0;
            });
        }
        if found.side == Side::Key {
            tile.sort_by_key(|(place, _)| place.rotate_left(CHANNEL_BITS));
        }
        out.places.extend(tile.iter().map(|(place, _)| place));
        out.differences.extend(tile.iter().map(|(_, difference)| difference));
    }
    if let Some(last) = out.offsets.last_mut() {
        *last = out.places.len() as u32;
    }
    out.differences.resize(out.places.len() + PAD, f16::ZERO);
}
