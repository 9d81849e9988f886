//! A scenario becomes an ordered list of cells with readable, stable ids. Pure.

use crate::{
    kernel::Op,
    scenario::{EngineTarget, KernelTarget, NamedMethod, Workload},
};

/// One point of an experiment: `scenario/target/method/workload/load/repeat`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Unique readable id.
    pub id: String,
    /// Cells with the same number are measured together, sample by sample in alternating order, and finish together:
    /// every method at one shape and repeat. An engine cell is a block of its own.
    pub block: usize,
    /// Name of the target.
    pub target: String,
    /// The method under its scenario name; the A/A control is `<baseline>-aa`.
    pub method: NamedMethod,
    /// Name of the workload (for a shape of a grid with the shape: `decode-b4-kv8192`).
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
    },
    /// Replays a workload's lengths as batches of prefill, compress and decode launches.
    Replay {
        /// Where.
        target: KernelTarget,
        /// Prompts and answers.
        workload: Workload,
        /// Batch size (the concurrency of a closed load).
        batch: usize,
    },
    /// Sends a workload to a server.
    Serve {
        /// Where.
        target: EngineTarget,
        /// Prompts.
        workload: Workload,
        /// Arrivals, one value of the scenario's list.
        arrival: Arrival,
    },
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
}
