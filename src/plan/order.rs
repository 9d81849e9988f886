//! In which order the configurations of engines are measured, over all repeats.

use sha2::Digest;

use crate::scenario::{MethodOrder, Scenario};

/// Every repeat of every configuration, in the scenario's order.
pub(super) fn in_order<'a, T>(scenario: &Scenario, all: &'a [T]) -> Vec<(u32, &'a T)> {
    if scenario.order == MethodOrder::Grouped {
        let repeats = |one| (0..scenario.repeats).map(move |repeat| (repeat, one));
        return all.iter().flat_map(repeats).collect();
    }
    let repeat = |repeat: u32| {
        let mut order: Vec<usize> = (0..all.len()).collect();
        match scenario.order {
            MethodOrder::Randomised => shuffle(&mut order, scenario.seed, repeat),
            _ if repeat % 2 == 1 => order.reverse(),
            _ => {}
        }
        order.into_iter().map(move |i| (repeat, &all[i]))
    };
    (0..scenario.repeats).flat_map(repeat).collect()
}

/// A permutation that depends on the seed and the repeat alone: sorted by a hash, so no generator's algorithm is in it.
fn shuffle(order: &mut [usize], seed: u64, repeat: u32) {
    order.sort_by_cached_key(|i| {
        let mut hasher = sha2::Sha256::new();
        hasher.update(b"kvbench method order ");
        hasher.update(seed.to_le_bytes());
        hasher.update(repeat.to_le_bytes());
        hasher.update((*i as u64).to_le_bytes());
        let digest: [u8; 32] = hasher.finalize().into();
        digest
    });
}
