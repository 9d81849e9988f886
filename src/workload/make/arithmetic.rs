//! Word problems with whole numbers in the manner of GSM8K (arXiv 2110.14168): the answer is worked out step by step and
//! stands behind `####`. Texts and numbers are our own.

use rand_chacha::ChaCha8Rng;

use super::{between, ruler::haystack, task::Row, world};

/// A row whose answer is a number after two to five steps. `words` = length of the filler that the problem stands in, if any.
pub(super) fn row(i: usize, rng: &mut ChaCha8Rng, words: Option<usize>) -> Row {
    let town = world::towns(rng, 1).remove(0);
    let mut story = vec![format!(
        "The store of {} holds {} barrels of {}.",
        town.name, town.barrels, town.goods
    )];
    let (mut barrels, mut steps) = (town.barrels, Vec::new());
    for _ in 0..between(rng, 2, 5) {
        let (sentence, step, after) = change(rng, town.keeper, barrels);
        story.push(sentence);
        steps.push(step);
        barrels = after;
    }
    let story = story.join(" ");
    let context = match words {
        Some(words) => haystack(rng, words, vec![(0.5, story)]),
        None => story,
    };
    let input = format!(
        "How many barrels does the store of {} hold in the end? Work it out step by step and end with `####` and the number.",
        town.name
    );
    let answer = format!("{}\n#### {barrels}", steps.join("\n"));
    Row::new("arithmetic", format!("kvbench-arithmetic-{i}"), context, input, vec![answer])
}

/// What happens next, the step in numbers, and how many barrels there are then.
fn change(rng: &mut ChaCha8Rng, keeper: &str, barrels: usize) -> (String, String, usize) {
    let (carts, each) = (between(rng, 2, 9), between(rng, 3, 40));
    let brought = carts * each;
    match between(rng, 0, 3) {
        0 if barrels > 10 => {
            let sold = between(rng, 1, barrels - 1);
            let after = barrels - sold;
            (
                format!("{keeper} sells {sold} barrels."),
                format!("{barrels} - {sold} = {after}"),
                after,
            )
        }
        1 if barrels.is_multiple_of(2) && barrels > 0 => (
            format!("Half of the barrels go to another town, says {keeper}."),
            format!("{barrels} / 2 = {}", barrels / 2),
            barrels / 2,
        ),
        2 => (
            format!("At the fair {keeper} doubles what is in the store."),
            format!("{barrels} * 2 = {}", 2 * barrels),
            2 * barrels,
        ),
        _ => (
            format!("Then {carts} carts arrive, and each of them brings {each} barrels."),
            format!("{carts} * {each} = {brought}, {barrels} + {brought} = {}", barrels + brought),
            barrels + brought,
        ),
    }
}
