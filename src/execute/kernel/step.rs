//! What the kernels of a block do together: one step for a shape of a grid, several for a replayed workload.

use anyhow::{Context as _, bail};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::Lab;
use crate::{
    kernel::{Op, Shape},
    plan::{Cell, Task},
    scenario::{KernelTarget, Timing, Workload},
};

/// Batches of a replayed workload that are really launched, drawn with the seed: enough to see ragged lengths, few
/// enough that a workload of a thousand requests ends.
pub(super) const REPLAY_BATCHES: usize = 4;

/// Where in an answer decode steps are launched: at its begin, its quarters and its end.
const ANSWER_QUARTERS: [usize; 5] = [0, 1, 2, 3, 4];

/// One operation at one shape, measured for all cells of a block in the same rounds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) shape: Shape,
    /// Name of the model shape.
    pub(super) model: String,
    /// Tokens of a page where the device's cache is paged.
    pub(super) page: usize,
    pub(super) timing: Timing,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Prompt.
    pub prompt: usize,
    /// Answer.
    pub answer: usize,
}

/// The steps of a block, and what the user should be told about them.
pub(super) fn steps(
    cell: &Cell,
    lab: &Lab,
    timing: Timing,
    seed: u64,
) -> anyhow::Result<(Vec<Step>, Option<String>)> {
    match &cell.task {
        Task::Launch { target, op, batch, kv_len, tensor_parallel } => {
            let rank = Rank { target, of: *tensor_parallel };
            Ok((vec![rank.step(*op, vec![*kv_len; *batch], timing)], None))
        }
        Task::Replay { target, workload, batch, tensor_parallel } => {
            let rank = Rank { target, of: *tensor_parallel };
            replay(rank, &lengths(lab, workload, *batch, seed)?, *batch, timing, seed)
        }
        Task::Serve { .. } => bail!("{}: expected a kernel cell, got an engine cell", cell.id),
    }
}

/// The target of a kernel cell.
pub(super) fn target(cell: &Cell) -> anyhow::Result<&KernelTarget> {
    cell.task
        .kernel_target()
        .with_context(|| format!("{}: expected a kernel cell, got an engine cell", cell.id))
}

fn lengths(
    lab: &Lab,
    workload: &Workload,
    batch: usize,
    seed: u64,
) -> anyhow::Result<Vec<Lengths>> {
    let lengths = (lab.lengths)(workload, batch, seed).context("workload cannot be replayed")?;
    if lengths.is_empty() {
        bail!("workload cannot be replayed: expected at least one request, got none");
    }
    Ok(lengths)
}

/// Requests are grouped in order; a seeded subset of the groups becomes one prefill, one compression and five decode
/// steps each, sampled once. A decode step at position p finds a cache of prompt + p tokens compressed as a whole.
fn replay(
    rank: Rank<'_>,
    lengths: &[Lengths],
    batch: usize,
    timing: Timing,
    seed: u64,
) -> anyhow::Result<(Vec<Step>, Option<String>)> {
    let all = lengths.len().div_ceil(batch.max(1));
    let timing = Timing { warmup: 1, min_samples: 1, max_samples: 1, ..timing };
    let mut steps = Vec::new();
    for index in draw(all, seed) {
        let from = index * batch.max(1);
        let requests = &lengths[from..lengths.len().min(from + batch.max(1))];
        steps.extend(batch_steps(rank, requests, timing));
    }
    let notice = (all > REPLAY_BATCHES).then(|| {
        format!("replay: {REPLAY_BATCHES} of {all} batches are launched, drawn with seed {seed}")
    });
    Ok((steps, notice))
}

/// Which batches are launched, in ascending order.
fn draw(all: usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..all).collect();
    indices.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    indices.truncate(REPLAY_BATCHES);
    indices.sort_unstable();
    indices
}

fn batch_steps(rank: Rank<'_>, requests: &[Lengths], timing: Timing) -> Vec<Step> {
    let step = |op, kv_lens| rank.step(op, kv_lens, timing);
    let at = |quarter: usize| -> Vec<usize> {
        requests.iter().map(|r| (r.prompt + r.answer * quarter / 4).max(1)).collect()
    };
    let mut steps = vec![step(Op::Prefill, at(0)), step(Op::Compress, at(0))];
    steps.extend(ANSWER_QUARTERS.map(|quarter| step(Op::Decode, at(quarter))));
    steps
}

/// One of the ranks that share a layer's heads; the others would do the same at the same time.
#[derive(Clone, Copy)]
struct Rank<'a> {
    target: &'a KernelTarget,
    of: usize,
}

impl Rank<'_> {
    fn step(self, op: Op, kv_lens: Vec<usize>, timing: Timing) -> Step {
        let model = self.target.model.rank(self.of);
        let shape = Shape {
            kv_lens,
            heads_q: model.num_heads,
            heads_kv: model.num_kv_heads,
            head_dim: model.head_dim,
        };
        Step { op, shape, model: model.name, page: self.target.page, timing }
    }
}
