//! A run folder survives death at every step.

use std::path::{Path, PathBuf};

use polars::prelude::DataFrame;

use super::{
    KernelRow, Manifest, PROBE_METHOD, Recorder, RequestRow, Row, RunDir, Sink, Table,
    TelemetryRow,
    disk::{Files, RealFiles, faulty::Dying},
    manifest::{self, CellFacts},
};

const BLOCKS: [&[&str]; 3] = [
    &["s/cpu/fp16/decode-b1/launch/0", "s/cpu/int8/decode-b1/launch/0"],
    &["s/cpu/fp16/decode-b4/launch/0", "s/cpu/int8/decode-b4/launch/0"],
    &["s/engine/fp16/chat/closed-2/0"],
];

fn manifest() -> Manifest {
    manifest::example("20261124T013000Z-s-0", &BLOCKS.concat())
}

fn kernel(cell: &CellFacts, method: &str, sample: i64) -> Row {
    Row::Kernel(KernelRow {
        cell_id: if method == PROBE_METHOD {
            format!("probe-{}", cell.workload)
        } else {
            cell.id.clone()
        },
        target: cell.target.clone(),
        method: method.to_owned(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        repeat: i64::from(cell.repeat),
        sample: Some(sample),
        duration_ns: Some(100 + sample),
        verified: true,
        ..KernelRow::default()
    })
}

fn request(cell: &CellFacts, request_id: i64) -> Row {
    Row::Request(RequestRow {
        cell_id: cell.id.clone(),
        target: cell.target.clone(),
        method: cell.method.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        request_id,
        chunk_ns: vec![1, 2, 3],
        ..RequestRow::default()
    })
}

/// Alternating samples of all cells of a block, a probe between them, and a flush in the middle as a big block has it.
fn block(recorder: &mut Recorder, cells: &[&CellFacts]) -> anyhow::Result<()> {
    for sample in 0..3 {
        for cell in cells {
            recorder.row(if cell.target == "engine" {
                request(cell, 2 - sample)
            } else {
                kernel(cell, &cell.method, sample)
            })?;
        }
        if cells[0].target == "cpu" {
            recorder.row(kernel(cells[0], PROBE_METHOD, sample))?;
        }
        recorder.row(Row::Telemetry(TelemetryRow { t_ns: sample, ..TelemetryRow::default() }))?;
        if sample == 1 {
            recorder.flush()?;
        }
    }
    let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
    recorder.finished(&ids)
}

fn run(recorder: &mut Recorder) -> anyhow::Result<()> {
    let manifest = manifest();
    for ids in BLOCKS {
        let cells: Vec<&CellFacts> =
            manifest.cells.iter().filter(|cell| ids.contains(&cell.id.as_str())).collect();
        if !cells.iter().all(|cell| recorder.done().contains(&cell.id)) {
            block(recorder, &cells)?;
        }
    }
    recorder.finalize(&manifest.cells)
}

fn create(parent: &Path, files: Box<dyn Files>) -> (Recorder, PathBuf) {
    let recorder = RunDir::create_with(files, parent, "s", "20261124T013000Z", "0").unwrap();
    manifest().write(recorder.path()).unwrap();
    let path = recorder.path().to_owned();
    (recorder, path)
}

fn tables(path: &Path) -> [DataFrame; 2] {
    let dir = RunDir::open(path).unwrap();
    [Table::Requests, Table::Kernels].map(|table| dir.read_table(table).unwrap())
}

fn uninterrupted() -> [DataFrame; 2] {
    let parent = tempfile::tempdir().unwrap();
    let (mut recorder, path) = create(parent.path(), Box::new(RealFiles));
    run(&mut recorder).unwrap();
    tables(&path)
}

/// Every file is accounted for: no parts, nothing half-written, each cell finished exactly once.
fn assert_clean(path: &Path) {
    let names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let expected = [
        "cells.jsonl",
        "engine_metrics.parquet",
        "kernels.parquet",
        "lock",
        "manifest.json",
        "requests.parquet",
        "telemetry.parquet",
    ];
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert!(expected.iter().all(|name| names.iter().any(|there| there == name)), "{names:?}");
    let journal = std::fs::read_to_string(path.join("cells.jsonl")).unwrap();
    for id in BLOCKS.concat() {
        assert_eq!(journal.matches(id).count(), 1, "{id} in {journal}");
    }
}

#[test]
fn a_finished_run_holds_every_row_in_plan_order() {
    let [requests, kernels] = uninterrupted();
    let ids: Vec<i64> =
        requests.column("request_id").unwrap().i64().unwrap().iter().flatten().collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(kernels.height(), 2 * 3 * 3);
    let cells: Vec<&str> =
        kernels.column("cell_id").unwrap().str().unwrap().iter().flatten().collect();
    assert_eq!(cells[0], "probe-decode-b1");
    assert_eq!(cells[3], BLOCKS[0][0]);
    assert_eq!(cells[6], BLOCKS[0][1]);
    assert_eq!(cells[9], "probe-decode-b4");
}

#[test]
fn death_at_every_step_loses_and_repeats_nothing() {
    let expected = uninterrupted();
    for step in 0.. {
        let parent = tempfile::tempdir().unwrap();
        // `create` itself asks once for the folder of the parts; a run without manifest cannot be resumed.
        let dying = Dying::at(step + 1);
        let (mut recorder, path) = create(parent.path(), Box::new(dying.clone()));
        let outcome = run(&mut recorder);
        drop(recorder);
        assert_eq!(outcome.is_ok(), dying.steps() <= step + 1);
        let readable = RunDir::open(&path).unwrap();
        Table::ALL
            .iter()
            .for_each(|table| assert!(readable.read_table(*table).is_ok(), "step {step}"));
        let mut recorder = RunDir::resume(&path).unwrap();
        run(&mut recorder).unwrap_or_else(|err| panic!("step {step}: {err:#}"));
        assert!(
            tables(&path).iter().zip(&expected).all(|(a, b)| a.equals_missing(b)),
            "step {step}"
        );
        assert_clean(&path);
        if outcome.is_ok() {
            assert!(step > 20, "only {step} steps: the test has lost its subject");
            return;
        }
    }
}

#[test]
fn death_while_resuming_is_survived_too() {
    let expected = uninterrupted();
    for (first, second) in [
        (4, 0),
        (4, 1),
        (4, 3),
        (9, 0),
        (9, 1),
        (9, 2),
        (12, 1),
        (30, 0),
        (34, 1),
        (36, 1),
        (38, 0),
    ] {
        let parent = tempfile::tempdir().unwrap();
        let (mut recorder, path) = create(parent.path(), Box::new(Dying::at(first)));
        let _ = run(&mut recorder);
        drop(recorder);
        if let Ok(mut recorder) = RunDir::resume_with(Box::new(Dying::at(second)), &path) {
            let _ = run(&mut recorder);
        }
        let mut recorder = RunDir::resume(&path).unwrap();
        run(&mut recorder).unwrap_or_else(|err| panic!("{first}, {second}: {err:#}"));
        assert!(
            tables(&path).iter().zip(&expected).all(|(a, b)| a.equals_missing(b)),
            "{first}, {second}"
        );
        assert_clean(&path);
    }
}

#[test]
fn rows_of_a_cell_that_finishes_later_are_not_taken_for_finished() {
    let parent = tempfile::tempdir().unwrap();
    let (mut recorder, path) = create(parent.path(), Box::new(RealFiles));
    let cells = manifest().cells;
    recorder.row(kernel(&cells[0], "fp16", 0)).unwrap();
    recorder.row(kernel(&cells[1], "int8", 0)).unwrap();
    recorder.finished(&[&cells[0].id]).unwrap();
    drop(recorder);
    drop(RunDir::resume(&path).unwrap());
    let [_, kernels] = tables(&path);
    assert_eq!(kernels.height(), 1);
}

#[test]
fn a_full_disk_is_named_and_what_was_written_stays() {
    let parent = tempfile::tempdir().unwrap();
    let (mut recorder, path) = create(parent.path(), Box::new(Dying::at(12)));
    let err = format!("{:#}", run(&mut recorder).unwrap_err());
    assert!(
        err.contains("parts/")
            && err.contains("hint: check free space")
            && err.contains("no storage space"),
        "{err}"
    );
    let again = recorder.row(request(&manifest().cells[4], 0)).unwrap_err().to_string();
    assert!(again.contains("recording has failed before"), "{again}");
    assert!(tables(&path)[1].height() >= 9, "the first block is readable");
}

#[test]
fn two_processes_cannot_write_one_run() {
    let parent = tempfile::tempdir().unwrap();
    let (_recorder, path) = create(parent.path(), Box::new(RealFiles));
    let err = RunDir::resume(&path).err().unwrap().to_string();
    assert!(err.contains("another kvbench is writing to this run"), "{err}");
}

#[test]
fn a_run_folder_is_never_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    drop(create(parent.path(), Box::new(RealFiles)));
    let err = RunDir::create(parent.path(), "s", "20261124T013000Z", "0").err().unwrap();
    assert!(format!("{err:#}").contains("expected a folder that does not exist yet"), "{err:#}");
}

#[test]
fn an_unfinished_run_is_not_merged_and_a_finished_one_takes_no_rows() {
    let parent = tempfile::tempdir().unwrap();
    let (mut recorder, path) = create(parent.path(), Box::new(RealFiles));
    let err = recorder.finalize(&manifest().cells).unwrap_err().to_string();
    assert!(err.contains("5 of 5 cells are not finished"), "{err}");
    run(&mut recorder).unwrap();
    drop(recorder);
    let mut recorder = RunDir::resume(&path).unwrap();
    assert_eq!(recorder.done().len(), 5);
    assert!(recorder.row(request(&manifest().cells[4], 0)).is_err());
    recorder.finalize(&manifest().cells).unwrap();
}

#[test]
fn a_damaged_journal_is_an_error_and_a_torn_one_is_not() {
    let parent = tempfile::tempdir().unwrap();
    let (recorder, path) = create(parent.path(), Box::new(RealFiles));
    drop(recorder);
    let journal = path.join("cells.jsonl");
    std::fs::write(&journal, "{\"cells\":[\"a\"],\"parts\":[]}\n{\"cells\":[\"b").unwrap();
    let dir = RunDir::open(&path).unwrap();
    assert_eq!(dir.finished_cells().unwrap().into_iter().collect::<Vec<_>>(), ["a"]);
    std::fs::write(&journal, "garbage\n{\"cells\":[\"a\"],\"parts\":[]}\n").unwrap();
    let err = dir.finished_cells().unwrap_err().to_string();
    assert!(err.contains("cells.jsonl:1: expected a line written by kvbench"), "{err}");
}

#[test]
fn a_run_without_rows_has_tables_without_rows() {
    let parent = tempfile::tempdir().unwrap();
    let (_recorder, path) = create(parent.path(), Box::new(RealFiles));
    for table in Table::ALL {
        let frame = RunDir::open(&path).unwrap().read_table(table).unwrap();
        assert_eq!(frame.height(), 0);
        assert!(frame.width() > 7);
    }
}
