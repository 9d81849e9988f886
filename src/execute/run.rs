//! The upper line's loop: blocks in plan order, each handed to the backend of its task.

use std::collections::{BTreeSet, HashSet};

use crate::{
    plan::{Cell, Task},
    record::{Row, Sink},
};

use super::{Backend, Context, Observer, StopFlag, clock::Clock};

/// Who measures what.
pub struct Backends<'a> {
    /// Launches and replays on a device.
    pub kernel: &'a mut dyn Backend,
    /// Requests to a server.
    pub engine: &'a mut dyn Backend,
}

/// What stays the same over a run.
pub struct Run<'a> {
    /// Goes into every row.
    pub run_id: &'a str,
    /// Who is told how far it is.
    pub observer: &'a dyn Observer,
    /// Raised by Ctrl-C.
    pub stop: StopFlag,
    /// The run's clock.
    pub clock: Clock,
}

/// How a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Cells finished by this call, failed ones included.
    pub n_finished: usize,
    /// Cells with at least one row that carries `err`.
    pub failed: BTreeSet<String>,
    /// Whether the stop flag ended it early.
    pub interrupted: bool,
}

/// Called between blocks with the sink (telemetry) and the backend of the engines (what it has learned).
pub type AfterBlock<'a> = &'a mut dyn FnMut(&mut dyn Sink, &dyn Backend) -> anyhow::Result<()>;

/// Measures every cell that is not in `finished`.
pub fn run(
    cells: &[Cell],
    finished: &HashSet<String>,
    backends: &mut Backends<'_>,
    run: &Run<'_>,
    sink: &mut dyn Sink,
    after_block: AfterBlock<'_>,
) -> anyhow::Result<Outcome> {
    let observer = run.observer;
    let mut counting = Counting { inner: sink, observer, failed: BTreeSet::new(), n_finished: 0 };
    for block in blocks(cells, finished) {
        if run.stop.is_raised() {
            break;
        }
        run_block(&block, backends, run, &mut counting)?;
        after_block(&mut counting, backends.engine)?;
    }
    Ok(Outcome {
        n_finished: counting.n_finished,
        failed: counting.failed,
        interrupted: run.stop.is_raised(),
    })
}

/// How many blocks a call of [`run`] has before it.
pub fn n_blocks(cells: &[Cell], finished: &HashSet<String>) -> usize {
    blocks(cells, finished).len()
}

/// Unfinished cells, grouped by block, in plan order.
fn blocks<'c>(cells: &'c [Cell], finished: &HashSet<String>) -> Vec<Vec<&'c Cell>> {
    let mut blocks: Vec<Vec<&Cell>> = Vec::new();
    for cell in cells.iter().filter(|cell| !finished.contains(&cell.id)) {
        match blocks.last_mut() {
            Some(block) if block[0].block == cell.block => block.push(cell),
            _ => blocks.push(vec![cell]),
        }
    }
    blocks
}

fn run_block(
    block: &[&Cell],
    backends: &mut Backends<'_>,
    run: &Run<'_>,
    sink: &mut Counting<'_>,
) -> anyhow::Result<()> {
    let first = block[0];
    run.observer.block_started(&label(first));
    run.observer.cells_started(block);
    let n_failed_before = sink.failed.len();
    let backend: &mut dyn Backend = match first.task {
        Task::Launch { .. } | Task::Replay { .. } => backends.kernel,
        Task::Serve { .. } => backends.engine,
    };
    let mut context = Context {
        run_id: run.run_id,
        sink: &mut *sink,
        observer: run.observer,
        stop: run.stop.clone(),
        clock: run.clock,
    };
    backend.run(block, &mut context)?;
    run.observer.block_finished(block.len(), sink.failed.len() - n_failed_before);
    Ok(())
}

/// A block for people. Blocks of kernels hold every method, those of engines one.
fn label(first: &Cell) -> String {
    let Cell { target, workload, load, repeat, .. } = first;
    match &first.task {
        Task::Serve { target: server, .. } => {
            let engine = server.engine.as_ref().map(|engine| format!(" ({})", engine.title));
            let engine = engine.unwrap_or_default();
            format!("{target}{engine} {} {workload} {load} r{repeat}", first.method.name)
        }
        Task::Launch { .. } | Task::Replay { .. } => {
            format!("{target} {workload} {load} r{repeat}")
        }
    }
}

/// Passes rows on, shows them to the observer and remembers which cells failed.
struct Counting<'a> {
    inner: &'a mut dyn Sink,
    observer: &'a dyn Observer,
    failed: BTreeSet<String>,
    n_finished: usize,
}

impl Sink for Counting<'_> {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let failed = match &row {
            Row::Request(row) if row.warmup => None,
            Row::Request(row) => row.err.as_ref().map(|_| &row.cell_id),
            Row::Kernel(row) => row.err.as_ref().map(|_| &row.cell_id),
            Row::Telemetry(_) | Row::EngineMetric(_) => None,
        };
        if let Some(cell_id) = failed {
            self.failed.insert(cell_id.clone());
        }
        self.observer.row(&row);
        self.inner.row(row)
    }

    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        self.n_finished += cell_ids.len();
        self.inner.finished(cell_ids)?;
        self.observer.cells_finished(cell_ids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        execute::Silent,
        kernel::Op,
        method::Method,
        plan::{Arrival, Task},
        record::KernelRow,
        scenario::{
            Device, Endpoint, EngineTarget, KernelTarget, ModelShape, NamedMethod, Workload,
        },
    };

    struct Memory {
        rows: Vec<Row>,
        finished: Vec<String>,
    }

    impl Sink for Memory {
        fn row(&mut self, row: Row) -> anyhow::Result<()> {
            self.rows.push(row);
            Ok(())
        }

        fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
            self.finished.extend(cell_ids.iter().map(|id| (*id).to_owned()));
            Ok(())
        }
    }

    /// One row a cell; cells whose id ends in `bad` carry an error; raises the flag in block `stop_in`.
    struct Fake {
        stop_in: Option<usize>,
    }

    impl Backend for Fake {
        fn run(&mut self, block: &[&Cell], context: &mut Context<'_>) -> anyhow::Result<()> {
            for cell in block {
                let err = cell.id.ends_with("bad").then(|| "broken".to_owned());
                context.sink.row(Row::Kernel(KernelRow {
                    cell_id: cell.id.clone(),
                    err,
                    ..KernelRow::default()
                }))?;
            }
            if self.stop_in == Some(block[0].block) {
                context.stop.raise();
                return Ok(());
            }
            context.sink.finished(&block.iter().map(|cell| cell.id.as_str()).collect::<Vec<_>>())
        }
    }

    fn cell(id: &str, block: usize) -> Cell {
        let model = ModelShape {
            name: "m".to_owned(),
            num_layers: 1,
            num_heads: 1,
            num_kv_heads: 1,
            head_dim: 64,
        };
        let target = KernelTarget {
            model,
            device: Device::Cpu,
            threads: None,
            page: 16,
            tensor_parallel: vec![1],
            link: None,
            methods: Vec::new(),
        };
        Cell {
            id: id.to_owned(),
            block,
            target: "cpu".to_owned(),
            method: NamedMethod::new("fp16", Method::Fp16),
            workload: "w".to_owned(),
            load: "launch".to_owned(),
            repeat: 0,
            task: Task::Launch { target, op: Op::Decode, batch: 1, kv_len: 1, tensor_parallel: 1 },
        }
    }

    fn go(cells: &[Cell], finished: &[&str], stop_in: Option<usize>) -> (Outcome, Memory) {
        let mut memory = Memory { rows: Vec::new(), finished: Vec::new() };
        let finished = finished.iter().map(|id| (*id).to_owned()).collect();
        let (mut kernel, mut engine) = (Fake { stop_in }, Fake { stop_in });
        let mut backends = Backends { kernel: &mut kernel, engine: &mut engine };
        let ctx = Run {
            run_id: "r",
            observer: &Silent,
            stop: StopFlag::default(),
            clock: Clock::start(),
        };
        let outcome =
            run(cells, &finished, &mut backends, &ctx, &mut memory, &mut |_, _| Ok(())).unwrap();
        (outcome, memory)
    }

    #[test]
    fn an_engines_block_is_called_by_its_method_too() {
        let target = EngineTarget::running("http://h", Endpoint::Chat, "fp8");
        let workload = Workload::Shapes { ops: Vec::new(), batch: Vec::new(), kv_len: Vec::new() };
        let arrival = Arrival::Closed { concurrency: 1 };
        let variant = String::new();
        let task = Task::Serve { target: Box::new(target), variant, workload, arrival };
        assert_eq!(label(&cell("a", 0)), "cpu w launch r0");
        assert_eq!(label(&Cell { task, ..cell("a", 0) }), "cpu fp16 w launch r0");
    }

    #[test]
    fn blocks_run_in_order_and_finished_cells_do_not_run_again() {
        let cells = [cell("a", 0), cell("b", 0), cell("c", 1)];
        let (outcome, memory) = go(&cells, &["b"], None);
        assert_eq!(memory.finished, ["a", "c"]);
        assert_eq!(outcome.n_finished, 2);
        assert!(!outcome.interrupted && outcome.failed.is_empty());
    }

    #[test]
    fn a_failed_cell_is_counted_and_the_run_goes_on() {
        let cells = [cell("a-bad", 0), cell("c", 1)];
        let (outcome, memory) = go(&cells, &[], None);
        assert_eq!(outcome.failed.into_iter().collect::<Vec<_>>(), ["a-bad"]);
        assert_eq!(memory.finished, ["a-bad", "c"]);
    }

    #[test]
    fn the_stop_flag_ends_the_run_after_its_block() {
        let cells = [cell("a", 0), cell("b", 1), cell("c", 2)];
        let (outcome, memory) = go(&cells, &[], Some(1));
        assert!(outcome.interrupted);
        assert_eq!(memory.finished, ["a"]);
        assert_eq!(memory.rows.len(), 2);
    }
}
