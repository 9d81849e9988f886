//! F1 of bags of words, as SQuAD counts: lower case, no ASCII punctuation, no articles.

use std::collections::HashMap;

use super::python;

/// Harmonic mean of the shares of words that prediction and reference have in common.
pub(super) fn f1(prediction: &str, reference: &str) -> f64 {
    let (ours, theirs) = (normalized(prediction), normalized(reference));
    let mut left: HashMap<&str, usize> = HashMap::new();
    python::words(&theirs).for_each(|word| *left.entry(word).or_default() += 1);
    let mut same = 0_usize;
    for word in python::words(&ours) {
        if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let precision = same as f64 / python::words(&ours).count() as f64;
    let recall = same as f64 / python::words(&theirs).count() as f64;
    2.0 * precision * recall / (precision + recall)
}

fn normalized(text: &str) -> String {
    let kept: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    without_articles(&kept)
}

/// `re.sub(r"\b(a|an|the)\b", " ", text)`: a word is a run of letters and digits, whatever stands between them.
fn without_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        let article = matches!(word.as_str(), "a" | "an" | "the");
        out.push_str(if article { " " } else { word });
        word.clear();
    };
    for c in text.chars() {
        if c.is_alphanumeric() {
            word.push(c);
        } else {
            flush(&mut word, &mut out);
            out.push(c);
        }
    }
    flush(&mut word, &mut out);
    out
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
    }
}
