//! A scenario becomes an ordered list of cells with readable, stable ids. Pure.

use std::collections::BTreeMap;

use regex::Regex;

use crate::{
    kernel::Op,
    record::manifest::{SearchRule, SloFacts},
    scenario::{EngineTarget, KernelTarget, NamedMethod, PAGES, Scenario, Workload},
};

pub mod draws;
mod estimate;
mod expand;
mod order;
pub mod search;

#[cfg(test)]
mod tests;

pub use estimate::{ASSUMPTION, Estimate, block_seconds, estimate};

/// One point of an experiment: `scenario/target/method/workload/load/repeat`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Unique readable id.
    pub id: String,
    /// Cells with the same number are measured together, sample by sample in alternating order, and finish together:
    /// every method at one shape and repeat. An engine cell is a block of its own: one server runs at a time.
    pub block: usize,
    /// Name of the target.
    pub target: String,
    /// The method under its scenario name; the A/A control is `<baseline>-aa`.
    pub method: NamedMethod,
    /// Name of the workload (for a shape of a grid with the shape: `decode-b4-kv8192`), and what the target does that
    /// others do not: `-page64-tp2`.
    pub workload: String,
    /// Load with its parameter: `closed-8`, `poisson-2.5`, `launch`.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: u32,
    /// What is to be done.
    pub task: Task,
}

/// What a cell does.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Times one kernel at one shape.
    Launch {
        /// Where.
        target: KernelTarget,
        /// Operation.
        op: Op,
        /// Sequences.
        batch: usize,
        /// Cached tokens per sequence.
        kv_len: usize,
        /// Ranks that share the heads; one of them is measured.
        tensor_parallel: usize,
    },
    /// Replays a workload's lengths as batches of prefill, compress and decode launches.
    Replay {
        /// Where.
        target: KernelTarget,
        /// Prompts and answers.
        workload: Workload,
        /// Batch size (the concurrency of a closed load).
        batch: usize,
        /// Ranks that share the heads; one of them is measured.
        tensor_parallel: usize,
    },
    /// Sends a workload to a server.
    Serve {
        /// Where.
        target: Box<EngineTarget>,
        /// Name of the target's set of flags; empty where it has only one.
        variant: String,
        /// Prompts.
        workload: Workload,
        /// Arrivals, one value of the scenario's list.
        arrival: Arrival,
    },
}

impl Task {
    /// The target of our own kernels; `None` for an engine.
    pub fn kernel_target(&self) -> Option<&KernelTarget> {
        match self {
            Task::Launch { target, .. } | Task::Replay { target, .. } => Some(target),
            Task::Serve { .. } => None,
        }
    }

    /// What ids say of a kernel target that differs from the default, so that those of old scenarios stay as they are.
    fn variant(&self) -> String {
        let page = self.kernel_target().map(|target| target.page).filter(|page| *page != PAGES[0]);
        let page = page.map_or_else(String::new, |page| format!("-page{page}"));
        page + &degree_label(self.tensor_parallel())
    }

    /// Ranks that share the heads; 1 for a server, whose ranks are its own.
    pub fn tensor_parallel(&self) -> usize {
        match self {
            Task::Launch { tensor_parallel, .. } | Task::Replay { tensor_parallel, .. } => {
                *tensor_parallel
            }
            Task::Serve { .. } => 1,
        }
    }
}

fn degree_label(ranks: usize) -> String {
    if ranks == 1 { String::new() } else { format!("-tp{ranks}") }
}

/// The workload of a cell (see [`Cell::workload`]) without what says on how many ranks it ran: the same work on others
/// has the same one.
pub fn without_degree(workload: &str, ranks: i64) -> &str {
    let label = usize::try_from(ranks).map(degree_label).unwrap_or_default();
    workload.strip_suffix(&label).unwrap_or(workload)
}

/// How the requests of one cell arrive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrival {
    /// Fixed number in flight.
    Closed {
        /// Requests in flight.
        concurrency: usize,
    },
    /// Equal gaps.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// Exponential gaps.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// Gamma gaps.
    Gamma {
        /// Requests per second.
        rate: f64,
        /// Shape.
        burstiness: f64,
    },
    /// Exponential gaps at a rate that goes from one value to another and stays there.
    Ramp {
        /// Requests per second at the start.
        from: f64,
        /// Requests per second at the end and after it.
        to: f64,
        /// Length of the ramp.
        over_s: f64,
        /// Stairs of equal length; `None` = a slope.
        steps: Option<usize>,
    },
    /// Exponential gaps with a burst at the end of each period.
    Burst {
        /// Requests per second between bursts.
        base_rate: f64,
        /// Requests per second within a burst.
        burst_rate: f64,
        /// From one burst to the next.
        period_s: f64,
        /// Length of a burst, less than the period.
        burst_s: f64,
    },
    /// The times that the workload, a trace, holds itself.
    Replay {
        /// How many times as fast as recorded.
        speed: f64,
    },
    /// Poisson at rates that a search finds, see [`search`].
    Saturation {
        /// How it searches.
        rule: SearchRule,
        /// What a good answer is.
        slo: SloFacts,
    },
}

impl Arrival {
    /// The parameter as written in cell ids: `8`, `2.5`, `1to10`, `1burst20`. It never holds a `-`.
    fn value(&self) -> String {
        match self {
            Arrival::Closed { concurrency } => concurrency.to_string(),
            Arrival::Constant { rate }
            | Arrival::Poisson { rate }
            | Arrival::Gamma { rate, .. } => rate.to_string(),
            Arrival::Saturation { rule, .. } => format!("slo{}", rule.attainment),
            Arrival::Replay { speed } => speed.to_string(),
            Arrival::Ramp { from, to, .. } => format!("{from}to{to}"),
            Arrival::Burst { base_rate, burst_rate, .. } => format!("{base_rate}burst{burst_rate}"),
        }
    }
}

/// All cells in the order in which they run. Kernel targets first: target, workload (of a grid: op, batch, kv_len), load,
/// degree of tensor parallelism, repeat, method; the A/A control of the baseline comes last in each block. Then engines:
/// repeat, configuration (target, variant, method) in the scenario's [`crate::scenario::MethodOrder`], workload, load, so
/// that a server that kvbench starts is started once a configuration and repeat. Ids are unique.
///
/// What a target cannot run is left out: kernel targets take shapes and, under closed loads, prompts; engine targets
/// take prompts under every load. A valid scenario has work for each target.
pub fn expand(scenario: &Scenario) -> Vec<Cell> {
    expand::cells(scenario)
}

/// Rules of the scenario's saturation searches, by load as in cell ids.
pub fn searches(scenario: &Scenario) -> BTreeMap<String, SearchRule> {
    expand::searches(scenario)
}

/// The cells whose id matches, in the same order and with the same blocks.
pub fn filter(cells: &[Cell], pattern: &Regex) -> Vec<Cell> {
    cells.iter().filter(|cell| pattern.is_match(&cell.id)).cloned().collect()
}

/// Seed of a cell's requests and data. It depends on the workload, the load and the repeat, and neither on the target
/// nor on the method: every method gets the same prompts in the same order at the same times, while a repeat or another
/// load gets others, so that a prefix cache warmed by one cell is no help to the next.
pub fn cell_seed(scenario_seed: u64, cell: &Cell) -> u64 {
    use sha2::Digest;
    let mut hasher = sha2::Sha256::new();
    hasher.update(scenario_seed.to_le_bytes());
    // How a target lays out or splits its cache changes no prompt.
    let workload = cell.workload.strip_suffix(&cell.task.variant()).unwrap_or(&cell.workload);
    // Names hold no slash, so the parts cannot run into each other.
    hasher.update(format!("{workload}/{}/{}", cell.load, cell.repeat));
    let digest = hasher.finalize();
    u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
}
