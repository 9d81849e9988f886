//! Tasks on long contexts in the manner of RULER (arXiv 2404.06654), with texts of our own: needles, chains of names, common
//! words. They are not RULER's data, and results on them are not RULER's; the rule that scores them is.

use std::collections::BTreeSet;

use rand_chacha::ChaCha8Rng;

use super::{
    between,
    task::Row,
    word,
    world::{self, filler},
};
use crate::workload::draw;

/// A needle's place takes turns from the start of the context to its end.
const DEPTHS: usize = 11;
/// Needles that stand beside the one asked for.
const OTHER_KEYS: usize = 7;
/// Names of one chain.
const CHAIN: usize = 5;
/// Words to be found, and how often each stands in a long list; others stand there a tenth as often.
const COMMON: usize = 10;
const COMMON_TIMES: usize = 30;

/// A row whose answer is the number that one sentence gives. The row's id ends with the sentence's place, percent.
pub(super) fn needle(i: usize, rng: &mut ChaCha8Rng, words: usize, several: bool) -> Row {
    let depth = i % DEPTHS;
    let dataset = if several { "ruler_niah_multikey" } else { "ruler_niah_single" };
    let towns = world::towns(rng, 1 + if several { OTHER_KEYS } else { 0 });
    let mut codes = BTreeSet::new();
    while codes.len() < towns.len() {
        codes.insert(between(rng, 1_000_000, 9_999_999));
    }
    let mut codes: Vec<usize> = codes.into_iter().collect();
    // Sorted, the numbers would tell the order of the towns.
    let order = draw::sample(rng, codes.len(), codes.len());
    codes = order.into_iter().map(|at| codes[at]).collect();
    let sentence = |at: usize| format!("The gate code of {} is {}.", towns[at].name, codes[at]);
    let asked = (depth as f64 / (DEPTHS - 1) as f64, sentence(0));
    let others = (1..towns.len()).map(|at| (draw::unit(rng), sentence(at))).collect::<Vec<_>>();
    let needles = std::iter::once(asked).chain(others).collect();
    let context = haystack(rng, words, needles);
    let input = format!(
        "What is the gate code of {}, according to the text? Answer with the number only.",
        towns[0].name
    );
    let id = format!("kvbench-{dataset}-{i}-depth{}", 100 * depth / (DEPTHS - 1));
    Row::new(dataset, id, context, input, vec![codes[0].to_string()])
}

/// A row whose answers are all the names that stand for one number, directly or through others.
pub(super) fn chain(i: usize, rng: &mut ChaCha8Rng, words: usize) -> Row {
    let names = names(rng, 2 * CHAIN, 2);
    let (first, other) = (between(rng, 10_000, 54_999), between(rng, 55_000, 99_999));
    let mut needles = Vec::new();
    for (names, number) in names.chunks(CHAIN).zip([first, other]) {
        let mut depths: Vec<f64> = names.iter().map(|_| draw::unit(rng)).collect();
        depths.sort_by(f64::total_cmp);
        let mut stands_for = number.to_string();
        for (name, depth) in names.iter().zip(depths) {
            needles.push((depth, format!("Entry: {name} is {stands_for}.")));
            stands_for.clone_from(name);
        }
    }
    let context = haystack(rng, words, needles);
    let input = format!(
        "Some entries in the text give a name a number, others give it what another name stands for. Which {CHAIN} names stand for {first}? List them all."
    );
    let id = format!("kvbench-ruler_vt-{i}");
    Row::new("ruler_vt", id, context, input, names[..CHAIN].to_vec())
}

/// A row whose answers are the words that stand in a numbered list most often.
pub(super) fn common_words(i: usize, rng: &mut ChaCha8Rng, words: usize) -> Row {
    // A number and a word are two words.
    let n_items = words / 2;
    let times = (n_items / (2 * COMMON)).clamp(2, COMMON_TIMES);
    let rare_times = (times / 10).max(1);
    let n_rare = n_items.saturating_sub(times * COMMON).div_ceil(rare_times);
    let names = names(rng, COMMON + n_rare, 3);
    let (common, rare) = names.split_at(COMMON);
    let often = common.iter().flat_map(|name| std::iter::repeat_n(name, times));
    let seldom = rare.iter().flat_map(|name| std::iter::repeat_n(name, rare_times));
    let items: Vec<&String> = often.chain(seldom).take(n_items).collect();
    let order = draw::sample(rng, items.len(), items.len());
    let line = |(n, at): (usize, usize)| format!("{}. {}", n + 1, items[at].to_lowercase());
    let context = order.into_iter().enumerate().map(line).collect::<Vec<_>>().join(" ");
    let input = format!(
        "The text is a numbered list of words. Which {COMMON} words stand in it most often? List them."
    );
    let id = format!("kvbench-ruler_cwe-{i}");
    let answers = common.iter().map(|name| name.to_lowercase()).collect();
    Row::new("ruler_cwe", id, context, input, answers)
}

/// Filler with sentences put into it: each one after that part of the filler which its number tells. At most `words` words,
/// but never without one of the sentences.
pub(super) fn haystack(
    rng: &mut ChaCha8Rng,
    words: usize,
    mut needles: Vec<(f64, String)>,
) -> String {
    let count = |text: &str| text.split_whitespace().count();
    let mut left = words.saturating_sub(needles.iter().map(|(_, text)| count(text)).sum());
    let mut sentences = Vec::new();
    loop {
        let sentence = filler(rng);
        let Some(rest) = left.checked_sub(count(&sentence)) else { break };
        left = rest;
        sentences.push(sentence);
    }
    needles.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let n = sentences.len() as f64;
    for (depth, text) in needles {
        sentences.insert((depth * n).round() as usize, text);
    }
    sentences.join(" ")
}

const CONSONANTS: [&str; 14] =
    ["B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z"];
const VOWELS: [&str; 5] = ["A", "E", "I", "O", "U"];

/// Distinct made-up names, all of one length, so that none is part of another.
fn names(rng: &mut ChaCha8Rng, n: usize, syllables: usize) -> Vec<String> {
    let (mut seen, mut names) = (BTreeSet::new(), Vec::with_capacity(n));
    while names.len() < n {
        let mut name = String::new();
        for _ in 0..syllables {
            name = name + word(rng, &CONSONANTS) + word(rng, &VOWELS);
        }
        name.push_str(word(rng, &CONSONANTS));
        if seen.insert(name.clone()) {
            names.push(name);
        }
    }
    names
}
