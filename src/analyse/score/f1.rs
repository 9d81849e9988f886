//! F1 of bags of words, as SQuAD counts: lower case, no ASCII punctuation, no articles.

use std::collections::HashMap;

use super::python;

/// Harmonic mean of the shares of words that prediction and reference have in common.
pub(super) fn f1(prediction: &str, reference: &str) -> f64 {
    let (ours, theirs) = (normalized(prediction), normalized(reference));
    let bag = |text| python::words(text).collect::<Vec<_>>();
    of_bags(&bag(&ours), &bag(&theirs))
}

/// The same of words that are normalised already; 0 where they have none in common.
pub(super) fn of_bags<S: AsRef<str>>(ours: &[S], theirs: &[S]) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    theirs.iter().for_each(|word| *left.entry(word.as_ref()).or_default() += 1);
    let mut same = 0_usize;
    for word in ours {
        if let Some(n) = left.get_mut(word.as_ref()).filter(|n| **n > 0) {
            *n -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let precision = same as f64 / ours.len() as f64;
    let recall = same as f64 / theirs.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

fn normalized(text: &str) -> String {
    let kept: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    without_articles(&kept)
}

/// `re.sub(r"\b(a|an|the)\b", " ", text)`.
fn without_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for word in python::runs_of_letters(text) {
        if matches!(word.as_str(), "a" | "an" | "the") {
            out.push_str(&text[at..word.start()]);
            out.push(' ');
            at = word.end();
        }
    }
    out + &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_case_and_punctuation_do_not_count() {
        assert!((f1("The Cat's", "cats a") - 1.0).abs() < 1e-12);
        assert!((f1("cat cat dog", "cat dog dog") - 2.0 / 3.0).abs() < 1e-12, "a bag, not a set");
        assert!(f1("", "x").abs() < 1e-12 && f1("the", "the").abs() < 1e-12, "nothing is left");
        assert_eq!(without_articles("athe the  an’t"), "athe    \u{20}’t");
        // The mark behind it ends a word in Python.
        assert_eq!(without_articles("a\u{93e}"), " \u{93e}");
    }
}
