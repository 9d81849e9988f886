//! Does compression make a model less willing to stop at the same text?
//!
//! Lengths of free-running answers mix two things: a method may lower the probability of the stop token, or lead to another text, which
//! ends elsewhere. A `forced` workload takes the second out: every method is given the same text, an answer of another run up to some
//! place, and only the probability of the stop token there is compared.
//!
//! - A *place* is the end of one such text. At an answer's very end the run's model did stop; at the others it went on.
//! - The difference of ln p is taken place by place, and averaged over a prompt's places: one value a prompt. Methods are tested against the
//!   baseline and everything that compresses nothing (`shift`, as lengths are), because a place was chosen by the baseline's own rounding: an
//!   answer ends where its probability came out high, so that other rounding alone lowers it a little.
//! - A server lists the likeliest tokens only. A stop token that is not listed has at most the lowest probability listed. A pair with one
//!   such side counts with the bound where that tells the sign, which makes the difference smaller than it is, and not at all where it does
//!   not; both are counted. Swapping the sides swaps the sign, so a method without an effect stays as likely to be above as below.
//! - What it means for length: where along an answer a method's probabilities of stopping add up to 0.9 times the baseline's, answers with
//!   the same texts are 1 / 0.9 times as long, as far as one factor holds at every token. Only this ratio is told, and no sum. A place is
//!   the end of a word, where a model may well stop, and within words it hardly does; rows do not tell how many tokens end one, so each
//!   is counted as if it did. Both sums are too large by that, and the ratio leans from the end of answers to what is before it.
//!
//! An engine whose prefill attends to keys that it has not yet compressed (vLLM within a chunk, LMDeploy) shows only part of the effect,
//! because a forced text is prefilled; llama.cpp reads its compressed cache in prefill as well, and shows all of it.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use super::{Against, Control, PROMPTS_MIN, is_null, shift};
use crate::{
    analyse::{Estimate, Point, compare::baseline_at, summary::rng_for},
    record::Manifest,
    scenario::Scenario,
    stats,
};

mod places;
#[cfg(test)]
mod tests;

use places::{Places, Seen};

/// Columns that are read beside those of lengths.
pub const COLUMNS: [&str; 4] = ["forced_at", "stop_logprob", "logprob_floor", "prompt_tokens"];

/// The most of either sum of probabilities that may rest on bounds; beyond it their ratio is not told.
const BOUNDED_MAX: f64 = 0.05;

/// How willing one method is to stop, at one target under one load.
#[derive(Debug, Clone, PartialEq)]
pub struct ForcedPoint {
    /// Which.
    pub point: Point,
    /// What it is compared with.
    pub baseline: Point,
    /// In what it differs from the baseline where it compresses nothing; `None` for a method under test and the baseline itself.
    pub control: Option<Control>,
    /// Prompts with a place.
    pub n_prompts: usize,
    /// How the places can be compared with the baseline's.
    pub pairs: Pairs,
    /// At the very end of the answer.
    pub at_end: Gap,
    /// At all other places.
    pub before: Gap,
    /// Stops along an answer at ends of words over the baseline's, drawn as pairs; `None` where the server did not count prompts or too
    /// much is only bounded.
    pub stops_ratio: Option<Estimate>,
    /// Probability of stopping by place.
    pub curve: Vec<AtPlace>,
}

/// Places of a method beside the baseline's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pairs {
    /// Both probabilities are known.
    pub n_exact: usize,
    /// One is only bounded, and the bound tells the sign.
    pub n_bounded: usize,
    /// The sign is not known, because one or both are not listed.
    pub n_unknown: usize,
    /// One of the two requests failed, or was not made.
    pub n_failed: usize,
}

/// Differences of ln p(stop), method less others, nats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gap {
    /// Mean over prompts against the baseline alone; `None` without a pair.
    pub to_baseline: Option<Estimate>,
    /// Against the baseline and everything that compresses nothing; `None` with too few prompts.
    pub shift: Option<Against>,
}

/// Mean probability of stopping at one place; where the token is not listed its bound counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtPlace {
    /// Share of the answer before it.
    pub at: f64,
    /// Probability, mean over prompts.
    pub probability: Estimate,
    /// Prompts of which only the bound is known.
    pub n_bounded: usize,
}

/// What may be said of the willingness to stop at the end of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Willing {
    /// Fewer than [`PROMPTS_MIN`] prompts: nothing.
    TooFew,
    /// No difference that the data can show.
    NotShown,
    /// Less than what compresses nothing.
    Less,
    /// More than what compresses nothing.
    More,
}

impl Gap {
    /// What the test allows to say.
    pub fn willing(&self) -> Willing {
        match self.shift {
            None => Willing::TooFew,
            Some(shift) if shift.q > super::ALPHA => Willing::NotShown,
            Some(shift) if shift.value < 0.0 => Willing::Less,
            Some(_) => Willing::More,
        }
    }
}

impl ForcedPoint {
    /// Whether it is what others are compared with.
    pub fn is_baseline(&self) -> bool {
        self.point == self.baseline
    }

    /// A method under test.
    pub fn is_subject(&self) -> bool {
        self.control.is_none() && !self.is_baseline()
    }
}

/// One of the two tests of a point.
type Tested = fn(&mut ForcedPoint) -> Option<&mut Against>;

/// One method beside what it is compared with; indices into [`Places::points`].
struct Compared {
    own: usize,
    theirs: usize,
    control: Option<Control>,
}

/// Every method at every place of the run, in plan order; empty for a run without forced answers. `requests` has the measured rows
/// with [`COLUMNS`] and [`super::COLUMNS`].
///
/// # Errors
/// A column is missing or of another type.
pub fn points(manifest: &Manifest, requests: &DataFrame) -> anyhow::Result<Vec<ForcedPoint>> {
    let places = Places::of(requests)?;
    let compared = compared(manifest, &places);
    let seed = manifest.scenario.seed;
    let mut points: Vec<ForcedPoint> =
        compared.iter().map(|one| of_point(seed, &places, one, &compared)).collect();
    let tested: [Tested; 2] = [|p| p.at_end.shift.as_mut(), |p| p.before.shift.as_mut()];
    for of in tested {
        let subjects = points.iter_mut().filter(|point| point.is_subject());
        shift::hold(subjects.filter_map(of).collect());
    }
    Ok(points)
}

fn compared(manifest: &Manifest, places: &Places) -> Vec<Compared> {
    // An imported run has no scenario that could name controls.
    let scenario = Scenario::parse(&manifest.scenario.text, "the run's scenario").ok();
    let controls = scenario.as_ref().map(Scenario::controls).unwrap_or_default();
    let baseline = &manifest.scenario.baseline;
    let aa = format!("{baseline}-aa");
    let rank = |point: &Point| {
        manifest.cells.iter().position(|cell| point.is_of(cell)).unwrap_or(usize::MAX)
    };
    let one = |own: usize| {
        let point = &places.points[own];
        let theirs = baseline_at(point, places.points.iter(), baseline)?;
        let known = controls.get(&point.method).copied();
        let control = known.or((point.method == aa).then_some(Control::Again));
        Some(Compared { own, theirs, control })
    };
    let mut all: Vec<Compared> = (0..places.points.len()).filter_map(one).collect();
    all.sort_by_key(|one| rank(&places.points[one.own]));
    all
}

fn of_point(seed: u64, places: &Places, one: &Compared, all: &[Compared]) -> ForcedPoint {
    let point = &places.points[one.own];
    let is_baseline = one.own == one.theirs;
    let beside = |other: &&Compared| {
        other.theirs == one.theirs && other.own != one.own && other.control.is_some_and(is_null)
    };
    let controls: Vec<usize> = all.iter().filter(beside).map(|other| other.own).collect();
    let copies = controls.iter().filter(|control| places.is_copy(**control, one.theirs)).count();
    let others: Vec<usize> = [one.theirs].into_iter().chain(controls.iter().copied()).collect();
    let gap = |at_end: bool| {
        if is_baseline {
            return Gap::default();
        }
        let label = format!("{point} stop {at_end}");
        let to_baseline = gaps(places, one.own, &[one.theirs], at_end);
        let values = gaps(places, one.own, &others, at_end);
        let shift = (values.len() >= PROMPTS_MIN)
            .then(|| shift::of_values(&values, &mut rng_for(seed, &label)))
            .flatten()
            .map(|found| Against {
                n_controls: controls.len() - copies,
                n_copies: copies,
                ..found
            });
        Gap { to_baseline: mean_of(seed, &label, &to_baseline), shift }
    };
    ForcedPoint {
        point: point.clone(),
        baseline: places.points[one.theirs].clone(),
        control: one.control,
        n_prompts: places.prompts.iter().filter(|prompt| prompt.has(one.own)).count(),
        pairs: if is_baseline { Pairs::default() } else { pairs(places, one) },
        at_end: gap(true),
        before: gap(false),
        stops_ratio: stops_ratio(seed, places, one),
        curve: curve(seed, places, one.own),
    }
}

/// One value a prompt: the mean over its places and the others of the difference, where its sign is known.
fn gaps(places: &Places, own: usize, others: &[usize], at_end: bool) -> Vec<f64> {
    let of_prompt = |prompt: &places::Prompt| {
        let here = prompt.places.iter().filter(|place| place.is_end() == at_end);
        let differences = here.flat_map(|place| {
            others.iter().filter_map(move |other| {
                Some(difference(place.seen.get(&own)?, place.seen.get(other)?)?.0)
            })
        });
        stats::mean(&differences.collect::<Vec<_>>())
    };
    places.prompts.iter().filter_map(of_prompt).collect()
}

/// ln p less ln p of another, and whether it is exact or only the least that it can be; `None` where the sign is not known.
fn difference(own: &Seen, other: &Seen) -> Option<(f64, bool)> {
    match (own, other) {
        (Seen::Listed(own), Seen::Listed(other)) => Some((own - other, true)),
        (Seen::Listed(own), Seen::AtMost(other)) => (own > other).then_some((own - other, false)),
        (Seen::AtMost(own), Seen::Listed(other)) => (other > own).then_some((own - other, false)),
        _ => None,
    }
}

fn pairs(places: &Places, one: &Compared) -> Pairs {
    let mut pairs = Pairs::default();
    for place in places.prompts.iter().flat_map(|prompt| &prompt.places) {
        match (place.seen.get(&one.own), place.seen.get(&one.theirs)) {
            // Another target or load was asked here.
            (None, None) => {}
            (None | Some(Seen::Failed), _) | (_, None | Some(Seen::Failed)) => pairs.n_failed += 1,
            (Some(own), Some(theirs)) => match difference(own, theirs) {
                Some((_, true)) => pairs.n_exact += 1,
                Some((_, false)) => pairs.n_bounded += 1,
                None => pairs.n_unknown += 1,
            },
        }
    }
    pairs
}

fn mean_of(seed: u64, label: &str, values: &[f64]) -> Option<Estimate> {
    let interval = stats::mean_interval(values, &mut rng_for(seed, label));
    Some(Estimate::new(stats::mean(values)?, interval, values.len()))
}

/// Stops of the method along each answer over those of the baseline.
fn stops_ratio(seed: u64, places: &Places, one: &Compared) -> Option<Estimate> {
    let both = |prompt: &places::Prompt| prompt.stops(one.own).zip(prompt.stops(one.theirs));
    let both: Vec<_> = places.prompts.iter().filter_map(both).collect();
    let sum = |of: &dyn Fn(&(places::Sum, places::Sum)) -> f64| both.iter().map(of).sum::<f64>();
    let (own, theirs) = (sum(&|both| both.0.all), sum(&|both| both.1.all));
    let bounded = [sum(&|both| both.0.bounded) / own, sum(&|both| both.1.bounded) / theirs];
    if both.is_empty() || !bounded.iter().all(|share| *share <= BOUNDED_MAX) {
        return None;
    }
    let groups: Vec<Vec<(f64, f64)>> =
        both.iter().map(|(own, theirs)| vec![(own.all, theirs.all)]).collect();
    let mut rng = rng_for(seed, &format!("{} stops", places.points[one.own]));
    let (ratio, interval) = stats::paired_ratio(&groups, &mut rng, |values| stats::mean(values))?;
    Some(Estimate::new(ratio, interval, both.len()))
}

fn curve(seed: u64, places: &Places, own: usize) -> Vec<AtPlace> {
    let mut by_place: BTreeMap<u64, (f64, Vec<f64>, usize)> = BTreeMap::new();
    for prompt in &places.prompts {
        for place in &prompt.places {
            let Some((logprob, bounded)) = place.seen.get(&own).and_then(Seen::most) else {
                continue;
            };
            // Shares between 0 and 1 are in the order of their bits.
            let here = by_place.entry(place.at.to_bits()).or_insert((place.at, Vec::new(), 0));
            here.1.push(logprob.exp());
            here.2 += usize::from(bounded);
        }
    }
    let one = |(at, values, n_bounded): (f64, Vec<f64>, usize)| {
        let label = format!("{} stop at {at}", places.points[own]);
        Some(AtPlace { at, probability: mean_of(seed, &label, &values)?, n_bounded })
    };
    by_place.into_values().filter_map(one).collect()
}
