use super::{
    super::simd::{Isa, Job, Simd},
    low_rank::low_rank,
    marks::Finder,
    *,
};
use crate::{
    kernel::data::{Data, Kind, Place},
    method::{gear, select},
};

const AT: Place = Place { copy: 0, seq: 0, head: 0 };

/// Ends as the reference finds them, ascending.
fn reference_ends(x: &[f16], count: usize) -> Vec<usize> {
    let up: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
    let down: Vec<f64> = up.iter().map(|x| -x).collect();
    let mut found = select::top(&up, count);
    found.extend(select::top(&down, count));
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn ends_are_the_reference_s_with_ties() {
    let (data, mut finder) = (Data::new(3), Finder::default());
    // Coarser and coarser values: from no ties to nothing but ties; zeros of either sign.
    for coarse in [0.0, 1.0, 4.0, 16.0] {
        for (row, width) in [(0, 64), (1, 96), (2, 1000)] {
            let round = |x: &f16| match coarse {
                c if c > 0.0 => f16::from_f32((x.to_f32() * 8.0 / c).round() * c),
                _ => *x,
            };
            let x: Vec<f16> = data.row(Kind::Key, AT, row, width).iter().map(round).collect();
            for count in [0, 1, 2, width / 8, width / 4] {
                let mut found = Vec::new();
                finder.take(x.iter().copied());
                finder.ends(count, |i| found.push(i));
                assert_eq!(found, reference_ends(&x, count), "{coarse} {width} {count}");
            }
        }
    }
}

/// The power iteration as a job, so that it runs on every instruction set.
#[derive(Clone)]
struct Iterate<'a>(&'a [f32], usize, usize);

impl Job for Iterate<'_> {
    type Out = (Vec<f32>, Vec<f32>);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        low_rank(s, self.0, self.1, self.2, 3)
    }
}

/// `A B^T` from columns.
fn expanded(a: &[f64], b: &[f64], n: usize, d: usize) -> Vec<f64> {
    let one = |i: usize, j: usize| a[j * n + i / d] * b[j * d + i % d];
    (0..n * d).map(|i| (0..a.len() / n).map(|j| one(i, j)).sum()).collect()
}

#[test]
fn low_rank_is_the_reference_s() {
    let data = Data::new(5);
    for (n, d, rank) in [(8, 64, 2), (40, 96, 4), (64, 128, 6), (200, 64, 8)] {
        let error = data.rows_f64(Kind::Value, AT, n, d);
        let narrow: Vec<f32> = error.iter().map(|x| *x as f32).collect();
        let columns = |x: &[f64], len: usize| -> Vec<f64> {
            (0..rank * len).map(|i| x[i % len * rank + i / len]).collect()
        };
        let (a, b) = gear::low_rank(&error, d, &gear::start(d, rank), 3);
        let expected = expanded(&columns(&a, n), &columns(&b, d), n, d);
        for isa in Isa::available() {
            let (a, b) = isa.dispatch(Iterate(&narrow, d, rank));
            let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<_>>();
            let got = expanded(&wide(a), &wide(b), n, d);
            let wrong = crate::kernel::check::relative(got.into_iter(), &expected);
            assert!(wrong < 1e-4, "{isa:?} {n} {d} {rank}: {wrong}");
        }
    }
}

#[test]
fn an_error_of_lower_rank_leaves_zero_columns() {
    // One row repeated: rank 1.
    let row: Vec<f32> = (0..64).map(|i| (i as f32 - 30.0) / 7.0).collect();
    let error: Vec<f32> = row.iter().copied().cycle().take(16 * 64).collect();
    for isa in Isa::available() {
        let (a, b) = isa.dispatch(Iterate(&error, 64, 4));
        assert!(a.iter().chain(&b).all(|x| x.is_finite()));
        let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<_>>();
        let got = expanded(&wide(a), &wide(b), 16, 64);
        let expected: Vec<f64> = error.iter().map(|x| f64::from(*x)).collect();
        let wrong = crate::kernel::check::relative(got.into_iter(), &expected);
        assert!(wrong < 1e-5, "{isa:?}: {wrong}");
    }
}

#[test]
fn bytes_held_are_those_counted_up_to_padding() {
    let method = Gear {
        bits: 2,
        group: 64,
        residual: 64,
        rank: 4,
        flush_rank: 2,
        iterations: 3,
        outliers: 0.02,
    };
    let extras = Extras::new(&method, 4096, 8, 128);
    // Per token: 16 bytes of factors, 10.24 (K) and 10.16 (V) of outliers, half a byte of offsets; a quarter more for V.
    let per_token = extras.bytes() as f64 / 4096.0;
    assert!((36.0..40.0).contains(&per_token), "{per_token}");
}
