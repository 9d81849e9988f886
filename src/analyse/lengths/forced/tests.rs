use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    analyse::lengths::ALPHA,
    record::{RequestRow, manifest, parquet::TableRow as _},
};

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// What a server told at place `k` of 4 of a prompt's answer of 80 tokens.
fn row(method: &str, prompt: i64, k: i64, logprob: Option<f64>, floor: f64) -> RequestRow {
    RequestRow {
        cell_id: format!("x/t/{method}/w/l/r0"),
        target: "t".to_owned(),
        method: method.to_owned(),
        workload: "w".to_owned(),
        load: "l".to_owned(),
        request_id: 4 * prompt + k - 1,
        sample_id: format!("s{prompt}"),
        prompt_tokens: Some(10 + 20 * k),
        prompt_sha256: format!("{prompt} {k}"),
        forced_at: Some(k as f64 / 4.0),
        stop_logprob: logprob,
        logprob_floor: Some(floor),
        ..RequestRow::default()
    }
}

/// Four places of each prompt; `logprob` of prompt and place.
fn rows(
    method: &str,
    prompts: i64,
    logprob: &mut dyn FnMut(i64, i64) -> Option<f64>,
) -> Vec<RequestRow> {
    let mut rows = Vec::new();
    for prompt in 0..prompts {
        for k in 1..=4 {
            rows.push(row(method, prompt, k, logprob(prompt, k), -9.0));
        }
    }
    rows
}

fn judged(rows: &[RequestRow]) -> Vec<ForcedPoint> {
    let mut manifest = manifest::example("r", &[]);
    manifest.scenario.baseline = "base".to_owned();
    points(&manifest, &RequestRow::frame(rows).unwrap()).unwrap()
}

fn of<'p>(points: &'p [ForcedPoint], method: &str) -> &'p ForcedPoint {
    points.iter().find(|point| point.point.method == method).unwrap()
}

/// ln p before the end and at it, without noise.
fn typical(prompt: i64, k: i64) -> f64 {
    if k == 4 { -0.7 - 0.01 * (prompt % 5) as f64 } else { -6.0 - 0.1 * (prompt % 7) as f64 }
}

#[test]
fn a_planted_shift_is_found_at_the_end_and_before_it() {
    let mut rng = stats::seeded(3);
    let base = rows("base", 40, &mut |p, k| Some(typical(p, k)));
    let aa = rows("base-aa", 40, &mut |p, k| Some(typical(p, k)));
    let noisy =
        |shift: f64| move |p: i64, k: i64, noise: f64| Some(typical(p, k) + shift + 0.1 * noise);
    let (less, same) = (noisy(-0.3), noisy(0.0));
    let less = rows("less", 40, &mut |p, k| less(p, k, normal(&mut rng)));
    let same = rows("same", 40, &mut |p, k| same(p, k, normal(&mut rng)));
    let points = judged(&[base, aa, less, same].concat());
    let less = of(&points, "less");
    assert_eq!((less.n_prompts, less.pairs.n_exact, less.pairs.n_unknown), (40, 160, 0));
    for gap in [&less.at_end, &less.before] {
        assert_eq!(gap.willing(), Willing::Less, "{gap:?}");
        let found = gap.to_baseline.unwrap();
        assert!((found.value + 0.3).abs() < 0.06, "{found:?}");
        let shift = gap.shift.unwrap();
        assert_eq!((shift.n_controls, shift.n_copies), (0, 1), "the A/A control is a copy");
        assert!(shift.found_at.unwrap() < 0.06, "{shift:?}");
    }
    // 80 tokens at e^-6.3 and the end at e^-0.72: e^-0.3 of both.
    let ratio = less.stops_ratio.unwrap();
    assert!((ratio.value - (-0.3_f64).exp()).abs() < 0.03, "{ratio:?}");
    assert_eq!(of(&points, "same").at_end.willing(), Willing::NotShown);
    let base = of(&points, "base");
    assert!(base.is_baseline() && !base.is_subject() && base.at_end.shift.is_none());
    assert_eq!(base.curve.iter().map(|place| place.at).collect::<Vec<_>>(), [0.25, 0.5, 0.75, 1.0]);
}

#[test]
fn without_an_effect_five_percent_of_the_tests_claim_one() {
    let mut rng = stats::seeded(5);
    let mut claimed = 0;
    for _ in 0..400 {
        // Some sides fall below what is listed.
        let mut drawn = |method: &str| {
            rows(method, 30, &mut |p: i64, k: i64| {
                let logprob = typical(p, k) - 2.0 + normal(&mut rng);
                (logprob > -9.0).then_some(logprob)
            })
        };
        let (base, other) = (drawn("base"), drawn("other"));
        let frame = RequestRow::frame(&[base, other].concat()).unwrap();
        let values = gaps(&Places::of(&frame).unwrap(), 1, &[0], false);
        claimed += usize::from(shift::of_values(&values, &mut rng).unwrap().p <= ALPHA);
    }
    assert!((8..=34).contains(&claimed), "{claimed} of 400");
}

#[test]
fn what_is_not_listed_is_bounded_counted_and_never_zero() {
    let listed = rows("base", 12, &mut |_, _| Some(-2.0));
    // Not listed, and everything listed is likelier than the baseline's: the sign is not known.
    let mut hidden = rows("hidden", 12, &mut |_, _| None);
    hidden.iter_mut().for_each(|row| row.logprob_floor = Some(-1.0));
    let lower = rows("lower", 12, &mut |_, _| None);
    let mut failed = rows("failed", 12, &mut |_, _| Some(-2.0));
    failed[0].err = Some("reset".to_owned());
    // A server's stand-in for minus infinity is no number to average.
    let infinite = rows("infinite", 12, &mut |_, _| Some(-9999.0));
    let points = judged(&[listed, hidden, lower, failed, infinite].concat());
    let hidden = of(&points, "hidden");
    assert_eq!((hidden.pairs.n_unknown, hidden.at_end.to_baseline), (48, None));
    assert_eq!((hidden.at_end.willing(), hidden.stops_ratio), (Willing::TooFew, None));
    let lower = of(&points, "lower");
    assert_eq!(lower.pairs.n_bounded, 48);
    assert!((lower.at_end.to_baseline.unwrap().value + 7.0).abs() < 1e-12);
    assert_eq!(lower.at_end.willing(), Willing::Less);
    assert_eq!(lower.curve[0].n_bounded, 12);
    assert_eq!(of(&points, "failed").pairs, Pairs { n_exact: 47, n_failed: 1, ..Pairs::default() });
    let infinite = of(&points, "infinite").at_end.to_baseline.unwrap();
    assert!((infinite.value + 98.0).abs() < 1e-9, "{infinite:?}");
}

#[test]
fn a_run_without_forced_answers_has_no_points_and_few_prompts_no_claim() {
    let free = RequestRow { sample_id: "s".to_owned(), ..RequestRow::default() };
    assert_eq!(judged(&[free]), []);
    let few = [rows("base", 5, &mut |_, _| Some(-1.0)), rows("other", 5, &mut |_, _| Some(-3.0))];
    let points = judged(&few.concat());
    assert_eq!(of(&points, "other").at_end.willing(), Willing::TooFew);
    assert!(of(&points, "other").at_end.to_baseline.is_some());
}
