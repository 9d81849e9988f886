//! `kvbench run`: the upper line, from scenario to rows, and then the lower line once, from rows to report.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};

use super::{
    facts::{cell_facts, device_from_name, facts, learn},
    keys::api_keys,
    progress::{View, Watcher},
    report, score_run, signals, slowdown, token,
    tui::Subject,
    ui::Ui,
};
use crate::{
    analyse::{RunData, cells_with_errors, judge},
    execute::{
        Backend, StopFlag,
        clock::Clock,
        engine::{EngineBackend, Starter},
        kernel::KernelBackend,
        probe,
        run::{Backends, Outcome, Run, run},
        telemetry::Telemetry,
    },
    plan::{self, Cell},
    record::{
        Manifest, Recorder, Row, RunDir, SCHEMA_VERSION, Sink, TelemetryRow,
        env::{self, Machine},
        manifest::{Input, Status},
        parquet::write_rows,
    },
    scenario::{Device, NamedWorkload, Scenario, TargetKind, Workload},
    units::hex,
    workload,
};

/// Measure a scenario, or go on with an interrupted run.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Scenario file; with --resume it is taken from the run's own manifest.
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    scenario: Option<PathBuf>,
    /// Parent of the run folder.
    #[arg(long, value_name = "DIR", default_value = "results")]
    out: PathBuf,
    /// Measure only cells whose id matches.
    #[arg(long, value_name = "REGEX")]
    filter: Option<regex::Regex>,
    /// Device of all kernel targets, instead of what the scenario says.
    #[arg(long, value_enum)]
    device: Option<Device>,
    /// Go on with this run folder: finished cells are kept and not run again.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "filter", "device"])]
    resume: Option<PathBuf>,
    /// Exit with 1 where any cell is SUSPECT, not only where one is INVALID or failed.
    #[arg(long)]
    strict: bool,
    /// Show the run on the whole terminal: cells, rates, KV usage, power, warnings. Without a terminal: as without it.
    #[arg(long)]
    tui: bool,
}

/// Everything decided before the first measurement.
struct Prepared {
    scenario: Scenario,
    cells: Vec<Cell>,
    recorder: Recorder,
    manifest: Manifest,
    clock: Clock,
}

/// Runs the command. 0: all cells good; 1: some cells failed; 130: interrupted.
///
/// # Errors
/// Bad input, or a run that cannot go on (disk full); what was measured stays in the run folder.
pub fn run_command(args: &RunArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    ensure!(
        !(args.tui && ui.quiet),
        "--tui: expected it without --quiet, got both\n  hint: leave one of them out"
    );
    let stop = StopFlag::default();
    signals::watch(stop.clone())?;
    let mut prepared = match (&args.resume, &args.scenario) {
        (Some(dir), _) => resume(dir)?,
        (None, Some(scenario)) => start(args, scenario, ui)?,
        (None, None) => bail!("expected a scenario file or `--resume DIR`"),
    };
    let dir = prepared.recorder.path().to_owned();
    ui.note(&format!("{}: {} cells", dir.display(), prepared.cells.len()));
    let measured = measure(&mut prepared, args.tui, ui, &stop);
    let interrupted = conclude(&mut prepared, measured)?.interrupted;
    let judged = judge_run(&mut prepared, &dir, args.strict, ui)?;
    Ok(exit_code(interrupted, &judged, &dir, ui))
}

/// What the exit code depends on.
struct Judged {
    trips: bool,
    failed: BTreeSet<String>,
    /// Cells that are not finished.
    n_open: usize,
}

fn exit_code(interrupted: bool, judged: &Judged, dir: &Path, ui: &Ui) -> ExitCode {
    if interrupted {
        ui.note(&format!("interrupted; go on with: kvbench run --resume {}", dir.display()));
        return ExitCode::from(signals::INTERRUPTED);
    }
    if let Some(example) = judged.failed.first() {
        ui.note(&format!("{} cells failed, such as {example}", judged.failed.len()));
    }
    if judged.n_open > 0 {
        ui.note(&format!(
            "{} of them were never sent; measure them with: kvbench run --resume {}",
            judged.n_open,
            dir.display()
        ));
    }
    ExitCode::from(u8::from(!judged.failed.is_empty() || judged.trips))
}

/// The lower line, once: rows to judgement, summary, verdict and report. Cells that failed in an earlier sitting
/// count as well.
fn judge_run(prepared: &mut Prepared, dir: &Path, strict: bool, ui: &Ui) -> anyhow::Result<Judged> {
    let mut data = RunData::load(dir)?;
    score_run::at_end(dir, &mut data, &prepared.scenario, ui)?;
    let failed = cells_with_errors(&data)?;
    prepared.manifest.token_checks = token::checks(&prepared.scenario, &data)?;
    data.manifest.token_checks.clone_from(&prepared.manifest.token_checks);
    let judgement = judge(&data).with_context(|| format!("{}: cannot be judged", dir.display()))?;
    write_rows(dir, &judgement.summary)?;
    let manifest = &mut prepared.manifest;
    manifest.n_failed = failed.len();
    manifest.verdict = Some(judgement.verdict);
    manifest.reasons = judgement.warnings.iter().map(ToString::to_string).collect();
    prepared.recorder.write_manifest(manifest)?;
    data.manifest.clone_from(manifest);
    report::publish(dir, &data, &judgement, ui)?;
    let n_open = prepared.cells.len().saturating_sub(data.finished.len());
    Ok(Judged { trips: report::trips(&judgement, strict), failed, n_open })
}

fn start(args: &RunArgs, path: &Path, ui: &Ui) -> anyhow::Result<Prepared> {
    let scenario = with_device(Scenario::load(path)?, args.device);
    let cells = selected(plan::expand(&scenario), args.filter.as_ref())?;
    api_keys(&scenario)?;
    let test_slowdown = slowdown::asked()?;
    let inputs = inputs(&scenario)?;
    let notices = bad_rows(&scenario)?;
    notices.iter().for_each(|notice| ui.note(&format!("note: {notice}")));
    let origin = env::wall_clock()?;
    let clock = Clock::start();
    let stamp = env::stamp(origin);
    let recorder = RunDir::create(
        &args.out,
        &scenario.name,
        &stamp,
        &short_id(&scenario, &env::rfc3339(origin)),
    )?;
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        run_id: recorder.dir().run_id(),
        kvbench_version: env!("CARGO_PKG_VERSION").to_owned(),
        kvbench_git_revision: Some(env!("KVBENCH_GIT_REV").to_owned())
            .filter(|revision| !revision.is_empty()),
        status: Status::Running,
        verdict: None,
        reasons: Vec::new(),
        scenario: facts(&scenario, path, args.device),
        cells: cells.iter().map(cell_facts).collect(),
        origin: env::rfc3339(origin),
        ended: None,
        n_resumed: 0,
        command_line: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
        machine: Machine::read(),
        inputs,
        schedules: BTreeMap::new(),
        engines: BTreeMap::new(),
        telemetry: None,
        client_health: Vec::new(),
        proofs: Vec::new(),
        token_checks: Vec::new(),
        n_cells: cells.len(),
        n_failed: 0,
        notices,
        gpu_driver: probe::nvml().ok().map(|(version, _)| version),
        test_slowdown,
    };
    recorder.write_manifest(&manifest)?;
    Ok(Prepared { scenario, cells, recorder, manifest, clock })
}

/// The scenario's text, device and cells come from the manifest: a file that was edited since changes nothing.
fn resume(dir: &Path) -> anyhow::Result<Prepared> {
    let mut manifest = Manifest::read(dir)?;
    let origin = manifest.scenario.path.clone().unwrap_or_else(|| "manifest.json".to_owned());
    let device = manifest.scenario.device.as_deref().map(device_from_name).transpose()?;
    let scenario = with_device(Scenario::parse(&manifest.scenario.text, &origin)?, device);
    let planned: HashSet<&str> = manifest.cells.iter().map(|cell| cell.id.as_str()).collect();
    let cells: Vec<Cell> = plan::expand(&scenario)
        .into_iter()
        .filter(|cell| planned.contains(cell.id.as_str()))
        .collect();
    ensure!(
        cells.len() == planned.len(),
        "{}: expected {} cells in its scenario, got {}\n  hint: resume with kvbench {}, which started it",
        dir.display(),
        planned.len(),
        cells.len(),
        manifest.kvbench_version
    );
    same_inputs(&manifest, &inputs(&scenario)?)?;
    same_place(&manifest, dir)?;
    let recorder = RunDir::resume(dir)?;
    api_keys(&scenario)?;
    not_damaged(&manifest, &recorder, dir)?;
    let since_ns = env::ns_since(&manifest.origin, env::wall_clock()?)
        .with_context(|| dir.join("manifest.json").display().to_string())?;
    ensure!(
        since_ns >= 0,
        "{}: `origin` lies in the future\n  hint: set the clock",
        dir.join("manifest.json").display()
    );
    let clock = Clock::start_at(since_ns);
    manifest.status = Status::Running;
    manifest.ended = None;
    manifest.n_resumed += 1;
    recorder.write_manifest(&manifest)?;
    Ok(Prepared { scenario, cells, recorder, manifest, clock })
}

/// A complete run whose journal no longer says so: nothing may be written, or its good rows would be called unfinished.
fn not_damaged(manifest: &Manifest, recorder: &Recorder, dir: &Path) -> anyhow::Result<()> {
    let covered = manifest.cells.iter().all(|cell| recorder.done().contains(&cell.id));
    ensure!(
        covered || manifest.status != Status::Complete,
        "{}: expected the {} cells of a complete run, got {}\n  hint: restore the file; nothing was changed",
        dir.join("cells.jsonl").display(),
        manifest.cells.len(),
        recorder.done().len()
    );
    Ok(())
}

/// Rows of two machines or two versions under one run id could not be told apart.
fn same_place(manifest: &Manifest, dir: &Path) -> anyhow::Result<()> {
    let now = (Machine::read().cpu_model, env!("CARGO_PKG_VERSION"));
    let then = (&manifest.machine.cpu_model, manifest.kvbench_version.as_str());
    ensure!(
        (&now.0, now.1) == then,
        "{}: expected the machine and version that began it ({:?}, kvbench {}), got {:?}, kvbench {}\n  hint: start a new run here",
        dir.display(),
        then.0,
        then.1,
        now.0,
        now.1
    );
    Ok(())
}

fn same_inputs(manifest: &Manifest, now: &[Input]) -> anyhow::Result<()> {
    ensure!(
        manifest.inputs.len() == now.len(),
        "expected {} inputs as when the run began, got {}",
        manifest.inputs.len(),
        now.len()
    );
    for (then, now) in manifest.inputs.iter().zip(now) {
        ensure!(
            then.sha256 == now.sha256,
            "{}: expected sha256 {} as when the run began, got {}\n  hint: put the old file back, or start a new run",
            now.path,
            then.sha256,
            now.sha256
        );
    }
    Ok(())
}

fn measure(
    prepared: &mut Prepared,
    tui: bool,
    ui: &Ui,
    stop: &StopFlag,
) -> anyhow::Result<Outcome> {
    let finished: HashSet<String> = prepared.recorder.done().iter().cloned().collect();
    if !finished.is_empty() {
        ui.note(&format!("{} cells are finished already", finished.len()));
    }
    let keys = api_keys(&prepared.scenario)?;
    let watched = keys.clone();
    let scenario = &prepared.scenario;
    let notes = token::Notes::default();
    let labs = slowdown::labs(prepared.manifest.test_slowdown);
    let mut kernel = KernelBackend::new(labs, scenario.timing, scenario.seed);
    let mut engine = EngineBackend::new(scenario.seed, keys, token::noting(notes.clone()))?
        .starting(starter(prepared.recorder.path())?);
    let mut backends = Backends { kernel: &mut kernel, engine: &mut engine };
    let run_id = prepared.manifest.run_id.clone();
    let telemetry = Telemetry::start(&run_id, scenario.telemetry_hz, prepared.clock)?;
    let subject = Subject {
        title: &scenario.name,
        folder: &prepared.recorder.path().display().to_string(),
        cells: &prepared.cells,
        finished: &finished,
        timing: &scenario.timing,
        clock: prepared.clock,
        peek: telemetry.peek(),
        stop: stop.clone(),
    };
    let watcher = Watcher::new(View::open(tui, *ui, subject)?, watched);
    let facts =
        Run { run_id: &run_id, observer: &watcher, stop: stop.clone(), clock: prepared.clock };
    let (manifest, dir) = (&mut prepared.manifest, prepared.recorder.path().to_owned());
    // Now and not at the end: what nobody wrote down is lost with a kvbench that is killed.
    let mut after_block = |sink: &mut dyn Sink, backend: &dyn Backend| {
        record_telemetry(telemetry.drain(), sink)?;
        let new = backend.learned().map_or(Ok(false), |learned| learn(manifest, &learned))?;
        watcher.note_in(manifest);
        if new { manifest.write(&dir) } else { Ok(()) }
    };
    let recorder = &mut prepared.recorder;
    let outcome =
        run(&prepared.cells, &finished, &mut backends, &facts, recorder, &mut after_block);
    let (rows, overhead) = telemetry.stop()?;
    watcher.finish();
    let manifest = &mut prepared.manifest;
    manifest.telemetry = Some(serde_json::to_value(overhead)?);
    engine.learned().map_or(Ok(false), |learned| learn(manifest, &learned))?;
    watcher.note_in(manifest);
    for notice in notes.take() {
        if !manifest.notices.contains(&notice) {
            manifest.notices.push(notice);
        }
    }
    let outcome = outcome?;
    record_telemetry(rows, &mut prepared.recorder)?;
    Ok(outcome)
}

/// This program is also the parent of the engines that it starts: this very file, though an upgrade may have put another in its
/// place or removed it since.
fn starter(dir: &Path) -> anyhow::Result<Starter> {
    let own = PathBuf::from("/proc/self/exe");
    let supervisor = match own.exists() || own.is_symlink() {
        true => own,
        false => std::env::current_exe().context("own program: cannot be found")?,
    };
    Ok(Starter { supervisor, folder: dir.join("engines") })
}

fn record_telemetry(rows: Vec<TelemetryRow>, sink: &mut dyn Sink) -> anyhow::Result<()> {
    rows.into_iter().try_for_each(|row| sink.row(Row::Telemetry(row)))
}

/// Writes down how it ended, also when it ended badly: rows already flushed stay readable either way.
fn conclude(prepared: &mut Prepared, measured: anyhow::Result<Outcome>) -> anyhow::Result<Outcome> {
    let done = prepared.recorder.done();
    let all_done = prepared.cells.iter().all(|cell| done.contains(&cell.id));
    let manifest = &mut prepared.manifest;
    manifest.ended = Some(env::rfc3339(env::wall_clock()?));
    manifest.status = match &measured {
        Err(_) => Status::Failed,
        Ok(outcome) if outcome.interrupted => Status::Interrupted,
        Ok(_) if !all_done => Status::Incomplete,
        Ok(_) => Status::Complete,
    };
    let written = match &measured {
        Ok(_) if manifest.status == Status::Complete => prepared.recorder.finalize(&manifest.cells),
        Ok(_) if manifest.status == Status::Incomplete => {
            prepared.recorder.snapshot(&manifest.cells)
        }
        Ok(_) => prepared.recorder.flush(),
        Err(_) => Ok(()),
    };
    let noted = prepared.recorder.write_manifest(&prepared.manifest);
    // The error of the measurement is the cause; one of the clean-up after it would hide it.
    let outcome = measured.with_context(|| {
        let dir = prepared.recorder.path().display();
        format!("{dir}: the run ended early; what was flushed is readable and `kvbench run --resume {dir}` continues it")
    })?;
    written?;
    noted?;
    Ok(outcome)
}

fn selected(cells: Vec<Cell>, filter: Option<&regex::Regex>) -> anyhow::Result<Vec<Cell>> {
    let Some(filter) = filter else { return Ok(cells) };
    let n_all = cells.len();
    let chosen = plan::filter(&cells, filter);
    ensure!(
        !chosen.is_empty(),
        "--filter {filter}: expected to match a cell, got none of {n_all}\n  hint: `kvbench plan` lists the ids"
    );
    Ok(chosen)
}

fn with_device(mut scenario: Scenario, device: Option<Device>) -> Scenario {
    for target in &mut scenario.targets {
        if let (TargetKind::Kernel(kernel), Some(device)) = (&mut target.kind, device) {
            kernel.device = device;
        }
    }
    scenario
}

fn inputs(scenario: &Scenario) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for workload in &scenario.workloads {
        if let Some(path) = workload.kind.file() {
            let bytes = std::fs::metadata(path).with_context(|| unreadable(workload, path))?.len();
            inputs.push(Input {
                path: path.display().to_string(),
                sha256: workload::sha256_file(path)?,
                bytes,
            });
        }
    }
    inputs.extend(token::inputs(scenario)?);
    Ok(inputs)
}

/// What is wrong where the file that a workload needs cannot be read.
fn unreadable(workload: &NamedWorkload, path: &Path) -> String {
    let Workload::Forced(forced) = &workload.kind else {
        return format!("{}: cannot read the data set", path.display());
    };
    format!(
        "{}: expected the folder of a finished run as `run` of [workload.{}.forced], got none with requests.parquet\n  hint: name a folder that `kvbench run` made",
        forced.run.display(),
        workload.name
    )
}

/// What a data set's reader had to leave out, for the user and the manifest: a run on fewer rows must say so.
fn bad_rows(scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let mut notices = Vec::new();
    for workload in &scenario.workloads {
        let Some(report) = workload::report_on(&workload.kind)? else { continue };
        if let Some(first) = report.errors.first() {
            notices.push(format!(
                "{}: {} of {} rows left out (first: line {}: {})",
                report.path.display(),
                report.n_bad,
                report.n_rows,
                first.line,
                first.message
            ));
        }
    }
    Ok(notices)
}

/// Six hex digits that two runs of one second do not share.
fn short_id(scenario: &Scenario, origin: &str) -> String {
    use sha2::Digest as _;
    let digest =
        sha2::Sha256::digest(format!("{}\n{origin}\n{}", scenario.text, std::process::id()));
    hex(&digest[..3])
}
