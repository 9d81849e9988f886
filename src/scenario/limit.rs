//! Upper limits on products: each number alone may be sane and the grid still ask for terabytes.

use super::{KernelTarget, Load, Scenario, TargetKind, Workload, error::Fault, wire};

/// Most tables in one section.
pub(super) const TABLES_MAX: usize = 64;
/// Longest scenario file.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most prompt tokens of a synthetic workload, all requests together (about 1.5 GB of text).
pub(super) const PROMPT_TOKENS_MAX: u64 = 1 << 28;
/// Most cells of a scenario.
const CELLS_MAX: usize = 100_000;
/// Largest fp16 cache of one layer in a grid of shapes.
const CACHE_BYTES_MAX: u64 = 1 << 38;

/// Refuses a text that is too long to be a scenario.
pub(super) fn text(text: &str) -> Result<(), Fault> {
    if text.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("expected at most {TEXT_BYTES_MAX} bytes, got {}", text.len());
    Err(Fault::new(0, message, "is this a scenario file?"))
}

/// Checks the number of cells and the largest cache.
pub(super) fn check(scenario: &Scenario, file: &wire::File) -> Result<(), Fault> {
    for target in &scenario.targets {
        let TargetKind::Kernel(kernel) = &target.kind else { continue };
        for ((name, _), workload) in file.workload.0.iter().zip(&scenario.workloads) {
            let bytes = cache_bytes(kernel, &workload.kind);
            if bytes > CACHE_BYTES_MAX {
                return Err(Fault::new(
                    name.at,
                    format!(
                        "expected at most {} of fp16 cache per layer, got {} at the largest shape of `{}`",
                        crate::units::human_bytes(CACHE_BYTES_MAX),
                        crate::units::human_bytes(bytes),
                        name.value
                    ),
                    "lower the largest `batch` or `kv_len`",
                ));
            }
        }
    }
    let cells = cells(scenario);
    if cells > CELLS_MAX {
        let message = format!("expected at most {CELLS_MAX} cells, got {cells}");
        return Err(Fault::new(file.name.at, message, "shorten the lists, or split the scenario"));
    }
    Ok(())
}

fn cache_bytes(kernel: &KernelTarget, workload: &Workload) -> u64 {
    let Workload::Shapes { batch, kv_len, .. } = workload else { return 0 };
    let largest = |list: &[usize]| list.iter().copied().max().unwrap_or(0) as u64;
    let fewest = kernel.tensor_parallel.iter().copied().min().unwrap_or(1);
    let rank = kernel.model.rank(fewest);
    let per_token = 4 * (rank.num_kv_heads * rank.head_dim) as u64;
    largest(batch) * largest(kv_len) * per_token
}

/// Number of cells `plan::expand` makes, counted without making them.
fn cells(scenario: &Scenario) -> usize {
    let closed = points(scenario, |load| matches!(load, Load::Closed { .. }));
    let all = points(scenario, |_| true);
    let per_repeat = scenario.targets.iter().map(|target| match &target.kind {
        TargetKind::Kernel(kernel) => {
            let methods = kernel.methods.len() + usize::from(scenario.aa_control);
            let degrees = kernel.tensor_parallel.len();
            methods * degrees * workload_points(scenario, closed, true)
        }
        TargetKind::Engine(engine) => {
            let variants = engine.start().map_or(1, |start| start.variants.len());
            engine.methods.len() * variants * workload_points(scenario, all, false)
        }
    });
    per_repeat.sum::<usize>() * scenario.repeats as usize
}

fn points(scenario: &Scenario, wanted: impl Fn(&Load) -> bool) -> usize {
    let values = |load: &Load| match load {
        Load::Closed { concurrency } => concurrency.len(),
        Load::Constant { rate } | Load::Poisson { rate } | Load::Gamma { rate, .. } => rate.len(),
        Load::Ramp { .. } | Load::Burst { .. } | Load::Saturation(_) => 1,
        Load::Replay { speed } => speed.len(),
    };
    scenario.loads.iter().filter(|load| wanted(&load.kind)).map(|load| values(&load.kind)).sum()
}

fn workload_points(scenario: &Scenario, load_points: usize, kernel: bool) -> usize {
    let points = |workload: &Workload| match workload {
        Workload::Shapes { ops, batch, kv_len } if kernel => ops.len() * batch.len() * kv_len.len(),
        Workload::Shapes { .. } => 0,
        Workload::Dataset { .. }
        | Workload::Synthetic { .. }
        | Workload::Dialogues(_)
        | Workload::Trace(_)
        | Workload::Forced(_) => load_points,
    };
    scenario.workloads.iter().map(|workload| points(&workload.kind)).sum()
}
