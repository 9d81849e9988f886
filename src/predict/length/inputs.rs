//! What the forests of a model see of a prompt.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    FitError, Model, Sample,
    encoder::{Embedding, Encoded, Identity, Score},
    fold, text,
    words::{Bag, Words},
};

/// Folds in which scores are made for the prompts that they are fitted on.
const SCORE_FOLDS: usize = 4;

/// What a model looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inputs {
    /// The prompt and its task's quantiles.
    PromptAndTask,
    /// The prompt alone: what is left where the task is not known, or must not help.
    Prompt,
    /// The prompt's length alone: the yardstick that reading must beat.
    PromptLength,
}

/// What of a prompt does not depend on the model, so that many models need it once.
#[derive(Debug, Clone)]
pub struct Read {
    pub(super) features: [f32; text::N_FEATURES],
    pub(super) bag: Bag,
    pub(super) embedding: Option<Embedding>,
}

impl Read {
    /// Reads a prompt.
    pub fn of(prompt: &str) -> Self {
        Self { features: text::features(prompt), bag: Bag::of(prompt), embedding: None }
    }

    /// The same with what an encoder made of the prompt, see [`super::encoder::embed`].
    pub fn with(self, embedding: Embedding) -> Self {
        Self { embedding: Some(embedding), ..self }
    }

    /// The embedding, where it is one of `width` numbers.
    fn embedding(&self, width: usize) -> Option<&[f32]> {
        self.embedding.as_deref().filter(|embedding| embedding.len() == width)
    }
}

/// A sample whose prompt has been read.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The sample.
    pub sample: &'a Sample,
    /// Its prompt.
    pub read: &'a Read,
}

/// Scores of a prompt where they are not the model's own to give: of prompts that it was fitted on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scores {
    words: Option<f32>,
    encoder: Option<f32>,
}

/// The regressions whose scores are features.
pub(super) struct Scorers {
    pub(super) words: Words,
    pub(super) encoded: Option<Encoded>,
}

impl Scorers {
    /// Fits them. All prompts are encoded where an encoder is named, see [`all_encoded`].
    pub(super) fn fit(fitted: &[Known<'_>], encoder: Option<&Identity>, seed: u64) -> Self {
        let encoded =
            |identity| Encoded::fit(&vectors(fitted, identity), &middles(fitted), identity, seed);
        Self { words: words_of(fitted), encoded: encoder.map(encoded) }
    }
}

/// The scores of each prompt, from regressions that have not seen its family: with its own, a tree would take what was learnt by heart for
/// knowledge.
pub(super) fn scores(fitted: &[Known<'_>], encoder: Option<&Identity>, seed: u64) -> Vec<Scores> {
    let families: Vec<usize> = fitted.iter().map(|known| known.sample.family).collect();
    let folds = fold::deal(&families, SCORE_FOLDS, seed ^ 1);
    let of_others = |fold: usize| {
        let others = fitted.iter().zip(&folds).filter(|(_, at)| **at != fold);
        let others: Vec<Known<'_>> = others.map(|(known, _)| *known).collect();
        let score = |identity: &Identity| {
            Score::fit(&vectors(&others, identity), &middles(&others), identity.width)
        };
        (words_of(&others), encoder.map(score))
    };
    let models: Vec<(Words, Option<Score>)> =
        (0..SCORE_FOLDS).into_par_iter().map(of_others).collect();
    let one = |(Known { read, .. }, fold): (&Known<'_>, &usize)| {
        let (words, encoder) = &models[*fold];
        let vector = read.embedding.as_deref();
        Scores {
            words: Some(words.score(&read.bag)),
            encoder: encoder.as_ref().zip(vector).map(|(score, vector)| score.of(vector)),
        }
    };
    fitted.iter().zip(&folds).map(one).collect()
}

/// Whether every prompt has a vector of the encoder.
///
/// # Errors
/// Some have none, or one of another width.
pub(super) fn all_encoded(prompts: &[Known<'_>], encoder: &Identity) -> Result<(), FitError> {
    let without = prompts.len() - vectors(prompts, encoder).len();
    if without == 0 {
        return Ok(());
    }
    Err(FitError::NotEncoded { width: encoder.width, prompts: prompts.len(), without })
}

fn vectors<'a>(fitted: &[Known<'a>], encoder: &Identity) -> Vec<&'a [f32]> {
    fitted.iter().filter_map(|known| known.read.embedding(encoder.width)).collect()
}

fn words_of(fitted: &[Known<'_>]) -> Words {
    let bags: Vec<&Bag> = fitted.iter().map(|known| &known.read.bag).collect();
    Words::fit(&bags, &middles(fitted))
}

/// Cut answers count as they stand here: a score is a feature, and the trees put right what is too low about it.
fn middles(fitted: &[Known<'_>]) -> Vec<f64> {
    fitted.iter().map(|known| known.sample.median().map_or(0.0, |(value, _)| value)).collect()
}

impl Model {
    /// Names of the features.
    pub(super) fn names(&self) -> Vec<&'static str> {
        let mut names = match self.inputs {
            Inputs::PromptLength => text::NAMES[..1].to_vec(),
            Inputs::Prompt => [&text::NAMES[..], &["words"]].concat(),
            Inputs::PromptAndTask => {
                [&text::NAMES[..], &["words", "task_q50", "task_q90"]].concat()
            }
        };
        names.extend(self.encoder.iter().flat_map(Encoded::names));
        names
    }

    /// The features of a prompt; `given` are scores that are not the model's own.
    pub(super) fn row(&self, read: &Read, task: Option<&str>, given: Scores) -> Vec<f32> {
        if self.inputs == Inputs::PromptLength {
            return read.features[..1].to_vec();
        }
        let mut row = Vec::with_capacity(self.features.len().max(read.features.len() + 3));
        row.extend(read.features);
        let own = || self.words.as_ref().map_or(0.0, |words| words.score(&read.bag));
        row.push(given.words.unwrap_or_else(own));
        if self.inputs == Inputs::PromptAndTask {
            // Of the task alone: `max_tokens` is no wish of the prompt's, and cuts every prediction anyway.
            let logs = self.groups.of(task, None).map_or([0.0; 3], |group| group.logs);
            row.extend([logs[1], logs[2]]);
        }
        if let Some((encoded, vector)) = self.encoder.as_ref().zip(read.embedding.as_deref()) {
            row.extend(encoded.columns(vector, given.encoder));
        }
        row
    }

    /// Whether a prompt was read as the model reads it: with an embedding where it was fitted with an encoder.
    ///
    /// # Errors
    /// An embedding that is not there, or is of another width.
    pub(super) fn can_see(&self, read: &Read) -> anyhow::Result<()> {
        let Some(Encoded { identity, .. }) = &self.encoder else { return Ok(()) };
        anyhow::ensure!(
            read.embedding(identity.width).is_some(),
            "encoder: expected the prompt's vector of {} numbers, got {}\n  hint: the model was fitted with an encoder and needs it again",
            identity.width,
            read.embedding
                .as_ref()
                .map_or_else(|| "none".to_owned(), |vector| format!("one of {}", vector.len()))
        );
        Ok(())
    }

    /// Whether prompts may be read by `offered`, or without an encoder: a model understands no vectors but those that it was fitted on.
    ///
    /// # Errors
    /// Another encoder, one where the model reads none, or none where it was fitted with one.
    pub fn accepts(&self, offered: Option<&Identity>) -> anyhow::Result<()> {
        match (self.encoder.as_ref().map(|encoded| &encoded.identity), offered) {
            (None, None) => Ok(()),
            (Some(own), Some(offered)) => match own.differs(offered) {
                None => Ok(()),
                Some((what, expected, got)) => anyhow::bail!(
                    "encoder: expected the one that the model was fitted with ({what} {expected}), got another ({what} {got})\n  hint: name \
                     the files that `kvbench predict length fit` was given, or fit the model anew with these"
                ),
            },
            (Some(own), None) => anyhow::bail!(
                "encoder: expected the one that the model was fitted with (sha256 {}), got none\n  hint: name it with --encoder",
                own.sha256
            ),
            (None, Some(offered)) => anyhow::bail!(
                "encoder: expected none, because the model was fitted without one, got one (sha256 {})\n  hint: leave --encoder out, or \
                 fit the model anew with it",
                offered.sha256
            ),
        }
    }
}
