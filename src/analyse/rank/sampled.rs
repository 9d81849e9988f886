//! A statistic of every contender of a cell over repeats that are drawn anew.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{
    cells::{Cell, Contender, Turn},
    metric::Statistic,
};

/// A cell whose repeats can be drawn. All methods get the same repeats of a draw, since they were measured side by side.
pub(in crate::analyse) struct Sampled<'a> {
    contenders: &'a [Contender],
    statistic: Statistic,
    known: BTreeMap<(usize, Vec<Turn>), Option<f64>>,
}

impl<'a> Sampled<'a> {
    pub(in crate::analyse) fn new(cell: &'a Cell, statistic: Statistic) -> Self {
        Self { contenders: &cell.contenders, statistic, known: BTreeMap::new() }
    }

    /// Every repeat that anybody has.
    pub(in crate::analyse) fn turns(&self) -> Vec<Turn> {
        let all: BTreeSet<Turn> =
            self.contenders.iter().flat_map(|contender| contender.turns.keys().copied()).collect();
        all.into_iter().collect()
    }

    /// The statistic of a contender over these repeats, as often as they are named; `None` where it has none of them. Few repeats
    /// make few different draws, so each is computed once.
    pub(in crate::analyse) fn value(&mut self, contender: usize, turns: &[Turn]) -> Option<f64> {
        let key = (contender, turns.to_vec());
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let own = &self.contenders[contender].turns;
        let mut values: Vec<f64> =
            turns.iter().filter_map(|turn| own.get(turn)).flatten().copied().collect();
        let value = self.statistic.of(&mut values);
        self.known.insert(key, value);
        value
    }
}

/// As many repeats as there are, drawn with replacement, in order.
pub(in crate::analyse) fn draw(turns: &[Turn], rng: &mut ChaCha8Rng) -> Vec<Turn> {
    let mut drawn: Vec<Turn> =
        (0..turns.len()).map(|_| turns[rng.random_range(0..turns.len())]).collect();
    drawn.sort_unstable();
    drawn
}
