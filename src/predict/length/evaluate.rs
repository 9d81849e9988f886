//! How good a length predictor is on families that it has not seen, beside what knows less and what knows the answer's twins.

use rayon::prelude::*;

use super::{
    FitError, Inputs, Sample, Shift,
    encoder::Identity,
    fold,
    groups::Groups,
    model::{Known, Model, Options as FitOptions, Query, cut},
    score::{self, Guess, Marked, Measures},
    shift, to_log, to_tokens,
};

mod resample;

pub use resample::{Judged, Verdict};

/// Who predicts. The names are keys in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Predictor {
    /// The quantiles of all prompts.
    Constant,
    /// T0.
    T0,
    /// A forest that sees the prompt's length alone.
    PromptLength,
    /// T1.
    T1,
    /// T1 that is not told the task.
    T1NoTask,
    /// T2.
    T2,
    /// T2 that is not told the task.
    T2NoTask,
    /// The median of the other answers to the same prompt. One or two answers are a noisy guess, so that this is where the ceiling
    /// starts: see [`perfect_tau`].
    Ceiling,
}

impl Predictor {
    /// Key and name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::T0 => "t0",
            Self::PromptLength => "prompt_length",
            Self::T1 => "t1",
            Self::T1NoTask => "t1_no_task",
            Self::T2 => "t2",
            Self::T2NoTask => "t2_no_task",
            Self::Ceiling => "ceiling",
        }
    }

    fn inputs(self) -> Option<Inputs> {
        match self {
            Self::PromptLength => Some(Inputs::PromptLength),
            Self::T1 | Self::T2 => Some(Inputs::PromptAndTask),
            Self::T1NoTask | Self::T2NoTask => Some(Inputs::Prompt),
            Self::Constant | Self::T0 | Self::Ceiling => None,
        }
    }
}

/// Which predictors are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier<'a> {
    /// T0, with the constant and the ceiling.
    T0,
    /// T1 as well, with and without the task, and the prompt's length alone.
    T1,
    /// T2 as well, with and without the task, of prompts that this encoder has read.
    T2(&'a Identity),
}

impl<'a> Tier<'a> {
    /// Who must be fitted, with the encoder that it reads with.
    fn learners(self) -> Vec<(Predictor, Option<&'a Identity>)> {
        use Predictor::{PromptLength, T1, T1NoTask, T2, T2NoTask};
        let of_t1 = || [PromptLength, T1, T1NoTask].map(|one| (one, None));
        match self {
            Self::T0 => Vec::new(),
            Self::T1 => of_t1().to_vec(),
            Self::T2(encoder) => {
                let of_t2 = [T2, T2NoTask].map(|one| (one, Some(encoder)));
                of_t1().into_iter().chain(of_t2).collect()
            }
        }
    }
}

/// How it is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options<'a> {
    /// Method whose answers are predicted.
    pub baseline: &'a str,
    /// Folds, at least 2.
    pub folds: usize,
    /// Seed of folds, trees and intervals.
    pub seed: u64,
    /// Bootstrap samples of families.
    pub resamples: usize,
    /// What is judged.
    pub tier: Tier<'a>,
}

/// A predictor's marks on the baseline's prompts, in the order of the samples; `None` of a prompt that it says nothing of.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Who predicts.
    pub predictor: Predictor,
    /// One a prompt.
    pub marked: Vec<Option<Marked>>,
}

/// Another method on prompts that no model saw: with the baseline's prediction, and with the shift.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodMarks {
    /// The method.
    pub method: String,
    /// Prompts.
    pub n_prompts: usize,
    /// Measures of the baseline's prediction.
    pub as_baseline: Measures,
    /// Measures with the shift that the training folds gave.
    pub with_shift: Measures,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Prompts of the baseline.
    pub n_prompts: usize,
    /// Their families.
    pub n_families: usize,
    /// Their answers.
    pub n_answers: usize,
    /// Answers that ended at `max_tokens`.
    pub n_censored: usize,
    /// Prompts with more than one answer.
    pub n_repeated: usize,
    /// Tasks.
    pub n_tasks: usize,
    /// Each predictor with its measures and their intervals, and the differences between some.
    pub judged: Judged,
    /// Marks behind them.
    pub columns: Vec<Column>,
    /// Shifts of the other methods, of all prompts.
    pub shifts: Vec<Shift>,
    /// What the shifts are worth.
    pub methods: Vec<MethodMarks>,
}

impl Evaluation {
    /// The highest tier that reads prompts; [`Predictor::T1`] also where none was judged.
    pub fn reader(&self) -> Predictor {
        let has_t2 = self.column(Predictor::T2).is_some();
        if has_t2 { Predictor::T2 } else { Predictor::T1 }
    }

    /// Marks of a predictor; `None` where it was not judged.
    pub fn column(&self, predictor: Predictor) -> Option<&Column> {
        self.columns.iter().find(|column| column.predictor == predictor)
    }
}

/// Fits on all folds but one, marks on that one, in turn, and resamples families for intervals.
///
/// # Errors
/// Too few prompts are left to learn from, or prompts that the encoder of [`Tier::T2`] has not read.
pub fn evaluate(all: &[Known<'_>], options: &Options<'_>) -> Result<Evaluation, FitError> {
    let with_answers: Vec<Known<'_>> =
        all.iter().filter(|known| known.sample.median().is_some()).copied().collect();
    let families: Vec<usize> = with_answers.iter().map(|known| known.sample.family).collect();
    let folds = fold::deal(&families, options.folds, options.seed);
    let one = |fold: usize| held_out(&with_answers, &folds, fold, options);
    let parts: Vec<Part> = (0..options.folds).into_par_iter().map(one).collect::<Result<_, _>>()?;
    let is_base = |at: &usize| with_answers[*at].sample.method == options.baseline;
    let base: Vec<usize> = (0..with_answers.len()).filter(is_base).collect();
    let samples: Vec<&Sample> = base.iter().map(|at| with_answers[*at].sample).collect();
    let columns = columns(&parts, &base);
    let of_base: Vec<usize> = base.iter().map(|at| families[*at]).collect();
    let judged = resample::judge(&columns, &of_base, options);
    let tasks: std::collections::BTreeSet<_> =
        samples.iter().filter_map(|sample| sample.task.as_deref()).collect();
    Ok(Evaluation {
        n_prompts: samples.len(),
        n_families: of_base.iter().collect::<std::collections::BTreeSet<_>>().len(),
        n_answers: samples.iter().map(|sample| sample.lengths.len()).sum(),
        n_censored: samples.iter().map(|sample| sample.n_censored()).sum(),
        n_repeated: samples.iter().filter(|sample| sample.lengths.len() > 1).count(),
        n_tasks: tasks.len(),
        judged,
        columns,
        shifts: shift::learn(all, options.baseline, options.seed),
        methods: methods(&parts),
    })
}

/// A fold and where the buckets of the others part.
struct Fold {
    fold: usize,
    edges: Vec<f64>,
}

/// A row and its marks.
type AtRow = (usize, Marked);

/// Marks of one fold's prompts.
#[derive(Default)]
struct Part {
    /// By predictor.
    marks: Vec<(Predictor, Vec<AtRow>)>,
    /// By method: marks as the baseline and with the shift.
    methods: Vec<(String, Marked, Marked)>,
}

fn held_out(
    all: &[Known<'_>],
    folds: &[usize],
    fold: usize,
    options: &Options<'_>,
) -> Result<Part, FitError> {
    let split = |is_held: bool| (0..all.len()).filter(move |at| (folds[*at] == fold) == is_held);
    let training: Vec<Known<'_>> = split(false).map(|at| all[at]).collect();
    let is_base = |known: &&Known<'_>| known.sample.method == options.baseline;
    let base: Vec<&Sample> = training.iter().filter(is_base).map(|known| known.sample).collect();
    let medians = base.iter().filter_map(|sample| sample.median());
    let edges = score::edges(medians.map(|(log, _)| to_tokens(log)).collect());
    let edges = Fold { fold, edges };
    let held: Vec<usize> =
        split(true).filter(|at| all[*at].sample.method == options.baseline).collect();
    let mut part = Part::default();
    let groups = Groups::fit(&base);
    for (predictor, task) in [(Predictor::Constant, false), (Predictor::T0, true)] {
        let guess = |known: &Known<'_>| t0(&groups, known.sample, task);
        part.take(predictor, all, &held, &edges, |known| {
            guess(known).map(|one| vec![one; known.sample.lengths.len()])
        });
    }
    part.take(Predictor::Ceiling, all, &held, &edges, |known| twins(known.sample));
    for (predictor, encoder) in options.tier.learners() {
        let Some(inputs) = predictor.inputs() else { continue };
        let fit = FitOptions { baseline: options.baseline, llm: None, inputs, seed: options.seed };
        let model = Model::fit_with(&training, &fit, encoder)?;
        part.take(predictor, all, &held, &edges, |known| {
            let guess = of_model(&model, known, None)?;
            Some(vec![guess; known.sample.lengths.len()])
        });
        if predictor == Predictor::T1 {
            part.methods = others(&model, split(true).map(|at| &all[at]), options, &edges);
        }
    }
    Ok(part)
}

impl Part {
    fn take(
        &mut self,
        predictor: Predictor,
        all: &[Known<'_>],
        held: &[usize],
        edges: &Fold,
        guesses: impl Fn(&Known<'_>) -> Option<Vec<Guess>>,
    ) {
        let one = |at: &usize| {
            let guesses = guesses(&all[*at])?;
            Some((*at, Marked::new(all[*at].sample, guesses, edges.fold, &edges.edges)))
        };
        self.marks.push((predictor, held.iter().filter_map(one).collect()));
    }
}

fn guess([low, middle, high]: [f64; 3]) -> Guess {
    Guess { middle, ends: Some((low, high)), of_twins: false }
}

fn t0(groups: &Groups, sample: &Sample, with_task: bool) -> Option<Guess> {
    let cap = Some(sample.max_tokens);
    let task = sample.task.as_deref().filter(|_| with_task);
    let group = groups.of(task, cap)?;
    Some(guess(group.logs.map(|log| cut(f64::from(log), cap))))
}

/// The baseline's quantiles, or those of a method where one is named; `None` where the model has no shift for it.
fn of_model(model: &Model, known: &Known<'_>, method: Option<&str>) -> Option<Guess> {
    let query = Query { method, ..Query::of(known.sample) };
    model.predict_read(&query, known.read).ok().map(guess)
}

/// For each answer the median of the others; `None` where there is one only. Two or three answers have no 10 % quantile.
fn twins(sample: &Sample) -> Option<Vec<Guess>> {
    if sample.lengths.len() < 2 {
        return None;
    }
    let of_others = |slot: usize| {
        let others = sample.lengths.iter().enumerate().filter(|(at, _)| *at != slot);
        let mut logs: Vec<f64> = others.map(|(_, length)| to_log(length.tokens)).collect();
        let median = crate::stats::median(&mut logs)?;
        Some(Guess { middle: to_tokens(median), ends: None, of_twins: true })
    };
    (0..sample.lengths.len()).map(of_others).collect()
}

fn others<'a>(
    model: &Model,
    held: impl Iterator<Item = &'a Known<'a>>,
    options: &Options<'_>,
    edges: &Fold,
) -> Vec<(String, Marked, Marked)> {
    held.filter(|known| known.sample.method != options.baseline)
        .filter_map(|known| {
            let Known { sample, .. } = known;
            let shifted = of_model(model, known, Some(&sample.method))?;
            let plain = of_model(model, known, None)?;
            let marked = |guess| {
                Marked::new(sample, vec![guess; sample.lengths.len()], edges.fold, &edges.edges)
            };
            Some((sample.method.clone(), marked(plain), marked(shifted)))
        })
        .collect()
}

/// Marks by predictor in the order of `base`.
fn columns(parts: &[Part], base: &[usize]) -> Vec<Column> {
    let Some(first) = parts.first() else { return Vec::new() };
    let one = |(place, (predictor, _)): (usize, &(Predictor, Vec<AtRow>))| {
        let marks = parts.iter().filter_map(|part| part.marks.get(place));
        let by_row: std::collections::BTreeMap<usize, &Marked> =
            marks.flat_map(|(_, marks)| marks.iter().map(|(at, marked)| (*at, marked))).collect();
        let marked = base.iter().map(|at| by_row.get(at).map(|marked| (*marked).clone()));
        Column { predictor: *predictor, marked: marked.collect() }
    };
    let mut columns: Vec<Column> = first.marks.iter().enumerate().map(one).collect();
    columns.sort_by_key(|column| column.predictor);
    columns
}

fn methods(parts: &[Part]) -> Vec<MethodMarks> {
    let mut by_method: std::collections::BTreeMap<&str, (Vec<&Marked>, Vec<&Marked>)> =
        std::collections::BTreeMap::new();
    for (method, plain, shifted) in parts.iter().flat_map(|part| &part.methods) {
        let marks = by_method.entry(method).or_default();
        marks.0.push(plain);
        marks.1.push(shifted);
    }
    let one = |(method, (plain, shifted)): (&str, (Vec<&Marked>, Vec<&Marked>))| MethodMarks {
        method: method.to_owned(),
        n_prompts: plain.len(),
        as_baseline: score::measures(&plain),
        with_shift: score::measures(&shifted),
    };
    by_method.into_iter().map(one).collect()
}

/// The tau that whoever knew each prompt's own middle would reach with single answers, from the tau of a mean of `others` answers.
///
/// Spearman's correction for attenuation (1904), and his formula with Brown's (1910) where several answers were averaged, on the
/// correlation `sin(tau pi / 2)` that Greiner (1909) gives for normal variables. An estimate: lengths are not normal, and many
/// are cut. `None` of a tau that is not positive.
pub fn perfect_tau(tau: f64, others: f64) -> Option<f64> {
    if tau <= 0.0 || others < 1.0 {
        return None;
    }
    // r^2 = rho^2 k / (1 + (k - 1) rho) for the mean of k answers, each of reliability rho.
    let square = (tau * std::f64::consts::FRAC_PI_2).sin().powi(2);
    let linear = square * (others - 1.0);
    let rho = (linear + (linear * linear + 4.0 * others * square).sqrt()) / (2.0 * others);
    Some(rho.min(1.0).sqrt().asin() / std::f64::consts::FRAC_PI_2)
}

#[cfg(test)]
mod tests {
    use super::perfect_tau;

    #[test]
    fn a_noisy_twin_is_no_ceiling() {
        // r = 0.5 between two answers: a perfect predictor has r = sqrt(0.5), which is tau 1/2.
        let third = 1.0 / 3.0;
        assert!((perfect_tau(third, 1.0).unwrap() - 0.5).abs() < 1e-12);
        // Of reliability 0.5 the mean of two answers has r = 0.5 sqrt(2 / 1.5).
        let of_two = (0.5 * (2.0_f64 / 1.5).sqrt()).asin() / std::f64::consts::FRAC_PI_2;
        assert!((perfect_tau(of_two, 2.0).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(perfect_tau(-0.1, 1.0), None);
    }
}
