//! One fitted model: a method on a subject in a phase.

use serde::{Deserialize, Serialize};

use super::{
    Phase, StepTimes, Subject, Work,
    curve::{Coefficient, Curve, Terms, exact_or_none},
    domain::{Domain, Place},
    interval::{Errors, LogInterval, growth},
    local::Local,
    origin::Rows,
};

/// What a model was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Coefficients fitted to points of its own.
    Own,
    /// The baseline's curve at what the method keeps, times one factor from a few points of its own.
    Calibrated,
}

/// A fitted model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it is of; it predicts nothing else.
    pub subject: Subject,
    /// Name of the method.
    pub method: String,
    /// Whether that is the uncompressed baseline.
    pub is_baseline: bool,
    /// Prefill or decode.
    pub phase: Phase,
    /// Most tokens a sequence that the method keeps; `None` where it keeps all, and for prefill.
    #[serde(deserialize_with = "exact_or_none")]
    pub budget: Option<f64>,
    /// What it was made from.
    pub kind: Kind,
    /// Factor on the baseline's curve; `None` where the coefficients are its own.
    #[serde(deserialize_with = "exact_or_none")]
    pub factor: Option<f64>,
    /// Which costs are summed.
    pub terms: Terms,
    /// The costs.
    pub coefficients: Vec<Coefficient>,
    /// Corrections at measured points; `None` where they did not help, or there were too few points to tell.
    pub residuals: Option<Local>,
    /// Cross-validated errors; `None` where nothing could be held out.
    pub errors: Option<Errors>,
    /// Of a new shape's median over repeats, inside of the domain, from cross-validated residuals; `None` below four of them.
    pub interval: Option<LogInterval>,
    /// Errors of the baseline's curve, at what this method keeps, on this method's points, each by a curve that was fitted without the
    /// baseline's points of its shape. `None` for the baseline, and without one.
    pub null: Option<Errors>,
    /// What the points span.
    pub domain: Domain,
    /// Runs and files that it was fitted to, and which rows of each; `None` where nobody told, as in files of an older schema.
    pub created_from: Option<Vec<Rows>>,
    /// Shapes.
    pub n_points: usize,
    /// Measurements, all repeats of all shapes.
    pub n_repeats: usize,
    /// Mean absolute deviation of repeats from their median, as a share; `None` where no shape was repeated.
    #[serde(deserialize_with = "exact_or_none")]
    pub noise: Option<f64>,
}

/// What a model says of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Seconds.
    pub time_s: f64,
    /// 10th and 90th percentile of the median over repeats of such a pass, seconds; `None` where too few points were held out for
    /// one, and far from what was fitted.
    pub interval_s: Option<(f64, f64)>,
    /// The same of one repeat of it: wider by what repeats differ. Where no shape was repeated, each point was a single one and
    /// the interval is that of one repeat already.
    pub one_repeat_s: Option<(f64, f64)>,
    /// How far from what was fitted.
    pub place: Place,
}

impl Model {
    /// The runs and files that it was fitted to, in words; `None` where nobody told.
    pub fn origins(&self) -> Option<String> {
        let all = self.created_from.as_ref()?;
        Some(all.iter().map(Rows::words).collect::<Vec<_>>().join(", "))
    }

    /// Its curve.
    pub fn curve(&self) -> Curve {
        Curve { terms: self.terms, coefficients: self.coefficients.clone() }
    }

    /// Seconds of a pass, which must be after the budget.
    pub fn time_s(&self, work: &Work) -> f64 {
        let (values, _) = self.terms.of(work);
        let curve: f64 = self.coefficients.iter().zip(values).map(|(c, v)| c.value * v).sum();
        curve * self.residuals.as_ref().map_or(1.0, |local| local.factor(work))
    }

    /// Seconds with their interval and their place. Outside the domain the interval is wider, by the root of how many times the pass
    /// lies beyond the range; the residuals that it comes from were divided by the same. Far from the domain nothing that was held out
    /// tells how errors grow, so there is none.
    pub fn predict(&self, work: &Work) -> Prediction {
        let (time_s, place) = (self.time_s(work), self.domain.place(work));
        let around = |logs: LogInterval| (time_s * logs.p10.exp(), time_s * logs.p90.exp());
        let median = self.interval.filter(|_| !place.far);
        let median = median.map(|logs| logs.scaled(growth(place.distance)));
        let single = median.map(|logs| self.noise.map_or(logs, |noise| logs.of_one_repeat(noise)));
        Prediction {
            time_s,
            interval_s: median.map(around),
            one_repeat_s: single.map(around),
            place,
        }
    }
}

/// A method on a subject: what an engine that runs it takes.
#[derive(Debug, Clone, Copy)]
pub struct Steps<'a> {
    /// Of prompts.
    pub prefill: &'a Model,
    /// Of new tokens.
    pub decode: &'a Model,
}

impl StepTimes for Steps<'_> {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        let of = |model: &Model, work: Option<&Work>| work.map(|work| model.time_s(work));
        match (of(self.prefill, prefill), of(self.decode, decode)) {
            (Some(prompts), Some(tokens)) => {
                let overhead = |model: &Model| model.coefficients.first().map_or(0.0, |c| c.value);
                let shared = overhead(self.prefill).min(overhead(self.decode));
                (prompts + tokens - shared).max(prompts.max(tokens))
            }
            (Some(alone), None) | (None, Some(alone)) => alone,
            (None, None) => 0.0,
        }
    }
}
