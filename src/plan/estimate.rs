//! What a cell will roughly cost: an estimate to plan by, never a result.

use super::{Arrival, Cell, Task};
use crate::{
    kernel::Op,
    method::Method,
    scenario::{ModelShape, Timing, Workload},
};

/// Bandwidth assumed for kernels, bytes per second.
const BYTES_PER_S: f64 = 10e9;
/// Arithmetic assumed for prefill, floating-point operations per second.
const FLOPS_PER_S: f64 = 50e9;
/// Last-level cache assumed for the rotated copies.
const LLC_BYTES: f64 = 32.0 * 1024.0 * 1024.0;

/// What the estimates rest on, to be printed beside them.
pub const ASSUMPTION: &str = "estimates, not measurements: kernels at 10 GB/s and 50 GFLOP/s with a 32 MiB last-level cache and \
all samples taken, verification not counted; servers need at least the time over which requests arrive; empty = not known before the run";

/// Cost of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Seconds, before the block's time cap (see [`block_seconds`]); `None` where only the run can tell.
    pub seconds: Option<f64>,
    /// Memory on the device that runs our kernels; `None` for servers and for files not read yet.
    pub memory_bytes: Option<u64>,
}

/// Estimates one cell; [`ASSUMPTION`] belongs beside it.
pub fn estimate(cell: &Cell, timing: &Timing) -> Estimate {
    match &cell.task {
        Task::Launch { target, op, batch, kv_len, tensor_parallel } => {
            let model = target.model.rank(*tensor_parallel);
            let layer = Layer { model, method: cell.method.ours(), batch: *batch, kv_len: *kv_len };
            let launches = (timing.warmup + timing.max_samples) as f64;
            Estimate {
                seconds: Some(launches * layer.launch_s(*op)),
                memory_bytes: Some(layer.memory(*op, timing)),
            }
        }
        Task::Replay { target, workload, batch, tensor_parallel } => {
            let model = target.model.rank(*tensor_parallel);
            let memory_bytes = replay_memory(cell, model, workload, *batch, timing);
            Estimate { seconds: None, memory_bytes }
        }
        Task::Serve { workload, arrival, .. } => {
            Estimate { seconds: arrival_s(workload, *arrival), memory_bytes: None }
        }
    }
}

/// Seconds of one block: the sum of its cells, held by `max_seconds` where kernels are timed.
pub fn block_seconds(cells: &[&Cell], timing: &Timing) -> Option<f64> {
    let sum: f64 = cells.iter().map(|cell| estimate(cell, timing).seconds).sum::<Option<f64>>()?;
    let timed = cells.iter().any(|cell| matches!(cell.task, Task::Launch { .. }));
    Some(if timed { sum.min(timing.max_seconds) } else { sum })
}

struct Layer<'a> {
    /// Heads of one rank.
    model: ModelShape,
    method: &'a Method,
    /// Sequences.
    batch: usize,
    /// Cached tokens of one sequence.
    kv_len: usize,
}

impl Layer<'_> {
    /// Cached tokens of all sequences.
    fn tokens(&self) -> f64 {
        (self.batch * self.kv_len) as f64
    }

    fn fp16_bytes(&self) -> f64 {
        4.0 * (self.model.num_kv_heads * self.model.head_dim) as f64 * self.tokens()
    }

    fn stored_bytes(&self) -> f64 {
        let model = &self.model;
        let (heads, dim) = (model.num_kv_heads, model.head_dim);
        self.method.cache_bytes(self.kv_len, heads, dim) as f64 * self.batch as f64
    }

    fn launch_s(&self, op: Op) -> f64 {
        let bytes = match op {
            Op::Decode => self.stored_bytes(),
            Op::Compress => self.fp16_bytes() + self.stored_bytes(),
            Op::Prefill | Op::Read | Op::Append | Op::Flush => self.fp16_bytes(),
            Op::Copy => 2.0 * self.fp16_bytes(),
        };
        bytes / BYTES_PER_S
            + if op == Op::Prefill { self.prefill_flops() / FLOPS_PER_S } else { 0.0 }
    }

    /// Causal: half of the square, two products of two operations per element.
    fn prefill_flops(&self) -> f64 {
        let width = (self.model.num_heads * self.model.head_dim) as f64;
        2.0 * self.tokens() * self.kv_len as f64 * width
    }

    fn memory(&self, op: Op, timing: &Timing) -> u64 {
        let one = if op == Op::Decode {
            self.stored_bytes()
        } else {
            self.fp16_bytes() + self.stored_bytes()
        };
        // The fp16 source is alive while the cache is made from it.
        (self.fp16_bytes() + one.max(timing.rotate_llc * LLC_BYTES)) as u64
    }
}

/// An upper limit: every sequence of the batch as long as the workload allows.
fn replay_memory(
    cell: &Cell,
    model: ModelShape,
    workload: &Workload,
    batch: usize,
    timing: &Timing,
) -> Option<u64> {
    let kv_len = match workload {
        Workload::Synthetic { prompt_tokens, output_tokens, .. } => {
            prompt_tokens.max() as usize + output_tokens.max() as usize
        }
        Workload::Dialogues(talk) => {
            talk.turns * (talk.prompt_tokens.max() as usize + talk.output_tokens.max() as usize)
        }
        // Forced answers are sent to engines only.
        Workload::Shapes { .. }
        | Workload::Dataset { .. }
        | Workload::Trace(_)
        | Workload::Forced(_) => return None,
    };
    let layer = Layer { model, method: cell.method.ours(), batch, kv_len };
    Some(layer.memory(Op::Compress, timing))
}

/// Mean time from the start to the last arrival, where both number and rate are known.
fn arrival_s(workload: &Workload, arrival: Arrival) -> Option<f64> {
    let n_requests = match workload {
        Workload::Synthetic { n_requests, .. } => Some(*n_requests),
        // First turns arrive; later ones follow answers.
        Workload::Dialogues(talk) => Some(talk.n_conversations),
        Workload::Dataset { n_requests, .. } => *n_requests,
        Workload::Trace(trace) => trace.n_requests,
        Workload::Forced(forced) => forced.n_prompts.map(|n| n * forced.positions),
        Workload::Shapes { .. } => None,
    }? as f64;
    match arrival {
        // The server decides, or a file that was not read yet.
        Arrival::Closed { .. } | Arrival::Replay { .. } | Arrival::Saturation { .. } => None,
        Arrival::Constant { rate } | Arrival::Poisson { rate } | Arrival::Gamma { rate, .. } => {
            Some(n_requests / rate)
        }
        Arrival::Ramp { from, to, over_s, .. } => {
            let on_the_way = 0.5 * (from + to) * over_s;
            // How far n requests come on a slope; stairs have the same mean.
            let slope = (to - from) / over_s;
            let reached = 2.0 * n_requests
                / (from + (from * from + 2.0 * slope * n_requests).max(0.0).sqrt());
            let after = (n_requests - on_the_way) / to;
            Some(if n_requests <= on_the_way { reached } else { over_s + after })
        }
        Arrival::Burst { base_rate, burst_rate, period_s, burst_s } => {
            let a_period = base_rate * (period_s - burst_s) + burst_rate * burst_s;
            Some(n_requests / a_period * period_s)
        }
    }
}
