//! Rows of the kernel table, filled as far as they are known before a launch.

use super::step::Step;
use crate::{
    execute::kernel::Lab,
    kernel::{Op, Shape},
    plan::Cell,
    record::{KernelRow, PROBE_METHOD as PROBE},
};

/// Everything about a cell's step that does not depend on what happens to it.
pub(super) fn template(run_id: &str, lab: &Lab, cell: &Cell, step: &Step) -> KernelRow {
    let shape = &step.shape;
    let kv_len = longest(shape);
    KernelRow {
        op: step.op.name().to_owned(),
        model_shape: step.model.clone(),
        batch: int(shape.kv_lens.len()),
        q_len: q_len(step.op, kv_len),
        kv_len,
        kv_tokens: int(shape.kv_lens.iter().sum()),
        heads_q: int(shape.heads_q),
        heads_kv: int(shape.heads_kv),
        head_dim: int(shape.head_dim),
        ..bare(run_id, lab, cell)
    }
}

/// The cell alone, where its shape is not known: a workload that could not be read.
pub(super) fn bare(run_id: &str, lab: &Lab, cell: &Cell) -> KernelRow {
    KernelRow {
        run_id: run_id.to_owned(),
        cell_id: cell.id.clone(),
        target: cell.target.clone(),
        method: cell.method.name.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        repeat: i64::from(cell.repeat),
        device: lab.device.clone(),
        backend: lab.backend.clone(),
        tensor_parallel: int(cell.task.tensor_parallel()),
        dtype: cell.method.ours().dtype(),
        n_sm: lab.limits.as_ref().map(|limits| int(limits.n_sm)),
        sm_clock_max_mhz: lab
            .limits
            .as_ref()
            .and_then(|limits| Some(limits.sm_clock_khz? as f64 / 1000.0)),
        ..KernelRow::default()
    }
}

/// The probe's row: the shape of the block it stands beside, its own bytes, no storage type of a cache.
pub(super) fn probe_template(
    run_id: &str,
    lab: &Lab,
    cell: &Cell,
    (step, op): (&Step, Op),
) -> KernelRow {
    KernelRow {
        cell_id: probe_id(cell),
        method: PROBE.to_owned(),
        op: op.name().to_owned(),
        q_len: 0,
        dtype: "bytes".to_owned(),
        ..template(run_id, lab, cell, step)
    }
}

/// `template` with what verification and counting found for the same kernel in another row.
pub(super) fn measured_like(template: KernelRow, found: &KernelRow) -> KernelRow {
    KernelRow {
        bytes_moved: found.bytes_moved,
        flops: found.flops,
        max_rel_err: found.max_rel_err,
        verified: found.verified,
        ..template
    }
}

/// A row that says why there is no time.
pub(super) fn failure(template: KernelRow, err: String) -> KernelRow {
    KernelRow { verified: false, err: Some(err), ..template }
}

/// `<scenario>/<target>/probe/<workload>/<load>/r<repeat>`.
fn probe_id(cell: &Cell) -> String {
    let scenario = cell.id.split('/').next().unwrap_or_default();
    format!("{scenario}/{}/{PROBE}/{}/{}/r{}", cell.target, cell.workload, cell.load, cell.repeat)
}

fn longest(shape: &Shape) -> i64 {
    int(shape.kv_lens.iter().copied().max().unwrap_or(0))
}

/// Query tokens of the longest sequence: the whole prompt, one, or (bulk compression, probe) none.
fn q_len(op: Op, kv_len: i64) -> i64 {
    match op {
        Op::Prefill => kv_len,
        Op::Decode | Op::Append => 1,
        Op::Compress | Op::Flush | Op::Read | Op::Copy => 0,
    }
}

fn int(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
