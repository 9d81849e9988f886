//! How far a predictor can be trusted, on what was held out.

use std::collections::BTreeMap;

use super::{
    Observation, Phase, Prediction, Subject, Work,
    fit::{self, Options},
    interval::Errors,
    model::Model,
    origin::Rows,
    points::{self, Group, Point},
    split::{Round, Split, shape},
    table::Table,
};
use crate::stats::{self, Interval};

/// What predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Predictor {
    /// [`Model`].
    Roofline,
    /// [`Table`].
    Interpolate,
    /// The baseline's model at what the method keeps: the method itself adds nothing.
    Null,
}

/// One prediction of something that was held out.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Why it was held out.
    pub split: Split,
    /// On what.
    pub subject: Subject,
    /// Which method.
    pub method: String,
    /// Whether it is the baseline.
    pub is_baseline: bool,
    /// Most tokens a sequence that it keeps; of decode only.
    pub budget: Option<f64>,
    /// The pass.
    pub work: Work,
    /// What it took: median over repeats, seconds.
    pub measured_s: f64,
    /// See [`super::Pass::noise`].
    pub noise: Option<f64>,
    /// Of the fitted model; `None` where the rest did not allow one. Of a method that was held out whole on purpose the baseline's
    /// speaks; elsewhere it would pass for a model of the method.
    pub model: Option<Prediction>,
    /// Of the null, seconds; of the baseline, what its own model says.
    pub null_s: Option<f64>,
    /// Of the table, seconds; `None` outside of it.
    pub table_s: Option<f64>,
}

/// One split in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// What was held out.
    pub split: Split,
    /// Prefill or decode.
    pub phase: Phase,
    /// Points that were asked for.
    pub n: usize,
    /// Of these, points for which the predictor had nothing to learn from, or no answer.
    pub n_not_predicted: usize,
    /// Mean noise of those that were repeated.
    pub noise: Option<f64>,
    /// Of the fitted model.
    pub roofline: Option<Errors>,
    /// Of the null.
    pub null: Option<Errors>,
    /// Of the table; where it has an answer.
    pub interpolate: Option<Errors>,
    /// Points inside the 80 % interval, and points with one; `None` where the predictor under test gives no intervals, as only
    /// the fitted model does.
    pub covered: Option<(usize, usize)>,
    /// Points outside the domain of the model that was asked; `None` where the predictor under test is another.
    pub n_outside: Option<usize>,
    /// The predictor under test and the null on the same points, without the baseline, for which they are the same.
    pub against_null: Option<(Errors, Errors)>,
    /// By how many points of percent the predictor's error is smaller on these, mean with 95 % bootstrap interval over what is
    /// independent: methods of a subject where methods were held out, else its shapes. `None` with fewer than [`CLUSTERS_MIN`].
    pub gain: Option<Interval>,
}

/// Shapes, or methods, that differ independently of one another, below which a bootstrap of them claims more than it knows: drawn from
/// values of one sign it never leaves that sign, and five agree by chance once in 16, six once in 32.
pub const CLUSTERS_MIN: usize = 6;

/// What a difference comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gain {
    /// Better by more than chance.
    Better,
    /// Worse by more than chance.
    Worse,
    /// The data cannot tell.
    Open,
}

impl Gain {
    /// From an interval of the gain; without one the data cannot tell.
    pub fn of(interval: Option<Interval>) -> Self {
        match interval {
            Some(interval) if interval.low > 0.0 => Gain::Better,
            Some(interval) if interval.high < 0.0 => Gain::Worse,
            _ => Gain::Open,
        }
    }

    /// Key in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Gain::Better => "better",
            Gain::Worse => "worse",
            Gain::Open => "not shown",
        }
    }
}

impl Predictor {
    /// All.
    pub const ALL: [Predictor; 3] = [Predictor::Roofline, Predictor::Interpolate, Predictor::Null];

    /// Key in JSON, name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Predictor::Roofline => "roofline",
            Predictor::Interpolate => "interpolate",
            Predictor::Null => "null",
        }
    }
}

impl Held {
    /// Seconds that a predictor says.
    pub fn time_s(&self, predictor: Predictor) -> Option<f64> {
        match predictor {
            Predictor::Roofline => self.model.as_ref().map(|said| said.time_s),
            Predictor::Interpolate => self.table_s,
            Predictor::Null => self.null_s,
        }
    }

    /// `ln(measured / predicted)`.
    fn log_ratio(&self, predictor: Predictor) -> Option<f64> {
        self.time_s(predictor)
            .map(|time_s| (self.measured_s / time_s).ln())
            .filter(|r| r.is_finite())
    }

    /// Whether the interval holds what was measured; `None` without an interval.
    pub fn is_covered(&self) -> Option<bool> {
        let (low, high) = self.model.as_ref()?.interval_s?;
        Some((low..=high).contains(&self.measured_s))
    }
}

/// Every split that the data allows, each point with what was said of it.
pub fn held_out(observations: &[Observation]) -> Vec<Held> {
    let seen = merged(observations);
    let ask = |split: Split| {
        split
            .rounds(&seen)
            .into_iter()
            .flat_map(|round| asked(split, &round, &seen))
            .collect::<Vec<_>>()
    };
    Split::ALL.into_iter().flat_map(ask).collect()
}

/// One observation a group and shape.
fn merged(observations: &[Observation]) -> Vec<Observation> {
    let mut out: Vec<Observation> = Vec::new();
    let mut index = BTreeMap::new();
    for one in observations {
        let work = &one.pass.work;
        let shape = [work.batch, work.new_tokens, work.cached, work.attended].map(f64::to_bits);
        let budget = one.budget.map(f64::to_bits);
        let key = (&one.subject, &one.method, budget, work.phase, shape);
        match index.get(&key) {
            Some(at) => {
                let held: &mut Observation = &mut out[*at];
                held.pass.repeats_s.extend(&one.pass.repeats_s);
                held.rows = Rows::merged(held.rows.iter().chain(&one.rows));
            }
            None => {
                index.insert(key, out.len());
                out.push(one.clone());
            }
        }
    }
    out
}

fn chosen(seen: &[Observation], flags: &[bool]) -> Vec<Observation> {
    seen.iter().zip(flags).filter(|(_, flag)| **flag).map(|(one, _)| one.clone()).collect()
}

fn asked(split: Split, round: &Round, seen: &[Observation]) -> Vec<Held> {
    let train = chosen(seen, &round.train);
    let models = fit::fit(&train, &Options::default()).models;
    let known = points::groups(&train);
    let test = points::groups(&chosen(seen, &round.test));
    let of = |group: &Group| {
        let same_place =
            |model: &&Model| model.subject == group.subject && model.phase == group.phase;
        let here = models.iter().filter(same_place);
        let baseline = here.clone().find(|model| model.is_baseline);
        let own = here.clone().find(|m| m.method == group.method && same(m.budget, group.budget));
        // Of a method that is not to be seen, the null is all there is.
        let model = own.or(baseline.filter(|_| split == Split::NewMethod0));
        let table = known.iter().find(|other| is_same(other, group));
        let table = table.map(|known| Table::of(&known.points.iter().collect::<Vec<_>>()));
        let held = |point: &Point| Held {
            split,
            subject: group.subject.clone(),
            method: group.method.clone(),
            is_baseline: group.is_baseline,
            budget: group.budget,
            work: point.work,
            measured_s: point.time_s,
            noise: point.noise,
            model: model.map(|model| model.predict(&point.work)),
            null_s: baseline.map(|model| model.time_s(&point.work)),
            table_s: table.as_ref().and_then(|table| table.time_s(&point.work)),
        };
        group.points.iter().map(held).collect::<Vec<_>>()
    };
    test.iter().flat_map(of).collect()
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    a.map(f64::to_bits) == b.map(f64::to_bits)
}

fn is_same(a: &Group, b: &Group) -> bool {
    a.subject == b.subject && a.phase == b.phase && a.method == b.method && same(a.budget, b.budget)
}

/// One score a split and phase, in the order of [`Split::ALL`].
pub fn scores(held: &[Held], predictor: Predictor) -> Vec<Score> {
    let places = Split::ALL
        .into_iter()
        .flat_map(|split| [Phase::Decode, Phase::Prefill].map(|phase| (split, phase)));
    places
        .filter_map(|(split, phase)| {
            let here: Vec<&Held> =
                held.iter().filter(|h| h.split == split && h.work.phase == phase).collect();
            (!here.is_empty()).then(|| score(split, phase, &here, predictor))
        })
        .collect()
}

/// Errors of a predictor on those points of which it says something.
pub fn errors(held: &[&Held], predictor: Predictor) -> Option<Errors> {
    Errors::of(&held.iter().filter_map(|h| h.log_ratio(predictor)).collect::<Vec<_>>())
}

fn score(split: Split, phase: Phase, held: &[&Held], predictor: Predictor) -> Score {
    let noise: Vec<f64> = held.iter().filter_map(|h| h.noise).collect();
    let covered: Vec<bool> = held.iter().filter_map(|h| h.is_covered()).collect();
    let n_covered = covered.iter().filter(|inside| **inside).count();
    let outside = |h: &&&Held| h.model.as_ref().is_some_and(|said| !said.place.in_domain);
    let fitted = predictor == Predictor::Roofline;
    let methods: Vec<&Held> = held
        .iter()
        .copied()
        .filter(|h| {
            !h.is_baseline && [predictor, Predictor::Null].iter().all(|p| h.log_ratio(*p).is_some())
        })
        .collect();
    Score {
        split,
        phase,
        n: held.len(),
        n_not_predicted: held.iter().filter(|h| h.log_ratio(predictor).is_none()).count(),
        noise: stats::mean(&noise),
        roofline: errors(held, Predictor::Roofline),
        null: errors(held, Predictor::Null),
        interpolate: errors(held, Predictor::Interpolate),
        covered: fitted.then_some((n_covered, covered.len())),
        n_outside: fitted.then(|| held.iter().filter(outside).count()),
        against_null: errors(&methods, predictor).zip(errors(&methods, Predictor::Null)),
        gain: gain(split, &methods, predictor),
    }
}

/// Points of one method on one subject share what the method does, points of one shape what the shape does: such a group is drawn
/// as a whole, or many points of two methods would pass for many methods.
fn gain(split: Split, methods: &[&Held], predictor: Predictor) -> Option<Interval> {
    let off = |h: &Held, of: Predictor| h.log_ratio(of).map(|ratio| ((-ratio).exp() - 1.0).abs());
    let by_method = matches!(split, Split::NewMethod4 | Split::NewMethod0);
    let mut clusters: BTreeMap<_, (f64, f64)> = BTreeMap::new();
    for h in methods {
        let gain = 100.0 * (off(h, Predictor::Null)? - off(h, predictor)?);
        let within = if by_method { (Some(&h.method), None) } else { (None, Some(shape(&h.work))) };
        let sum = clusters.entry((&h.subject, within)).or_default();
        *sum = (sum.0 + gain, sum.1 + 1.0);
    }
    let clusters: Vec<(f64, f64)> = clusters.into_values().collect();
    if clusters.len() < CLUSTERS_MIN {
        return None;
    }
    stats::bootstrap(&[clusters], &mut stats::seeded(0), |drawn| {
        let (sum, n) = drawn.iter().fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
        (n > 0.0).then(|| sum / n)
    })
}

impl Score {
    /// Errors of a predictor.
    pub fn errors(&self, predictor: Predictor) -> Option<Errors> {
        match predictor {
            Predictor::Roofline => self.roofline,
            Predictor::Interpolate => self.interpolate,
            Predictor::Null => self.null,
        }
    }

    /// Share inside the 80 % interval; `None` without one.
    pub fn coverage(&self) -> Option<f64> {
        let (inside, n) = self.covered?;
        (n > 0).then(|| inside as f64 / n as f64)
    }
}
