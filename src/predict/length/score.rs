//! How good predictions of lengths are: rank, loss, coverage.

use super::{QUANTILES, Sample};
use crate::stats::{PairCounts, pair_counts};

/// Names of the measures, in the order of [`Measures`]; keys in JSON.
pub const NAMES: [&str; 11] = [
    "tau_b",
    "tau_b_of_median",
    "pair_accuracy",
    "pinball_q10",
    "pinball_q50",
    "pinball_q90",
    "coverage_q90",
    "coverage_q90_below_cap",
    "coverage_q10_q90",
    "mae_tokens",
    "bucket_accuracy",
];
/// Position of `tau_b`.
pub const TAU: usize = 0;
/// Position of `tau_b_of_median`.
const TAU_OF_MEDIAN: usize = 1;
/// Position of `pair_accuracy`.
pub const PAIRS: usize = 2;
/// Position of `pinball_q50`.
pub const PINBALL: usize = 4;
/// Position of `coverage_q90`.
pub const COVERAGE: usize = 6;
/// Position of `coverage_q90_below_cap`.
pub const COVERAGE_BELOW_CAP: usize = 7;
/// Position of `mae_tokens`.
pub const MAE: usize = 9;

/// Buckets of `bucket_accuracy`: fifths of the medians that were learnt from.
pub const BUCKETS: usize = 5;

/// One value a measure; `None` where it is not defined.
///
/// All are of single answers, each of a prompt's answers being one slot: rank measures are taken within a slot, so that no two answers to
/// one prompt are ranked, and averaged over slots and folds by their answers. Where the answers of a slot in a fold are all of one length
/// there is no order to find, and it is left out ([`n_unranked`]); where only the predictions are, nothing was ranked, which is a tau of
/// 0. A predictor that ties everything everywhere has no tau. `tau_b_of_median` is of the prompts' median answers. Losses and errors are
/// in tokens.
pub type Measures = [Option<f64>; NAMES.len()];

/// What was said of one answer before it was seen, in tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guess {
    /// What it is ranked by.
    pub middle: f64,
    /// q10 and q90, where they are said.
    pub ends: Option<(f64, f64)>,
    /// Whether it was made of the prompt's other answers: then it says nothing of their median, which it is a part of.
    pub of_twins: bool,
}

/// One prompt with what was said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Marked {
    fold: usize,
    /// Tokens of each answer, by slot.
    tokens: Vec<f64>,
    median: f64,
    /// Whether the median is a lower bound.
    is_cut: bool,
    /// What was said of each answer, by slot.
    guesses: Vec<Guess>,
    sums: Sums,
}

/// Sums over the answers of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sums {
    n: f64,
    n_ends: f64,
    n_below_cap: f64,
    pinball: [f64; 3],
    below: f64,
    below_free: f64,
    within: f64,
    off: f64,
    hits: f64,
}

impl Marked {
    /// Holds the answers of a sample against what the model of a fold said of each. `edges` part the buckets.
    pub fn new(sample: &Sample, guesses: Vec<Guess>, fold: usize, edges: &[f64]) -> Self {
        let tokens: Vec<f64> =
            sample.lengths.iter().map(|length| f64::from(length.tokens)).collect();
        let mut sums = Sums::default();
        for (tokens, guess) in tokens.iter().zip(&guesses) {
            sums.add(*tokens, *guess, f64::from(sample.max_tokens), edges);
        }
        let median = crate::stats::median(&mut tokens.clone()).unwrap_or(f64::NAN);
        let is_cut = sample.median().is_some_and(|(_, is_cut)| is_cut);
        Self { fold, tokens, median, is_cut, guesses, sums }
    }

    /// Median of its answers, tokens.
    pub fn median(&self) -> f64 {
        self.median
    }

    /// Whether its answers were cut at `max_tokens` where their median is, which then is a lower bound.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// What was said of its first answer; `None` where it has none.
    pub fn guess(&self) -> Option<Guess> {
        self.guesses.first().copied()
    }

    /// Answers, and how many of them do not exceed their q90.
    pub fn covered(&self) -> (f64, f64) {
        (self.sums.n_ends, self.sums.below)
    }
}

/// Koenker and Bassett's loss of saying `said` for the quantile `q` of something that became `value`.
pub fn pinball(q: f64, said: f64, value: f64) -> f64 {
    if value > said { q * (value - said) } else { (1.0 - q) * (said - value) }
}

fn bucket(edges: &[f64], value: f64) -> usize {
    edges.partition_point(|edge| *edge < value)
}

/// Where fifths of some medians part.
pub fn edges(mut medians: Vec<f64>) -> Vec<f64> {
    medians.sort_by(f64::total_cmp);
    let at = |part: usize| crate::stats::quantile_sorted(&medians, part as f64 / BUCKETS as f64);
    (1..BUCKETS).filter_map(at).collect()
}

/// Half a token: q90 is said with fractions, answers have none.
const HALF: f64 = 0.5;

impl Sums {
    fn add(&mut self, tokens: f64, guess: Guess, cap: f64, edges: &[f64]) {
        let flag = |is: bool| f64::from(u8::from(is));
        self.n += 1.0;
        self.pinball[1] += pinball(QUANTILES[1], guess.middle, tokens);
        self.off += (guess.middle - tokens).abs();
        self.hits += flag(bucket(edges, guess.middle) == bucket(edges, tokens));
        if let Some((low, high)) = guess.ends {
            let is_below = tokens <= high + HALF;
            self.n_ends += 1.0;
            self.pinball[0] += pinball(QUANTILES[0], low, tokens);
            self.pinball[2] += pinball(QUANTILES[2], high, tokens);
            self.below += flag(is_below);
            self.within += flag(is_below && tokens >= low - HALF);
            if high + HALF < cap {
                self.n_below_cap += 1.0;
                self.below_free += flag(is_below);
            }
        }
    }

    fn plus(&mut self, other: &Self) {
        self.n += other.n;
        self.n_ends += other.n_ends;
        self.n_below_cap += other.n_below_cap;
        self.pinball.iter_mut().zip(other.pinball).for_each(|(sum, more)| *sum += more);
        self.below += other.below;
        self.below_free += other.below_free;
        self.within += other.within;
        self.off += other.off;
        self.hits += other.hits;
    }
}

/// All measures of some prompts; one that occurs twice counts twice.
pub fn measures(marked: &[&Marked]) -> Measures {
    let mut all = measures_of_draw(marked);
    if ranks_nothing(&slots(marked)) {
        all[TAU] = None;
    }
    if ranks_nothing(&medians(marked)) {
        all[TAU_OF_MEDIAN] = None;
    }
    all
}

/// The same for a resample of prompts whose whole has a tau: a draw in which everything is tied is one of tau 0, and no draw less, for
/// without it the interval would be of those draws alone in which the predictor had luck.
pub fn measures_of_draw(marked: &[&Marked]) -> Measures {
    let mut sums = Sums::default();
    marked.iter().for_each(|marked| sums.plus(&marked.sums));
    let of = |sum: f64, n: f64| (n > 0.0).then(|| sum / n);
    let slots = slots(marked);
    [
        over_slots(&slots, tau),
        over_slots(&medians(marked), tau),
        over_slots(&slots, PairCounts::accuracy),
        of(sums.pinball[0], sums.n_ends),
        of(sums.pinball[1], sums.n),
        of(sums.pinball[2], sums.n_ends),
        of(sums.below, sums.n_ends),
        of(sums.below_free, sums.n_below_cap),
        of(sums.within, sums.n_ends),
        of(sums.off, sums.n),
        of(sums.hits, sums.n),
    ]
}

/// Answers and their pairs, by slot and fold.
fn slots(marked: &[&Marked]) -> Vec<(f64, PairCounts)> {
    let n_slots = marked.iter().map(|marked| marked.tokens.len()).max().unwrap_or(0);
    let of_slot = |slot: usize| {
        by_fold(marked, |marked| {
            Some((marked.guesses.get(slot)?.middle, *marked.tokens.get(slot)?))
        })
    };
    (0..n_slots).flat_map(of_slot).collect()
}

/// Medians and their pairs, by fold.
fn medians(marked: &[&Marked]) -> Vec<(f64, PairCounts)> {
    by_fold(marked, |marked| {
        Some((marked.guess().filter(|guess| !guess.of_twins)?.middle, marked.median))
    })
}

/// Pairs of a fold, with how many values they are of; folds without values are left out.
fn by_fold(
    marked: &[&Marked],
    values: impl Fn(&Marked) -> Option<(f64, f64)>,
) -> Vec<(f64, PairCounts)> {
    let n_folds = marked.iter().map(|marked| marked.fold + 1).max().unwrap_or(0);
    let mut folds: Vec<Vec<(f64, f64)>> = vec![Vec::new(); n_folds];
    for marked in marked {
        folds[marked.fold].extend(values(marked));
    }
    let filled = folds.into_iter().filter(|values| !values.is_empty());
    filled.map(|mut values| (values.len() as f64, pair_counts(&mut values))).collect()
}

/// Whether answers have an order that a predictor could find: not where all are of one length, a single one among them.
fn has_order(pairs: &PairCounts) -> bool {
    pairs.pairs > pairs.tied_y
}

/// Whether there is an order and nothing of it is told.
fn ranks_nothing(slots: &[(f64, PairCounts)]) -> bool {
    let mut ordered = slots.iter().filter(|(_, pairs)| has_order(pairs)).peekable();
    ordered.peek().is_some() && ordered.all(|(_, pairs)| pairs.pairs == pairs.tied_x)
}

/// Tau of a slot; 0 where answers have an order and predictions are tied.
fn tau(pairs: &PairCounts) -> Option<f64> {
    has_order(pairs).then(|| pairs.tau_b().unwrap_or(0.0))
}

/// Mean over the slots that have an order, by their answers; `None` where none has.
fn over_slots(slots: &[(f64, PairCounts)], measure: fn(&PairCounts) -> Option<f64>) -> Option<f64> {
    let known = slots.iter().filter_map(|(n, pairs)| Some((*n, measure(pairs)?)));
    let (n, sum) = known.fold((0.0, 0.0), |(all, sum), (n, value)| (all + n, sum + n * value));
    (n > 0.0).then(|| sum / n)
}

/// Answers that no measure of rank holds, because the others of their slot in their fold are as long, or there are none.
pub fn n_unranked(marked: &[&Marked]) -> usize {
    let without = |(_, pairs): &&(f64, PairCounts)| !has_order(pairs);
    slots(marked).iter().filter(without).map(|(n, _)| *n as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::length::Length;

    fn marked(tokens: &[u32], middle: f64, ends: (f64, f64)) -> Marked {
        in_fold(0, tokens, middle, ends)
    }

    fn in_fold(fold: usize, tokens: &[u32], middle: f64, ends: (f64, f64)) -> Marked {
        let lengths = tokens.iter().map(|tokens| Length { tokens: *tokens, censored: false });
        let sample = Sample {
            prompt: String::new(),
            family: 0,
            task: None,
            max_tokens: 100,
            method: "m".into(),
            lengths: lengths.collect(),
        };
        let guess = Guess { middle, ends: Some(ends), of_twins: false };
        Marked::new(&sample, vec![guess; tokens.len()], fold, &[5.0, 15.0])
    }

    #[test]
    fn measures_by_hand() {
        let all = [marked(&[10, 20], 12.0, (10.0, 18.0)), marked(&[3, 4], 2.0, (1.0, 100.0))];
        let [tau, tau_median, pairs, low, mid, high, cover, free, within, mae, hits] =
            measures(&all.iter().collect::<Vec<_>>()).map(Option::unwrap);
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}");
        close(tau, 1.0);
        close(tau_median, 1.0);
        close(pairs, 1.0);
        close(low, (0.0 + 1.0 + 0.2 + 0.3) / 4.0);
        close(mid, (1.0 + 4.0 + 0.5 + 1.0) / 4.0);
        close(high, (0.8 + 1.8 + 9.7 + 9.6) / 4.0);
        close(cover, 0.75);
        close(free, 0.5);
        close(within, 0.75);
        close(mae, (2.0 + 8.0 + 1.0 + 2.0) / 4.0);
        close(hits, 0.75);
    }

    #[test]
    fn what_is_not_defined_is_not_zero() {
        let same = [marked(&[10], 5.0, (1.0, 9.0)), marked(&[20], 5.0, (1.0, 9.0))];
        let measures = measures(&same.iter().collect::<Vec<_>>());
        assert_eq!(measures[TAU], None, "one prediction for all has no rank");
        assert_eq!(measures[PAIRS], Some(0.5));
        assert!(super::measures(&[]).iter().all(Option::is_none));
        assert_eq!(edges((1..=100).map(f64::from).collect()).len(), BUCKETS - 1);
    }

    #[test]
    fn answers_without_an_order_are_left_out_and_counted() {
        let ends = (1.0, 99.0);
        // The third slot of the first fold has one answer; in the second fold all are of one length.
        let all = [
            in_fold(0, &[10, 10, 7], 1.0, ends),
            in_fold(0, &[20, 30], 2.0, ends),
            in_fold(1, &[5, 5], 4.0, ends),
            in_fold(1, &[5, 5], 3.0, ends),
        ];
        let all: Vec<&Marked> = all.iter().collect();
        let found = measures(&all);
        assert_eq!((found[TAU], found[PAIRS]), (Some(1.0), Some(1.0)));
        assert_eq!(found[TAU_OF_MEDIAN], Some(1.0));
        assert_eq!(n_unranked(&all), 5);
    }

    #[test]
    fn a_fold_of_equal_predictions_is_a_tau_of_zero() {
        let ends = (1.0, 99.0);
        let tied = [in_fold(0, &[10], 5.0, ends), in_fold(0, &[20], 5.0, ends)];
        let ranked = [in_fold(1, &[10], 1.0, ends), in_fold(1, &[20], 2.0, ends)];
        let all: Vec<&Marked> = tied.iter().chain(&ranked).collect();
        let found = measures(&all);
        assert_eq!((found[TAU], found[PAIRS]), (Some(0.5), Some(0.75)));
        assert_eq!(n_unranked(&all), 0);
        let tied: Vec<&Marked> = tied.iter().collect();
        assert_eq!((measures(&tied)[TAU], measures_of_draw(&tied)[TAU]), (None, Some(0.0)));
    }
}
