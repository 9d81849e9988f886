//! What is held out, and what may be learnt from meanwhile.

use std::collections::BTreeMap;

use rand::seq::SliceRandom as _;

use super::{Observation, Phase, Work};
use crate::stats;

/// Parts of the random split.
const FOLDS: usize = 5;
/// Points of a new method that it is calibrated from.
const CALIBRATION: usize = 4;
/// Longest sequences that count as short, and shortest that count as long, where the data has both.
const SHORT_MAX: f64 = 1089.0;
const LONG_MIN: f64 = 3072.0;

/// A way to hold out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// Shapes at random, five parts; all methods' points of a shape together.
    Random,
    /// The largest batch of a method, from batches of at most half of it.
    Batch2x,
    /// The same from at most a quarter.
    Batch4x,
    /// Long sequences from short ones.
    KvLong,
    /// Long sequences at the largest batch, from short ones at batches of at most half of it.
    Both,
    /// A method that was measured at four shapes, from these and all of the baseline.
    NewMethod4,
    /// A method that was not measured at all.
    NewMethod0,
}

/// What is learnt from and what is asked, one flag an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// May be fitted to.
    pub train: Vec<bool>,
    /// Is predicted.
    pub test: Vec<bool>,
}

impl Split {
    /// All, near to far.
    pub const ALL: [Split; 7] = [
        Split::Random,
        Split::Batch2x,
        Split::Batch4x,
        Split::KvLong,
        Split::Both,
        Split::NewMethod4,
        Split::NewMethod0,
    ];

    /// Key in JSON and tables.
    pub fn name(self) -> &'static str {
        match self {
            Split::Random => "random",
            Split::Batch2x => "batch-2x",
            Split::Batch4x => "batch-4x",
            Split::KvLong => "kv-long",
            Split::Both => "both",
            Split::NewMethod4 => "new-method-4",
            Split::NewMethod0 => "new-method-0",
        }
    }

    /// What is asked from what.
    pub fn words(self) -> &'static str {
        match self {
            Split::Random => "shapes at random, five parts",
            Split::Batch2x => "the largest batch, from at most half of it",
            Split::Batch4x => "the largest batch, from at most a quarter of it",
            Split::KvLong => "the longest sequences, from those of at most a third or half of that",
            Split::Both => {
                "the longest sequences at the largest batch, from short ones at half of it"
            }
            Split::NewMethod4 => "a method from four of its points and the baseline",
            Split::NewMethod0 => "a method from the baseline alone",
        }
    }

    /// The rounds of it; none where the data does not allow the question.
    pub fn rounds(self, seen: &[Observation]) -> Vec<Round> {
        let rounds = match self {
            Split::Random => folds(seen),
            Split::Batch2x => vec![by_rule(seen, |at| at.batch_by(2.0))],
            Split::Batch4x => vec![by_rule(seen, |at| at.batch_by(4.0))],
            Split::KvLong => vec![by_rule(seen, Ranges::kv_long)],
            Split::Both => vec![by_rule(seen, Ranges::both)],
            Split::NewMethod4 => vec![calibration(seen, CALIBRATION)],
            Split::NewMethod0 => vec![calibration(seen, 0)],
        };
        // Without anything to learn from there is no question.
        let asks = |round: &Round| round.test.contains(&true) && round.train.contains(&true);
        rounds.into_iter().filter(asks).collect()
    }
}

/// Tokens of a sequence before any budget: cached (decode), cached and new (prefill).
fn tokens(work: &Work) -> f64 {
    let new = if work.phase == Phase::Prefill { work.new_tokens } else { 0.0 };
    (work.cached + new) / work.batch.max(1.0)
}

/// Where methods can be compared: sequences, cached and new tokens of each within 9 %.
pub fn shape(work: &Work) -> [i64; 3] {
    let batch = work.batch.max(1.0);
    let eighths = |tokens: f64| (8.0 * (tokens / batch + 1.0).log2()).round() as i64;
    [work.batch.round() as i64, eighths(work.cached), eighths(work.new_tokens)]
}

fn place(seen: &Observation) -> (&super::Subject, Phase) {
    (&seen.subject, seen.pass.work.phase)
}

/// A shape is held out for all methods at once: the baseline's point there would give the null what the others may not see.
fn folds(seen: &[Observation]) -> Vec<Round> {
    let mut by_place: BTreeMap<_, BTreeMap<[i64; 3], usize>> = BTreeMap::new();
    for one in seen {
        by_place.entry(place(one)).or_default().insert(shape(&one.pass.work), 0);
    }
    let mut rng = stats::seeded(0);
    for shapes in by_place.values_mut() {
        let mut order: Vec<usize> = (0..shapes.len()).collect();
        order.shuffle(&mut rng);
        for (fold, at) in shapes.values_mut().zip(order) {
            *fold = at % FOLDS;
        }
    }
    let fold_of = |one: &Observation| by_place[&place(one)][&shape(&one.pass.work)];
    let folds: Vec<usize> = seen.iter().map(fold_of).collect();
    let round = |held: usize| Round {
        train: folds.iter().map(|fold| *fold != held).collect(),
        test: folds.iter().map(|fold| *fold == held).collect(),
    };
    (0..FOLDS).map(round).collect()
}

/// One observation beside what its method and its subject were measured at.
struct Ranges {
    batch: f64,
    /// Largest of its method.
    batch_max: f64,
    /// Largest up to which may be learnt, before the factor: of the baseline that of the method with the smallest, whose null it is. A
    /// baseline measured further would bring the batch that the method is asked for.
    learn_max: f64,
    tokens: f64,
    /// Longest that is short, shortest that is long; `None` where the data has no such gap.
    kv: Option<(f64, f64)>,
}

/// Whether to learn from it, and whether to ask for it.
type Role = (bool, bool);

impl Ranges {
    fn batch_by(&self, factor: f64) -> Role {
        (self.batch * factor <= self.learn_max, self.batch >= self.batch_max)
    }

    fn kv_long(&self) -> Role {
        self.kv.map_or((false, false), |(short, long)| (self.tokens <= short, self.tokens >= long))
    }

    fn both(&self) -> Role {
        let (batch, kv) = (self.batch_by(2.0), self.kv_long());
        (batch.0 && kv.0, batch.1 && kv.1)
    }
}

fn by_rule(seen: &[Observation], role: impl Fn(&Ranges) -> Role) -> Round {
    let mut batch_max: BTreeMap<_, f64> = BTreeMap::new();
    let mut lengths: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for one in seen {
        let most = batch_max.entry((place(one), &one.method)).or_default();
        *most = most.max(one.pass.work.batch);
        lengths.entry(place(one)).or_default().push(tokens(&one.pass.work));
    }
    let mut least: BTreeMap<_, f64> = BTreeMap::new();
    for ((at, _), most) in &batch_max {
        let least = least.entry(*at).or_insert(f64::INFINITY);
        *least = least.min(*most);
    }
    let gaps: BTreeMap<_, _> = lengths.into_iter().map(|(at, all)| (at, gap(all))).collect();
    let of = |one: &Observation| {
        let most = batch_max[&(place(one), &one.method)];
        role(&Ranges {
            batch: one.pass.work.batch,
            batch_max: most,
            learn_max: if one.is_baseline { least[&place(one)] } else { most },
            tokens: tokens(&one.pass.work),
            kv: gaps[&place(one)],
        })
    };
    let roles: Vec<Role> = seen.iter().map(of).collect();
    let (train, test) = roles.into_iter().map(|(train, test)| (train, test && !train)).unzip();
    Round { train, test }
}

/// 3,072 from 1,089 where at least two short lengths and a long one were measured, else the top quarter of the lengths from those of
/// at most half of the shortest of it.
fn gap(mut lengths: Vec<f64>) -> Option<(f64, f64)> {
    lengths.sort_by(f64::total_cmp);
    lengths.dedup_by(|a, b| (*a - *b).abs() < 0.5);
    let n_short = lengths.iter().filter(|length| **length <= SHORT_MAX).count();
    if n_short >= 2 && lengths.last().is_some_and(|longest| *longest >= LONG_MIN) {
        return Some((SHORT_MAX, LONG_MIN));
    }
    let long = *lengths.get(lengths.len() - lengths.len().div_ceil(4))?;
    let n_short = lengths.iter().filter(|length| **length <= long / 2.0).count();
    (n_short >= 2).then_some((long / 2.0, long))
}

/// All of the baseline and, of each method, `n` points spread evenly over its points in order of size.
fn calibration(seen: &[Observation], n: usize) -> Round {
    let mut train: Vec<bool> = seen.iter().map(|one| one.is_baseline).collect();
    let mut by_method: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    let has_baseline: std::collections::BTreeSet<_> =
        seen.iter().filter(|one| one.is_baseline).map(place).collect();
    let methods = seen.iter().enumerate().filter(|(_, one)| !one.is_baseline);
    for (at, one) in methods.filter(|(_, one)| has_baseline.contains(&place(one))) {
        by_method.entry((place(one), &one.method)).or_default().push(at);
    }
    let mut test = vec![false; seen.len()];
    for mut members in by_method.into_values().filter(|members| members.len() > n) {
        members.sort_by(|a, b| {
            let size = |at: &usize| seen[*at].pass.work.batch * tokens(&seen[*at].pass.work);
            size(a).total_cmp(&size(b))
        });
        members.iter().for_each(|at| test[*at] = true);
        for nth in 0..n {
            let at = members[members.len() * (2 * nth + 1) / (2 * n)];
            (train[at], test[at]) = (true, false);
        }
    }
    Round { train, test }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::{Pass, Source, Subject};

    fn seen() -> Vec<Observation> {
        let subject = Subject {
            source: Source::Engine,
            target: None,
            engine: "e".into(),
            device: "d".into(),
            model: "m".into(),
            tensor_parallel: 1,
            started_with: None,
        };
        let mut out = Vec::new();
        for (method, is_baseline) in [("fp16", true), ("kivi-4", false)] {
            for batch in [1, 2, 4, 8] {
                for kv_len in [256.0, 512.0, 1024.0, 2048.0, 4096.0] {
                    let work = Work::decode((0..batch).map(|_| kv_len), None);
                    out.push(Observation {
                        subject: subject.clone(),
                        method: method.into(),
                        is_baseline,
                        budget: None,
                        pass: Pass { work, repeats_s: vec![1.0] },
                        rows: Vec::new(),
                    });
                }
            }
        }
        out
    }

    #[test]
    fn nothing_is_learnt_from_what_is_asked() {
        let seen = seen();
        for split in Split::ALL {
            let rounds = split.rounds(&seen);
            assert!(!rounds.is_empty(), "{split:?}");
            for round in rounds {
                assert!(
                    round.train.iter().zip(&round.test).all(|(train, test)| !(*train && *test))
                );
            }
        }
    }

    #[test]
    fn folds_ask_everything_once_and_a_shape_of_all_methods_together() {
        let seen = seen();
        let rounds = Split::Random.rounds(&seen);
        for at in 0..seen.len() {
            assert_eq!(rounds.iter().filter(|round| round.test[at]).count(), 1);
        }
        assert!(rounds.iter().all(|round| (0..20).all(|at| round.test[at] == round.test[at + 20])));
    }

    #[test]
    fn extrapolation_leaves_the_gap_it_names() {
        let seen = seen();
        let all = |split: Split, check: &dyn Fn(&Work, bool, bool)| {
            for round in split.rounds(&seen) {
                for (at, one) in seen.iter().enumerate() {
                    check(&one.pass.work, round.train[at], round.test[at]);
                }
            }
        };
        all(Split::Batch4x, &|work, train, test| {
            assert_eq!((train, test), (work.batch <= 2.0, work.batch >= 8.0));
        });
        all(Split::KvLong, &|work, train, test| {
            assert_eq!((train, test), (tokens(work) <= 1024.0, tokens(work) >= 4096.0));
        });
        all(Split::Both, &|work, _, test| {
            assert_eq!(test, work.batch >= 8.0 && tokens(work) >= 4096.0);
        });
    }

    /// A method measured up to batch 4 is not told of batch 4 by its baseline, which went up to 8.
    #[test]
    fn the_baseline_does_not_show_the_batch_that_is_asked() {
        let mut seen = seen();
        seen.retain(|one| one.is_baseline || one.pass.work.batch <= 4.0);
        let round = &Split::Batch2x.rounds(&seen)[0];
        for (one, (train, test)) in seen.iter().zip(round.train.iter().zip(&round.test)) {
            let most = if one.is_baseline { 8.0 } else { 4.0 };
            let batch = one.pass.work.batch;
            assert_eq!((*train, *test), (batch <= 2.0, batch >= most), "{one:?}");
        }
    }

    #[test]
    fn one_batch_alone_asks_nothing_of_larger_ones() {
        let mut seen = seen();
        seen.retain(|one| one.pass.work.batch < 1.5);
        assert!(Split::Batch2x.rounds(&seen).is_empty());
    }

    #[test]
    fn a_new_method_shows_four_points() {
        let seen = seen();
        let four = &Split::NewMethod4.rounds(&seen)[0];
        assert_eq!(four.train.iter().filter(|train| **train).count(), 24);
        assert_eq!(four.test.iter().filter(|test| **test).count(), 16);
        let none = &Split::NewMethod0.rounds(&seen)[0];
        assert_eq!(none.test.iter().filter(|test| **test).count(), 20);
    }

    #[test]
    fn other_lengths_have_another_gap() {
        assert_eq!(gap(vec![100.0, 200.0, 400.0, 800.0]), Some((400.0, 800.0)));
        assert_eq!(gap(vec![700.0, 800.0]), None);
        assert_eq!(gap(vec![]), None);
    }
}
