//! Classes, paragraphs and counts.

use super::python;

/// One over the classes that the prediction names, if the right one is among them. Upstream drops classes that are part of
/// the right one's name while it walks the list, so the one after a dropped class is not looked at; so does this.
pub(super) fn classification(prediction: &str, reference: &str, classes: &[String]) -> f64 {
    let named = classes.iter().map(String::as_str).filter(|class| prediction.contains(class));
    let mut named: Vec<&str> = named.collect();
    let mut at = 0;
    while let Some(&class) = named.get(at) {
        if reference.contains(class) && class != reference {
            // Python's `remove` takes the first equal entry.
            let first = named.iter().position(|other| *other == class).unwrap_or(at);
            named.remove(first);
        }
        at += 1;
    }
    if named.contains(&reference) { 1.0 / named.len() as f64 } else { 0.0 }
}

/// The share of the prediction's numbers that are the reference's paragraph, which stands behind `word`.
///
/// # Errors
/// The reference names no paragraph.
pub(super) fn retrieval(word: &str, prediction: &str, reference: &str) -> anyhow::Result<f64> {
    let mut behind = reference.match_indices(word).map(|(at, word)| &reference[at + word.len()..]);
    let Some(number) = behind.find_map(python::leading_number) else {
        anyhow::bail!(
            "expected an answer such as `{word}7`, got `{reference}`\n  hint: `answers` of passage_retrieval name a paragraph"
        );
    };
    Ok(share_of_numbers(prediction, number))
}

/// The share of the prediction's numbers that are the reference; 0 without numbers.
pub(super) fn share_of_numbers(prediction: &str, reference: &str) -> f64 {
    let n = python::numbers(prediction).count();
    let right = python::numbers(prediction).filter(|number| *number == reference).count();
    if n == 0 { 0.0 } else { right as f64 / n as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_class_hides_the_next() {
        let classes = ["a", "ab", "abc"].map(str::to_owned);
        // `a` goes, `ab` is not looked at, `abc` is the reference: two are left.
        assert!((classification("abc", "abc", &classes) - 0.5).abs() < 1e-12);
        assert!(classification("x", "abc", &classes).abs() < 1e-12);
        let apart = ["x", "y"].map(str::to_owned);
        assert!((classification("x y", "x", &apart) - 0.5).abs() < 1e-12);
    }
}
