//! What a guard of the router learns from: negatives by task, prompt length and method, beside what is negative by chance
//! ([`crate::route::risk`]).
//!
//! The task of a row is the group of its data set ([`TaskGroup`]); of a data set without a group it is the data set's own name, which
//! a client can name in its header. Only samples that the baseline does well are counted, as in [`super::negatives`].

use std::collections::{BTreeMap, HashMap};

use super::{
    RunData,
    negatives::{Mode, Paired, Score, Scores, TaskGroup},
    score_run::{ScoreRow, Subjects},
};
use crate::{
    record::{RequestRow, parquet::TableRow as _},
    route::risk::{Cell, Counts, EDGES, Risks},
};

/// What negatives a method would have if it broke nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Null {
    /// Those of the baseline when it was measured again: the mean over its repeats, rounded down, since repeats of a prompt are no
    /// prompts of their own.
    Repeats,
    /// Those of the baseline against the method, with swapped roles: what a method gains elsewhere is set against what it breaks, so
    /// harm and benefit that are equally large look like none.
    Mirror,
    /// None: whatever is negative counts as broken.
    Nothing,
}

/// Tokens of prompts, by data set and id.
pub type PromptTokens = HashMap<(String, String), u64>;

/// What counts.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Loss from which on an answer is negative, as a part of the baseline's score.
    pub theta: f64,
    /// What is chance.
    pub null: Null,
    /// Lengths of prompts; `None` where they are not known: then there is one bin, of all lengths.
    pub prompt_tokens: Option<&'a PromptTokens>,
    /// Where the scores are from, in words.
    pub source: &'a str,
}

/// Counts of each method. With lengths, a sample without one is left out; the number of those is returned.
///
/// # Errors
/// Methods without a row in common with the baseline, or two of one name.
pub fn risks(subjects: &Subjects, rule: &Rule<'_>) -> anyhow::Result<(Risks, usize)> {
    let edges: &[u64] = if rule.prompt_tokens.is_some() { &EDGES } else { &[] };
    let mut table = Table { rule, edges, cells: BTreeMap::new(), n_without: 0 };
    let paired = Paired::new(&subjects.baseline, &subjects.methods)?;
    for method in &subjects.methods {
        for (row, is_negative) in paired.judged(&method.name, rule.theta, Mode::Algorithm1)? {
            if let Some(cell) = table.cell(row, &method.name) {
                cell.own.n += 1;
                cell.own.negatives += u64::from(is_negative);
            }
        }
        table.null(subjects, method)?;
    }
    let Table { cells, n_without, .. } = table;
    let source = format!(
        "{}; negative from a loss of {} % on, chance by {}",
        rule.source,
        rule.theta * 100.0,
        match rule.null {
            Null::Repeats => "the baseline's repeats",
            Null::Mirror => "swapped roles",
            Null::Nothing => "nothing",
        }
    );
    Ok((Risks::new(&source, edges, cells.into_values().collect())?, n_without))
}

/// Lengths of the prompts of a run, as the engines counted them (the first that did), or as we did where none told.
///
/// # Errors
/// The table of requests lacks a column.
pub fn prompt_tokens(data: &RunData) -> anyhow::Result<PromptTokens> {
    let requests = RequestRow::rows(&data.requests)?;
    let counted: HashMap<(&str, i64), u64> = requests
        .iter()
        .filter_map(|row| {
            let tokens = row.prompt_tokens.or(row.prompt_tokens_local)?;
            Some(((row.cell_id.as_str(), row.request_id), u64::try_from(tokens).ok()?))
        })
        .collect();
    let mut lengths = PromptTokens::new();
    for ScoreRow { dataset, sample_id, cell_id, request_id, .. } in &data.scores {
        if let Some(tokens) = counted.get(&(cell_id.as_str(), *request_id)) {
            lengths.entry((dataset.clone(), sample_id.clone())).or_insert(*tokens);
        }
    }
    Ok(lengths)
}

/// Cells under way.
struct Table<'a> {
    rule: &'a Rule<'a>,
    edges: &'a [u64],
    cells: BTreeMap<(String, usize, String), Cell>,
    n_without: usize,
}

impl Table<'_> {
    /// The cell of a sample; `None` where its length is not known.
    fn cell(&mut self, row: &Score, method: &str) -> Option<&mut Cell> {
        let tokens = match self.rule.prompt_tokens {
            None => 0,
            Some(known) => {
                let tokens = known.get(&(row.dataset.to_string(), row.id.to_string()));
                self.n_without += usize::from(tokens.is_none());
                *tokens?
            }
        };
        let bin = Risks::bin(self.edges, tokens);
        let (task, method) = (task_of(&row.dataset), method.to_owned());
        let cell = self.cells.entry((task.clone(), bin, method.clone()));
        Some(cell.or_insert_with(|| {
            let (own, null) = (Counts::default(), Counts::default());
            Cell { task, bin, method, own, null }
        }))
    }

    /// Adds what is chance to the cells of a method.
    fn null(&mut self, subjects: &Subjects, method: &Scores) -> anyhow::Result<()> {
        match self.rule.null {
            Null::Nothing => Ok(()),
            Null::Mirror => {
                let other = std::slice::from_ref(&subjects.baseline);
                let swapped = Paired::new(method, other)?;
                let judged =
                    swapped.judged(&subjects.baseline.name, self.rule.theta, Mode::Algorithm1)?;
                self.add_null(&method.name, judged.into_iter(), 1)
            }
            Null::Repeats => {
                let again = Paired::new(&subjects.baseline, &subjects.again)?;
                let mut judged = Vec::new();
                for repeat in &subjects.again {
                    let one = again.judged(&repeat.name, self.rule.theta, Mode::Algorithm1)?;
                    judged.extend(one);
                }
                self.add_null(&method.name, judged.into_iter(), subjects.again.len() as u64)
            }
        }
    }

    fn add_null<'s>(
        &mut self,
        method: &str,
        judged: impl Iterator<Item = (&'s Score, bool)>,
        n_repeats: u64,
    ) -> anyhow::Result<()> {
        let mut counts: BTreeMap<(String, usize, String), Counts> = BTreeMap::new();
        for (row, is_negative) in judged {
            let n_before = self.n_without;
            let Some(cell) = self.cell(row, method) else {
                // It was told of already, when the method's own answer was counted.
                self.n_without = n_before;
                continue;
            };
            let key = (cell.task.clone(), cell.bin, cell.method.clone());
            let counts = counts.entry(key).or_default();
            counts.n += 1;
            counts.negatives += u64::from(is_negative);
        }
        for (key, counts) in counts {
            if let Some(cell) = self.cells.get_mut(&key) {
                let mean = |sum: u64| sum / n_repeats.max(1);
                cell.null = Counts { n: mean(counts.n), negatives: mean(counts.negatives) };
            }
        }
        Ok(())
    }
}

/// Name of the task of a data set.
pub fn task_of(dataset: &str) -> String {
    match TaskGroup::of(dataset) {
        TaskGroup::Other => dataset.to_owned(),
        group => group.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(name: &str, of: impl Fn(usize) -> f64) -> Scores {
        let row = |id: usize| Score {
            dataset: if id.is_multiple_of(2) { "qasper" } else { "my_own" }.into(),
            id: id.to_string().into(),
            score: of(id),
            prompt_sha256: None,
        };
        Scores { name: name.to_owned(), rows: (0..400).map(row).collect() }
    }

    /// Every tenth answer of `worse` is lost on the one task and none on the other; the baseline itself loses every 40th.
    fn subjects() -> Subjects {
        Subjects {
            baseline: scores("fp16", |_| 1.0),
            methods: vec![scores("worse", |id| if id % 10 == 0 { 0.0 } else { 1.0 })],
            again: vec![scores("fp16 again", |id| if id % 40 == 0 { 0.0 } else { 1.0 })],
            repeats: BTreeMap::new(),
        }
    }

    fn rule(null: Null, lengths: Option<&PromptTokens>) -> Rule<'_> {
        Rule { theta: 0.1, null, prompt_tokens: lengths, source: "a test" }
    }

    #[test]
    fn negatives_are_counted_by_task_and_beside_chance() {
        let (risks, n_without) = risks(&subjects(), &rule(Null::Repeats, None)).unwrap();
        assert_eq!((n_without, risks.edges().len(), risks.cells().len()), (0, 0, 2));
        let own = risks.cells().iter().find(|cell| cell.task == "my_own").unwrap();
        assert_eq!((own.own.n, own.own.negatives, own.null.negatives), (200, 0, 0));
        let qa = risks.cells().iter().find(|cell| cell.task == "qa").unwrap();
        assert_eq!((qa.own.n, qa.own.negatives), (200, 40));
        assert_eq!((qa.null.n, qa.null.negatives), (200, 10));
        let upper = |task| risks.upper(task, 5000, "worse");
        assert!(upper("qa").unwrap() > 0.15 && upper("my_own").unwrap() < 0.02);
        assert_eq!(upper("code"), None);
        assert!(risks.source().contains("a test") && risks.source().contains("10 %"));
    }

    #[test]
    fn several_repeats_are_no_more_prompts() {
        let mut all = subjects();
        let none = scores("fp16 third", |_| 1.0);
        all.again.push(none);
        let (risks, _) = risks(&all, &rule(Null::Repeats, None)).unwrap();
        let qa = risks.cells().iter().find(|cell| cell.task == "qa").unwrap();
        assert_eq!((qa.null.n, qa.null.negatives), (200, 5));
    }

    #[test]
    fn without_chance_all_of_it_is_harm() {
        let all = subjects();
        let upper = |null| {
            let (risks, _) = risks(&all, &rule(null, None)).unwrap();
            risks.upper("qa", 0, "worse").unwrap()
        };
        assert!(upper(Null::Nothing) > upper(Null::Repeats));
        // Where the method has lost nothing that the baseline has, it has gained nothing either.
        assert!(upper(Null::Mirror) > 0.15);
    }

    #[test]
    fn samples_without_a_length_are_told() {
        let lengths: PromptTokens = (0..398)
            .map(|id: usize| {
                let dataset = if id.is_multiple_of(2) { "qasper" } else { "my_own" };
                ((dataset.to_owned(), id.to_string()), if id < 200 { 100 } else { 5000 })
            })
            .collect();
        let (risks, n_without) = risks(&subjects(), &rule(Null::Repeats, Some(&lengths))).unwrap();
        assert_eq!((n_without, risks.cells().len()), (2, 4));
        assert!(risks.upper("qa", 4096, "worse").is_some());
        assert_eq!(risks.upper("qa", 2048, "worse"), None, "no prompt of that length was judged");
    }
}
