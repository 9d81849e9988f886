//! RULER's matches of texts (arXiv 2404.06654, `string_match_all` and `string_match_part` of its
//! `scripts/eval/synthetic/constants.py`): a reference counts where it stands anywhere in the answer, in whatever case.

/// The share of the references that stand in the answer: needles, variable tracking, common and frequent words.
pub(super) fn all(prediction: &str, references: &[String]) -> f64 {
    found(prediction, references) as f64 / references.len() as f64
}

/// 1 where any of them does: questions.
pub(super) fn part(prediction: &str, references: &[String]) -> f64 {
    if found(prediction, references) > 0 { 1.0 } else { 0.0 }
}

fn found(prediction: &str, references: &[String]) -> usize {
    let prediction = prediction.to_lowercase();
    references.iter().filter(|reference| prediction.contains(&reference.to_lowercase())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_any() {
        let references = ["Alpha", "beta", "gamma", "12"].map(str::to_owned);
        assert!((all("ALPHA, Beta and 121", &references) - 0.75).abs() < 1e-12);
        assert!((part("only gamma", &references) - 1.0).abs() < 1e-12);
        assert!(part("", &references).abs() < 1e-12);
    }
}
