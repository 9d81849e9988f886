//! Seeds of the sampling that servers do.
//!
//! A repeat has draws of its own, the same for all methods: what differs between repeats of the baseline is what sampling alone does.
//! Within a repeat every request has its own too. With one seed for all, every answer would begin with the same draw, the answers of
//! a repeat would be long or short together, and an interval over prompts would be too narrow.
//!
//! Who sends requests and who reads their answers must agree on them: two answers to one prompt are two observations only where
//! they were drawn with different seeds.

use crate::stats::mixed;

/// Seed of a method's repeat.
pub fn of_repeat(seed: u64, repeat: u32, method: u64) -> u64 {
    mixed(mixed(seed, u64::from(repeat)), method)
}

/// Seed of one of its requests.
pub fn of_request(of_repeat: u64, id: u64) -> u64 {
    mixed(of_repeat, id)
}

/// What a server is told of a seed: servers take a signed 32- or 64-bit one, and 31 bits fit them all.
pub fn sent(seed: u64) -> u64 {
    seed & 0x7fff_ffff
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_has_the_draws_of_anything_else() {
        let mut seen = BTreeSet::new();
        for (seed, repeat, method, id) in
            (0..256_u64).map(|n| (n & 3, n >> 2 & 3, n >> 4 & 3, n >> 6))
        {
            let repeat = u32::try_from(repeat).unwrap();
            let own = sent(of_request(of_repeat(seed, repeat, method), id));
            assert!(seen.insert(own), "{seed} {repeat} {method} {id}");
        }
        assert_ne!(sent(of_repeat(0, 0, 1 << 31)), sent(of_repeat(0, 0, 0)));
    }
}
