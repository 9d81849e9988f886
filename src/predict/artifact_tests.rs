//! Bars on a published file of measurements: four LLMs, three methods, one shot a shape.

use std::{fs::File, path::PathBuf};

use super::{
    Observation, Phase,
    eval::{self, Predictor, Score},
    measured, regret,
    split::Split,
};

/// All rows of the published files, or word that the test was skipped.
fn observations() -> Option<Vec<Observation>> {
    let Some(shared) = std::env::var_os("KVBENCH_SHARED") else {
        let word = b"skipped: KVBENCH_SHARED is not set\n";
        std::io::Write::write_all(&mut std::io::stderr(), word).unwrap();
        return None;
    };
    let folder = PathBuf::from(shared).join("artifact/throughput");
    let of = |method: &str| {
        let path = folder.join(format!("llama-7b-{method}.csv"));
        measured::read(File::open(&path).unwrap(), &path.display().to_string(), None).unwrap()
    };
    Some(["fp16", "kivi", "h2o"].into_iter().flat_map(of).collect())
}

fn score(scores: &[Score], split: Split, phase: Phase) -> &Score {
    scores.iter().find(|score| score.split == split && score.phase == phase).unwrap()
}

#[test]
fn errors_stay_under_the_bars() {
    let Some(seen) = observations() else { return };
    let held = eval::held_out(&seen);
    let scores = eval::scores(&held, Predictor::Roofline);
    for (split, phase, bar_pct) in [
        (Split::Random, Phase::Decode, 2.2),
        (Split::Batch2x, Phase::Decode, 2.6),
        (Split::Batch4x, Phase::Decode, 4.2),
        (Split::KvLong, Phase::Decode, 2.7),
        (Split::Random, Phase::Prefill, 2.9),
    ] {
        let here = score(&scores, split, phase);
        let errors = here.roofline.unwrap();
        assert_eq!(errors.n, here.n, "every point is predicted");
        assert!(errors.mape_pct <= bar_pct, "{split:?} {phase:?}: {errors:?}");
    }
    // The files hold 297 decode and 286 prefill shapes, none twice.
    let asked = |phase| score(&scores, Split::Random, phase).n;
    assert_eq!((asked(Phase::Decode), asked(Phase::Prefill)), (297, 286));
    for phase in [Phase::Decode, Phase::Prefill] {
        let share = score(&scores, Split::Random, phase).coverage().unwrap();
        assert!((0.75..=0.85).contains(&share), "{phase:?}: {share}");
    }
}

#[test]
fn choices_are_counted_beside_the_best_static_one() {
    let Some(seen) = observations() else { return };
    let decided = regret::decisions(&eval::held_out(&seen), Predictor::Roofline);
    assert_eq!(decided.len(), 2);
    for one in &decided {
        assert!(one.n > 80 && one.regret_pct.0 < 2.0, "{one:?}");
        assert!(one.signs_10.0 > 20 && 10 * one.signs_10.1 >= 9 * one.signs_10.0, "{one:?}");
    }
}
