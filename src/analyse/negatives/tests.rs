use std::path::PathBuf;

use super::*;

const THETAS: [f64; 8] = [0.01, 0.02, 0.04, 0.08, 0.10, 0.16, 0.24, 0.32];

fn rule(mode: Mode) -> Rule<'static> {
    Rule { mode, thetas: &THETAS, seed: 1 }
}

fn scores(name: &str, rows: &[(&str, u32, f64)]) -> Scores {
    let row = |(dataset, id, score): &(&str, u32, f64)| Score {
        dataset: (*dataset).into(),
        id: id.to_string().into(),
        score: *score,
        prompt_sha256: None,
    };
    Scores { name: name.to_owned(), rows: rows.iter().map(row).collect() }
}

#[test]
fn strict_against_the_mean_and_loose_against_the_median() {
    // Mean 0.35, median 0.2.
    let base = scores("fp16", &[("a", 0, 1.0), ("a", 1, 0.2), ("a", 2, 0.2), ("a", 3, 0.0)]);
    let other = [scores("m", &[("a", 0, 0.9), ("a", 1, 0.1), ("a", 2, 0.2), ("a", 3, 0.0)])];
    let paired = Paired::new(&base, &other).unwrap();
    let strict = &paired.methods(&rule(Mode::Algorithm1))[0];
    assert_eq!((strict.n_paired, strict.n_benign), (4, 1));
    // 0.9 is not below 0.9 at theta 10 %.
    assert_eq!(strict.negatives, [1, 1, 1, 1, 0, 0, 0, 0]);
    let loose = &paired.methods(&rule(Mode::AsShipped))[0];
    assert_eq!(loose.n_benign, 3);
    assert_eq!(loose.negatives, [2, 2, 2, 2, 2, 1, 1, 1]);
}

#[test]
fn what_cannot_be_compared_is_counted_and_named() {
    let base = scores("fp16", &[("a", 0, 1.0), ("a", 1, 1.0), ("b", 0, 1.0)]);
    let mut other = scores("m", &[("a", 0, 0.0), ("c", 5, 0.5), ("b", 0, 0.0)]);
    other.rows[2].prompt_sha256 = Some("x".into());
    let mut told = base.clone();
    told.rows[2].prompt_sha256 = Some("y".into());
    let others = [other];
    let paired = Paired::new(&told, &others).unwrap();
    let said: Vec<_> = paired.excluded.iter().map(|e| (e.why, e.n, e.example.as_str())).collect();
    assert_eq!(
        said,
        [
            ("not in the baseline", 1, "c/5"),
            ("in the baseline only", 1, "a/1"),
            ("another prompt than the baseline's", 1, "b/0")
        ]
    );
    assert_eq!(paired.methods(&rule(Mode::Algorithm1))[0].n_paired, 1);
    let stranger = [scores("m", &[("z", 0, 1.0)])];
    assert!(Paired::new(&base, &stranger).unwrap_err().to_string().contains("got none"));
    let twins = [base.clone(), base.clone()];
    assert!(Paired::new(&base, &twins).unwrap_err().to_string().contains("`fp16` twice"));
}

#[test]
fn an_ensemble_breaks_what_all_of_its_members_break() {
    let base = scores("fp16", &[("a", 0, 1.0), ("a", 1, 1.0)]);
    let others = [
        scores("m", &[("a", 0, 0.0), ("a", 1, 0.0)]),
        scores("n", &[("a", 0, 0.0), ("a", 1, 1.0)]),
    ];
    let paired = Paired::new(&base, &others).unwrap();
    let all = paired.ensemble("all", &paired.names(), &rule(Mode::Algorithm1)).unwrap();
    assert_eq!((all.negatives[4], all.mirror), (1, None));
    let unknown = paired.ensemble("g", &["x".to_owned()], &rule(Mode::Algorithm1));
    assert!(unknown.unwrap_err().to_string().contains("expected one of m, n, got `x`"));
}

/// One comparison of made-up scores that jitter alike on both sides, where `broken` of the method's are lost beside that.
fn jitter(rng: &mut rand_chacha::ChaCha8Rng, samples: u32, width: f64, broken: f64) -> Counts {
    let mut uniform = || rand::RngExt::random::<f64>(rng);
    let (mut base, mut own) = (Vec::new(), Vec::new());
    for id in 0..samples {
        let level = 0.4 + 0.2 * uniform();
        let mut score = || level * (1.0 - width / 2.0 + width * uniform());
        base.push(("a", id, score()));
        let score = score();
        own.push(("a", id, if uniform() < broken { 0.0 } else { score }));
    }
    let (base, own) = (scores("b", &base), [scores("m", &own)]);
    let rule = Rule { mode: Mode::Algorithm1, thetas: &[0.10], seed: 1 };
    Paired::new(&base, &own).unwrap().counted(&rule).remove(0)
}

/// Symmetric jitter has as many mirrors as negatives, so that 5 % of the sign tests claim an effect, a little less since counts are
/// whole.
#[test]
fn without_an_effect_five_percent_of_the_sign_tests_claim_one() {
    let mut rng = stats::seeded(7);
    let (mut fair, mut own_bars) = (0, 0);
    for _ in 0..2000 {
        let counts = jitter(&mut rng, 400, 0.5, 0.0);
        fair += usize::from(counts.fair.unwrap().p[0] <= 0.05);
        own_bars += usize::from(counts.p_sign.unwrap()[0] <= 0.05);
    }
    let percent = |n: usize| n as f64 / 20.0;
    assert!((3.5..=6.5).contains(&percent(fair)), "{} % of 2000", percent(fair));
    // Each side's own mean pulls the counts together: why the fair counts are what is judged by.
    assert!(percent(own_bars) < 3.5, "{} % of 2000", percent(own_bars));
}

#[test]
fn broken_samples_are_found_as_often_as_is_told() {
    let mut rng = stats::seeded(8);
    let (mut found, mut told, mut excess) = (0.0_f64, 0.0_f64, 0.0_f64);
    let n_draws = 300.0;
    for _ in 0..300 {
        let counts = jitter(&mut rng, 330, 0.2, 0.10);
        let fair = counts.fair.unwrap();
        found += f64::from(u8::from(fair.p[0] <= 0.05)) / n_draws;
        told += fair.found_at(0).unwrap() / n_draws;
        excess += (fair.lost[0] as f64 - fair.gained[0] as f64) / n_draws;
    }
    // The excess planted here is near the one that should be found in four of five runs.
    assert!((excess / told - 1.0).abs() < 0.25, "planted {excess}, told {told}");
    let power = 1.0 - stats::upper_tail_of_normal(2.8016 * excess / told - 1.96);
    assert!((found - power).abs() < 0.08, "found {found}, expected {power}");
}

#[test]
fn intervals_of_counts_hold_what_they_promise() {
    let mut rng = stats::seeded(9);
    let mut held = 0;
    for _ in 0..1000 {
        let mut lost = || rand::RngExt::random::<f64>(&mut rng) < 0.1;
        let base: Vec<_> = (0..300).map(|id| ("a", id, 1.0)).collect();
        let own: Vec<_> = (0..300).map(|id| ("a", id, if lost() { 0.0 } else { 1.0 })).collect();
        let (base, own) = (scores("b", &base), [scores("m", &own)]);
        let rule = Rule { mode: Mode::Algorithm1, thetas: &[0.10], seed: 1 };
        let (low, high) = Paired::new(&base, &own).unwrap().counted(&rule)[0].intervals[0];
        held += usize::from(low <= 30.0 && 30.0 <= high);
    }
    assert!((930..=970).contains(&held), "{held} of 1000 intervals hold the 30 that were planted");
}

#[test]
fn intervals_hold_the_count_and_nothing_has_none() {
    let rows: Vec<_> = (0..200).map(|id| ("a", id, 1.0)).collect();
    let lost: Vec<_> = (0..200).map(|id| ("a", id, if id < 20 { 0.0 } else { 1.0 })).collect();
    let (base, others) = (scores("b", &rows), [scores("m", &lost), scores("n", &rows)]);
    let paired = Paired::new(&base, &others).unwrap();
    let counts = paired.methods(&rule(Mode::Algorithm1));
    let (low, high) = counts[0].intervals[0];
    // A binomial of 200 at 0.1: a standard deviation of 4.2.
    assert!((10.0..14.0).contains(&low) && (26.0..30.0).contains(&high), "{low} {high}");
    assert_eq!(counts[1].intervals[0], (0.0, 0.0));
}

/// The published artifact's scores: counts to the unit (reference/paper.md 2.3).
#[test]
fn the_papers_scores_give_the_known_counts() {
    let Some(shared) = std::env::var_os("KVBENCH_SHARED") else {
        let word = b"skipped: KVBENCH_SHARED is not set\n";
        std::io::Write::write_all(&mut std::io::stderr(), word).unwrap();
        return;
    };
    let folder = PathBuf::from(shared).join("artifact/scores");
    let load = |name: &str| {
        let place = folder.join(format!("{name}.jsonl"));
        let file = std::fs::File::open(&place).unwrap();
        read(name, &place.display().to_string(), std::io::BufReader::new(file)).unwrap()
    };
    let base = load("fp16");
    let methods = ["kivi-4", "h2o-2048", "h2o-512"].map(load);
    let paired = Paired::new(&base, &methods).unwrap();
    assert_eq!(paired.excluded, []);
    let strict = paired.methods(&rule(Mode::Algorithm1));
    assert_eq!(strict[0].negatives, [182, 168, 143, 107, 86, 64, 41, 26]);
    assert_eq!(strict[1].negatives, [336, 332, 307, 263, 242, 192, 134, 103]);
    assert_eq!(strict[2].negatives, [665, 655, 631, 569, 544, 465, 360, 279]);
    let tasks = |counts: &Counts| counts.by_task.values().map(|n| n[4]).collect::<Vec<_>>();
    assert_eq!(tasks(&strict[0]), [10, 54, 5, 2, 15]);
    assert_eq!(tasks(&strict[1]), [54, 120, 39, 0, 29]);
    assert_eq!(tasks(&strict[2]), [106, 202, 88, 0, 148]);
    let mirror: Vec<usize> = strict.iter().map(|c| c.mirror.as_ref().unwrap()[4]).collect();
    assert_eq!(mirror, [94, 116, 185]);
    let p = strict[0].p_sign.as_ref().unwrap()[4];
    assert!((p - 0.59).abs() < 0.02, "{p}");
    // Means, intervals and flips as computed apart from this program (reference/predict.md C2).
    let deltas: Vec<Delta> = strict.iter().map(|c| c.delta.unwrap()).collect();
    for (delta, mean) in deltas.iter().zip([0.125_246, -1.722_512, -4.307_928]) {
        assert!((delta.mean - mean).abs() < 1e-6 && delta.n == 3350, "{delta:?}");
    }
    let (low, high) = deltas[0].interval.unwrap();
    assert!((low + 0.08).abs() < 0.04 && (high - 0.34).abs() < 0.04, "{low} {high}");
    let flips: Vec<_> = deltas.iter().map(|delta| (delta.n_worse, delta.n_better)).collect();
    assert_eq!(flips, [(22, 30), (76, 26), (200, 96)]);
    assert!(deltas[0].p_mcnemar > 0.2 && deltas[2].p_mcnemar < 1e-6);
    assert!(deltas[0].p_wilcoxon.unwrap() > 0.05 && deltas[1].p_wilcoxon.unwrap() < 1e-6);
    let kivi = paired.broken("kivi-4", &["kivi-4".to_owned()], 0.10, Mode::Algorithm1).unwrap();
    assert_eq!(kivi.len(), 86);
    let means =
        std::iter::once(&base).chain(&methods).map(|scores| Means::of(scores).mean.unwrap());
    for (mean, expected) in means.zip([41.22, 41.29, 39.13, 36.29]) {
        assert!((mean - expected).abs() < 0.005, "{mean} {expected}");
    }
    let benign = paired.benign(Mode::Algorithm1);
    let by_task: Vec<usize> = benign.by_task.values().copied().collect();
    assert_eq!((benign.total, by_task), (1552, vec![306, 284, 348, 149, 465]));
    let loose = paired.methods(&rule(Mode::AsShipped));
    assert_eq!(loose[0].negatives, [594, 576, 551, 510, 488, 459, 434, 414]);
    assert_eq!(loose[1].negatives, [755, 748, 720, 675, 651, 591, 527, 490]);
}
