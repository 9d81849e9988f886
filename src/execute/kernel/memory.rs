//! Whether a block's kernels fit into memory, decided before anything is allocated.

use crate::{
    kernel::{KernelSpec, Op},
    units::human_bytes,
};

/// Part of the available memory that a block may take; the rest is for the system and the rows.
const USABLE: f64 = 0.8;

/// An upper bound of what a prepared kernel keeps and needs while it is prepared, whatever its method.
///
/// Half-precision K and V are the largest form a cache takes: one copy of them, rounded up to whole copies by the
/// rotation, and the originals that a method compresses from. A prefill also holds its queries and outputs.
pub(super) fn need_bytes(spec: &KernelSpec) -> u64 {
    let tokens: u64 = spec.shape.kv_lens.iter().map(|&len| len as u64).sum();
    let dim = spec.shape.head_dim as u64;
    let half_kv = tokens * dim * spec.shape.heads_kv as u64 * 4;
    let rows = if spec.op == Op::Prefill { tokens } else { spec.shape.kv_lens.len() as u64 };
    // f16 query and f32 output of each query head
    let queries = rows * dim * spec.shape.heads_q as u64 * 6;
    let one = half_kv + queries;
    match spec.op {
        Op::Read => spec.rotate_bytes,
        _ => spec.rotate_bytes + 2 * one,
    }
}

/// Which kernels are prepared at the same time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seating {
    /// Indices into the block; groups are measured one after another.
    pub(super) groups: Vec<Vec<usize>>,
    /// Indices that do not fit even alone, with the reason.
    pub(super) refused: Vec<(usize, String)>,
}

/// Fills groups in order. `available` is `None` where the system does not tell: then all sit together.
pub(super) fn seat(needs: &[u64], available: Option<u64>) -> Seating {
    let budget = available.map_or(u64::MAX, |bytes| (bytes as f64 * USABLE) as u64);
    let mut seating = Seating { groups: Vec::new(), refused: Vec::new() };
    let mut taken = 0_u64;
    for (index, &need) in needs.iter().enumerate() {
        if need > budget {
            seating.refused.push((index, refusal(need, budget)));
            continue;
        }
        match seating.groups.last_mut() {
            Some(group) if taken.saturating_add(need) <= budget => group.push(index),
            _ => {
                seating.groups.push(vec![index]);
                taken = 0;
            }
        }
        taken += need;
    }
    seating
}

fn refusal(need: u64, budget: u64) -> String {
    format!(
        "memory: expected at most {} (80 % of what is available), got a kernel that needs up to {}\n  \
         hint: lower batch, kv_len or timing.rotate_llc, or use a machine with more memory",
        human_bytes(budget),
        human_bytes(need)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::Shape, method::Method};

    #[test]
    fn all_together_when_they_fit_and_in_turn_when_not() {
        assert_eq!(seat(&[10, 20, 30], Some(100)).groups, [vec![0, 1, 2]]);
        assert_eq!(seat(&[30, 30, 30], Some(100)).groups, [vec![0, 1], vec![2]]);
        assert_eq!(seat(&[30, 30], None).groups, [vec![0, 1]]);
    }

    #[test]
    fn refuses_what_does_not_fit_alone() {
        let seating = seat(&[10, 90, 10], Some(100));
        assert_eq!(seating.groups, [vec![0, 2]]);
        assert_eq!(seating.refused[0].0, 1);
        assert!(seating.refused[0].1.contains("hint:"));
    }

    #[test]
    fn need_counts_the_half_precision_cache_twice_and_the_rotation() {
        let shape = Shape { kv_lens: vec![100, 50], heads_q: 4, heads_kv: 2, head_dim: 8 };
        let spec =
            KernelSpec { op: Op::Decode, method: Method::Fp16, shape, seed: 0, rotate_bytes: 1000 };
        let kv = 150 * 2 * 8 * 4;
        let queries = 2 * 4 * 8 * 6;
        assert_eq!(need_bytes(&spec), 1000 + 2 * (kv + queries));
        assert!(need_bytes(&KernelSpec { op: Op::Prefill, ..spec }) > 1000 + 2 * kv);
    }
}
