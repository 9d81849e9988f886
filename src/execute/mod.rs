//! Drives kernels and engines and samples the machine: the only layer that waits and times.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    plan::Cell,
    record::{Row, Sink},
};

pub mod clock;
pub mod engine;
pub mod kernel;
pub mod probe;
pub mod run;
pub mod supervise;
pub mod telemetry;

/// Something that can measure the cells of one block.
pub trait Backend {
    /// Measures a block, pushes its rows and declares its cells finished. A cell that cannot be measured becomes rows
    /// with `err` and is finished too, unless nothing of it was ever sent to a server: `--resume` runs it again. `Err`
    /// means that the run itself cannot go on (disk full).
    fn run(&mut self, block: &[&Cell], context: &mut Context<'_>) -> anyhow::Result<()>;

    /// What it has learned so far, beside the rows; `None` for one that asks no servers.
    fn learned(&self) -> Option<engine::Learned<'_>> {
        None
    }
}

/// What a backend is handed for one block.
pub struct Context<'a> {
    /// Goes into every row.
    pub run_id: &'a str,
    /// Where rows go.
    pub sink: &'a mut dyn Sink,
    /// Who is told how far it is.
    pub observer: &'a dyn Observer,
    /// Raised by Ctrl-C.
    pub stop: StopFlag,
    /// The run's clock.
    pub clock: clock::Clock,
}

/// Set once, by Ctrl-C or SIGTERM; long work looks at it between samples and requests.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks everyone to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Receives progress; `cli` draws it, tests ignore it.
pub trait Observer: Sync {
    /// A block began.
    fn block_started(&self, _label: &str) {}
    /// The cells of the block that began.
    fn cells_started(&self, _cells: &[&Cell]) {}
    /// A row was made: after its launch or request has ended, on the thread that writes rows.
    fn row(&self, _row: &Row) {}
    /// Cells are finished.
    fn cells_finished(&self, _cell_ids: &[&str]) {}
    /// Whether launches of kernels are timed from now on. Where they are, this machine is to do nothing else: who draws does it
    /// inside [`Observer::progress`] alone, which is called between two rounds.
    fn timing(&self, _on: bool) {}
    /// Progress inside the block, `done` of `total` units (samples or requests).
    fn progress(&self, _done: u64, _total: u64) {}
    /// What is being waited for inside the block.
    fn status(&self, _text: &str) {}
    /// A block ended; `failed` cells carry `err`.
    fn block_finished(&self, _n_cells: usize, _failed: usize) {}
    /// Something the user should know now.
    fn notice(&self, _text: &str) {}
}

/// An observer that says nothing.
pub struct Silent;

impl Observer for Silent {}
