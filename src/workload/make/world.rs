//! Invented towns with facts about them.

use rand_chacha::ChaCha8Rng;

use super::{between, pick, word};

const STARTS: [&str; 12] =
    ["Ar", "Bel", "Cor", "Dun", "El", "Fen", "Gal", "Hol", "Ister", "Kel", "Mar", "Tor"];
const MIDDLES: [&str; 8] = ["a", "en", "i", "o", "ber", "man", "vi", "ru"];
const ENDS: [&str; 8] = ["dale", "ford", "gate", "holm", "mere", "port", "stead", "wick"];
/// What a town may trade in; also the classes of the classification task.
pub(super) const GOODS: [&str; 8] =
    ["barley", "copper", "honey", "linen", "salt", "timber", "tin", "wool"];
const SEASONS: [&str; 4] = ["spring", "summer", "autumn", "winter"];
const KEEPERS: [&str; 10] =
    ["Ada", "Bruno", "Clara", "Dmitri", "Esme", "Farid", "Greta", "Hugo", "Ines", "Jonas"];

/// One town. Names are distinct within a world.
pub(super) struct Town {
    pub(super) name: String,
    pub(super) goods: &'static str,
    pub(super) barrels: usize,
    pub(super) keeper: &'static str,
    pub(super) fair: &'static str,
}

/// `n` towns with distinct names and distinct stores, so that "the largest" is one town; `n` is at most 500.
pub(super) fn towns(rng: &mut ChaCha8Rng, n: usize) -> Vec<Town> {
    let mut towns: Vec<Town> = Vec::with_capacity(n);
    while towns.len() < n {
        let name = format!("{}{}{}", pick(rng, &STARTS), pick(rng, &MIDDLES), pick(rng, &ENDS));
        let barrels = between(rng, 20, 4999);
        if towns.iter().any(|town| town.name == name || town.barrels == barrels) {
            continue;
        }
        towns.push(Town {
            name,
            goods: word(rng, &GOODS),
            barrels,
            keeper: word(rng, &KEEPERS),
            fair: word(rng, &SEASONS),
        });
    }
    towns
}

impl Town {
    /// The facts in one of several orders.
    pub(super) fn record(&self, rng: &mut ChaCha8Rng) -> String {
        let Town { name, goods, barrels, keeper, fair } = self;
        match between(rng, 0, 2) {
            0 => format!(
                "{name} trades in {goods} and stores {barrels} barrels of it. {keeper} keeps the books, and the fair is held in {fair}."
            ),
            1 => format!(
                "In {name} the fair is held in {fair}. The store, kept by {keeper}, holds {barrels} barrels of {goods}."
            ),
            _ => format!(
                "{keeper} writes from {name}: we trade in {goods}, the store holds {barrels} barrels, and the fair comes in {fair}."
            ),
        }
    }
}

const SUBJECTS: [&str; 8] = [
    "The road along the river",
    "An old mill outside the walls",
    "The market square",
    "A row of lime trees",
    "The stone bridge",
    "The school beside the well",
    "A narrow path over the hill",
    "The inn at the crossing",
];
const VERBS: [&str; 6] = [
    "was repaired",
    "was painted",
    "stood empty",
    "was visited by travellers",
    "was measured",
    "was sketched",
];
const TIMES: [&str; 6] = [
    "before the rain came",
    "in the same week",
    "after a long debate",
    "while the council met",
    "as it had been every year",
    "without much notice",
];

/// A sentence without facts that any question asks for.
pub(super) fn filler(rng: &mut ChaCha8Rng) -> String {
    format!("{} {} {}.", pick(rng, &SUBJECTS), pick(rng, &VERBS), pick(rng, &TIMES))
}

/// The town with the largest store.
pub(super) fn largest(towns: &[Town]) -> &Town {
    towns.iter().max_by_key(|town| town.barrels).expect("a world has towns")
}
