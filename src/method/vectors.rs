//! Our quantisers against numbers that the published code gave: `tests/vectors`, made by `scripts/vectors.py`.
//!
//! KIVI's code computes in fp16 throughout and GEAR's in f32 with scales that are never rounded, so codes at a rounding tie and
//! last digits differ: the tests say how many and how much.

use serde_json::Value;

use super::{
    Gear,
    gear::{self, Side},
    quant, turbo,
};

fn cases(text: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(text).unwrap();
    all["cases"].as_array().unwrap().clone()
}

fn numbers(case: &Value, key: &str) -> Vec<f64> {
    case[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn count(case: &Value, key: &str) -> usize {
    usize::try_from(case[key].as_u64().unwrap()).unwrap()
}

fn side(case: &Value) -> Side {
    if case["side"] == "k" { Side::Key } else { Side::Value }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |top, x| top.max(x.abs()))
}

fn relative(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let wrong: f64 = got.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum();
    (wrong / expected.iter().map(|x| x * x).sum::<f64>()).sqrt()
}

/// Elements further apart than `tolerance`.
fn far(got: &[f64], expected: &[f64], tolerance: f64) -> usize {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).filter(|(a, b)| (*a - *b).abs() > tolerance).count()
}

#[test]
fn kivi_agrees_with_its_published_code() {
    let cases = cases(include_str!("../../tests/vectors/kivi.json"));
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let (tokens, d, group) =
            (count(case, "tokens"), count(case, "head_dim"), count(case, "group"));
        let bits = u32::try_from(count(case, "bits")).unwrap();
        let x = numbers(case, "x");
        let (scales, mins, codes) =
            (numbers(case, "scale"), numbers(case, "min"), numbers(case, "codes"));
        let mut ties = 0;
        for (i, &code) in codes.iter().enumerate() {
            let (token, channel) = (i / d, i % d);
            let (members, at): (Vec<f64>, usize) = match side(case) {
                Side::Key => {
                    let first = token / group * group;
                    let member = |t: usize| x[(first + t) * d + channel];
                    ((0..group).map(member).collect(), channel * (tokens / group) + token / group)
                }
                Side::Value => {
                    let first = token * d + channel / group * group;
                    (x[first..first + group].to_vec(), token * (d / group) + channel / group)
                }
            };
            let affine = quant::affine(members.into_iter(), bits);
            // An fp16 step either way.
            assert!((affine.scale / scales[at] - 1.0).abs() < 1e-3, "scale {at}");
            assert!((affine.min - mins[at]).abs() <= 1e-3 * mins[at].abs(), "minimum {at}");
            let own = quant::code(x[i], affine, bits);
            assert!((own - code).abs() < 1.5, "code {i}: {own} against {code}");
            ties += usize::from((own - code).abs() > 0.5);
        }
        assert!(ties <= 2, "{ties} of {} codes differ", codes.len());
        let (mut out, expected) = (x.clone(), numbers(case, "out"));
        match side(case) {
            Side::Key => quant::per_channel(&mut out, tokens, d, group, bits),
            Side::Value => quant::per_token(&mut out, tokens, d, group, bits),
        }
        assert!(far(&out, &expected, 1.5e-3 * largest(&x)) <= ties);
    }
}

#[test]
fn gear_agrees_with_its_published_code() {
    let cases = cases(include_str!("../../tests/vectors/gear.json"));
    assert_eq!(cases.len(), 4);
    for case in &cases {
        let (heads, tokens, d) =
            (count(case, "heads"), count(case, "tokens"), count(case, "head_dim"));
        let (group, rank) = (count(case, "group"), count(case, "rank"));
        let bits = u32::try_from(count(case, "bits")).unwrap();
        let (x, base, out) = (numbers(case, "x"), numbers(case, "base"), numbers(case, "out"));
        let p0 = numbers(case, "p0");
        let all: Vec<&[f64]> = x.chunks(tokens * d).collect();
        assert_eq!(all.len(), heads);
        for which in 0..heads {
            let of = |y: &[f64]| y[which * tokens * d..][..tokens * d].to_vec();
            let (x, base, out) = (of(&x), of(&base), of(&out));
            // Outliers and quantisation. The published code leaves tokens beyond the last whole group of K as they are.
            let (mask, means) =
                gear::find_outliers(side(case), &all, which, d, count(case, "outliers"));
            let mut own = gear::replaced(side(case), &x, (&mask, &means), d);
            let whole = if side(case) == Side::Key { tokens / group * group } else { tokens };
            match side(case) {
                Side::Key => quant::per_channel(&mut own, whole, d, group, bits),
                Side::Value => quant::per_token(&mut own, tokens, d, group, bits),
            }
            for i in (0..x.len()).filter(|&i| mask[i]) {
                own[i] = x[i];
            }
            assert!(far(&own, &base, 2e-3 * largest(&x)) <= 1, "quantised values");
            // The power iteration, from the published start and on the published error.
            let error: Vec<f64> = x.iter().zip(&base).map(|(x, base)| x - base).collect();
            let start = &p0[which * d * rank..][..d * rank];
            let (a, b) = gear::low_rank(&error, d, start, count(case, "loop"));
            let own: Vec<f64> = (0..x.len())
                .map(|i| {
                    base[i]
                        + (0..rank).map(|r| a[i / d * rank + r] * b[i % d * rank + r]).sum::<f64>()
                })
                .collect();
            assert!(relative(&own, &out) < 5e-4, "low rank: {}", relative(&own, &out));
            assert!(relative(&base, &out) > 5e-3, "the low-rank term must count for something");
        }
    }
}

#[test]
fn gears_parameters_are_the_papers() {
    let gear = Gear {
        bits: 2,
        group: 64,
        residual: 64,
        rank: 4,
        flush_rank: 2,
        iterations: 3,
        outliers: 0.02,
    };
    // Of a channel by its own length, not by the width of the layer as in the published code.
    assert_eq!(gear.outliers_per_end(1000), 10);
}

#[test]
fn turboquant_agrees_with_vllm() {
    let text = include_str!("../../tests/vectors/turboquant.json");
    let cases = cases(text);
    assert_eq!(cases.len(), 2);
    for case in &cases {
        let d = count(case, "head_dim");
        let deviations = (d as f64).sqrt();
        for (own, point) in turbo::points().iter().zip(numbers(case, "centroids")) {
            assert!((own - point * deviations).abs() < 1e-5, "{own} {}", point * deviations);
        }
        let (k, v) = (numbers(case, "k"), numbers(case, "v"));
        let (k_codes, k_norm) = (numbers(case, "k_codes"), numbers(case, "k_norm"));
        let (v_codes, k_out, v_out) =
            (numbers(case, "v_codes"), numbers(case, "k_out"), numbers(case, "v_out"));
        for (i, (key, value)) in k.chunks(d).zip(v.chunks(d)).enumerate() {
            let row = i * d..(i + 1) * d;
            let (codes, scale) = turbo::key_codes(key);
            assert!(
                codes.iter().zip(&k_codes[row.clone()]).all(|(a, b)| (*a as f64 - *b).abs() < 0.5),
                "keys {i}"
            );
            let chosen = codes.iter().map(|&c| turbo::points()[c].powi(2)).sum::<f64>().sqrt();
            assert!((scale * chosen / k_norm[i] - 1.0).abs() < 1.5e-3, "length {i}");
            let mut own = key.to_vec();
            turbo::key(&mut own);
            assert!(relative(&own, &k_out[row.clone()]) < 1.5e-3, "key {i}");
            let (codes, affine) = turbo::value_codes(value);
            assert_eq!(far(&codes, &v_codes[row.clone()], 0.5), 0, "values {i}");
            assert!((affine.scale - numbers(case, "v_scale")[i]).abs() < 1e-9);
            assert!((affine.min - numbers(case, "v_min")[i]).abs() < 1e-9);
            let mut own = value.to_vec();
            turbo::value(&mut own);
            assert!(far(&own, &v_out[row], 2e-3) == 0, "value {i}");
        }
    }
}
