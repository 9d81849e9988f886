use std::collections::BTreeMap;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    record::{RequestRow, manifest, parquet::TableRow as _},
    stats,
};

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Prompts of very different lengths, each answered `n` times with the same spread; the first answer is of the method.
fn blocks(
    rng: &mut ChaCha8Rng,
    prompts: usize,
    n: usize,
    sigma: f64,
    factor: f64,
) -> Vec<shift::Block> {
    let block = |_| {
        let typical = 4.0 + normal(rng);
        let own = vec![typical + factor.ln() + sigma * normal(rng)];
        let others = (1..n).map(|_| typical + sigma * normal(rng)).collect();
        shift::Block { own, others }
    };
    (0..prompts).map(block).collect()
}

#[test]
fn without_an_effect_five_percent_of_the_tests_claim_one() {
    let mut rng = stats::seeded(11);
    let (mut shifts, mut spreads, mut copied) = (0, 0, 0);
    for _ in 0..2000 {
        let mut blocks = blocks(&mut rng, 30, 3, 0.4, 1.0);
        let p = |blocks: &[shift::Block], statistic| {
            shift::against(blocks, &mut stats::seeded(1), statistic).unwrap().p
        };
        shifts += usize::from(p(&blocks, shift::longer) <= ALPHA);
        spreads += usize::from(p(&blocks, shift::long_share) <= ALPHA);
        // Controls and repeats that are copies add nothing to what is known.
        for block in &mut blocks {
            block.others = vec![block.others[0]; 4];
            block.own = vec![block.own[0]; 2];
        }
        copied += usize::from(p(&blocks, shift::longer) <= ALPHA);
    }
    let percent = |n: usize| n as f64 / 20.0;
    for claimed in [shifts, copied] {
        assert!((3.5..=6.5).contains(&percent(claimed)), "{} % of 2000", percent(claimed));
    }
    // Counts of few prompts are coarse, so that the test may claim less; never more.
    assert!((2.0..=6.5).contains(&percent(spreads)), "{} % of 2000", percent(spreads));
}

#[test]
fn a_planted_shift_is_found_as_often_as_is_told() {
    let mut rng = stats::seeded(12);
    let (mut found, mut told) = (0, Vec::new());
    for _ in 0..200 {
        let blocks = blocks(&mut rng, 100, 3, 0.277, 1.1);
        let against = shift::against(&blocks, &mut rng, shift::longer).unwrap();
        found += usize::from(against.p <= ALPHA);
        told.push(against.found_at.unwrap());
    }
    // With this spread 80 % of such runs should find a tenth more.
    let told = stats::mean(&told).unwrap();
    assert!((told - 1.1_f64.ln()).abs() < 0.004, "{told}");
    assert!((72.0..=88.0).contains(&(found as f64 / 2.0)), "{found} of 200");
}

/// One answer.
fn row(method: &str, repeat: i64, prompt: i64, tokens: i64) -> RequestRow {
    RequestRow {
        cell_id: format!("x/t/{method}/w/l/r{repeat}"),
        target: "t".to_owned(),
        method: method.to_owned(),
        workload: "w".to_owned(),
        load: "l".to_owned(),
        repeat,
        request_id: prompt,
        sample_id: format!("s{prompt}"),
        sent_ns: Some(1000),
        last_token_ns: Some(1000 + 10 * tokens.max(1)),
        output_tokens: Some(tokens),
        max_tokens: 1000,
        finish_reason: Some("stop".to_owned()),
        output_text: "x".repeat(tokens as usize),
        prompt_sha256: format!("{prompt}"),
        ..RequestRow::default()
    }
}

fn judged(rows: &[RequestRow], baseline: &str) -> Vec<LengthPoint> {
    let mut manifest = manifest::example("r", &[]);
    manifest.scenario.baseline = baseline.to_owned();
    let requests = RequestRow::frame(rows).unwrap();
    points(Source { manifest: &manifest, requests: &requests, encode: None }).unwrap()
}

#[test]
fn lengths_are_paired_by_prompt_and_what_has_none_is_counted() {
    let mut rows = Vec::new();
    for prompt in 0..20 {
        rows.push(row("base", 0, prompt, 100));
        rows.push(row("half", 0, prompt, 50));
    }
    let at = |rows: &mut Vec<RequestRow>, prompt: i64| {
        rows.iter_mut().position(|row| row.method == "half" && row.request_id == prompt).unwrap()
    };
    let indices: Vec<usize> = (0..6).map(|prompt| at(&mut rows, prompt)).collect();
    rows[indices[0]].err = Some("reset".to_owned());
    rows[indices[1]].output_tokens = None;
    rows[indices[2]].finish_reason = Some("length".to_owned());
    rows[indices[3]].prompt_sha256 = "other".to_owned();
    rows[indices[4]].output_tokens = Some(0);
    rows[indices[5]].output_tokens = Some(400);
    rows[indices[5]].max_tokens = 400;
    rows[indices[5]].finish_reason = Some("length".to_owned());
    let points = judged(&rows, "base");
    let [half] = &points[..] else { panic!("{points:?}") };
    assert_eq!((half.n_pairs, half.n_prompts), (16, 16));
    let expected = BTreeMap::from([
        (Unusable::Failed, 1),
        (Unusable::Uncounted, 1),
        (Unusable::ContextFull, 1),
        (Unusable::OtherPrompt, 1),
    ]);
    assert_eq!(half.excluded, expected);
    assert_eq!((half.n_empty, half.n_dropped_by_paper, half.n_without_d), ((1, 0), 1, 0));
    // 14 of 15 ratios are a half, one is 4.
    let geometric = ((14.0 * 0.5_f64.ln() + 4.0_f64.ln()) / 15.0).exp();
    assert!((half.ratio.value - geometric).abs() < 1e-12, "{:?}", half.ratio);
    assert!((half.short.value - 15.0 / 16.0).abs() < 1e-12, "an empty answer is short");
    assert!((half.long.value - 1.0 / 16.0).abs() < 1e-12);
    assert!((half.capped.0 - 1.0 / 16.0).abs() < 1e-12 && half.capped.1.abs() < 1e-12);
    assert_eq!(half.divergence.n_compared, 16);
    assert!(half.is_subject() && half.shift.unwrap().n_controls == 0);
}

#[test]
fn time_is_length_times_time_a_token() {
    let mut rng = stats::seeded(5);
    let mut rows = Vec::new();
    for prompt in 0..40 {
        let tokens = rng.random_range(10..500);
        rows.push(row("base", 0, prompt, tokens));
        let mut slow = row("slow", 0, prompt, rng.random_range(10..500));
        slow.last_token_ns = Some(1000 + rng.random_range(100..10_000));
        rows.push(slow);
    }
    let points = judged(&rows, "base");
    let parts = points[0].e2e.unwrap();
    let product = parts.length.value * parts.per_token.value;
    assert!((parts.e2e.value / product - 1.0).abs() < 1e-12, "{parts:?}");
    let (low, high) = parts.length.interval.unwrap();
    assert!(low < parts.length.value && parts.length.value < high);
}

#[test]
fn repeats_of_the_baseline_are_a_control() {
    let mut rng = stats::seeded(6);
    let mut rows = Vec::new();
    for repeat in 0..3 {
        for prompt in 0..50 {
            let mut draw = |by: f64| ((4.0 + by + 0.4 * normal(&mut rng)).exp()) as i64;
            // Prompts come in another order in each repeat: only their ids tell which is which.
            let at = |mut row: RequestRow| {
                row.request_id = (prompt + 7 * repeat) % 50;
                row
            };
            rows.push(at(row("base", repeat, prompt, draw(0.0))));
            rows.push(at(row("same", repeat, prompt, draw(0.0))));
            rows.push(at(row("long", repeat, prompt, draw(0.5))));
        }
    }
    let points = judged(&rows, "base");
    let names: Vec<String> = points.iter().map(LengthPoint::name).collect();
    assert_eq!(names, ["same", "long", "base, other repeats"]);
    let [same, long, repeats] = &points[..] else { panic!() };
    assert_eq!((same.n_pairs, repeats.n_pairs, repeats.n_prompts), (150, 100, 50));
    assert!(repeats.is_null() && !repeats.is_subject());
    let (same, long) = (same.shift.unwrap(), long.shift.unwrap());
    assert_eq!((long.n_controls, long.n_copies), (1, 0), "the other repeats are one control");
    assert!(same.q > ALPHA && long.q <= 0.002, "{same:?} {long:?}");
    assert!((long.value - 0.5).abs() < 0.15, "{long:?}");
    assert!(points[1].spread.unwrap().q <= 0.002);
}

#[test]
fn intervals_of_ratios_hold_what_they_promise() {
    let mut rng = stats::seeded(7);
    let mut held = 0;
    for draw in 0..1000 {
        let logs: Vec<f64> = (0..40).map(|_| 0.1 + 0.4 * normal(&mut rng)).collect();
        let estimate = pairs::geometric(draw, "coverage", &logs);
        let (low, high) = estimate.interval.unwrap();
        held += usize::from(low <= 0.1_f64.exp() && 0.1_f64.exp() <= high);
    }
    assert!((930..=970).contains(&held), "{held} of 1000 intervals hold the truth");
    // Shares by counting every outcome: 60 prompts, a tenth of them long.
    let (n, share) = (60_usize, 0.1_f64);
    let mut chance = (1.0 - share).powi(60);
    let mut covered = 0.0;
    for good in 0..=n {
        let interval = stats::wilson(good, n).unwrap();
        covered += if interval.low <= share && share <= interval.high { chance } else { 0.0 };
        chance *= (n - good) as f64 / (good + 1) as f64 * share / (1.0 - share);
    }
    assert!((0.93..=0.97).contains(&covered), "{covered}");
}
