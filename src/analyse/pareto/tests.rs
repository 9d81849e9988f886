//! Fronts whose answers are known.

use super::*;
use crate::{
    analyse::{RunData, score_run::ScoreRow, tests::data},
    record::RequestRow,
};

const MS: i64 = 1_000_000;

/// Time to the first token, time a token, and the share of prompts answered rightly.
const METHODS: [(&str, i64, i64, f64); 4] = [
    ("fp16", 20, 10, 0.9),
    // Faster, and a little worse.
    ("int8", 20, 5, 0.885),
    // The fastest, and much worse.
    ("int4", 20, 3, 0.5),
    // Slower and worse than the baseline: on no front.
    ("bad", 40, 20, 0.4),
];

/// 200 prompts a repeat, eleven tokens each, one after the other; `repeats` differ by one per cent.
fn run(repeats: i64, scored: bool) -> RunData {
    let (mut rows, mut scores, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for ((method, ttft, tpot, right), repeat) in
        METHODS.iter().flat_map(|method| (0..repeats).map(move |repeat| (*method, repeat)))
    {
        let cell_id = format!("example/{method}/{method}/w/closed-1/{repeat}");
        ids.push(cell_id.clone());
        let mut at = 0;
        for request in 0..200 {
            let chunk_ns: Vec<i64> = (0..11)
                .map(|token| at + (ttft + tpot * token) * MS * (100 + repeat) / 100)
                .collect();
            rows.push(RequestRow {
                cell_id: cell_id.clone(),
                target: method.into(),
                method: method.into(),
                workload: "w".into(),
                load: "closed-1".into(),
                repeat,
                request_id: request,
                due_ns: at,
                sent_ns: Some(at),
                first_token_ns: chunk_ns.first().copied(),
                last_token_ns: chunk_ns.last().copied(),
                done_ns: chunk_ns.last().copied(),
                output_tokens: Some(11),
                max_tokens: 11,
                attempt: 1,
                chunk_ns,
                ..RequestRow::default()
            });
            at = rows.last().and_then(|row| row.done_ns).unwrap();
            // The share of all 200, spread evenly, so that methods err on the same prompts as far as they can.
            let score =
                f64::from(u8::from(((request * 37) % 200) < (right * 200.0).round() as i64));
            scores.push(ScoreRow {
                run_id: "r".into(),
                cell_id: cell_id.clone(),
                target: method.into(),
                method: method.into(),
                workload: "w".into(),
                load: "closed-1".into(),
                repeat,
                request_id: request,
                sample_id: format!("s{request}"),
                dataset: "d".into(),
                score,
                ..ScoreRow::default()
            });
        }
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut data = data(&ids, &[], &rows);
    data.scores = if scored { scores } else { Vec::new() };
    for (method, bytes) in [("fp16", 4096.0), ("int8", 2176.0), ("int4", 1152.0), ("bad", 4096.0)] {
        let proof = serde_json::json!({ "proof": { "target": method, "method": method, "kv_bytes_per_token": bytes } });
        data.manifest.engines.insert(method.to_owned(), proof);
    }
    data
}

fn found(data: RunData, limits: &[&str]) -> (Vec<Front>, Vec<Limit>) {
    let limits: Vec<Limit> = limits.iter().map(|limit| limit.parse().unwrap()).collect();
    let runs = [Run::of(data).unwrap()];
    (fronts(&runs, &limits, None).0, limits)
}

fn of<'a>(front: &'a Front, name: &str) -> &'a Candidate {
    front.candidates.iter().find(|candidate| candidate.name == name).unwrap()
}

#[test]
fn a_front_by_hand() {
    let (fronts, _) = found(run(3, true), &[]);
    let [front] = fronts.as_slice() else { panic!("{fronts:?}") };
    assert_eq!(front.axes, ["quality", "throughput", "KV memory"]);
    let on: Vec<(&str, Option<bool>)> = front
        .candidates
        .iter()
        .map(|candidate| (candidate.name.as_str(), candidate.on_front))
        .collect();
    assert_eq!(
        on,
        [("int4", Some(true)), ("int8", Some(true)), ("fp16", Some(true)), ("bad", Some(false))]
    );
    let int8 = of(front, "int8");
    // 11 tokens in 70 ms, 1 % slower and 2 % slower in the other repeats.
    let rate = 11.0 / 0.07;
    let mean = (rate + rate / 1.01 + rate / 1.02) / 3.0;
    assert!((int8.throughput.value - mean).abs() < 1e-6 * mean, "{int8:?}");
    assert!((int8.quality.unwrap().value - 88.5).abs() < 1e-9, "{int8:?}");
    assert!((int8.loss_pct.unwrap().value - 100.0 * (1.0 - 88.5 / 90.0)).abs() < 1e-9);
    assert!((int8.compression.unwrap() - 4096.0 / 2176.0).abs() < 1e-12);
    assert_eq!((of(front, "bad").front_share, int8.front_share), (Some(0.0), Some(1.0)));
    let (low, high) = int8.quality.unwrap().interval.unwrap();
    assert!(low < 88.5 && 88.5 < high && high - low < 12.0, "binomial, 200: +-4.4: {low} {high}");
}

#[test]
fn the_best_keeps_the_objective_and_says_how_surely() {
    let (fronts, limits) = found(run(3, true), &["ttft_ms_p50<=30"]);
    let one = |loss| best(&fronts, &limits, loss).remove(0);
    assert_eq!(one(None).who.unwrap().0, "int4", "nobody asked for quality");
    let at_two = one(Some(2.0));
    assert_eq!(at_two.who.clone().unwrap().0, "int8");
    let certainty = at_two.certainty.unwrap();
    assert!(
        0.5 < certainty && certainty < 1.0,
        "a loss of 1.7 % is not surely below 2: {certainty}"
    );
    assert!(
        at_two.said.contains("ttft_ms_p50 <= 30 and at most 2 % quality loss"),
        "{}",
        at_two.said
    );
    assert_eq!(one(Some(0.5)).who.unwrap().0, "fp16");
    let (fronts, limits) = found(run(3, true), &["ttft_ms_p50<=10"]);
    let nobody = best(&fronts, &limits, None).remove(0);
    assert_eq!(nobody.who, None);
    assert!(nobody.said.contains("no method is known to meet"), "{}", nobody.said);
}

#[test]
fn what_is_not_known_is_not_claimed() {
    let (fronts, limits) = found(run(1, true), &["ttft_ms_p99<=30"]);
    let one = best(&fronts, &limits, None).remove(0);
    assert_eq!(one.who, None, "200 requests hold no p99");
    assert!(one.said.contains("it takes 368 observations"), "{}", one.said);
    let (fronts, limits) = found(run(1, true), &["ttft_ms_p50<=30"]);
    let one = best(&fronts, &limits, Some(2.0)).remove(0);
    assert_eq!((one.certainty, one.meets), (None, None), "one repeat");
    assert!(one.said.contains("measured once"), "{}", one.said);
    assert!(fronts[0].candidates.iter().all(|candidate| candidate.front_share.is_none()));
}

#[test]
fn without_scores_quality_is_no_axis_and_limits_nothing() {
    let (fronts, limits) = found(run(3, false), &[]);
    assert_eq!(fronts[0].axes, ["throughput", "KV memory"]);
    assert!(fronts[0].quality_from.contains("kvbench score"), "{}", fronts[0].quality_from);
    let one = best(&fronts, &limits, Some(2.0)).remove(0);
    assert_eq!(one.who.unwrap().0, "fp16", "the baseline loses nothing of itself");
    assert_eq!((one.meets, one.certainty), (Some(1.0), None), "who is not judged might be better");
    assert!(one.said.contains("of those that can be judged"), "{}", one.said);
    assert!(one.said.contains("Not judged: int4 at closed-1, int8 at closed-1"), "{}", one.said);
}

#[test]
fn a_limit_is_read() {
    let limit: Limit = "tpot_ms_p90 <= 40".parse().unwrap();
    assert_eq!((limit.metric.name.as_str(), limit.at_most), ("tpot_ms_p90", true));
    assert!(!"goodput_per_s>=1".parse::<Limit>().unwrap().at_most);
    for wrong in
        ["ttft_ms_p99<500", "ttft_ms_p99<=", "ttft_ms_p99<=x", "nothing<=1", "ttft_ms_p99<=NaN"]
    {
        assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
    }
}

#[test]
fn dominance_needs_one_that_is_better() {
    assert!(dominates(&[1.0, 2.0], &[1.0, 1.0]));
    assert!(!dominates(&[1.0, 1.0], &[1.0, 1.0]));
    assert!(!dominates(&[2.0, 0.0], &[1.0, 1.0]));
}
