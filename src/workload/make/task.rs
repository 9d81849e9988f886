//! Rows in the layout of LongBench v1: a long context, an input, and answers that follow from the context.

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    between, pick, word,
    world::{self, GOODS, Town},
};

/// One row; the order of fields is the order in the file.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    input: String,
    pub(super) context: String,
    answers: Vec<String>,
    length: usize,
    dataset: &'static str,
    language: &'static str,
    all_classes: Option<Vec<&'static str>>,
    _id: String,
}

impl Row {
    /// A row without classes, in English.
    pub(super) fn new(
        dataset: &'static str,
        id: String,
        context: String,
        input: String,
        answers: Vec<String>,
    ) -> Self {
        Self {
            length: context.split_whitespace().count() + input.split_whitespace().count(),
            input,
            context,
            answers,
            dataset,
            language: "en",
            all_classes: None,
            _id: id,
        }
    }
}

struct Task {
    dataset: &'static str,
    input: String,
    answer: String,
    classes: Option<Vec<&'static str>>,
}

/// Tasks take turns, so that any file of four rows holds each.
pub(super) fn row(i: usize, rng: &mut ChaCha8Rng) -> Row {
    let n_towns = between(rng, 6, 24);
    let towns = world::towns(rng, n_towns);
    let context = context(&towns, rng);
    let task = match i % 4 {
        0 => lookup(pick(rng, &towns)),
        1 => count(&towns, word(rng, &GOODS)),
        2 => classify(pick(rng, &towns)),
        _ => summary(&towns),
    };
    let id = format!("kvbench-longbench-{i}");
    let row = Row::new(task.dataset, id, context, task.input, vec![task.answer]);
    Row { all_classes: task.classes, ..row }
}

fn context(towns: &[Town], rng: &mut ChaCha8Rng) -> String {
    let paragraph = |(i, town): (usize, &Town)| {
        let mut sentences = vec![format!("Letter {}: {}", i + 1, town.record(rng))];
        for _ in 0..between(rng, 1, 4) {
            sentences.push(world::filler(rng));
        }
        sentences.join(" ")
    };
    towns.iter().enumerate().map(paragraph).collect::<Vec<_>>().join("\n")
}

fn lookup(town: &Town) -> Task {
    Task {
        dataset: "kvbench_lookup",
        input: format!(
            "How many barrels does the store of {} hold? Answer with the number only.",
            town.name
        ),
        answer: town.barrels.to_string(),
        classes: None,
    }
}

fn count(towns: &[Town], goods: &str) -> Task {
    Task {
        dataset: "kvbench_count",
        input: format!("How many of the towns trade in {goods}? Answer with the number only."),
        answer: towns.iter().filter(|town| town.goods == goods).count().to_string(),
        classes: None,
    }
}

fn classify(town: &Town) -> Task {
    Task {
        dataset: "kvbench_classify",
        input: format!(
            "What does {} trade in? Answer with one of: {}.",
            town.name,
            GOODS.join(", ")
        ),
        answer: town.goods.to_owned(),
        classes: Some(GOODS.to_vec()),
    }
}

fn summary(towns: &[Town]) -> Task {
    let total: usize = towns.iter().map(|town| town.barrels).sum();
    let largest = world::largest(towns);
    Task {
        dataset: "kvbench_summary",
        input: "Summarise the letters in one sentence: how many towns, how many barrels in all, and which store is the largest.".to_owned(),
        answer: format!(
            "The letters describe {} towns that store {total} barrels in all; the largest store is that of {} with {} barrels of {}.",
            towns.len(), largest.name, largest.barrels, largest.goods
        ),
        classes: None,
    }
}
