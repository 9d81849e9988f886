//! Random streams. Each purpose has its own, so that more draws for one never shift another.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use sha2::Digest;

/// What a stream is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    /// Which rows, in which order.
    Sample,
    /// Gaps between arrivals.
    Arrival,
    /// Lengths of synthetic prompts and answers.
    Length,
    /// Words of synthetic prompts.
    Text,
    /// Generated data sets.
    Make,
    /// Words of the block with this id.
    Block(u64),
    /// Times between turns of a conversation.
    Think,
}

impl Stream {
    fn tag(self) -> Vec<u8> {
        match self {
            Stream::Sample => vec![0],
            Stream::Arrival => vec![1],
            Stream::Length => vec![2],
            Stream::Text => vec![3],
            Stream::Make => vec![4],
            Stream::Think => vec![6],
            Stream::Block(id) => [&[5], &id.to_le_bytes()[..]].concat(),
        }
    }
}

/// The stream of a seed. The key is hashed here and not expanded by the RNG crate, whose expansion may change.
pub(super) fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut hasher = sha2::Sha256::new();
    hasher.update(b"kvbench stream ");
    hasher.update(seed.to_le_bytes());
    hasher.update(stream.tag());
    ChaCha8Rng::from_seed(hasher.finalize().into())
}

/// Uniform on [0, 1), from the upper 53 bits of one draw.
pub(super) fn unit(rng: &mut ChaCha8Rng) -> f64 {
    use rand_chacha::rand_core::Rng;
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Uniform on 0..n by the high half of a product: its bias is below n / 2^64. `n` is at least 1.
pub(super) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    use rand_chacha::rand_core::Rng;
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// The first `k` of a random permutation of 0..n (Fisher and Yates). `k` is at most `n`.
pub(super) fn sample(rng: &mut ChaCha8Rng, n: usize, k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..n).collect();
    for i in 0..k {
        let other = i + below(rng, n - i);
        indices.swap(i, other);
    }
    indices.truncate(k);
    indices
}
