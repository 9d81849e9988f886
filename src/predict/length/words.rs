//! Words and pairs of words as one number: hashed, weighted by how rare they are, and summed by a ridge regression.
//!
//! Weinberger et al. (2009): a hash in the place of a vocabulary, so that the model has one size whatever it was fitted on.
//! Weights are TF-IDF: `(1 + ln tf) ln((1 + n) / (1 + df)) + 1`, a prompt's vector has length 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ridge, text};

/// Places of the hash: 2^13. More would make collisions rarer, and a model of a few hundred prompts no better.
const PLACES: usize = 1 << 13;
/// Weight of the wish for small weights. Vectors have length 1, so this is in prompts.
const RIDGE: f64 = 1.0;

/// A fitted regression of log lengths on words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// Mean of what it was fitted to.
    mean: f32,
    /// Rarity by place.
    rarity: Vec<f32>,
    /// Weight by place.
    weights: Vec<f32>,
}

/// Counts of a prompt's places.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bag(Vec<(u32, f32)>);

impl Bag {
    /// Words and pairs of neighbours of both ends of a prompt.
    pub fn of(prompt: &str) -> Self {
        let mut places: Vec<u32> = Vec::new();
        each_gram(prompt, |first, second| places.push(place(first, second)));
        places.sort_unstable();
        let runs = places.chunk_by(|a, b| a == b);
        Self(runs.map(|run| (run[0], 1.0 + (run.len() as f32).ln())).collect())
    }
}

/// FNV-1a; a pair is hashed with a blank between its words.
fn place(first: &str, second: Option<&str>) -> u32 {
    let parts = [Some(first), second.map(|_| " "), second];
    let hash = parts
        .into_iter()
        .flatten()
        .flat_map(str::bytes)
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // The high bits of FNV are the better mixed ones.
    ((hash >> 32) as u32) % PLACES as u32
}

fn each_gram(prompt: &str, mut take: impl FnMut(&str, Option<&str>)) {
    let (head, tail) = text::ends(prompt);
    for part in [head, tail] {
        let words = text::words(part);
        words.iter().for_each(|word| take(word, None));
        words.windows(2).for_each(|pair| take(&pair[0], Some(&pair[1])));
    }
}

impl Words {
    /// Fits the regression; one bag and one target a prompt.
    pub fn fit(bags: &[&Bag], targets: &[f64]) -> Self {
        let mut seen = vec![0_u32; PLACES];
        bags.iter().flat_map(|bag| &bag.0).for_each(|(place, _)| seen[*place as usize] += 1);
        let n = 1.0 + bags.len() as f64;
        let rarity = seen.iter().map(|df| ((n / (1.0 + f64::from(*df))).ln() + 1.0) as f32);
        let mean = targets.iter().sum::<f64>() / targets.len().max(1) as f64;
        let mut words =
            Self { mean: mean as f32, rarity: rarity.collect(), weights: vec![0.0; PLACES] };
        let rows: Vec<ridge::Row> = bags.iter().map(|bag| words.vector(bag)).collect();
        let centred: Vec<f64> = targets.iter().map(|target| target - mean).collect();
        let weights = ridge::fit(&rows, PLACES, &centred, RIDGE);
        words.weights = weights.into_iter().map(|weight| weight as f32).collect();
        words
    }

    fn vector(&self, bag: &Bag) -> ridge::Row {
        let weighed = |(place, tf): &(u32, f32)| (*place, tf * self.rarity[*place as usize]);
        let mut vector: ridge::Row = bag.0.iter().map(weighed).collect();
        let length = vector.iter().map(|(_, value)| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|(_, value)| *value = (f64::from(*value) / length) as f32);
        }
        vector
    }

    /// The log length that the words speak for.
    pub fn score(&self, bag: &Bag) -> f32 {
        let vector = self.vector(bag);
        let sum: f64 = vector
            .iter()
            .map(|(place, value)| f64::from(*value) * f64::from(self.weights[*place as usize]))
            .sum();
        (f64::from(self.mean) + sum) as f32
    }

    /// Words and pairs of a prompt with what each adds to the score, the largest first.
    pub fn explain(&self, prompt: &str) -> Vec<(String, f64)> {
        let adds: BTreeMap<u32, f64> = self
            .vector(&Bag::of(prompt))
            .into_iter()
            .map(|(at, value)| (at, f64::from(value) * f64::from(self.weights[at as usize])))
            .collect();
        let mut grams: BTreeMap<String, f64> = BTreeMap::new();
        each_gram(prompt, |first, second| {
            let gram =
                second.map_or_else(|| first.to_owned(), |second| format!("{first} {second}"));
            if let Some(added) = adds.get(&place(first, second)) {
                grams.insert(gram, *added);
            }
        });
        let mut grams: Vec<(String, f64)> = grams.into_iter().collect();
        grams.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        grams
    }

    /// Whether the tables of a file have their size, and hold numbers.
    pub fn is_whole(&self) -> bool {
        let tables = [&self.rarity, &self.weights];
        let are_whole = |table: &&Vec<f32>| {
            table.len() == PLACES && table.iter().all(|value| value.is_finite())
        };
        self.mean.is_finite() && tables.iter().all(are_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_go_with_long_answers_score_high() {
        let prompts: Vec<String> = (0..200)
            .map(|i| format!("{} number{i}", if i % 2 == 0 { "an essay on" } else { "yes or no" }))
            .collect();
        let bags: Vec<Bag> = prompts.iter().map(|prompt| Bag::of(prompt)).collect();
        let targets: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 6.0 } else { 1.0 }).collect();
        let words = Words::fit(&bags.iter().collect::<Vec<_>>(), &targets);
        let of = |prompt: &str| words.score(&Bag::of(prompt));
        assert!(of("an essay on dogs") > 5.0 && of("yes or no dogs") < 2.0);
        assert!((of("") - 3.5).abs() < 1e-3, "nothing known is the mean");
        let told = words.explain("an essay on dogs");
        assert!(told[0].1 > 0.0 && !told[0].0.contains("dogs"), "{told:?}");
    }

    #[test]
    fn one_prompt_or_none_is_no_panic() {
        let none = Words::fit(&[], &[]);
        assert!(none.score(&Bag::of("a")).abs() < 1e-6);
        let bag = Bag::of("a b");
        assert!((Words::fit(&[&bag], &[2.0]).score(&bag) - 2.0).abs() < 1e-3);
        assert_eq!(Bag::of(""), Bag::default());
    }
}
