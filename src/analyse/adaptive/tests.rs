use super::*;
use crate::analyse::negatives::Score;

fn scores(name: &str, rows: &[(&str, u32, f64)]) -> Scores {
    let row = |(dataset, id, score): &(&str, u32, f64)| Score {
        dataset: (*dataset).into(),
        id: id.to_string().into(),
        score: *score,
        prompt_sha256: None,
    };
    Scores { name: name.to_owned(), rows: rows.iter().map(row).collect() }
}

fn subjects(baseline: Scores, methods: Vec<Scores>, again: Vec<Scores>) -> Subjects {
    Subjects { baseline, methods, again, repeats: BTreeMap::new() }
}

/// Data set a: m gains 0.2 on its first sample and loses 0.1 on the other; n the other way round. Data set b: both lose.
fn small() -> Subjects {
    subjects(
        scores("base", &[("a", 0, 0.5), ("a", 1, 0.5), ("b", 0, 1.0), ("b", 1, 1.0)]),
        vec![
            scores("m", &[("a", 0, 0.7), ("a", 1, 0.4), ("b", 0, 0.9), ("b", 1, 0.5)]),
            scores("n", &[("a", 0, 0.4), ("a", 1, 0.6), ("b", 0, 0.8), ("b", 1, 0.6)]),
        ],
        Vec::new(),
    )
}

fn find(bound: &Bound, policy: Policy, loss: Option<f64>) -> Outcome {
    at(bound, policy, loss.map_or(Goal::Quality, Goal::Share)).unwrap()
}

fn at(bound: &Bound, policy: Policy, goal: Goal) -> Option<Outcome> {
    bound.outcomes.iter().find(|one| one.policy == policy && one.goal == goal).cloned()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// m: 0.2 - 0.1 - 0.1 - 0.5 = -0.5; n: -0.1 + 0.1 - 0.2 - 0.4 = -0.6.
#[test]
fn choices_by_hand() {
    let speeds = BTreeMap::from([("m".to_owned(), 2.0), ("n".to_owned(), 1.0)]);
    let question = Question { losses: &[0.5, 2.5, 20.0], speeds: &speeds, seed: 1 };
    let bound = bound(&small(), &question).unwrap();
    assert_eq!((bound.n, bound.best.as_str(), bound.n_left_out), (4, "m", 0));
    assert!(close(bound.baseline, 75.0));
    assert!(close(bound.methods[0].1.mean, -12.5) && close(bound.methods[1].1.mean, -15.0));

    let one = find(&bound, Policy::OneMethod, None);
    assert_eq!((one.n_compressed, one.delta.mean), (0, 0.0), "the baseline is best");
    let one = find(&bound, Policy::OneMethod, Some(20.0));
    assert_eq!((one.n_compressed, one.over_best.unwrap().mean), (4, 0.0));
    assert_eq!(find(&bound, Policy::OneMethod, Some(2.5)).n_compressed, 0);
    assert_eq!(find(&bound, Policy::OneMethod, Some(20.0)).n_compressed, 4);
    assert!(close(one.speedup.unwrap(), 2.0));

    // Data set a by m: +0.1 over two samples; b by m as well (-0.6 against -0.6 of n: the first of equals).
    let task = find(&bound, Policy::PerDataset, None);
    assert_eq!(task.n_compressed, 2);
    assert!(close(task.delta.mean, 2.5) && close(task.over_best.unwrap().mean, 15.0), "{task:?}");
    // Two samples at half the time: 4 / (2 + 1).
    assert!(close(task.speedup.unwrap(), 4.0 / 3.0));

    // a0 by m +0.2, a1 by n +0.1, then b0 by m -0.1, b1 by n -0.4.
    let oracle = find(&bound, Policy::PerSample, None);
    assert_eq!(oracle.n_compressed, 2);
    assert!(close(oracle.delta.mean, 7.5));
    assert_eq!(find(&bound, Policy::PerSample, Some(0.5)).n_compressed, 3);
    let all = find(&bound, Policy::PerSample, Some(20.0));
    assert!(all.n_compressed == 4 && close(all.delta.mean, -5.0), "{all:?}");
    // m, n, m, n.
    assert!(close(all.speedup.unwrap(), 4.0 / 3.0));
    // Time is saved by m alone: it takes everything where the loss of 12.5 points is permitted.
    let fast = at(&bound, Policy::PerSample, Goal::Speed(20.0)).unwrap();
    assert!(fast.n_compressed == 4 && close(fast.speedup.unwrap(), 2.0), "{fast:?}");
    // 2.5 points are 0.1: m on a0, a1 and b0 gains nothing in all, b1 would lose 0.5.
    let fast = at(&bound, Policy::PerSample, Goal::Speed(2.5)).unwrap();
    assert!(fast.n_compressed == 3 && close(fast.speedup.unwrap(), 4.0 / 2.5), "{fast:?}");
    assert!(close(fast.delta.mean, 0.0));
    let (_, curve) = bound.curves.iter().find(|(policy, _)| *policy == Policy::PerSample).unwrap();
    let shares: Vec<usize> = curve.iter().map(|step| step.n_compressed).collect();
    assert_eq!(shares, [0, 1, 2, 3, 4]);
    assert!(bound.outcomes.iter().all(|one| one.policy != Policy::Null), "no repeats, no null");
}

#[test]
fn unknown_speeds_are_unknown() {
    let speeds = BTreeMap::from([("m".to_owned(), 2.0)]);
    let question = Question { losses: &[1.0], speeds: &speeds, seed: 1 };
    let found = bound(&small(), &question).unwrap();
    assert!(close(find(&found, Policy::PerDataset, None).speedup.unwrap(), 4.0 / 3.0));
    assert_eq!(find(&found, Policy::PerSample, None).speedup, None, "n is chosen and unknown");
    assert_eq!(at(&found, Policy::PerSample, Goal::Speed(1.0)), None);
    let none = BTreeMap::new();
    let question = Question { losses: &[], speeds: &none, seed: 1 };
    let unknown = bound(&small(), &question).unwrap();
    assert_eq!(find(&unknown, Policy::PerDataset, None).speedup, None);
}

#[test]
fn samples_that_one_lacks_are_counted() {
    let mut subjects = small();
    subjects.methods[1].rows.pop();
    let speeds = BTreeMap::new();
    let question = Question { losses: &[], speeds: &speeds, seed: 1 };
    let found = bound(&subjects, &question).unwrap();
    assert_eq!((found.n, found.n_left_out), (3, 1));
    subjects.methods[1].rows.clear();
    let error = bound(&subjects, &question).unwrap_err().to_string();
    assert!(error.contains("every one of m, n have, got none"), "{error}");
}

/// Methods and repeats that are nothing but noise around the same score: the oracle seems to win, by as much as the null says,
/// and the cross-validated choice wins nothing.
#[test]
fn luck_is_as_large_as_its_null_and_does_not_survive_validation() {
    let mut rng = stats::seeded(11);
    let mut noisy = |name: &str| {
        let rows: Vec<(&str, u32, f64)> = (0..800)
            .map(|id| {
                let dataset = ["a", "b", "c", "d"][id as usize % 4];
                (dataset, id, 0.4 + 0.2 * rand::RngExt::random::<f64>(&mut rng))
            })
            .collect();
        scores(name, &rows)
    };
    let subjects = subjects(
        noisy("base"),
        vec![noisy("m"), noisy("n")],
        vec![noisy("repeat 1"), noisy("repeat 2")],
    );
    let speeds = BTreeMap::new();
    let found = bound(&subjects, &Question { losses: &[0.5], speeds: &speeds, seed: 1 }).unwrap();
    let gain = |policy| find(&found, policy, None).delta.mean;
    let (oracle, null) = (gain(Policy::PerSample), gain(Policy::Null));
    // The best of three uniforms over 20 points is 5 above their mean; its standard error is 0.3.
    assert!((oracle - 5.0).abs() < 1.0 && (oracle - null).abs() < 1.0, "{oracle} {null}");
    let honest = find(&found, Policy::CrossValidated, None).delta;
    assert!(honest.mean.abs() < 0.8, "{honest:?}");
    assert!(gain(Policy::PerDataset) >= honest.mean, "judged on what it was chosen on");
}
