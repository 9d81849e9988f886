//! A fitted model: how it is made, asked, and written down.

use anyhow::{Context as _, bail, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use super::inputs::{Inputs, Known, Read};
use super::{
    FitError, QUANTILES, Sample, Shift,
    censor::{self, Curve, Seen},
    conformal::{self, Held},
    encoder::{Encoded, Identity},
    fold,
    gbdt::{self, Columns, Forest, Label},
    groups::{Group, Groups},
    inputs::{self, Scorers, Scores},
    shift, to_log, to_tokens,
    words::Words,
};

/// Format of the file; another number is another format.
pub const SCHEMA: &str = "kvbench-length/1";
/// Format of the file of a model that was fitted with an encoder: [`SCHEMA`] with the part `encoder`.
pub const SCHEMA_ENCODER: &str = "kvbench-length/2";
/// Fewest prompts of the baseline.
pub const PROMPTS_MIN: usize = 40;
/// Fewest families of them.
pub const FAMILIES_MIN: usize = 20;
/// The calibration fold is one of so many.
const CALIBRATION_FOLDS: usize = 5;
/// What a model was fitted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trained {
    /// Prompts of the baseline, those of the calibration fold among them.
    pub n_prompts: usize,
    /// Families that they are of.
    pub n_families: usize,
    /// Their answers.
    pub n_answers: usize,
    /// Answers that ended at `max_tokens`.
    pub n_censored: usize,
    /// Largest `max_tokens`: no quantile above it is known.
    pub max_tokens: u32,
    /// Seed.
    pub seed: u64,
}

/// How the ends of the interval were moved; `None` where too few prompts could tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Prompts of the calibration fold.
    pub n_prompts: usize,
    /// Taken from q10, on the scale of [`to_log`].
    pub low: Option<f32>,
    /// Added to q90.
    pub high: Option<f32>,
}

/// A model of one LLM's answers. All numbers are of 32 bits, whose shortest decimals are read back to the same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// [`SCHEMA`], or [`SCHEMA_ENCODER`] of a model with an encoder.
    pub schema: String,
    /// The LLM, where the runs name one.
    pub llm: Option<String>,
    /// Method whose lengths the forests predict.
    pub baseline: String,
    /// What it looks at.
    pub inputs: Inputs,
    /// What it was fitted on.
    pub trained: Trained,
    /// T0.
    pub groups: Groups,
    /// The score of the words, `None` where it is no feature.
    pub words: Option<Words>,
    /// What is learnt of an encoder's vectors (T2), `None` of a model that reads none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Encoded>,
    /// Names of the features with the smallest and the largest value that was seen.
    pub features: Vec<(String, f32, f32)>,
    /// One forest a quantile of [`QUANTILES`].
    pub forests: Vec<Forest>,
    /// What was done to the ends.
    pub calibration: Calibration,
    /// Other methods.
    pub shifts: Vec<Shift>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Query<'a> {
    /// The prompt.
    pub prompt: &'a str,
    /// Its task, where one is known.
    pub task: Option<&'a str>,
    /// Most tokens of the answer, where there is such a limit.
    pub max_tokens: Option<u32>,
    /// Method; `None` is the baseline.
    pub method: Option<&'a str>,
}

impl<'a> Query<'a> {
    /// The question that a sample answers.
    pub fn of(sample: &'a Sample) -> Self {
        Self {
            prompt: &sample.prompt,
            task: sample.task.as_deref(),
            max_tokens: Some(sample.max_tokens),
            method: Some(&sample.method),
        }
    }
}

/// How a model is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options<'a> {
    /// The method that the forests are of.
    pub baseline: &'a str,
    /// The LLM, where one is known.
    pub llm: Option<&'a str>,
    /// What it may look at.
    pub inputs: Inputs,
    /// Seed of the trees, of the folds and of the intervals.
    pub seed: u64,
}

impl Model {
    /// Fits a model on samples of the baseline, and shifts on those of other methods. Samples without answers are not looked at, nor are
    /// embeddings.
    ///
    /// # Errors
    /// Too few prompts, or prompts of too few families.
    pub fn fit(all: &[Known<'_>], options: &Options<'_>) -> Result<Self, FitError> {
        Self::fit_with(all, options, None)
    }

    /// The same with the embeddings of an encoder (T2) where one is named. A model of the prompt's length alone takes none.
    ///
    /// # Errors
    /// As [`Self::fit`]; a prompt without an embedding of the encoder.
    pub fn fit_with(
        all: &[Known<'_>],
        options: &Options<'_>,
        encoder: Option<&Identity>,
    ) -> Result<Self, FitError> {
        let is_base = |known: &&Known<'_>| {
            known.sample.method == options.baseline && known.sample.median().is_some()
        };
        let base: Vec<Known<'_>> = all.iter().filter(is_base).copied().collect();
        let families: Vec<usize> = base.iter().map(|known| known.sample.family).collect();
        let n_families = distinct(&families);
        if base.len() < PROMPTS_MIN || n_families < FAMILIES_MIN {
            return Err(FitError::TooFew {
                baseline: options.baseline.to_owned(),
                prompts: base.len(),
                families: n_families,
            });
        }
        let encoder = encoder.filter(|_| options.inputs != Inputs::PromptLength);
        encoder.map_or(Ok(()), |encoder| inputs::all_encoded(&base, encoder))?;
        let folds = fold::deal(&families, CALIBRATION_FOLDS, options.seed);
        let of_fold = |is_held: bool| {
            let all = base.iter().zip(&folds);
            all.filter(move |(_, fold)| (**fold == 0) == is_held).map(|(known, _)| *known)
        };
        let (fitted, held): (Vec<_>, Vec<_>) = (of_fold(false).collect(), of_fold(true).collect());
        let mut model = Self::on(&fitted, options, encoder);
        model.trained = trained(&base, n_families, options.seed);
        model.calibrate(&held);
        model.shifts = shift::learn(all, options.baseline, options.seed);
        Ok(model)
    }

    /// The forests, before their ends are moved.
    fn on(fitted: &[Known<'_>], options: &Options<'_>, encoder: Option<&Identity>) -> Self {
        let samples: Vec<&Sample> = fitted.iter().map(|known| known.sample).collect();
        let with_words = options.inputs != Inputs::PromptLength;
        let scorers = with_words.then(|| Scorers::fit(fitted, encoder, options.seed));
        let (words, encoded) =
            scorers.map_or((None, None), |scorers| (Some(scorers.words), scorers.encoded));
        let given =
            if with_words { inputs::scores(fitted, encoder, options.seed) } else { Vec::new() };
        let mut model = Self {
            schema: if encoder.is_some() { SCHEMA_ENCODER } else { SCHEMA }.to_owned(),
            llm: options.llm.map(str::to_owned),
            baseline: options.baseline.to_owned(),
            inputs: options.inputs,
            trained: trained(fitted, 0, options.seed),
            groups: Groups::fit(&samples),
            words,
            encoder: encoded,
            features: Vec::new(),
            forests: Vec::new(),
            calibration: Calibration { n_prompts: 0, low: None, high: None },
            shifts: Vec::new(),
        };
        let row = |(at, known): (usize, &Known<'_>)| {
            let given = given.get(at).copied().unwrap_or_default();
            model.row(known.read, known.sample.task.as_deref(), given)
        };
        let rows: Vec<Vec<f32>> = fitted.iter().enumerate().map(row).collect();
        let columns = Columns::of(rows.iter().map(Vec::as_slice));
        model.features = ranges(&model.names(), &columns);
        model.forests = forests(&columns, &samples, options.seed);
        model
    }

    fn calibrate(&mut self, held: &[Known<'_>]) {
        let ends: Vec<[f64; 3]> = held
            .iter()
            .map(|known| {
                self.raw(&self.row(known.read, known.sample.task.as_deref(), Scores::default()))
            })
            .collect();
        let side = |at: usize| -> Vec<Held<'_>> {
            let both = held.iter().zip(&ends);
            both.map(|(known, ends)| Held { sample: known.sample, end: ends[at] }).collect()
        };
        self.calibration = Calibration {
            n_prompts: held.len(),
            low: conformal::lower(&side(0)),
            high: conformal::upper(&side(2)),
        };
    }

    /// The forests' own quantiles, in order (Chernozhukov et al. 2010: sorting crossed quantiles only brings them closer).
    pub(super) fn raw(&self, row: &[f32]) -> [f64; 3] {
        let mut logs = [0.0; 3];
        logs.iter_mut().zip(&self.forests).for_each(|(log, forest)| *log = forest.predict(row));
        logs.sort_by(f64::total_cmp);
        logs
    }

    /// Quantiles on the scale of [`to_log`] of the baseline's answer, before `max_tokens`.
    pub(super) fn logs(&self, row: &[f32]) -> [f64; 3] {
        let [low, middle, high] = self.raw(row);
        let margin = |margin: Option<f32>| margin.map_or(0.0, f64::from);
        [
            (low - margin(self.calibration.low)).min(middle),
            middle,
            (high + margin(self.calibration.high)).max(middle),
        ]
    }

    /// Tokens at q10, q50 and q90.
    ///
    /// # Errors
    /// A method that the model has no shift for; a model whose numbers add up to no length; a model that was fitted with an encoder, which
    /// must be asked with [`Self::predict_read`].
    pub fn predict(&self, query: &Query<'_>) -> anyhow::Result<[f64; 3]> {
        self.predict_read(query, &Read::of(query.prompt))
    }

    /// The same of a prompt that has been read, with its embedding where the model was fitted with an encoder.
    ///
    /// # Errors
    /// As [`Self::predict`]; an embedding that is not there, or is of another width.
    pub fn predict_read(&self, query: &Query<'_>, read: &Read) -> anyhow::Result<[f64; 3]> {
        self.can_see(read)?;
        let logs = self.logs(&self.row(read, query.task, Scores::default()));
        let moved = self.shift(query.method)?.map_or(0.0, |shift| shift.at(read));
        let tokens = logs.map(|log| cut(log + moved, query.max_tokens));
        // Finite numbers of a file that was written by hand may still add up to none.
        ensure!(
            tokens.iter().all(|tokens| tokens.is_finite()),
            "expected lengths that are numbers, got {tokens:?}\n  hint: make the model anew with `kvbench predict length fit`"
        );
        Ok(tokens)
    }

    /// The shift of a method; `None` of the baseline, which has none.
    ///
    /// # Errors
    /// A method that the model has no shift for.
    pub fn shift(&self, method: Option<&str>) -> anyhow::Result<Option<&Shift>> {
        let Some(method) = method.filter(|method| *method != self.baseline) else {
            return Ok(None);
        };
        let found = self.shifts.iter().find(|shift| shift.method == method);
        let known = || {
            let shifts = self.shifts.iter().map(|shift| shift.method.as_str());
            std::iter::once(self.baseline.as_str()).chain(shifts).collect::<Vec<_>>().join(", ")
        };
        let found = found.with_context(|| {
            format!("method: expected one of {}, got {method}\n  hint: fit the model on a run that holds the method", known())
        })?;
        Ok(Some(found))
    }

    /// T0's answer, in tokens at q10, q50 and q90, and the group that it is of.
    pub fn group(&self, query: &Query<'_>) -> Option<(&Group, [f64; 3])> {
        let group = self.groups.of(query.task, query.max_tokens)?;
        Some((group, group.logs.map(|log| cut(f64::from(log), query.max_tokens))))
    }

    /// As a file, with a line end.
    ///
    /// # Errors
    /// A number that is not finite.
    pub fn to_json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// From a file; `origin` stands in errors.
    ///
    /// # Errors
    /// Another schema, or a file that is not whole: parts or numbers missing, or trees in which a path would not end.
    pub fn from_json(text: &str, origin: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            schema: String,
        }
        let hint = "\n  hint: make one with `kvbench predict length fit`";
        let version: Version = serde_json::from_str(text).with_context(|| {
            format!("{origin}: expected a length model, got something else{hint}")
        })?;
        ensure!(
            [SCHEMA, SCHEMA_ENCODER].contains(&version.schema.as_str()),
            "{origin}: expected schema {SCHEMA} or {SCHEMA_ENCODER}, got {}{hint}",
            version.schema
        );
        let model: Self = serde_json::from_str(text).with_context(|| {
            format!("{origin}: expected a whole length model, got a damaged one{hint}")
        })?;
        if let Some(fault) = model.fault() {
            bail!("{origin}: expected a whole length model, got one with {fault}{hint}");
        }
        Ok(model)
    }
}

/// Tokens of a value on the scale of [`to_log`], no more than `max_tokens`.
pub(super) fn cut(log: f64, max_tokens: Option<u32>) -> f64 {
    max_tokens.map_or(f64::INFINITY, f64::from).min(to_tokens(log))
}

fn trained(base: &[Known<'_>], n_families: usize, seed: u64) -> Trained {
    Trained {
        n_prompts: base.len(),
        n_families,
        n_answers: base.iter().map(|known| known.sample.lengths.len()).sum(),
        n_censored: base.iter().map(|known| known.sample.n_censored()).sum(),
        max_tokens: base.iter().map(|known| known.sample.max_tokens).max().unwrap_or(0),
        seed,
    }
}

fn distinct(families: &[usize]) -> usize {
    families.iter().collect::<std::collections::BTreeSet<_>>().len()
}

fn ranges(names: &[&str], columns: &Columns) -> Vec<(String, f32, f32)> {
    let range = |(name, column): (&&str, &Vec<f32>)| {
        let low = column.iter().copied().fold(f32::MAX, f32::min);
        let high = column.iter().copied().fold(f32::MIN, f32::max);
        ((*name).to_owned(), low, high)
    };
    names.iter().zip(&columns.columns).map(range).collect()
}

/// One forest a quantile; where answers were cut, after a first fit of the median that tells how lengths spread.
fn forests(columns: &Columns, samples: &[&Sample], seed: u64) -> Vec<Forest> {
    let options = gbdt::Options::for_rows(samples.len());
    let medians: Vec<Option<(f64, bool)>> = samples.iter().map(|sample| sample.median()).collect();
    let curve_around = |centres: &[f64]| {
        let seen = medians.iter().zip(centres).filter_map(|(median, centre)| {
            median.map(|(value, censored)| Seen { value: value - centre, censored, weight: 1.0 })
        });
        Curve::of(seen.collect())
    };
    let labels = |q: f64, curve: &Curve, centres: &[f64]| -> Vec<Vec<Label>> {
        let all = samples.iter().zip(centres);
        all.map(|(sample, centre)| censor::labels(sample, q, curve, *centre)).collect()
    };
    let mut centres = vec![0.0; samples.len()];
    let mut curve = Curve::default();
    if samples.iter().any(|sample| sample.n_censored() > 0) {
        curve = curve_around(&centres);
        let first = gbdt::fit(columns, &labels(0.5, &curve, &centres), 0.5, &options, seed);
        for (at, centre) in centres.iter_mut().enumerate() {
            let row: Vec<f32> = columns.columns.iter().map(|column| column[at]).collect();
            *centre = first.predict(&row);
        }
        curve = curve_around(&centres);
    }
    let one = |(at, q): (usize, &f64)| {
        gbdt::fit(columns, &labels(*q, &curve, &centres), *q, &options, seed + 1 + at as u64)
    };
    QUANTILES.par_iter().enumerate().map(one).collect()
}

/// The largest value that a training prompt had, by name; `None` of a feature that the model does not have.
pub(super) fn range_of(model: &Model, feature: usize) -> Option<(&str, f32, f32)> {
    model.features.get(feature).map(|(name, low, high)| (name.as_str(), *low, *high))
}

/// The cut that no training prompt exceeds, on the scale of [`to_log`].
pub(super) fn log_of_largest_cut(model: &Model) -> f64 {
    to_log(model.trained.max_tokens)
}
