//! Seeds from seeds.

/// One seed of two numbers, neither of which can make up for the other, as in a sum one does. `SplitMix64`'s finaliser (Steele, Lea,
/// Flood 2014) of the state after `more + 1` steps.
pub fn mixed(state: u64, more: u64) -> u64 {
    let z = state.wrapping_add(more.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
