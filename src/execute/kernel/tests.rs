//! The backend against fakes: no number here depends on how fast anything ran.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    execute::{Observer, StopFlag, clock::Clock},
    kernel::{Verification, Work},
    plan::Task,
    record::{PROBE_METHOD as PROBE, Sink},
    scenario::{KernelTarget, LengthDist, ModelShape, NamedMethod, Workload},
};

type Log = Arc<Mutex<Vec<String>>>;

struct Fake {
    name: String,
    op: Op,
    rel_err: f64,
    log: Log,
    stop_at: Option<(usize, StopFlag)>,
    launched: Arc<AtomicUsize>,
}

impl Kernel for Fake {
    fn op(&self) -> Op {
        self.op
    }
    fn work(&self) -> Work {
        Work { bytes_moved: 1000, flops: 10 }
    }
    fn verify(&mut self) -> anyhow::Result<Verification> {
        Ok(Verification { max_rel_err: self.rel_err, gate: 1e-3 })
    }
    fn copies(&self) -> usize {
        3
    }
    fn launch(&mut self, copy: usize) -> anyhow::Result<()> {
        // Long enough that a sample is one launch, whatever the machine: work, not time, is counted.
        let began = crate::execute::clock::now();
        while began.elapsed().as_micros() < 30 {
            std::hint::spin_loop();
        }
        self.log.lock().unwrap().push(format!("{}#{}", self.name, copy % 3));
        let own = self.log.lock().unwrap().iter().filter(|l| l.starts_with("bf16#")).count();
        anyhow::ensure!(self.name != "bf16" || own < 3, "launch failed");
        let launched = self.launched.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((at, flag)) = &self.stop_at
            && launched == *at
        {
            flag.raise();
        }
        Ok(())
    }
    fn resident_bytes(&self) -> u64 {
        1000
    }
}

#[derive(Default)]
struct Memory {
    rows: Vec<KernelRow>,
    finished: Vec<String>,
}

impl Sink for Memory {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        match row {
            Row::Kernel(row) => self.rows.push(row),
            other => panic!("expected a kernel row, got {other:?}"),
        }
        Ok(())
    }
    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()> {
        self.finished.extend(cell_ids.iter().map(|id| (*id).to_owned()));
        Ok(())
    }
}

#[derive(Default)]
struct Notices(Mutex<Vec<String>>);

impl Observer for Notices {
    fn notice(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

struct Outcome {
    rows: Vec<KernelRow>,
    finished: Vec<String>,
    notices: Vec<String>,
    log: Vec<String>,
}

/// What a test can turn.
struct Bench {
    device: Device,
    available: Option<u64>,
    stop_at: Option<usize>,
    timing: Timing,
    task: fn(KernelTarget) -> Task,
}

impl Default for Bench {
    fn default() -> Self {
        let timing = Timing {
            warmup: 1,
            min_samples: 4,
            max_samples: 4,
            target_rel_ci: 0.1,
            max_seconds: 60.0,
            rotate_llc: 2.0,
        };
        Self { device: Device::Auto, available: None, stop_at: None, timing, task: launch }
    }
}

fn launch(target: KernelTarget) -> Task {
    Task::Launch { target, op: Op::Decode, batch: 2, kv_len: 64, tensor_parallel: 1 }
}

fn replay(target: KernelTarget) -> Task {
    let workload = Workload::Synthetic {
        n_requests: 5,
        prompt_tokens: LengthDist::Fixed(8),
        output_tokens: LengthDist::Fixed(4),
        tokens: None,
    };
    Task::Replay { target, workload, batch: 2, tensor_parallel: 2 }
}

fn model() -> ModelShape {
    ModelShape { name: "tiny".into(), num_layers: 1, num_heads: 4, num_kv_heads: 2, head_dim: 8 }
}

fn name(spec: &KernelSpec) -> String {
    match (spec.op, &spec.method) {
        (Op::Read, _) => PROBE.to_owned(),
        (_, method) => method.dtype(),
    }
}

impl Bench {
    fn lab(&self, log: &Log, stop: &StopFlag) -> Lab {
        let (log, launched) = (Arc::clone(log), Arc::new(AtomicUsize::new(0)));
        let stop_at = self.stop_at.map(|at| (at, stop.clone()));
        let available = self.available;
        let open = move |spec: &KernelSpec| -> anyhow::Result<Box<dyn Kernel>> {
            if spec.method == Method::Fp8 {
                anyhow::bail!("no fp8 here");
            }
            Ok(Box::new(Fake {
                name: name(spec),
                op: spec.op,
                rel_err: if spec.method == Method::Int4 { f64::NAN } else { 1e-4 },
                log: Arc::clone(&log),
                stop_at: stop_at.clone(),
                launched: Arc::clone(&launched),
            }))
        };
        Lab {
            device: "fake cpu".into(),
            backend: "cpu-fake".into(),
            limits: None,
            llc_bytes: 1000,
            missing: None,
            kernels: vec![],
            probes: vec![Op::Read],
            rotate_least: 0.0,
            state: None,
            open: Box::new(open),
            pool: Box::new(|_| Ok(rayon::ThreadPoolBuilder::new().num_threads(2).build()?)),
            available: Box::new(move || available),
            lengths: Box::new(|_, _, _| {
                Ok((1..=5).map(|i| Lengths { prompt: 8 * i, answer: 4 * i }).collect())
            }),
            notices: vec![],
        }
    }

    fn run(&self, methods: &[Method]) -> Outcome {
        let (stop, log) = (StopFlag::default(), Log::default());
        let lab = self.lab(&log, &stop);
        self.run_in(lab, methods, &log, stop)
    }

    fn run_in(&self, lab: Lab, methods: &[Method], log: &Log, stop: StopFlag) -> Outcome {
        let cells: Vec<Cell> = methods.iter().map(|method| self.cell(method)).collect();
        let block: Vec<&Cell> = cells.iter().collect();
        let (mut sink, notices) = (Memory::default(), Notices::default());
        let mut context = Context {
            run_id: "run",
            sink: &mut sink,
            observer: &notices,
            stop,
            clock: Clock::start(),
        };
        let nothing: Box<Open> = Box::new(|_| anyhow::bail!("nothing to open"));
        let no_pool: Box<MakePool> = Box::new(|_| anyhow::bail!("no pool"));
        let missing = Some("no driver\n  hint: device = \"cpu\"".to_owned());
        let gpu = Lab { missing, ..Lab::here("none".into(), "cuda".into(), 0, nothing, no_pool) };
        let labs = Labs { cpu: Arc::new(lab), gpu: Arc::new(gpu) };
        let mut backend = KernelBackend::new(labs, self.timing, 7);
        backend.run(&block, &mut context).unwrap();
        let log = log.lock().unwrap().clone();
        Outcome {
            rows: sink.rows,
            finished: sink.finished,
            notices: notices.0.into_inner().unwrap(),
            log,
        }
    }

    fn cell(&self, method: &Method) -> Cell {
        let name = method.dtype();
        let target = KernelTarget {
            model: model(),
            device: self.device,
            threads: None,
            page: 16,
            tensor_parallel: vec![1],
            link: None,
            methods: vec![],
        };
        Cell {
            id: format!("s/t/{name}/decode-b2-kv64/launch/r0"),
            block: 0,
            target: "t".into(),
            method: NamedMethod { name, method: Some(method.clone()) },
            workload: "decode-b2-kv64".into(),
            load: "launch".into(),
            repeat: 0,
            task: (self.task)(target),
        }
    }
}

fn of<'a>(rows: &'a [KernelRow], method: &str) -> Vec<&'a KernelRow> {
    rows.iter().filter(|row| row.method == method).collect()
}

#[test]
fn rounds_hold_one_sample_of_each_and_the_probe_in_alternating_order() {
    let outcome = Bench::default().run(&[Method::Fp16, Method::Int8]);
    let methods: Vec<&str> = outcome.rows.iter().map(|row| row.method.as_str()).collect();
    let rounds = [
        ["f16", "int8", PROBE],
        [PROBE, "int8", "f16"],
        ["int8", PROBE, "f16"],
        ["f16", PROBE, "int8"],
    ];
    assert_eq!(methods, rounds.concat());
    for method in ["f16", "int8", PROBE] {
        let samples: Vec<_> = of(&outcome.rows, method).iter().map(|row| row.sample).collect();
        assert_eq!(samples, [Some(0), Some(1), Some(2), Some(3)]);
    }
    assert_eq!(outcome.finished.len(), 2, "the probe is no planned cell");
}

#[test]
fn copies_are_rotated_after_the_warm_up() {
    let outcome = Bench::default().run(&[Method::Fp16]);
    let copies: Vec<&str> =
        outcome.log.iter().filter_map(|entry| entry.strip_prefix("f16#")).collect();
    assert_eq!(copies, ["0", "1", "2", "0", "1"]);
}

#[test]
fn rows_are_the_same_in_all_but_times() {
    let strip = |mut row: KernelRow| {
        assert!(row.duration_ns.take().is_some() && row.t_ns.take().is_some());
        row.thread_cpu_ns = None;
        row
    };
    let once = || -> Vec<KernelRow> {
        Bench::default().run(&[Method::Fp16, Method::Int8]).rows.into_iter().map(strip).collect()
    };
    assert_eq!(once(), once());
}

#[test]
fn a_kernel_that_fails_has_a_reason_and_no_time() {
    let outcome = Bench::default().run(&[Method::Fp16, Method::Int4, Method::Fp8]);
    let [wrong] = of(&outcome.rows, "int4")[..] else { panic!("expected one row") };
    assert!(wrong.err.as_ref().unwrap().contains("verification failed"));
    assert!(!wrong.verified && wrong.duration_ns.is_none() && wrong.max_rel_err.is_none());
    let [absent] = of(&outcome.rows, "fp8-e4m3")[..] else { panic!("expected one row") };
    assert_eq!(absent.err.as_deref(), Some("no fp8 here"));
    assert!(absent.sample.is_none() && absent.bytes_moved.is_none());
    assert_eq!(of(&outcome.rows, "f16").len(), 4, "the others go on");
    assert_eq!(outcome.finished.len(), 3);
    assert!(!outcome.log.iter().any(|entry| entry.starts_with("int4")), "never launched");
}

#[test]
fn stopping_keeps_rows_but_finishes_nothing() {
    // Warm-up is three launches; the fifth is the second sample of the first round.
    let outcome = Bench { stop_at: Some(5), ..Bench::default() }.run(&[Method::Fp16, Method::Int8]);
    assert_eq!(outcome.rows.len(), 2);
    assert!(outcome.finished.is_empty());
    assert_eq!(outcome.log.len(), 5);
}

#[test]
fn stopping_during_warm_up_gives_no_rows() {
    let outcome = Bench { stop_at: Some(1), ..Bench::default() }.run(&[Method::Fp16, Method::Int8]);
    assert!(outcome.rows.is_empty() && outcome.finished.is_empty());
    assert_eq!(outcome.log.len(), 1);
}

#[test]
fn memory_is_asked_before_anything_is_opened() {
    let outcome = Bench { available: Some(100), ..Bench::default() }.run(&[Method::Fp16]);
    let [row] = &of(&outcome.rows, "f16")[..] else { panic!("expected one row") };
    assert!(row.err.as_ref().unwrap().starts_with("memory: expected at most"));
    assert!(outcome.log.is_empty());
    assert_eq!(outcome.finished.len(), 1);
}

#[test]
fn kernels_that_do_not_fit_together_take_turns() {
    let decode = Bench::default();
    let spec = KernelSpec {
        op: Op::Decode,
        method: Method::Fp16,
        shape: crate::kernel::Shape { kv_lens: vec![64; 2], heads_q: 4, heads_kv: 2, head_dim: 8 },
        seed: 0,
        page: 16,
        rotate_bytes: 2000,
    };
    let need = memory::need(&spec);
    let room = need.kept * 3 / 2 + need.scratch;
    let outcome =
        Bench { available: Some(room * 10 / 8), ..decode }.run(&[Method::Fp16, Method::Int8]);
    assert!(
        outcome.notices.iter().any(|notice| notice.contains("2 groups")),
        "{:?}",
        outcome.notices
    );
    let last_f16 = outcome.rows.iter().rposition(|row| row.method == "f16");
    let first_int8 = outcome.rows.iter().position(|row| row.method == "int8");
    assert!(last_f16 < first_int8);
    let probes: Vec<_> = of(&outcome.rows, PROBE).iter().map(|row| row.sample).collect();
    assert_eq!(probes, (0..8).map(Some).collect::<Vec<_>>(), "numbered on over the groups");
}

#[test]
fn cuda_is_refused_with_a_reason_and_auto_says_what_is_missing() {
    let refused = Bench { device: Device::Cuda, ..Bench::default() }.run(&[Method::Fp16]);
    assert!(refused.rows[0].err.as_ref().unwrap().contains("expected CUDA, got no driver"));
    assert!(refused.rows[0].backend == "cuda" && refused.rows[0].timer.is_empty());
    assert_eq!(refused.rows[0].kv_tokens, 128);
    assert_eq!(refused.finished.len(), 1);
    let auto = Bench { device: Device::Auto, ..Bench::default() }.run(&[Method::Fp16]);
    assert!(auto.notices[0].contains("run on the CPU (fake cpu): no driver"), "{:?}", auto.notices);
}

#[test]
fn a_kernel_whose_launch_fails_drops_out_and_the_others_go_on() {
    let bf16 = Method::Bf16; // the fake fails its third launch
    let outcome = Bench::default().run(&[Method::Fp16, bf16]);
    let failed = of(&outcome.rows, "bf16");
    assert_eq!(failed.iter().filter(|row| row.err.is_some()).count(), 1);
    assert!(failed.last().unwrap().err.as_ref().unwrap().contains("launch failed"));
    assert!(failed.iter().all(|row| row.err.is_none() || row.duration_ns.is_none()));
    let timed = of(&outcome.rows, "f16").iter().filter(|row| row.duration_ns.is_some()).count();
    assert_eq!(timed, 4);
    assert_eq!(outcome.finished.len(), 2);
}

#[test]
fn the_page_reaches_the_kernels() {
    let task = |target: KernelTarget| launch(KernelTarget { page: 64, ..target });
    let (bench, log, stop) =
        (Bench { task, ..Bench::default() }, Log::default(), StopFlag::default());
    let pages = Arc::new(Mutex::new(vec![]));
    let (seen, mut lab) = (Arc::clone(&pages), bench.lab(&log, &stop));
    lab.open = Box::new(move |spec| {
        seen.lock().unwrap().push(spec.page);
        anyhow::bail!("seen")
    });
    bench.run_in(lab, &[Method::Fp16], &log, stop);
    assert_eq!(*pages.lock().unwrap(), [64, 64], "the probe and the method");
}

#[test]
fn replay_launches_ragged_batches_once() {
    let outcome = Bench { task: replay, ..Bench::default() }.run(&[Method::Fp16]);
    let rows = of(&outcome.rows, "f16");
    // Five requests in batches of two: three batches of seven steps.
    assert_eq!(rows.len(), 21);
    let samples: Vec<i64> = rows.iter().filter_map(|row| row.sample).collect();
    assert_eq!(samples, (0..21).collect::<Vec<_>>());
    let first: Vec<_> =
        rows[..7].iter().map(|row| (row.op.as_str(), row.kv_len, row.kv_tokens)).collect();
    let decode = |longest, sum| ("decode", longest, sum);
    assert_eq!(first[..2], [("prefill", 16, 24), ("compress", 16, 24)]);
    assert_eq!(
        first[2..],
        [decode(16, 24), decode(18, 27), decode(20, 30), decode(22, 33), decode(24, 36)]
    );
    assert_eq!(rows[20].batch, 1, "the last batch is what is left");
    let heads = (rows[0].tensor_parallel, rows[0].heads_q, rows[0].heads_kv);
    assert_eq!(heads, (2, 2, 1), "one of two ranks has half of the heads");
    assert_eq!(of(&outcome.rows, PROBE).len(), 21);
}

#[test]
fn the_probe_has_the_id_of_its_block() {
    let outcome = Bench::default().run(&[Method::Fp16]);
    let probe = of(&outcome.rows, PROBE)[0];
    assert_eq!(probe.cell_id, "s/t/probe/decode-b2-kv64/launch/r0");
    assert_eq!((probe.op.as_str(), probe.verified, probe.bytes_moved), ("read", true, Some(1000)));
}

#[test]
fn shipped_scenarios_are_valid_and_the_quickstart_is_small() {
    for name in ["quickstart", "cpu-kernels", "kivi"] {
        let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let scenario = crate::scenario::Scenario::load(std::path::Path::new(&path)).unwrap();
        let cells = plan::expand(&scenario);
        assert!(scenario.name == name && cells.iter().all(|cell| step::target(cell).is_ok()));
        if name == "quickstart" {
            let llc = 32 << 20;
            let blocks = cells.chunk_by(|a, b| a.block == b.block);
            let largest = blocks.map(|block| block_bytes(block, &scenario.timing, llc)).max();
            assert!(largest.unwrap() < 4 << 30, "{largest:?}");
        }
    }
}

/// Upper bound of the memory that a block of launches keeps.
fn block_bytes(block: &[Cell], timing: &Timing, llc: u64) -> u64 {
    let lab = Bench::default().lab(&Log::default(), &StopFlag::default());
    let kept = |cell: &Cell| {
        let (steps, _) = step::steps(cell, &lab, *timing, 0).unwrap();
        let rotate_bytes = (llc as f64 * timing.rotate_llc) as u64;
        let method = cell.method.ours().clone();
        let shape = steps[0].shape.clone();
        memory::need(&KernelSpec {
            op: steps[0].op,
            method,
            shape,
            seed: 0,
            page: 16,
            rotate_bytes,
        })
        .kept
    };
    block.iter().map(kept).sum()
}

#[test]
fn the_real_cpu_kernels_go_through() {
    let timing = Timing { rotate_llc: 0.0, ..Bench::default().timing };
    let task = |target: KernelTarget| {
        let model = ModelShape { head_dim: 32, ..target.model };
        let target = KernelTarget { model, device: Device::Cpu, ..target };
        Task::Launch { target, op: Op::Decode, batch: 2, kv_len: 100, tensor_parallel: 1 }
    };
    let bench = Bench { timing, task, ..Bench::default() };
    let kivi = Method::Kivi { bits: 4, group: 32, residual: 32 };
    let outcome =
        bench.run_in(Lab::cpu(), &[Method::Fp16, kivi], &Log::default(), StopFlag::default());
    assert_eq!(outcome.rows.len(), 12);
    let good = |row: &KernelRow| row.verified && row.err.is_none() && row.max_rel_err.is_some();
    assert!(outcome.rows.iter().all(good), "{:?}", outcome.rows);
    assert!(
        outcome
            .rows
            .iter()
            .all(|row| row.backend.starts_with("cpu-") && row.thread_cpu_ns.is_some())
    );
    let bytes = |method: &str| of(&outcome.rows, method)[0].bytes_moved;
    assert!(bytes("kivi4-g32") < bytes("f16"));
}
