//! T2: what an encoder that the user supplies says of a prompt, made into few columns.
//!
//! An [`Encoder`] turns a prompt into a vector of some hundreds of numbers; corpora of answers are some hundreds of prompts, and trees that
//! may split on every number would find one that fits by chance. Two things are made of the vector instead, both on the rows that the
//! forests are fitted on and on no others:
//!
//! - its score: a ridge regression of log lengths on it. For the rows that it is fitted on it is made by regressions that have not seen
//!   their families, as the score of the words is;
//! - its first principal components, so that a tree can find what is not a sum. They know no lengths and cannot learn any by heart.
//!
//! A random projection would need no fit, but `k` random columns of `width` keep `k / width` of what any one direction says: they keep
//! distances (Johnson and Lindenstrauss 1984), and it is not distances that a tree splits on.

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{principal, ridge};

/// Principal components that are columns. More of them, each with less of the variance, mostly add chances to fit noise.
const COMPONENTS: usize = 16;
/// Weight of the wish for small weights, in prompts: vectors have length 1 before they are centred.
const RIDGE: f64 = 1.0;

/// Names of the columns in the order of [`Encoded::columns`].
pub(super) const NAMES: [&str; 1 + COMPONENTS] = [
    "encoder",
    "encoder_1",
    "encoder_2",
    "encoder_3",
    "encoder_4",
    "encoder_5",
    "encoder_6",
    "encoder_7",
    "encoder_8",
    "encoder_9",
    "encoder_10",
    "encoder_11",
    "encoder_12",
    "encoder_13",
    "encoder_14",
    "encoder_15",
    "encoder_16",
];

/// What a prompt is encoded by: vectors of two encoders that differ in any of this are not comparable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// sha256 of the encoder's file, hex.
    pub sha256: String,
    /// sha256 of its tokenizer's file, hex.
    pub tokenizer_sha256: String,
    /// What of its output is taken, in words, such as `mean of last_hidden_state`.
    pub output: String,
    /// Numbers of a vector.
    pub width: usize,
    /// Tokens of a prompt that it reads, those included that the tokenizer adds; what follows is cut off.
    pub tokens_max: usize,
}

impl Identity {
    /// The first thing in which two differ: what, here, there.
    pub(super) fn differs(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let both = |of: fn(&Self) -> String| (of(self), of(other));
        let all = [
            ("sha256", both(|it| it.sha256.clone())),
            ("sha256 of the tokenizer", both(|it| it.tokenizer_sha256.clone())),
            ("output", both(|it| it.output.clone())),
            ("width", both(|it| it.width.to_string())),
            ("most tokens", both(|it| it.tokens_max.to_string())),
        ];
        let mut all = all.into_iter().map(|(what, (here, there))| (what, here, there));
        all.find(|(_, here, there)| here != there)
    }
}

/// Turns texts into vectors.
pub trait Encoder {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// Texts so far of which a part was cut off because they have more than [`Identity::tokens_max`] tokens.
    fn n_cut(&self) -> usize;

    /// One vector a text, in the order of the texts. `told` hears how many are done.
    ///
    /// # Errors
    /// A text that cannot be encoded.
    fn encode(
        &mut self,
        texts: &[&str],
        told: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Vec<f32>>>;
}

/// A prompt's vector, of length 1; shared by the samples of one prompt.
pub type Embedding = Arc<[f32]>;

/// Embeddings of prompts, in their order. A prompt that stands there several times is encoded once; `told` hears how many of the
/// distinct ones are done, and how many there are.
///
/// # Errors
/// A prompt that cannot be encoded, or a vector that is of another width than the encoder's, or not of numbers.
pub fn embed(
    prompts: &[&str],
    encoder: &mut dyn Encoder,
    told: &mut dyn FnMut(usize, usize),
) -> anyhow::Result<Vec<Embedding>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut distinct: Vec<&str> = Vec::new();
    for prompt in prompts {
        places.entry(prompt).or_insert_with(|| {
            distinct.push(prompt);
            distinct.len() - 1
        });
    }
    let n = distinct.len();
    let vectors = encoder.encode(&distinct, &mut |done| told(done, n))?;
    ensure!(vectors.len() == n, "encoder: expected {n} vectors, got {}", vectors.len());
    let width = encoder.identity().width;
    let vectors: Vec<Embedding> =
        vectors.into_iter().map(|vector| unit(vector, width)).collect::<anyhow::Result<_>>()?;
    let of = |prompt: &&str| places.get(prompt).and_then(|at| vectors.get(*at)).cloned();
    prompts.iter().map(|prompt| of(prompt).context("encoder: a prompt without a vector")).collect()
}

/// The vector at length 1; one of zeros stays one.
fn unit(mut vector: Vec<f32>, width: usize) -> anyhow::Result<Embedding> {
    ensure!(
        vector.len() == width,
        "encoder: expected vectors of {width} numbers, got one of {}",
        vector.len()
    );
    let square = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
    ensure!(
        square.is_finite(),
        "encoder: expected vectors of finite numbers, got one that is infinite or no number\n  hint: an encoder in half precision may overflow: export it in float32"
    );
    if square > 0.0 {
        let length = square.sqrt();
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    Ok(vector.into())
}

/// A fitted linear score of vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Score {
    /// Mean of what it was fitted to.
    mean: f32,
    /// Mean of the vectors.
    centre: Vec<f32>,
    /// Weight by place.
    weights: Vec<f32>,
}

impl Score {
    /// Fits the regression; one vector and one target a prompt.
    pub(super) fn fit(vectors: &[&[f32]], targets: &[f64], width: usize) -> Self {
        let centre = centre(vectors, width);
        let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
        let row =
            |vector: &&[f32]| -> ridge::Row { (0_u32..).zip(less(vector, &centre)).collect() };
        let rows: Vec<ridge::Row> = vectors.iter().map(row).collect();
        let centred: Vec<f64> = targets.iter().map(|target| target - mean).collect();
        let weights = ridge::fit(&rows, width, &centred, RIDGE);
        Self {
            mean: mean as f32,
            centre,
            weights: weights.into_iter().map(|weight| weight as f32).collect(),
        }
    }

    /// The log length that a vector speaks for.
    pub(super) fn of(&self, vector: &[f32]) -> f32 {
        self.mean + dot(&less(vector, &self.centre), &self.weights)
    }
}

/// What is learnt of vectors, with the encoder that they must come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoded {
    /// The encoder.
    pub identity: Identity,
    /// The score of a vector.
    pub(super) score: Score,
    /// Principal components of the vectors.
    components: Vec<Vec<f32>>,
}

impl Encoded {
    pub(super) fn fit(vectors: &[&[f32]], targets: &[f64], identity: &Identity, seed: u64) -> Self {
        let width = identity.width;
        let score = Score::fit(vectors, targets, width);
        let rows: Vec<Vec<f32>> =
            vectors.iter().map(|vector| less(vector, &score.centre)).collect();
        let components = principal::components(&rows, width, COMPONENTS.min(width), seed);
        Self { identity: identity.clone(), score, components }
    }

    /// Names of the columns.
    pub(super) fn names(&self) -> &'static [&'static str] {
        &NAMES[..1 + self.components.len().min(COMPONENTS)]
    }

    /// The columns of a vector, `score` in the place of its own where that is not the model's to give: of rows that it was fitted on.
    pub(super) fn columns(&self, vector: &[f32], score: Option<f32>) -> Vec<f32> {
        let centred = less(vector, &self.score.centre);
        let along = self.components.iter().map(|component| dot(&centred, component));
        std::iter::once(score.unwrap_or_else(|| self.score.of(vector))).chain(along).collect()
    }

    /// What is wrong with it in a file, in words.
    pub(super) fn fault(&self) -> Option<String> {
        let width = self.identity.width;
        let Score { mean, centre, weights } = &self.score;
        let tables = || self.components.iter().chain([centre, weights]);
        if self.components.len() != COMPONENTS.min(width)
            || tables().any(|table| table.len() != width)
        {
            return Some("a part of the encoder that is not of its width".to_owned());
        }
        let are_finite = mean.is_finite() && tables().flatten().all(|value| value.is_finite());
        (!are_finite).then(|| "a part of the encoder that is not of numbers".to_owned())
    }
}

/// Mean of vectors.
fn centre(vectors: &[&[f32]], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for vector in vectors {
        sums.iter_mut().zip(*vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.into_iter().map(|sum: f64| (sum / vectors.len().max(1) as f64) as f32).collect()
}

fn less(vector: &[f32], centre: &[f32]) -> Vec<f32> {
    vector.iter().zip(centre).map(|(value, centre)| value - centre).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}
