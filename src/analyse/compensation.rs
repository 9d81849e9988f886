//! Is the extra length of a method's answers compensatory: does it win back quality that compression costs?
//!
//! Each pair of answers to one prompt is scored twice: as they came, and both cut to the shorter of the two
//! ([`super::score_run::MatchedRow`]). Where extra words win quality back, a method loses more at equal length than it does
//! free-running; the difference of the two differences, prompt by prompt, is what length won back. Prompts are not chosen by how
//! long their answers got: the paper's table 4 looks only at 200 that got longer, which would find a gain in noise alone.

use std::collections::BTreeMap;

use super::{
    Estimate, Point, RunData,
    compare::baseline_of,
    lengths::{Claim, LengthPoint},
    score_run::{MatchedRow, ScoreRow, points},
    summary::rng_for,
};
use crate::stats;

/// One method's answers against the baseline's, free-running and at equal length; scores in points.
#[derive(Debug, Clone, PartialEq)]
pub struct Compensation {
    /// Which.
    pub point: Point,
    /// Prompts with both kinds of scores.
    pub n_prompts: usize,
    /// Prompts whose answer was longer than the baseline's, and so was cut.
    pub n_longer: usize,
    /// Difference to the baseline of the answers as they came.
    pub free: Estimate,
    /// Difference to the baseline at equal length.
    pub equal: Estimate,
    /// What length won back: `free - equal`, drawn as pairs.
    pub won_back: Estimate,
    /// Whether it compresses nothing: what it "wins back" is what chance does.
    pub is_control: bool,
    /// What the lengths themselves allow to say; `None` where they were not compared.
    pub claim: Option<Claim>,
}

/// What may be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Too few prompts, or lengths that were not compared.
    Unknown,
    /// That answers are longer than chance makes them is not shown.
    NotShownLonger,
    /// Longer answers win back some of what is lost at equal length: what compensation would look like.
    Compensatory,
    /// Longer answers, and no loss at equal length is shown that they could make up for.
    NoLossShown,
    /// Longer answers and a loss at equal length, but that they win anything back is not shown.
    NotShown,
}

impl Compensation {
    /// The answer to the question, as far as the intervals allow one.
    pub fn answer(&self) -> Answer {
        let above = |estimate: &Estimate| estimate.interval.is_some_and(|(low, _)| low > 0.0);
        let below = |estimate: &Estimate| estimate.interval.is_some_and(|(_, high)| high < 0.0);
        match self.claim {
            None | Some(Claim::TooFew) => Answer::Unknown,
            Some(Claim::NotShown | Claim::Shorter) => Answer::NotShownLonger,
            Some(Claim::Longer) if !below(&self.equal) => Answer::NoLossShown,
            Some(Claim::Longer) if above(&self.won_back) => Answer::Compensatory,
            Some(Claim::Longer) => Answer::NotShown,
        }
    }
}

/// Every method and control with scores at equal length, in the order of the plan. Rows whose free score is missing, or was made by
/// another scorer, are counted in the second value: scores of two sittings must not be mixed.
pub fn compensations(
    data: &RunData,
    free: &[ScoreRow],
    matched: &[MatchedRow],
    lengths: &[LengthPoint],
) -> (Vec<Compensation>, usize) {
    let key = |cell: &str, request: i64| (cell.to_owned(), request);
    let own: BTreeMap<(String, i64), &ScoreRow> =
        free.iter().map(|row| (key(&row.cell_id, row.request_id), row)).collect();
    let theirs = baselines(data, free);
    let mut points: BTreeMap<Point, Vec<Pair<'_>>> = BTreeMap::new();
    let mut n_left_out = 0;
    for row in matched {
        let point = row.point();
        let own = own.get(&key(&row.cell_id, row.request_id));
        let base = theirs.get(&point);
        let base = base.and_then(|base| base.get(&(row.repeat, row.sample_id.as_str())));
        match (own, base) {
            (Some(own), Some(base)) if own.scorer == row.scorer && base.scorer == row.scorer => {
                points.entry(point).or_default().push(Pair {
                    sample: (&row.dataset, &row.sample_id),
                    is_longer: row.words > row.baseline_words,
                    free: own.score - base.score,
                    equal: row.score - row.baseline_score,
                });
            }
            _ => n_left_out += 1,
        }
    }
    let mut points: Vec<_> = points.into_iter().collect();
    points.sort_by_key(|(point, _)| data.rank(point));
    let seed = data.manifest.scenario.seed;
    let one = |(point, pairs): (Point, Vec<Pair<'_>>)| of_point(seed, point, &pairs, lengths);
    (points.into_iter().filter_map(one).collect(), n_left_out)
}

/// One prompt in one repeat.
struct Pair<'a> {
    sample: (&'a str, &'a str),
    is_longer: bool,
    free: f64,
    equal: f64,
}

/// A point's baseline's scores by repeat and sample.
type Baselines<'a> = BTreeMap<Point, BTreeMap<(i64, &'a str), &'a ScoreRow>>;

/// Of every point the scores of the baseline that it is compared with.
fn baselines<'a>(data: &RunData, free: &'a [ScoreRow]) -> Baselines<'a> {
    let points = points(data, free);
    let one = |(point, _): &(Point, Vec<usize>)| {
        let (_, rows) = baseline_of(point, &points, &data.manifest.scenario.baseline)?;
        let by_sample = rows.iter().map(|row| {
            let row = &free[*row];
            ((row.repeat, row.sample_id.as_str()), row)
        });
        Some((point.clone(), by_sample.collect()))
    };
    points.iter().filter_map(one).collect()
}

fn of_point(
    seed: u64,
    point: Point,
    pairs: &[Pair<'_>],
    lengths: &[LengthPoint],
) -> Option<Compensation> {
    let mut prompts: BTreeMap<(&str, &str), Vec<&Pair<'_>>> = BTreeMap::new();
    for pair in pairs {
        prompts.entry(pair.sample).or_default().push(pair);
    }
    let estimate = |of: &dyn Fn(&Pair<'_>) -> f64| {
        let mean = |pairs: &Vec<&Pair<'_>>| {
            pairs.iter().map(|pair| of(pair)).sum::<f64>() / pairs.len() as f64
        };
        let values: Vec<f64> = prompts.values().map(mean).collect();
        // One label for all three, so that they are drawn from the same resamples.
        let mut rng = rng_for(seed, &format!("{point} compensation"));
        let interval = stats::mean_interval(&values, &mut rng);
        Some(Estimate::new(stats::mean(&values)?, interval, values.len()).scaled(100.0))
    };
    Some(Compensation {
        n_prompts: prompts.len(),
        n_longer: prompts.values().filter(|pairs| pairs.iter().any(|pair| pair.is_longer)).count(),
        free: estimate(&|pair| pair.free)?,
        equal: estimate(&|pair| pair.equal)?,
        won_back: estimate(&|pair| pair.free - pair.equal)?,
        claim: lengths.iter().find(|l| l.point == point && !l.is_repeat).map(LengthPoint::claim),
        is_control: lengths.iter().any(|l| l.point == point && !l.is_subject()),
        point,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n: usize, free: f64, equal: f64) -> Vec<(String, f64, f64)> {
        // Scores differ from prompt to prompt; what length wins back is the same.
        let one = |i: usize| {
            let own = 0.01 * (i % 7) as f64;
            (format!("s{i}"), free + own, equal + own)
        };
        (0..n).map(one).collect()
    }

    fn judged(pairs: &[(String, f64, f64)], claim: Option<Claim>) -> Compensation {
        let pairs: Vec<Pair<'_>> = pairs
            .iter()
            .map(|(sample, free, equal)| Pair {
                sample: ("qasper", sample),
                is_longer: true,
                free: *free,
                equal: *equal,
            })
            .collect();
        let mut found = of_point(3, Point::default(), &pairs, &[]).unwrap();
        found.claim = claim;
        found
    }

    #[test]
    fn length_that_wins_back_what_is_lost_is_compensatory() {
        let lost = judged(&pairs(40, -0.13, -0.33), Some(Claim::Longer));
        assert!((lost.won_back.value - 20.0).abs() < 1e-9, "{lost:?}");
        let (free, equal) = (lost.free.value, lost.equal.value);
        assert!((free - equal - lost.won_back.value).abs() < 1e-9);
        assert_eq!(lost.answer(), Answer::Compensatory);
    }

    #[test]
    fn nothing_is_claimed_that_the_intervals_do_not_hold() {
        let same = pairs(40, -0.13, -0.33);
        for claim in [None, Some(Claim::TooFew)] {
            assert_eq!(judged(&same, claim).answer(), Answer::Unknown);
        }
        for claim in [Some(Claim::NotShown), Some(Claim::Shorter)] {
            assert_eq!(judged(&same, claim).answer(), Answer::NotShownLonger);
        }
        let lossless = judged(&pairs(40, 0.1, 0.1), Some(Claim::Longer));
        assert_eq!(lossless.answer(), Answer::NoLossShown);
        // Half of the prompts win back what the other half loses.
        let mixed: Vec<_> = pairs(40, 0.0, -0.3)
            .into_iter()
            .enumerate()
            .map(|(i, (id, _, equal))| (id, equal + if i % 2 == 0 { 0.3 } else { -0.3 }, equal))
            .collect();
        assert_eq!(judged(&mixed, Some(Claim::Longer)).answer(), Answer::NotShown);
    }

    #[test]
    fn repeats_of_a_prompt_are_one_observation() {
        let once = pairs(10, -0.1, -0.2);
        let thrice = [once.clone(), once.clone(), once.clone()].concat();
        let (one, three) = (judged(&once, None), judged(&thrice, None));
        assert_eq!((one.n_prompts, three.n_prompts), (10, 10));
        assert_eq!(one.free, three.free);
    }
}
