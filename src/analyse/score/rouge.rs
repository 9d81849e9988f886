//! ROUGE-L of summaries as the Python package `rouge` 1.0.1 computes it: sentences end at full stops, each word counts once,
//! the longest common subsequences of all pairs of sentences are united.
//!
//! The package recurses once for each step through a pair of sentences, so Python's limit of 1000 frames ends it with a
//! RecursionError where two sentences take 990 steps or so together (two equal sentences of 991 words do). LongBench then
//! scores 0. Here such a pair is scored as what it is, unless upstream's number is asked for.

use std::collections::HashSet;

use super::python;

/// Steps through a pair of sentences for which Python's limit leaves room below LongBench's `eval.py` (CPython 3.11).
pub(super) const STEPS_MAX: usize = 990;

/// F-measure, 0 to 1; 0 where either text has no sentence, as upstream scores it.
pub fn rouge_l(prediction: &str, reference: &str) -> f64 {
    limited(prediction, reference, None)
}

/// The same; 0 where a pair of sentences takes more steps than `steps_max`.
pub(super) fn limited(prediction: &str, reference: &str, steps_max: Option<usize>) -> f64 {
    let (ours, theirs) = (sentences(prediction), sentences(reference));
    if ours.is_empty() || theirs.is_empty() {
        return 0.0;
    }
    let unique = |sentences: &[Vec<&str>]| {
        sentences.iter().flatten().copied().collect::<HashSet<_>>().len() as f64
    };
    let mut union: HashSet<&str> = HashSet::new();
    for reference in &theirs {
        for sentence in &ours {
            let (words, steps) = common(reference, sentence);
            if steps_max.is_some_and(|most| steps > most) {
                return 0.0;
            }
            union.extend(words);
        }
    }
    let (recall, precision) =
        (union.len() as f64 / unique(&theirs), union.len() as f64 / unique(&ours));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// Sentences as words. A sentence of white space alone is one word without letters.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    let pieces = text.split('.').filter(|piece| !piece.is_empty());
    let words = |piece| {
        let words: Vec<&str> = python::words(piece).collect();
        if words.is_empty() { vec![""] } else { words }
    };
    pieces.map(words).collect()
}

/// Words of one longest common subsequence, of several the one that upstream's walk back through the table finds, and how
/// many steps that walk takes.
fn common<'a>(x: &[&'a str], y: &[&str]) -> (Vec<&'a str>, usize) {
    let width = y.len() + 1;
    let mut table = vec![0_u32; (x.len() + 1) * width];
    for i in 1..=x.len() {
        for j in 1..=y.len() {
            table[i * width + j] = if x[i - 1] == y[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j, mut words, mut steps) = (x.len(), y.len(), Vec::new(), 0);
    while i > 0 && j > 0 {
        if x[i - 1] == y[j - 1] {
            words.push(x[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
        steps += 1;
    }
    (words, steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_counts_once() {
        assert!((rouge_l("the cat the cat", "the cat") - 1.0).abs() < 1e-6);
        assert!(rouge_l("", "x").abs() < 1e-12 && rouge_l("...", "x").abs() < 1e-12);
        // Two of three words in one order; precision 2/3, recall 2/3.
        assert!((rouge_l("b a c", "a b c") - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn pythons_limit_counts_steps() {
        let text = |n: usize| (0..n).map(|i| format!("w{i} ")).collect::<String>();
        for (n, expected) in [(990, 1.0), (991, 0.0)] {
            let own = limited(&text(n), &text(n), Some(STEPS_MAX));
            assert!((own - expected).abs() < 1e-6, "{n}: {own}");
        }
        assert!((rouge_l(&text(991), &text(991)) - 1.0).abs() < 1e-6, "the true value");
        // A full stop between them makes two short pairs of one long one.
        let two = format!("{}. {}", text(600), text(600));
        assert!(limited(&two, &two, Some(STEPS_MAX)) > 0.9);
    }
}
