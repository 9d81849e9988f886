//! Products of a tile of rows with queries and with weights, for rows that load as f32 (f16, e4m3, f32).

use super::simd::{Element, Simd};

/// Memory to ask for while computing: one line per 64 bytes of what is consumed.
pub(crate) struct Ahead {
    at: *const u8,
    end: *const u8,
}

impl Ahead {
    /// Nothing to fetch.
    pub(crate) fn none() -> Ahead {
        Ahead { at: std::ptr::null(), end: std::ptr::null() }
    }

    /// The bytes of a slice.
    pub(crate) fn of<T>(x: &[T]) -> Ahead {
        let range = x.as_ptr_range();
        Ahead { at: range.start.cast(), end: range.end.cast() }
    }

    /// Where the next `bytes` begin, for a primitive that asks for them itself.
    #[inline(always)]
    pub(crate) fn take(&mut self, bytes: usize) -> *const u8 {
        let at = self.at;
        self.at = at.wrapping_add(bytes).min(self.end);
        at
    }

    /// Asks for the next `bytes`.
    #[inline(always)]
    pub(crate) fn advance<S: Simd>(&mut self, s: S, bytes: usize) {
        let stop = self.at.wrapping_add(bytes).min(self.end);
        while self.at < stop {
            s.prefetch(self.at);
            self.at = self.at.wrapping_add(64);
        }
    }
}

/// `n` rows of `d` values.
pub(crate) struct Rows<E> {
    /// First row.
    pub(crate) start: *const E,
    /// Number of rows, at least 1.
    pub(crate) n: usize,
    /// Values in a row, a multiple of 32.
    pub(crate) d: usize,
}

impl<E> Rows<E> {
    /// Rows of a slice.
    pub(crate) fn of(x: &[E], d: usize) -> Self {
        Self { start: x.as_ptr(), n: x.len() / d, d }
    }

    /// Four rows from `t`; past the end the last row stands in, so that no tail needs its own code.
    #[inline(always)]
    fn four(&self, t: usize) -> [*const E; 4] {
        // SAFETY: the index is below `n`.
        std::array::from_fn(|i| unsafe { self.start.add((t + i).min(self.n - 1) * self.d) })
    }
}

/// `out[h * stride + t] = q[h] . row[t] * gain` for `heads` queries of `d` values. `out` is written in fours.
///
/// # Safety
/// Rows, queries and `out` are valid at those sizes, `out` at `n` rounded up to 4 for each head.
#[inline(always)]
pub(crate) unsafe fn scores<S: Simd, E: Element>(
    s: S,
    rows: &Rows<E>,
    q: *const f32,
    heads: usize,
    out: *mut f32,
    stride: usize,
    ahead: &mut Ahead,
) {
    let mut h = 0;
    // SAFETY: the caller's promise, for heads below `heads`.
    unsafe {
        while h + 2 <= heads {
            score_heads::<S, E, 2>(s, rows, q.add(h * rows.d), out.add(h * stride), stride, ahead);
            h += 2;
        }
        if h < heads {
            score_heads::<S, E, 1>(s, rows, q.add(h * rows.d), out.add(h * stride), stride, ahead);
        }
    }
}

#[inline(always)]
unsafe fn score_heads<S: Simd, E: Element, const H: usize>(
    s: S,
    rows: &Rows<E>,
    q: *const f32,
    out: *mut f32,
    stride: usize,
    ahead: &mut Ahead,
) {
    for t in (0..rows.n).step_by(4) {
        ahead.advance(s, 4 * rows.d * size_of::<E>());
        let four = rows.four(t);
        let mut acc = [[s.splat(0.0); 4]; H];
        for c in (0..rows.d).step_by(S::LANES) {
            // SAFETY: `c + LANES <= d`, in the rows and in each query.
            unsafe {
                let k = [
                    E::load(s, four[0].add(c)),
                    E::load(s, four[1].add(c)),
                    E::load(s, four[2].add(c)),
                    E::load(s, four[3].add(c)),
                ];
                for (h, acc) in acc.iter_mut().enumerate() {
                    let query = s.load(q.add(h * rows.d + c));
                    for i in 0..4 {
                        acc[i] = s.fma(k[i], query, acc[i]);
                    }
                }
            }
        }
        for (h, acc) in acc.into_iter().enumerate() {
            let sums = s.sums(acc);
            for (i, sum) in sums.into_iter().enumerate() {
                // SAFETY: `out` is valid for fours.
                unsafe { *out.add(h * stride + t + i) = sum * E::GAIN };
            }
        }
    }
}

/// `o[h * o_stride + c] += sum_t p[h * p_stride + t] * row[t][c]` for `heads` heads; the weights already carry the gain.
///
/// # Safety
/// Rows, weights and `o` are valid at those sizes.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two strided matrices and where they lie")]
pub(crate) unsafe fn weighted<S: Simd, E: Element>(
    s: S,
    rows: &Rows<E>,
    p: *const f32,
    p_stride: usize,
    heads: usize,
    o: *mut f32,
    o_stride: usize,
    ahead: &mut Ahead,
) {
    let mut h = 0;
    // SAFETY: the caller's promise, for heads below `heads`.
    unsafe {
        while h + 2 <= heads {
            weigh_heads::<S, E, 2>(
                s,
                rows,
                p.add(h * p_stride),
                p_stride,
                o.add(h * o_stride),
                o_stride,
                ahead,
            );
            h += 2;
        }
        if h < heads {
            weigh_heads::<S, E, 1>(
                s,
                rows,
                p.add(h * p_stride),
                p_stride,
                o.add(h * o_stride),
                o_stride,
                ahead,
            );
        }
    }
}

#[inline(always)]
unsafe fn weigh_heads<S: Simd, E: Element, const H: usize>(
    s: S,
    rows: &Rows<E>,
    p: *const f32,
    p_stride: usize,
    o: *mut f32,
    o_stride: usize,
    ahead: &mut Ahead,
) {
    let wide = 4 * S::LANES;
    let mut c = 0;
    // SAFETY: columns `c..c + 4 * LANES`, then the rest by `LANES`, are inside a row: `d` is a multiple of 32.
    unsafe {
        while c + wide <= rows.d {
            weigh_columns::<S, E, H, 4>(s, rows, c, p, p_stride, o.add(c), o_stride, ahead);
            c += wide;
        }
        while c < rows.d {
            weigh_columns::<S, E, H, 1>(s, rows, c, p, p_stride, o.add(c), o_stride, ahead);
            c += S::LANES;
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "two strided matrices and where they lie")]
unsafe fn weigh_columns<S: Simd, E: Element, const H: usize, const C: usize>(
    s: S,
    rows: &Rows<E>,
    c: usize,
    p: *const f32,
    p_stride: usize,
    o: *mut f32,
    o_stride: usize,
    ahead: &mut Ahead,
) {
    let mut acc = [[s.splat(0.0); C]; H];
    for t in 0..rows.n {
        ahead.advance(s, C * S::LANES * size_of::<E>());
        // SAFETY: row `t` and weight `t` exist; the columns are the caller's promise.
        unsafe {
            let row = rows.start.add(t * rows.d + c);
            let mut v = [s.splat(0.0); C];
            for (i, v) in v.iter_mut().enumerate() {
                *v = E::load(s, row.add(i * S::LANES));
            }
            for (h, acc) in acc.iter_mut().enumerate() {
                let weight = s.splat(*p.add(h * p_stride + t));
                for i in 0..C {
                    acc[i] = s.fma(v[i], weight, acc[i]);
                }
            }
        }
    }
    for (h, acc) in acc.into_iter().enumerate() {
        for (i, sum) in acc.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let at = o.add(h * o_stride + i * S::LANES);
                s.store(at, s.fma(s.splat(1.0), sum, s.load(at)));
            }
        }
    }
}

/// f16 to f32.
#[inline(always)]
pub(crate) fn widen<S: Simd>(s: S, from: &[half::f16], to: &mut [f32]) {
    assert!(from.len() <= to.len() && from.len().is_multiple_of(S::LANES));
    for i in (0..from.len()).step_by(S::LANES) {
        // SAFETY: `i + LANES` is within both.
        unsafe { s.store(to.as_mut_ptr().add(i), s.load_f16(from.as_ptr().add(i))) };
    }
}
