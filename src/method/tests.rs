use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{quant, select, *};

const D: usize = 128;

fn kivi(bits: u32, group: usize) -> Method {
    Method::Kivi { bits, group, residual: 128 }
}

fn gear(bits: u32) -> Method {
    let (group, residual, iterations, outliers) = (64, 64, 3, 0.02);
    Method::Gear(Gear { bits, group, residual, rank: 4, flush_rank: 2, iterations, outliers })
}

fn normals(rng: &mut ChaCha8Rng, n: usize) -> Vec<f64> {
    let fp16 = |x: f64| half::f16::from_f64(x).to_f64();
    (0..n).map(|_| fp16(StandardNormal.sample(rng))).collect()
}

fn relative(a: &[f64], b: &[f64]) -> f64 {
    let wrong: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (wrong / b.iter().map(|b| b.powi(2)).sum::<f64>()).sqrt()
}

/// (output, K, V) errors over 8 heads of 2048 tokens of iid normals.
fn errors(method: &Method) -> (f64, f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (len, mut all) = (2048, [const { Vec::new() }; 6]);
    for _ in 0..8 {
        let (k, v, q) =
            (normals(&mut rng, len * D), normals(&mut rng, len * D), normals(&mut rng, D));
        let (mut k2, mut v2) = (k.clone(), v.clone());
        method.round_trip(&mut k2, &mut v2, D);
        all[0].extend(select::attention(&q, &k2, &v2));
        all[1].extend(select::attention(&q, &k, &v));
        for (to, from) in all[2..].iter_mut().zip([k2, k, v2, v]) {
            to.extend(from);
        }
    }
    (relative(&all[0], &all[1]), relative(&all[2], &all[3]), relative(&all[4], &all[5]))
}

/// Bands of `kernels.md` D for Gaussian data, a fifth wider: fewer heads are averaged here.
#[test]
fn errors_lie_in_the_published_bands() {
    for (method, band, stored) in [
        (Method::Int8, (8.3e-3, 8.8e-3), 0.006),
        (Method::Int4, (0.143, 0.147), 0.100),
        (Method::Fp8, (0.037, 0.039), 0.027),
        (kivi(4, 32), (0.106, 0.111), 0.078),
        (kivi(4, 128), (0.138, 0.145), 0.100),
        (kivi(2, 32), (0.57, 0.62), 0.393),
        (kivi(2, 128), (0.73, 0.81), 0.50),
        (gear(4), (0.10, 0.10), 0.074),
        (gear(2), (0.55, 0.57), 0.373),
    ] {
        let (out, k, v) = errors(&method);
        assert!(out > band.0 * 0.8 && out < band.1 * 1.2, "{}: {out}", method.label());
        // 128 of 2048 tokens are residual, 1 of 16: errors shrink by sqrt(15 / 16) at most.
        for stored_error in [k, v] {
            assert!(
                (stored_error / stored - 1.0).abs() < 0.06,
                "{}: {stored_error}",
                method.label()
            );
        }
    }
}

/// Uniform quantiser of n normals: `R_n / (2^b - 1) / sqrt(12)`, R_n the rms range.
#[test]
fn errors_follow_the_closed_form() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (group, range) in [(32, 4.20), (64, 4.73), (128, 5.22)] {
        for bits in [2, 4] {
            let x = normals(&mut rng, 512 * D);
            let mut y = x.clone();
            quant::per_channel(&mut y, 512, D, group, bits);
            let expected = range / f64::from((1 << bits) - 1) / 12_f64.sqrt();
            let got = relative(&y, &x);
            assert!(
                got / expected > 0.93 && got / expected < 1.03,
                "g{group} b{bits}: {got} {expected}"
            );
        }
    }
}

#[test]
fn fp8_knows_its_numbers() {
    for (x, expected) in [
        (448.0, 448.0),
        (1e4, 448.0),
        (-500.0, -448.0),
        (1.0, 1.0),
        (1.0625, 1.0),
        (1.1875, 1.25),
        (17.0, 16.0),
        (0.001_953_125, 0.001_953_125),
        (0.000_976_562_5, 0.0),
        (0.003, 0.003_906_25),
        (0.015_625, 0.015_625),
    ] {
        assert!((quant::fp8_e4m3(x) - expected).abs() < 1e-12, "{x}: {}", quant::fp8_e4m3(x));
    }
}

#[test]
fn bytes_per_token_match_the_published_table() {
    for (method, bytes) in [
        (Method::Fp16, 512.0),
        (Method::Fp8, 256.0),
        (Method::Int8, 264.0),
        (Method::Int4, 136.0),
        (kivi(4, 32), 160.0),
        (kivi(4, 64), 144.0),
        (kivi(4, 128), 136.0),
        (kivi(2, 32), 96.0),
        (kivi(2, 64), 80.0),
        (kivi(2, 128), 72.0),
        (Method::Turboquant4, 134.0),
        (Method::H2o { heavy: 1, recent: 1 }, 516.0),
    ] {
        assert!((method.bytes_per_token_head(D) - bytes).abs() < 1e-9, "{}", method.label());
    }
}

#[test]
fn turboquant_turns_keys_and_not_values() {
    let (out, k, v) = errors(&Method::Turboquant4);
    assert!(out > 0.14 * 0.8 && out < 0.14 * 1.2, "{out}");
    assert!((k / 0.096 - 1.0).abs() < 0.06 && (v / 0.100 - 1.0).abs() < 0.06, "{k} {v}");
    let mut row = normals(&mut ChaCha8Rng::seed_from_u64(2), D);
    let before = row.clone();
    turbo::rotate(&mut row);
    assert!(relative(&row, &before) > 0.5, "nothing was turned");
    turbo::rotate(&mut row);
    assert!(relative(&row, &before) < 1e-12);
}

#[test]
fn turboquant_keeps_the_length_of_keys() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    for _ in 0..20 {
        let row = normals(&mut rng, D);
        let mut back = row.clone();
        turbo::key(&mut back);
        assert!((length(&back) / length(&row) - 1.0).abs() < 5e-4);
    }
    let mut nothing = vec![0.0; D];
    turbo::key(&mut nothing);
    assert!(nothing.iter().all(|x| x.abs() < 1e-12));
}

#[test]
fn gear_counts_what_it_keeps() {
    let Method::Gear(gear) = gear(2) else { panic!("asked for GEAR") };
    assert_eq!(gear.outliers_per_end(4096), 40);
    assert_eq!(gear.outliers_per_end(300), 3);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let heads: Vec<Vec<f64>> = (0..2).map(|_| normals(&mut rng, 256 * D)).collect();
    let heads: Vec<&[f64]> = heads.iter().map(Vec::as_slice).collect();
    for (side, expected) in [(gear::Side::Key, 2 * 2 * 2 * D), (gear::Side::Value, 2 * 2 * 256)] {
        let stored = gear.compress(side, &heads, D, 4);
        assert_eq!(stored.iter().map(|s| s.outliers.len()).sum::<usize>(), expected, "{side:?}");
        for (stored, head) in stored.iter().zip(&heads) {
            // Rounding of the factors aside, A's columns are orthonormal.
            for (i, j) in [(0, 0), (0, 1), (2, 3), (3, 3)] {
                let dot: f64 = stored.a.chunks(4).map(|row| row[i] * row[j]).sum();
                assert!((dot - if i == j { 1.0 } else { 0.0 }).abs() < 1e-3, "{i} {j} {dot}");
            }
            for &(i, difference) in &stored.outliers {
                assert!((stored.quantised[i] + difference - head[i]).abs() < 2e-3);
            }
        }
    }
    // 80 bytes as KIVI-2, 16 of factors, 20.48 of outliers, one of their table.
    let whole = Method::Gear(gear).cache_bytes(64 * 1024, 32, D) as f64 / (32.0 * 64.0 * 1024.0);
    assert!((Method::Gear(gear).bytes_per_token_head(D) - 117.48).abs() < 0.01);
    assert!((whole - 117.48).abs() < 0.5, "{whole}");
}

#[test]
fn gear_survives_data_without_an_error_to_approximate() {
    let Method::Gear(gear) = gear(4) else { panic!("asked for GEAR") };
    let flat = vec![1.5; 64 * D];
    let stored = gear.compress(gear::Side::Key, &[&flat], D, 4);
    assert!(stored[0].restored(D).iter().all(|x| (x - 1.5).abs() < 1e-12));
}

#[test]
fn kivi_boundaries() {
    for (len, k, v) in
        [(1, 0, 0), (127, 0, 0), (128, 128, 0), (129, 128, 1), (255, 128, 127), (256, 256, 128)]
    {
        assert_eq!(kivi(4, 32).quantised_tokens(len), (k, v), "L = {len}");
        let quantised = (k + v) as u64;
        let expected = quantised * 80 + (2 * len as u64 - quantised) * 256;
        assert_eq!(kivi(4, 32).cache_bytes(len, 1, D), expected, "L = {len}");
    }
}

#[test]
fn kept_sets() {
    assert_eq!(select::streaming(10, 2, 3), [0, 1, 7, 8, 9]);
    assert_eq!(select::streaming(4, 2, 3), [0, 1, 2, 3]);
    assert_eq!(select::h2o(&[0.1, 0.9, 0.3, 0.8, 0.0, 0.0], 2, 2), [1, 3, 4, 5]);
    assert_eq!(select::snapkv(&[0.1, 0.9, 0.9, 0.8], 6, 2, 3), [1, 4, 5]);
    assert_eq!(select::snapkv(&[], 3, 2, 3), [0, 1, 2]);
    let mut acc = vec![1.0, 0.5, 0.4, 0.1];
    assert_eq!(select::h2o_step(&mut acc, &[0.0, 0.0, 0.2, 0.8], 1), Some(1));
    assert_eq!(select::h2o_step(&mut acc, &[0.0; 4], 4), None);
}

#[test]
fn pooling_pads_like_torch() {
    let avg = select::pool(&[3.0, 0.0, 0.0, 6.0], Pooling::Avg, 3);
    assert!(avg.iter().zip([1.0, 1.0, 2.0, 2.0]).all(|(a, b)| (a - b).abs() < 1e-12));
    let max = select::pool(&[3.0, 0.0, 0.0, 6.0], Pooling::Max, 3);
    assert!(max.iter().zip([3.0, 3.0, 6.0, 6.0]).all(|(a, b)| (a - b).abs() < 1e-12));
}

#[test]
fn column_scores_add_up_to_the_queries() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (q, k) = (normals(&mut rng, 2 * 20 * 16), normals(&mut rng, 20 * 16));
    assert!((select::column_scores(&q, &k, 16, 0).iter().sum::<f64>() - 20.0).abs() < 1e-9);
    assert!((select::column_scores(&q, &k, 16, 15).iter().sum::<f64>() - 5.0).abs() < 1e-9);
}

#[test]
fn bad_parameters_are_named() {
    let Method::Gear(good) = gear(4) else { panic!("asked for GEAR") };
    let snapkv = |window, budget, pool_width| Method::Snapkv {
        window,
        budget,
        pooling: Pooling::Avg,
        pool_width,
    };
    for (method, key) in [
        (Method::Kivi { bits: 3, group: 32, residual: 128 }, "bits"),
        (Method::Kivi { bits: 4, group: 24, residual: 128 }, "group"),
        (Method::Kivi { bits: 4, group: 256, residual: 256 }, "group"),
        (Method::Kivi { bits: 4, group: 32, residual: 100 }, "residual"),
        (Method::Kivi { bits: 4, group: 32, residual: 0 }, "residual"),
        (Method::Gear(Gear { rank: 3, ..good }), "rank"),
        (Method::Gear(Gear { flush_rank: 10, ..good }), "flush_rank"),
        (Method::Gear(Gear { iterations: 0, ..good }), "iterations"),
        (Method::Gear(Gear { outliers: 0.5, ..good }), "outliers"),
        (Method::Streaming { sink: 4, window: 0 }, "window"),
        (Method::H2o { heavy: 0, recent: 4 }, "heavy"),
        (Method::H2o { heavy: 4, recent: 0 }, "recent"),
        (snapkv(0, 4, 5), "window"),
        (snapkv(4, 4, 5), "budget"),
        (snapkv(4, 8, 4), "pool_width"),
    ] {
        let message = method.check().unwrap_err();
        assert!(message.starts_with(&format!("{key}: expected")), "{message}");
    }
    assert!(kivi(4, 128).check_head_dim(64).is_err());
    assert!(kivi(4, 64).check_head_dim(64).is_ok());
}

#[test]
fn constant_groups_come_back() {
    let mut x = vec![0.5; 64];
    quant::per_token(&mut x, 1, 64, 32, 2);
    assert!(x.iter().all(|x| (x - 0.5).abs() < 1e-12));
}

proptest! {
    #[test]
    fn round_trip_errs_by_half_a_step(seed: u64, bits in prop::sample::select(vec![2_u32, 4, 8])) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x: Vec<f64> = (0..32).map(|_| half::f16::from_f64(rng.random_range(-50.0..50.0)).to_f64()).collect();
        let affine = quant::affine(x.iter().copied(), bits);
        let levels = f64::from((1_u32 << bits) - 1);
        for x in x {
            let back = quant::code(x, affine, bits) * affine.scale + affine.min;
            // The scale is rounded to fp16: the top of the range may miss by its rounding error times the levels.
            prop_assert!((back - x).abs() <= affine.scale * (0.5 + levels * 0.0005) + 1e-9);
        }
    }

    #[test]
    fn fp8_is_nearest(x in -500.0_f64..500.0) {
        let y = quant::fp8_e4m3(x);
        prop_assert!((quant::fp8_e4m3(y) - y).abs() < 1e-12);
        prop_assert!((y - x.clamp(-448.0, 448.0)).abs() <= (x.abs() / 16.0).max(0.001));
    }

    #[test]
    fn caches_never_grow_beyond_fp16_and_a_score(len in 1_usize..3000) {
        for method in [kivi(4, 32), kivi(2, 128), Method::Int4, Method::Int8, Method::Streaming { sink: 4, window: 100 }] {
            prop_assert!(method.cache_bytes(len, 1, D) <= Method::Fp16.cache_bytes(len, 1, D));
            prop_assert!(method.ideal_speedup(len, 1, D) >= 1.0);
            let (k, v) = method.quantised_tokens(len);
            prop_assert!(k <= len && v <= len);
        }
    }

    #[test]
    fn kept_sets_are_ascending_and_sized(len in 1_usize..200, a in 1_usize..40, b in 1_usize..40) {
        let scores: Vec<f64> = (0..len).map(|i| ((i * 7919) % 101) as f64).collect();
        for (set, method) in [
            (select::streaming(len, a, b), Method::Streaming { sink: a, window: b }),
            (select::h2o(&scores, a, b), Method::H2o { heavy: a, recent: b }),
        ] {
            prop_assert_eq!(set.len(), method.kept_tokens(len));
            prop_assert!(set.windows(2).all(|w| w[0] < w[1]));
            prop_assert_eq!(set[set.len() - 1], len - 1);
        }
    }
}
