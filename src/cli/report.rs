//! `kvbench report`: judges a run folder, finished or not, and writes its report.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::{route, splice::splice, ui::Ui};
use crate::{
    analyse::{Judgement, RunData, Verdict, doubtful, judge},
    record::{manifest::Status, route::ROUTE_FILE},
    report::{Format, ReportFiles, Table, beside_headline, build, headline, narrow, render},
};

/// Arguments of `kvbench report`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// Folder that `kvbench run` made, or `kvbench route simulate` or `replay`.
    pub run_dir: PathBuf,
    /// Where to write the report; the run folder unless given.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Parquet file of scripts/gpu-peers.py, taken beside this run on the same machine: its rows join tables and plots.
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,
    /// Document whose part between two marks is replaced by the tables of this run.
    #[arg(long, value_name = "FILE")]
    pub splice: Option<PathBuf>,
    /// Which parts to write, separated by commas; all unless given.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Exit with 1 where any cell is SUSPECT, not only where one is INVALID.
    #[arg(long)]
    pub strict: bool,
}

/// A part of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// `report.md`.
    Md,
    /// `report.html`.
    Html,
    /// `plots/*.svg`.
    Svg,
    /// `plots/*.png`.
    Png,
    /// No file: only the table on stdout.
    Table,
}

/// Writes the report and prints its tables. Exits with 1 where the verdict is INVALID; `--strict` counts SUSPECT cells as well.
///
/// # Errors
/// No run folder, a damaged one, or a folder that cannot be written.
pub fn run(args: &ReportArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if args.run_dir.join(ROUTE_FILE).is_file() {
        return of_router(args, ui);
    }
    let mut data = RunData::load(&args.run_dir)?;
    if let Some(peers) = &args.peers {
        join(&mut data, peers, ui)?;
    }
    let judgement = judged(&data, &args.run_dir)?;
    let out = args.out.as_deref().unwrap_or(&args.run_dir);
    if args.only != [Part::Table] {
        let mut files = build(&data, &judgement)?;
        files.0.retain(|(path, _)| args.only.is_empty() || args.only.contains(&part_of(path)));
        write(out, &files)?;
        ui.note(&format!("report: {} files in {}", files.0.len(), out.display()));
    }
    let tables = headline(&judgement);
    if let Some(document) = &args.splice {
        splice(document, &args.run_dir, (&data.manifest, &judgement), &tables)?;
        ui.note(&format!("tables: {}", document.display()));
    }
    announce(&data, &judgement, ui);
    ui.out(&printed(&with_judged(tables, &judgement), ui))?;
    Ok(ExitCode::from(u8::from(trips(&judgement, args.strict))))
}

/// The report of a router's folder, as `kvbench route report` makes it.
fn of_router(args: &ReportArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let options = [
        ("--peers", args.peers.is_some()),
        ("--splice", args.splice.is_some()),
        ("--only", !args.only.is_empty()),
        ("--strict", args.strict),
    ];
    if let Some((option, _)) = options.iter().find(|(_, given)| *given) {
        bail!(
            "{}: expected no {option} for the folder of a router\n  hint: it goes with the folders of `kvbench run`; leave it out",
            args.run_dir.display()
        );
    }
    route::publish(&args.run_dir, args.out.as_deref().unwrap_or(&args.run_dir), ui)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a verdict makes the command fail: INVALID does, and under `--strict` every cell that is not VALID.
pub(super) fn trips(judgement: &Judgement, strict: bool) -> bool {
    judgement.verdict == Verdict::Invalid || strict && !doubtful(&judgement.cells).is_empty()
}

fn with_judged(mut tables: Vec<Table>, judgement: &Judgement) -> Vec<Table> {
    tables.extend(beside_headline(judgement));
    tables
}

/// Writes the report of a judged run into its folder and prints its tables; what `kvbench run` does at its end.
///
/// # Errors
/// As [`run`].
pub fn publish(dir: &Path, data: &RunData, judgement: &Judgement, ui: &Ui) -> anyhow::Result<()> {
    let files = build(data, judgement)?;
    write(dir, &files)?;
    announce(data, judgement, ui);
    ui.out(&printed(&with_judged(headline(judgement), judgement), ui))?;
    ui.note(&format!("report: {}", dir.join("report.html").display()));
    Ok(())
}

fn judged(data: &RunData, run_dir: &Path) -> anyhow::Result<Judgement> {
    judge(data).with_context(|| format!("{}: cannot be judged", run_dir.display()))
}

/// Takes the rows of peers in and says what became of them.
fn join(data: &mut RunData, peers: &Path, ui: &Ui) -> anyhow::Result<()> {
    let joined = data.join_peers(peers)?;
    ui.note(&format!(
        "peers: {} rows joined, {} at shapes that this run does not have",
        joined.n_rows, joined.n_elsewhere
    ));
    joined.failed.iter().for_each(|failed| ui.note(&format!("  {failed}")));
    Ok(())
}

/// Verdict and reasons on stderr, so that stdout holds nothing but the tables.
fn announce(data: &RunData, judgement: &Judgement, ui: &Ui) {
    if data.manifest.status != Status::Complete {
        ui.note(&format!(
            "partial: {} of {} cells are finished",
            data.finished.len(),
            data.manifest.n_cells
        ));
    }
    ui.note(&judgement.verdict.to_string());
    for warning in &judgement.warnings {
        ui.note(&format!("  {}: {warning}", warning.severity()));
    }
    announce_cells(judgement, ui);
}

/// Doubtful cells that are named; the report lists them all.
const NAMED_MAX: usize = 10;

fn announce_cells(judgement: &Judgement, ui: &Ui) {
    let (all, cells) = (judgement.cells.len(), doubtful(&judgement.cells));
    ui.note(&format!("cells: {} of {all} VALID", all - cells.len()));
    for cell in cells.iter().take(NAMED_MAX) {
        ui.note(&format!("  {}: {}: {}", cell.verdict, cell.cell_id, cell.reasons.join("; ")));
    }
    if cells.len() > NAMED_MAX {
        let more = cells.len() - NAMED_MAX;
        ui.note(&format!("  and {more} more: see `Verdict per cell` in the report"));
    }
}

/// All tables for people; for programs the first, since one CSV or JSON document holds one table.
fn printed(tables: &[Table], ui: &Ui) -> String {
    let one = |table: &Table| render(table, ui.format, ui.color);
    match ui.format {
        Format::Text => {
            tables.iter().map(|table| one(&narrow(table))).collect::<Vec<_>>().join("\n")
        }
        Format::Md => tables.iter().map(one).collect::<Vec<_>>().join("\n"),
        Format::Json | Format::Csv => {
            tables.first().map(one).unwrap_or_else(|| one(&Table::new("", Vec::new())))
        }
    }
}

fn part_of(path: &str) -> Part {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("md") => Part::Md,
        Some("html") => Part::Html,
        Some("svg") => Part::Svg,
        _ => Part::Png,
    }
}

/// Writes every file aside and renames it: a reader sees the old report or the new one.
pub(super) fn write(out: &Path, files: &ReportFiles) -> anyhow::Result<()> {
    for (relative, bytes) in &files.0 {
        let path = out.join(relative);
        let aside = path.with_extension(format!("{}.part", std::process::id()));
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("{}: cannot be made", parent.display()))?;
        }
        let written = std::fs::write(&aside, bytes).and_then(|()| std::fs::rename(&aside, &path));
        if let Err(error) = written {
            // Best effort: the error that matters is the one that is returned.
            drop(std::fs::remove_file(&aside));
            return Err(error).with_context(|| {
                format!(
                    "{}: cannot be written\n  hint: free some space, or choose a folder with --out",
                    path.display()
                )
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{
        manifest::example,
        parquet::{TableRow as _, write_rows},
        rows::KernelRow,
    };

    /// A run folder with one decode block under two methods.
    fn run_folder(status: Status) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let cells = ["example/cpu/fp16/w/launch/0", "example/cpu/int8/w/launch/0"];
        let mut manifest = example("r", &cells);
        manifest.status = status;
        manifest.write(dir.path()).unwrap();
        let row = |method: &str, cell: &str, sample: i64, ns: i64| KernelRow {
            run_id: "r".into(),
            cell_id: cell.into(),
            target: "cpu".into(),
            method: method.into(),
            workload: "w".into(),
            load: "launch".into(),
            device: "A CPU".into(),
            backend: "cpu-avx2".into(),
            op: "decode".into(),
            model_shape: "llama-2-7b".into(),
            batch: 1,
            q_len: 1,
            kv_len: 1024,
            kv_tokens: 1024,
            heads_q: 32,
            heads_kv: 32,
            head_dim: 128,
            dtype: "f16".into(),
            sample: Some(sample),
            t_ns: Some(sample * 10_000_000),
            duration_ns: Some(ns + sample * 1000),
            bytes_moved: Some(1_000_000),
            verified: true,
            max_rel_err: Some(1e-5),
            ..KernelRow::default()
        };
        let rows: Vec<KernelRow> = (0..20)
            .flat_map(|n| {
                [row("fp16", cells[0], n, 2_000_000), row("int8", cells[1], n, 1_000_000)]
            })
            .collect();
        write_rows(dir.path(), &rows).unwrap();
        dir
    }

    fn ui() -> Ui {
        Ui { format: Format::Csv, color: false, progress: false, quiet: true }
    }

    fn published(dir: &Path) -> anyhow::Result<()> {
        let data = RunData::load(dir)?;
        let judgement = judged(&data, dir)?;
        publish(dir, &data, &judgement, &ui())
    }

    #[test]
    fn an_unfinished_run_gets_a_report_that_says_so() {
        let dir = run_folder(Status::Interrupted);
        published(dir.path()).unwrap();
        let page = std::fs::read_to_string(dir.path().join("report.md")).unwrap();
        assert!(page.contains("**Partial:**") && page.contains("int8 decodes 1.99x"), "{page}");
        let plots = std::fs::read_dir(dir.path().join("plots")).unwrap();
        let names: Vec<String> =
            plots.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.contains(&"decode-speedup-cpu-llama-2-7b.png".to_owned()), "{names:?}");
        assert!(names.iter().all(|name| !name.ends_with(".part")), "{names:?}");
    }

    #[test]
    fn only_and_out_are_obeyed() {
        let (dir, out) = (run_folder(Status::Complete), tempfile::tempdir().unwrap());
        let args = ReportArgs {
            run_dir: dir.path().into(),
            out: Some(out.path().join("new")),
            only: vec![Part::Html],
            peers: None,
            splice: None,
            strict: false,
        };
        run(&args, &ui()).unwrap();
        let names: Vec<_> = std::fs::read_dir(out.path().join("new"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["report.html"]);
        assert!(!dir.path().join("report.html").exists());
    }

    /// A peers' file beside the run: one shape of the run's, one elsewhere, one that failed.
    fn peers(dir: &Path, device: &str) -> PathBuf {
        let mut row = KernelRow::rows(&RunData::load(dir).unwrap().kernels).unwrap().remove(0);
        row = KernelRow {
            run_id: "peers".into(),
            method: "peer:torch-flash".into(),
            device: device.into(),
            duration_ns: Some(1_500_000),
            ..row
        };
        let elsewhere = KernelRow { workload: "other".into(), ..row.clone() };
        let failed = KernelRow { err: Some("no such back end".into()), ..row.clone() };
        let place = dir.join("peers");
        std::fs::create_dir_all(&place).unwrap();
        write_rows(&place, &[row, elsewhere, failed]).unwrap();
        place.join("kernels.parquet")
    }

    #[test]
    fn peers_join_the_run_without_a_paired_speedup() {
        let dir = run_folder(Status::Complete);
        let file = peers(dir.path(), "A CPU");
        let mut data = RunData::load(dir.path()).unwrap();
        let joined = data.join_peers(&file).unwrap();
        assert_eq!((joined.n_rows, joined.n_elsewhere, joined.failed.len()), (1, 1, 1));
        let judgement = judged(&data, dir.path()).unwrap();
        let point = judgement.kernels.iter().find(|k| k.point.method.starts_with("peer:")).unwrap();
        assert!(point.speedup.is_none(), "samples of two runs are no pairs");
        assert!(data.manifest.notices.iter().any(|notice| notice.contains("sha256")));
    }

    #[test]
    fn peers_of_another_machine_are_refused() {
        let dir = run_folder(Status::Complete);
        let file = peers(dir.path(), "Another CPU");
        let error = RunData::load(dir.path()).unwrap().join_peers(&file).unwrap_err();
        assert!(format!("{error:#}").contains("got Another CPU"), "{error:#}");
        // The run's own rows are no peers.
        let own = dir.path().join("kernels.parquet");
        let error = RunData::load(dir.path()).unwrap().join_peers(&own).unwrap_err();
        assert!(format!("{error:#}").contains("peer:"), "{error:#}");
    }

    #[test]
    fn strict_fails_where_a_cell_is_suspect() {
        let dir = run_folder(Status::Complete);
        let judgement = judged(&RunData::load(dir.path()).unwrap(), dir.path()).unwrap();
        assert_eq!(judgement.verdict, Verdict::Suspect, "no journal: its cells are unfinished");
        assert!(!trips(&judgement, false) && trips(&judgement, true));
        let mut good = judgement.clone();
        good.cells.iter_mut().for_each(|cell| cell.verdict = Verdict::Valid);
        assert!(!trips(&good, true));
        good.verdict = Verdict::Invalid;
        assert!(trips(&good, false));
    }

    #[test]
    fn a_folder_that_is_no_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let err = format!("{:#}", published(dir.path()).unwrap_err());
        assert!(err.contains("hint"), "{err}");
    }
}
