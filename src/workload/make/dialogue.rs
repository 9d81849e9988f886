//! Rows in the layout of ShareGPT: a human asks, an assistant answers, sometimes more than once.

use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{
    between, pick,
    world::{self, Town},
};

/// One conversation.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    id: String,
    conversations: Vec<Turn>,
}

#[derive(Debug, Serialize)]
struct Turn {
    from: &'static str,
    value: String,
}

pub(super) fn row(i: usize, rng: &mut ChaCha8Rng) -> Row {
    let n_towns = between(rng, 2, 8);
    let towns = world::towns(rng, n_towns);
    let mut conversations = Vec::new();
    for turn in 0..between(rng, 1, 3) {
        let (question, answer) = exchange(&towns, rng);
        // The first question brings the letters; later ones refer to them.
        let question =
            if turn == 0 { format!("{}\n\n{question}", letters(&towns, rng)) } else { question };
        conversations.push(Turn { from: "human", value: question });
        conversations.push(Turn { from: "gpt", value: answer });
    }
    Row { id: format!("kvbench-sharegpt-{i}"), conversations }
}

fn letters(towns: &[Town], rng: &mut ChaCha8Rng) -> String {
    let line = |town: &Town| format!("{} {}", town.record(rng), world::filler(rng));
    towns.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Questions with answers from two words to a page, as in real conversations.
fn exchange(towns: &[Town], rng: &mut ChaCha8Rng) -> (String, String) {
    let town = pick(rng, towns);
    let name = &town.name;
    match between(rng, 0, 4) {
        0 => (format!("Who keeps the books in {name}?"), format!("{} does.", town.keeper)),
        1 => (
            format!("When should I visit {name}, and what could I buy there?"),
            format!(
                "Come in {}, when the fair is held. {name} trades in {}, and {} barrels are in store, so there should be enough.",
                town.fair, town.goods, town.barrels
            ),
        ),
        2 => ("Please list all stores, the largest first.".to_owned(), ranking(towns)),
        3 => {
            (format!("Write a short notice that invites to the fair of {name}."), notice(town, rng))
        }
        _ => (
            "Go through the letters one by one and explain what each town has to offer.".to_owned(),
            tour(towns),
        ),
    }
}

fn ranking(towns: &[Town]) -> String {
    let mut sorted: Vec<_> = towns.iter().collect();
    sorted.sort_by_key(|town| std::cmp::Reverse(town.barrels));
    let line = |(i, town): (usize, &&Town)| {
        format!("{}. {}: {} barrels of {}", i + 1, town.name, town.barrels, town.goods)
    };
    sorted.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn notice(town: &Town, rng: &mut ChaCha8Rng) -> String {
    format!(
        "To all who travel: the fair of {} opens this {}! See the best {} of the land; {} barrels wait in the store. {} {} bids you welcome.",
        town.name,
        town.fair,
        town.goods,
        town.barrels,
        world::filler(rng),
        town.keeper
    )
}

fn tour(towns: &[Town]) -> String {
    let paragraph = |town: &Town| {
        format!(
            "{0} is a town that lives from {1}. Its store holds {2} barrels, which {3} writes down with care. Whoever wants to see the town at its busiest should travel in {4}, when the fair fills the streets; for a quiet visit any other season will do.",
            town.name, town.goods, town.barrels, town.keeper, town.fair
        )
    };
    let mut text = towns.iter().map(paragraph).collect::<Vec<_>>().join("\n\n");
    let largest = world::largest(towns);
    text.push_str(&format!("\n\nOf all of them, {} has the largest store.", largest.name));
    text
}
