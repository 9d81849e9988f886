//! Whether a block's kernels fit into memory, decided before anything is allocated.

use crate::{
    kernel::{KernelSpec, Op},
    method::Method,
    units::human_bytes,
};

/// Part of the available memory that a block may take; the rest is for the system and the rows.
const USABLE: f64 = 0.8;

/// Bytes of one kernel, upper bounds whatever its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Kept while the kernel lives.
    pub(super) kept: u64,
    /// Needed besides while it is prepared.
    pub(super) scratch: u64,
}

impl Need {
    fn alone(self) -> u64 {
        self.kept.saturating_add(self.scratch)
    }
}

/// What a kernel needs.
///
/// Half-precision K and V are the largest form a cache takes: kept is one copy of them and of queries and outputs,
/// rounded up to whole copies by the rotation; the originals that a method compresses from are there only while it is
/// prepared; GEAR's compression needs the error of one side besides, with its marks and products: less than another copy. A
/// bulk compression keeps both, as it reads one and writes the other. The probe streams over as many bytes
/// as the half-precision cache has, or over the rotation if that is more.
pub(super) fn need(spec: &KernelSpec) -> Need {
    let tokens: u64 = spec.shape.kv_lens.iter().map(|&len| len as u64).sum();
    let dim = spec.shape.head_dim as u64;
    let half_kv = tokens * dim * spec.shape.heads_kv as u64 * 4;
    let rows = if spec.op == Op::Prefill { tokens } else { spec.shape.kv_lens.len() as u64 };
    let error = if matches!(spec.method, Method::Gear(_)) { half_kv } else { 0 };
    // f16 query and f32 output of each query head
    let queries = rows * dim * spec.shape.heads_q as u64 * 6;
    match spec.op {
        Op::Read => Need { kept: spec.rotate_bytes.max(half_kv), scratch: 0 },
        Op::Copy => Need { kept: 2 * spec.rotate_bytes.max(half_kv), scratch: 0 },
        Op::Compress => {
            Need { kept: 2 * (spec.rotate_bytes + half_kv) + queries + error, scratch: 0 }
        }
        _ => Need { kept: spec.rotate_bytes + half_kv + queries, scratch: half_kv + error },
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
pub(super) fn seat(needs: &[Need], available: Option<u64>) -> Seating {
    let budget = available.map_or(u64::MAX, |bytes| (bytes as f64 * USABLE) as u64);
    let mut seating = Seating { groups: Vec::new(), refused: Vec::new() };
    let mut group = Need { kept: 0, scratch: 0 };
    for (index, &need) in needs.iter().enumerate() {
        if need.alone() > budget {
            seating.refused.push((index, refusal(need.alone(), budget)));
            continue;
        }
        let joined = Need {
            kept: group.kept.saturating_add(need.kept),
            scratch: group.scratch.max(need.scratch),
        };
        match seating.groups.last_mut() {
            Some(seated) if joined.alone() <= budget => {
                seated.push(index);
                group = joined;
            }
            _ => {
                seating.groups.push(vec![index]);
                group = need;
            }
        }
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
    use crate::{kernel::Shape, method::Gear};

    fn needs(kept: &[u64]) -> Vec<Need> {
        kept.iter().map(|&kept| Need { kept, scratch: 5 }).collect()
    }

    #[test]
    fn all_together_when_they_fit_and_in_turn_when_not() {
        assert_eq!(seat(&needs(&[10, 20, 30]), Some(100)).groups, [vec![0, 1, 2]]);
        assert_eq!(seat(&needs(&[30, 30, 30]), Some(100)).groups, [vec![0, 1], vec![2]]);
        assert_eq!(seat(&needs(&[30, 30]), None).groups, [vec![0, 1]]);
    }

    #[test]
    fn scratch_is_needed_by_one_at_a_time() {
        let needs = [Need { kept: 20, scratch: 40 }, Need { kept: 20, scratch: 40 }];
        assert_eq!(seat(&needs, Some(100)).groups, [vec![0, 1]]);
        assert_eq!(seat(&needs, Some(99)).groups, [vec![0], vec![1]]);
    }

    #[test]
    fn refuses_what_does_not_fit_alone() {
        let seating = seat(&needs(&[10, 90, 10]), Some(100));
        assert_eq!(seating.groups, [vec![0, 2]]);
        assert_eq!(seating.refused[0].0, 1);
        assert!(seating.refused[0].1.contains("hint:"));
    }

    #[test]
    fn need_counts_the_half_precision_cache_and_the_rotation() {
        let shape = Shape { kv_lens: vec![100, 50], heads_q: 4, heads_kv: 2, head_dim: 8 };
        let spec = KernelSpec {
            op: Op::Decode,
            method: Method::Fp16,
            shape,
            seed: 0,
            page: 16,
            rotate_bytes: 1000,
        };
        let kv = 150 * 2 * 8 * 4;
        let queries = 2 * 4 * 8 * 6;
        assert_eq!(need(&spec), Need { kept: 1000 + kv + queries, scratch: kv });
        assert!(need(&KernelSpec { op: Op::Prefill, ..spec.clone() }).kept > 1000 + kv + queries);
        let (bits, group, residual, iterations, outliers) = (2, 8, 8, 3, 0.02);
        let gear = Gear { bits, group, residual, rank: 4, flush_rank: 2, iterations, outliers };
        let gear = KernelSpec { method: Method::Gear(gear), ..spec.clone() };
        assert_eq!(need(&gear).scratch, 2 * kv);
        assert_eq!(need(&KernelSpec { op: Op::Read, ..spec }), Need { kept: kv, scratch: 0 });
    }
}
