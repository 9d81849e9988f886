//! What the ranks of a tensor-parallel layer spend on talking to each other, modelled and never measured. Pure.
//!
//! A ring all-reduce over `n` ranks passes `2 (n - 1)` messages one after another, each an `n`-th of the data: at least
//! `2 (n - 1) / n * bytes / bandwidth + 2 (n - 1) * latency` (Patarasuk and Yuan, 2009). Libraries have faster ways for
//! small messages (NVLink SHARP, one-shot kernels), and none of them is modelled here.

/// What joins the ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Bytes that one rank sends in one direction, in GB/s.
    pub bandwidth_gb_s: f64,
    /// Time that a message of no bytes takes from one rank to the next.
    pub latency_us: f64,
}

/// Bytes of the activations that the ranks add up: the output of a layer's attention (after its output projection),
/// in half precision.
pub fn activation_bytes(query_tokens: f64, hidden: f64) -> f64 {
    query_tokens * hidden * 2.0
}

/// Nanoseconds of one ring all-reduce; 0 where one rank is alone.
pub fn ring_ns(ranks: f64, bytes: f64, link: Link) -> f64 {
    let messages = 2.0 * (ranks - 1.0).max(0.0);
    // A gigabyte per second is a byte per nanosecond.
    messages / ranks * bytes / link.bandwidth_gb_s + messages * link.latency_us * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { bandwidth_gb_s: 100.0, latency_us: 2.0 };

    #[test]
    fn a_ring_by_hand() {
        // 32 sequences of one token, 4096 wide: 256 KiB; 6/4 of it at 100 bytes a ns and six messages of 2 us.
        let bytes = activation_bytes(32.0, 4096.0);
        assert!((bytes - 262_144.0).abs() < 1e-9);
        assert!((ring_ns(4.0, bytes, LINK) - (1.5 * 2_621.44 + 12_000.0)).abs() < 1e-6);
        assert!((ring_ns(2.0, bytes, LINK) - (2_621.44 + 4_000.0)).abs() < 1e-6);
    }

    #[test]
    fn one_rank_has_nobody_to_talk_to() {
        assert!(ring_ns(1.0, 1e9, LINK).abs() < 1e-12);
    }
}
