use super::*;
use crate::{predict::simulate::LinearTimes, stats};

fn method(name: &str, shift: LengthShift, excess: &[(&str, f64)]) -> MethodWorld {
    MethodWorld {
        name: name.to_owned(),
        times: Arc::new(LinearTimes {
            step_s: 0.01,
            per_sequence_s: 0.0,
            per_kv_token_s: 0.0,
            per_prompt_s: 0.0,
            per_prompt_token_s: 0.0,
            per_pair_s: 0.0,
        }),
        config: EngineConfig::unlimited(8),
        shift,
        excess: excess.iter().map(|(task, rate)| ((*task).to_owned(), *rate)).collect(),
    }
}

fn methods() -> Vec<MethodWorld> {
    let none = LengthShift { mean_log: 0.0, sigma_log: 0.0 };
    let some = LengthShift { mean_log: 0.2, sigma_log: 0.4 };
    vec![
        method("fp16", none, &[]),
        method("kivi", some, &[("qa", 0.1), ("", 0.3)]),
        method("h2o", LengthShift { mean_log: -0.1, sigma_log: 0.1 }, &[("", 0.5)]),
    ]
}

const SKILL: Skill =
    Skill { length_sigma_log: 0.6, knows_shift: true, speed_factor: 1.0, guard_answers: 400 };

fn trace(n: usize, n_requests: usize, is_sample: bool) -> TracePlan {
    let row = |i: usize| Traced {
        at_ns: 1000 + 10 * i as i64,
        prompt_tokens: 1 + i as u64,
        output_tokens: 1000,
        task: i.is_multiple_of(2).then(|| "qa".to_owned()),
        predicted_tokens: None,
        patience_ns: None,
    };
    TracePlan { name: "t".to_owned(), rows: (0..n).map(row).collect(), n_requests, is_sample }
}

fn arrivals(methods: &[MethodWorld], skill: Skill, seed: u64, n: usize) -> Vec<Arrival> {
    let trace = trace(n, n, false);
    let rows: Vec<&Traced> = trace.rows.iter().collect();
    Truth { methods, baseline: 0, skill, tokens_most: 1_000_000, seed }.arrivals(&rows, &vec![0; n])
}

fn logs(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let logs: Vec<f64> = values.map(f64::ln).collect();
    let mean = stats::mean(&logs).unwrap();
    let square: Vec<f64> = logs.iter().map(|x| (x - mean).powi(2)).collect();
    (mean, stats::mean(&square).unwrap().sqrt())
}

fn near(found: (f64, f64), expected: (f64, f64)) {
    let close = |a: f64, b: f64| (a - b).abs() < 0.015;
    assert!(close(found.0, expected.0) && close(found.1, expected.1), "{found:?} {expected:?}");
}

#[test]
fn lengths_shift_by_method_as_the_world_says() {
    let all = arrivals(&methods(), SKILL, 1, 20_000);
    let ratio = |m: usize| all.iter().map(move |a| a.output_tokens[m] as f64 / 1000.0);
    assert!(all.iter().all(|a| a.output_tokens[0] == 1000));
    near(logs(ratio(1)), (0.2, 0.4));
    near(logs(ratio(2)), (-0.1, 0.1));
    // Drawn apart: the two have nothing to do with each other.
    let mut pairs: Vec<(f64, f64)> = ratio(1).zip(ratio(2)).take(2000).collect();
    assert!(stats::tau_b(&mut pairs).unwrap().abs() < 0.05);
}

#[test]
fn no_answer_gets_longer_than_the_longest_of_the_trace() {
    let (methods, trace) = (methods(), trace(200, 200, false));
    let rows: Vec<&Traced> = trace.rows.iter().collect();
    let tokens_most = tokens_most(&trace.rows);
    let truth = Truth { methods: &methods, baseline: 0, skill: SKILL, tokens_most, seed: 1 };
    let all = truth.arrivals(&rows, &[0; 200]);
    let longest = all.iter().map(|a| a.output_tokens[1]).max();
    assert_eq!((tokens_most, longest), (1000, Some(1000)));
    assert!(all.iter().any(|a| a.output_tokens[1] < 1000));
}

#[test]
fn predictions_are_as_noisy_as_the_skill_says() {
    let all = arrivals(&methods(), SKILL, 1, 20_000);
    near(logs(all.iter().map(|a| a.predicted_tokens[0] / 1000.0)), (0.0, 0.6));
    near(logs(all.iter().map(|a| a.predicted_tokens[1] / a.predicted_tokens[0])), (0.2, 0.0));
    let blind = Skill { knows_shift: false, length_sigma_log: 0.0, ..SKILL };
    let all = arrivals(&methods(), blind, 1, 100);
    assert!(all.iter().flat_map(|a| &a.predicted_tokens).all(|p| (p - 1000.0).abs() < 1e-9));
}

#[test]
fn prompts_break_by_task_and_method_apart() {
    let all = arrivals(&methods(), SKILL, 2, 40_000);
    let share = |m: usize, qa: bool| {
        let of: Vec<&Arrival> = all.iter().filter(|a| a.task.is_some() == qa).collect();
        of.iter().filter(|a| a.breaks[m]).count() as f64 / of.len() as f64
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 0.01, "{a} {b}");
    close(share(1, true), 0.1);
    close(share(1, false), 0.3);
    close(share(2, true), 0.5);
    assert!(all.iter().all(|a| !a.breaks[0]));
    let both = all.iter().filter(|a| a.breaks[1] && a.breaks[2]).count() as f64;
    close(both / all.len() as f64, 0.2 * 0.5);
}

#[test]
fn the_same_request_is_the_same_whatever_else_is_simulated() {
    let all = arrivals(&methods(), SKILL, 3, 200);
    assert_eq!(all, arrivals(&methods(), SKILL, 3, 200));
    assert_ne!(all, arrivals(&methods(), SKILL, 4, 200));
    let fewer = arrivals(&methods()[..2], SKILL, 3, 100);
    let other = Skill { length_sigma_log: 0.1, guard_answers: 7, ..SKILL };
    let other = arrivals(&methods(), other, 3, 200);
    for (whole, part) in all.iter().zip(&fewer) {
        assert_eq!(whole.output_tokens[..2], part.output_tokens[..]);
        assert_eq!(whole.breaks[..2], part.breaks[..]);
    }
    assert!(all.iter().zip(&other).all(|(a, b)| a.output_tokens == b.output_tokens));
    // Nor where in the scenario a method stands.
    let mut turned = methods();
    turned[1..].reverse();
    let turned = arrivals(&turned, SKILL, 3, 200);
    for (a, b) in all.iter().zip(&turned) {
        assert_eq!((a.output_tokens[1], a.breaks[1]), (b.output_tokens[2], b.breaks[2]));
        assert_eq!((a.output_tokens[2], a.breaks[2]), (b.output_tokens[1], b.breaks[1]));
    }
}

#[test]
fn what_was_said_of_a_recorded_request_is_not_drawn_again() {
    let mut trace = trace(3, 3, false);
    trace.rows[1].predicted_tokens = Some(17.0);
    trace.rows[2].patience_ns = Some(5);
    let methods = methods();
    let rows: Vec<&Traced> = trace.rows.iter().collect();
    let truth =
        Truth { methods: &methods, baseline: 0, skill: SKILL, tokens_most: 1_000_000, seed: 1 };
    let all = truth.arrivals(&rows, &[0, 10, 20]);
    assert!(all[1].predicted_tokens.iter().all(|said| (said - 17.0).abs() < 1e-12));
    assert!((all[0].predicted_tokens[0] - 1000.0).abs() > 1e-9, "the others are");
    assert_eq!(all.iter().map(|a| a.leaves_ns).collect::<Vec<_>>(), [None, None, Some(25)]);
}

#[test]
fn samples_are_drawn_and_recordings_cut_into_windows() {
    let prompts = |plan: &TracePlan, number: u32| -> Vec<u64> {
        rows(plan, number, 40 + u64::from(number)).iter().map(|row| row.prompt_tokens).collect()
    };
    let sample = trace(50, 50, true);
    let mut drawn = prompts(&sample, 0);
    assert_ne!(drawn, prompts(&sample, 1));
    drawn.sort_unstable();
    assert_eq!(drawn, (1..=50).collect::<Vec<u64>>(), "each row once");
    assert_eq!(prompts(&trace(5, 50, true), 0).len(), 50, "again and again where there are few");
    let recorded = trace(25, 10, false);
    assert_eq!(prompts(&recorded, 0), (1..=10).collect::<Vec<u64>>());
    assert_eq!(prompts(&recorded, 1), (11..=20).collect::<Vec<u64>>());
    let third = prompts(&recorded, 2);
    assert!(third.len() == 10 && third.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(prompts(&trace(5, 10, false), 3), [1, 2, 3, 4, 5]);
}

#[test]
fn gaps_are_exponential_and_scale_with_the_rate() {
    let trace = trace(20_000, 20_000, false);
    let rows: Vec<&Traced> = trace.rows.iter().collect();
    let at = |how| times_ns(how, &rows, 8.0, 6);
    let slow = at(Arrivals::Poisson { rate: 2.0 });
    let mean_s = crate::units::ns_to_s(*slow.last().unwrap()) / 20_000.0;
    assert!((mean_s - 0.5).abs() < 0.015, "{mean_s}");
    let long = slow.windows(2).filter(|pair| pair[1] - pair[0] > s_to_ns(0.5)).count();
    assert!((long as f64 / 20_000.0 - (-1.0_f64).exp()).abs() < 0.015, "{long}");
    let fast = at(Arrivals::Utilisation { rho: 0.5 });
    assert!(slow.iter().zip(&fast).all(|(a, b)| (a - 2 * b).abs() <= 2));
    let again = at(Arrivals::Recorded { speed: 5.0 });
    assert_eq!(again[..3], [0, 2, 4]);
}

#[test]
fn a_guard_learns_what_is_true_as_far_as_its_counts_tell() {
    let (methods, trace) = (methods(), trace(10, 10, false));
    let truth = |guard_answers| Truth {
        methods: &methods,
        baseline: 0,
        skill: Skill { guard_answers, ..SKILL },
        tokens_most: 1000,
        seed: 5,
    };
    let risks = truth(100_000).risks(&trace.rows).unwrap();
    let upper = risks.upper("qa", 100, "kivi").unwrap();
    assert!((0.095..0.11).contains(&upper), "{upper}");
    assert!(risks.upper("code", 100, "kivi").is_none() && risks.upper("qa", 100, "fp16").is_none());
    let few = truth(40).risks(&trace.rows).unwrap();
    assert!(few.upper("qa", 100, "kivi").unwrap() > 0.12, "few answers prove little");
    assert_eq!(truth(40).risks(&trace.rows).unwrap().cells(), few.cells());
    // One method less changes nothing for the other.
    let fewer = Truth { methods: &methods[..2], ..truth(40) }.risks(&trace.rows).unwrap();
    let of_kivi = |risks: &Risks| -> Vec<Cell> {
        risks.cells().iter().filter(|cell| cell.method == "kivi").cloned().collect()
    };
    assert!(of_kivi(&few) == of_kivi(&fewer) && few.cells().len() > fewer.cells().len());
}
