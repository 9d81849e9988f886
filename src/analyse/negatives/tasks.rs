//! LongBench's data sets by kind of task (arXiv 2308.14508, table 1).

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskGroup {
    /// Questions about one or several documents.
    Qa,
    /// Summaries.
    Summarization,
    /// Examples in the prompt.
    FewShot,
    /// Counting and retrieving passages.
    Synthetic,
    /// Completing code.
    Code,
    /// Numbers and formulas (GSM8K, MATH), which LongBench lacks.
    Maths,
    /// Multiple choice over long contexts (LongBench v2).
    Choice,
    /// No data set that is known here.
    Other,
}

impl TaskGroup {
    /// Key in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            TaskGroup::Qa => "qa",
            TaskGroup::Summarization => "summarization",
            TaskGroup::FewShot => "few_shot",
            TaskGroup::Synthetic => "synthetic",
            TaskGroup::Code => "code",
            TaskGroup::Maths => "maths",
            TaskGroup::Choice => "choice",
            TaskGroup::Other => "other",
        }
    }

    /// The group of a data set; LongBench-E's names end with `_e`.
    pub fn of(dataset: &str) -> Self {
        match dataset.strip_suffix("_e").unwrap_or(dataset) {
            "narrativeqa" | "qasper" | "multifieldqa_en" | "multifieldqa_zh" | "hotpotqa"
            | "2wikimqa" | "musique" | "dureader" => TaskGroup::Qa,
            "gov_report" | "qmsum" | "multi_news" | "vcsum" => TaskGroup::Summarization,
            "trec" | "triviaqa" | "samsum" | "lsht" => TaskGroup::FewShot,
            "passage_count" | "passage_retrieval_en" | "passage_retrieval_zh" => {
                TaskGroup::Synthetic
            }
            "lcc" | "repobench-p" => TaskGroup::Code,
            "gsm8k" | "math" | "arithmetic" => TaskGroup::Maths,
            "longbench-v2" => TaskGroup::Choice,
            ruler if ruler.starts_with("ruler_qa") => TaskGroup::Qa,
            ruler if ruler.starts_with("ruler_") => TaskGroup::Synthetic,
            _ => TaskGroup::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longbench_e_is_longbench() {
        assert_eq!(TaskGroup::of("qasper_e"), TaskGroup::Qa);
        assert_eq!(TaskGroup::of("repobench-p"), TaskGroup::Code);
        assert_eq!(TaskGroup::of("my_own"), TaskGroup::Other);
        assert_eq!(TaskGroup::of("ruler_niah_single"), TaskGroup::Synthetic);
        assert_eq!(TaskGroup::of("math"), TaskGroup::Maths);
    }
}
