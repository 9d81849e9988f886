//! Scores of answers, by the rules of the data set that the row is from:
//! - LongBench v1, all 21 tasks and LongBench-E (arXiv 2308.14508, `metrics.py` and `eval.py` of THUDM/LongBench), its quirks
//!   included: rows scored here stand beside published ones. `datasets/longbench.toml` says which task has which scorer.
//! - `longbench-v2`: multiple choice (`choice`).
//! - `gsm8k`, and `arithmetic`, which kvbench makes itself: the number that the answer ends with (`number`).
//! - `math`: what stands in the box (`boxed`).
//! - `ruler_niah...`, `ruler_vt...`, `ruler_cwe...`, `ruler_fwe...`, `ruler_qa...`: texts that stand in the answer (`ruler`).
//!
//! Chinese words are cut as jieba 0.42.1 cuts them (`chinese`). Each module says where its rule is from.

mod boxed;
mod chinese;
mod choice;
mod classes;
mod code;
mod difflib;
mod f1;
mod number;
mod python;
mod rouge;
mod ruler;

pub use code::Fuzz;
pub use difflib::ratio;
pub use rouge::rouge_l;

use crate::workload::longbench::{self, Metric, Task};

/// Rules that have more than one right answer; the default is what LongBench's own requirements give, but with the true
/// value where upstream fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// What compares lines of code.
    pub fuzz: Fuzz,
    /// Score 0 where upstream's ROUGE-L ends in Python's RecursionError, which LongBench takes for a score of 0: two
    /// sentences that take some 990 steps to compare. Without it such a pair has its true value.
    pub rouge_recursion_error: bool,
}

/// What scores the rows of LongBench v1 by default; [`Options::scorer`] has the others.
pub const SCORER: &str = "longbench-v1 (rouge 1.0.1, jieba 0.42.1, difflib)";

/// How a data set is scored.
enum Rule {
    LongBench(&'static Task),
    Choice,
    Number,
    Boxed,
    AllTexts,
    AnyText,
}

/// # Errors
/// Nothing here scores this data set.
fn rule(dataset: &str) -> anyhow::Result<Rule> {
    if let Some(task) = longbench::task(dataset) {
        return Ok(Rule::LongBench(task));
    }
    let ruler = dataset.strip_prefix("ruler_").and_then(|rest| rest.split('_').next());
    Ok(match (dataset, ruler) {
        ("longbench-v2", _) => Rule::Choice,
        ("gsm8k" | "arithmetic", _) => Rule::Number,
        ("math", _) => Rule::Boxed,
        (_, Some("niah" | "vt" | "cwe" | "fwe")) => Rule::AllTexts,
        (_, Some("qa")) => Rule::AnyText,
        _ => anyhow::bail!(
            "expected a data set of LongBench or another that can be scored, got `{dataset}`\n  hint: names are as upstream: qasper, gov_report, repobench-p, ..., with `_e` for LongBench-E; or longbench-v2, gsm8k, math, arithmetic, ruler_niah_single, ruler_vt, ruler_cwe, ruler_fwe, ruler_qa"
        ),
    })
}

/// Whether the end of an answer is what is scored: cut short it is wrong whatever it said.
pub fn stands_at_the_end(dataset: &str) -> bool {
    matches!(rule(dataset), Ok(Rule::Number | Rule::Boxed | Rule::Choice))
}

/// The score of an answer by the default rules.
///
/// # Errors
/// As [`Options::score`].
pub fn score(
    dataset: &str,
    prediction: &str,
    answers: &[String],
    all_classes: Option<&[String]>,
) -> anyhow::Result<f64> {
    Options::default().score(dataset, prediction, answers, all_classes)
}

impl Options {
    /// Name and version of the rules that score a data set's rows, for whoever keeps scores.
    ///
    /// # Errors
    /// Nothing here scores this data set.
    pub fn scorer(self, dataset: &str) -> anyhow::Result<String> {
        Ok(match rule(dataset)? {
            Rule::LongBench(_) => {
                let limit = if self.rouge_recursion_error { " with RecursionError" } else { "" };
                let fuzz = self.fuzz.name();
                format!("longbench-v1 (rouge 1.0.1{limit}, jieba 0.42.1, {fuzz})")
            }
            Rule::Choice => "longbench-v2 (choice)".to_owned(),
            Rule::Number => "gsm8k (last number)".to_owned(),
            Rule::Boxed => "math (boxed)".to_owned(),
            Rule::AllTexts => "ruler (string_match_all)".to_owned(),
            Rule::AnyText => "ruler (string_match_part)".to_owned(),
        })
    }

    /// The score of an answer, 0 to 1: the best one over its references, but RULER's share of references found.
    ///
    /// # Errors
    /// An unknown data set, classes that are missing, a reference that the rule cannot read, or no reference at all.
    pub fn score(
        self,
        dataset: &str,
        prediction: &str,
        answers: &[String],
        all_classes: Option<&[String]>,
    ) -> anyhow::Result<f64> {
        let rule = rule(dataset)?;
        anyhow::ensure!(
            !answers.is_empty(),
            "expected `answers`, got none\n  hint: without a reference nothing can be scored"
        );
        let one = |answer: &String| match &rule {
            Rule::LongBench(task) => {
                let classes = all_classes.filter(|classes| !classes.is_empty());
                self.longbench(task, prediction, answer, classes)
            }
            Rule::Choice => choice::accuracy(prediction, answer),
            Rule::Number => number::accuracy(prediction, answer),
            Rule::Boxed => Ok(boxed::accuracy(prediction, answer)),
            Rule::AllTexts => Ok(ruler::all(prediction, answers)),
            Rule::AnyText => Ok(ruler::part(prediction, answers)),
        };
        answers.iter().map(one).try_fold(0.0, |best: f64, one| Ok(best.max(one?)))
    }

    fn longbench(
        self,
        task: &Task,
        prediction: &str,
        answer: &str,
        classes: Option<&[String]>,
    ) -> anyhow::Result<f64> {
        let prediction = if task.first_line { python::first_line(prediction) } else { prediction };
        let steps_max = |frames| self.rouge_recursion_error.then_some(rouge::STEPS_MAX - frames);
        Ok(match task.metric {
            Metric::QaF1 => f1::f1(prediction, answer),
            Metric::QaF1Zh => chinese::f1(prediction, answer),
            Metric::Rouge => rouge::limited(prediction, answer, steps_max(0)),
            // Upstream's function for Chinese calls the other one: a frame less is left.
            Metric::RougeZh => {
                rouge::limited(&chinese::spaced(prediction), &chinese::spaced(answer), steps_max(1))
            }
            Metric::Classification => {
                let Some(classes) = classes else {
                    anyhow::bail!(
                        "expected `all_classes` of a classification task, got none\n  hint: LongBench's rows have them"
                    );
                };
                classes::classification(prediction, answer, classes)
            }
            Metric::Retrieval => classes::retrieval("Paragraph ", prediction, answer)?,
            Metric::RetrievalZh => classes::retrieval("段落", prediction, answer)?,
            Metric::Count => classes::share_of_numbers(prediction, answer),
            Metric::CodeSim => code::similarity(self.fuzz, prediction, answer),
        })
    }
}

#[cfg(test)]
mod tests;
