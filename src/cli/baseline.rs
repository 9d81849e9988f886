//! `kvbench baseline`: names for runs that others are compared with. A name is a small file beside the runs; the run stays where it is.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use super::ui::Ui;
use crate::{
    record::{
        Manifest,
        manifest::{MANIFEST_FILE, Status},
    },
    report::{Column, Table, Value, render},
};

/// Folder of the names, inside the folder of runs.
const FOLDER: &str = "baselines";
/// Longest name.
const NAME_MAX: usize = 64;

/// Name runs that others are compared with.
#[derive(Debug, clap::Args)]
pub struct BaselineArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Give a run a name, which `kvbench compare` takes in place of its folder.
    Set(SetArgs),
    /// The names, and what they stand for.
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Name: lower-case letters, digits, dots and dashes.
    name: String,
    /// Folder that `kvbench run` made.
    run: PathBuf,
    /// A further run of the same build: how far the two lie apart is the noise floor. Again for more.
    #[arg(long, value_name = "DIR")]
    aa: Vec<PathBuf>,
    /// Folder of runs; the name is kept in its `baselines/`.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Folder of runs.
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Run folder: relative to the folder of runs where it lies in it.
    run: PathBuf,
    /// Id of the run, to notice when another lies there.
    run_id: String,
    /// Further runs.
    #[serde(default)]
    aa: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// No such run, a bad name, or I/O.
pub fn run(args: &BaselineArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Set(args) => set(args, ui)?,
        Action::List(args) => {
            ui.out(&render(&table(&args.results)?, ui.format, ui.color))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn set(args: &SetArgs, ui: &Ui) -> anyhow::Result<()> {
    check_name(&args.name)?;
    let manifest = usable(&args.run)?;
    args.aa.iter().try_for_each(|run| usable(run).map(drop))?;
    let folder = args.results.join(FOLDER);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("{}: could not be created", folder.display()))?;
    let named = Named {
        run: kept(&args.run, &args.results)?,
        run_id: manifest.run_id,
        aa: args.aa.iter().map(|run| kept(run, &args.results)).collect::<anyhow::Result<_>>()?,
    };
    let path = folder.join(format!("{}.json", args.name));
    // Renamed into place: a compare that runs meanwhile sees the old name or the new one.
    let aside = folder.join(format!(".{}.json.part", args.name));
    let write = || -> std::io::Result<()> {
        std::fs::write(&aside, serde_json::to_string_pretty(&named)? + "\n")?;
        std::fs::rename(&aside, &path)
    };
    write().with_context(|| format!("{}: could not be written", path.display()))?;
    ui.note(&format!("{}: {}", args.name, args.run.display()));
    Ok(())
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    ensure!(
        !name.is_empty()
            && name.len() <= NAME_MAX
            && name.chars().all(good)
            && !name.starts_with('.'),
        "expected a name of lower-case letters, digits, dots and dashes, got `{name}`\n  hint: such as main or release-1.2"
    );
    Ok(())
}

/// The manifest of a run that can be a baseline.
fn usable(run: &Path) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(run)?;
    ensure!(
        manifest.status == Status::Complete,
        "{}: expected a complete run, got one that is {}\n  hint: finish it with `kvbench run --resume`",
        run.display(),
        manifest.status.name()
    );
    ensure!(
        manifest.test_slowdown.is_none(),
        "{}: expected a measurement, got a test that was slowed down on purpose (KVBENCH_TEST_SLOWDOWN)\n  hint: run it again without the variable",
        run.display()
    );
    Ok(manifest)
}

/// A run inside the folder of runs goes with it when that is moved.
fn kept(run: &Path, results: &Path) -> anyhow::Result<PathBuf> {
    let whole = |path: &Path| {
        path.canonicalize().with_context(|| format!("{}: cannot be found", path.display()))
    };
    let (run, results) = (whole(run)?, whole(results)?);
    Ok(run.strip_prefix(&results).map(Path::to_owned).unwrap_or(run))
}

/// The run folder of a path or a name, and further runs of the same build.
///
/// # Errors
/// Neither a run folder nor a name, or another run lies where the name points.
pub(super) fn resolve(base: &str, results: &Path) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let path = PathBuf::from(base);
    if path.join(MANIFEST_FILE).is_file() {
        return Ok((path, Vec::new()));
    }
    let file = results.join(FOLDER).join(format!("{base}.json"));
    if check_name(base).is_err() || !file.is_file() {
        bail!(
            "{base}: expected a run folder or the name of a baseline, got neither\n  hint: `kvbench baseline list` shows the names in {}",
            results.join(FOLDER).display()
        );
    }
    let named = read(&file)?;
    let run = results.join(&named.run);
    let there = Manifest::read(&run).with_context(|| format!("baseline `{base}`"))?.run_id;
    ensure!(
        there == named.run_id,
        "baseline `{base}`: expected the run {} in {}, got {there}\n  hint: `kvbench baseline set {base} RUN` names another",
        named.run_id,
        run.display()
    );
    Ok((run, named.aa.iter().map(|aa| results.join(aa)).collect()))
}

fn read(file: &Path) -> anyhow::Result<Named> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{}: cannot be read", file.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!("{}: not a baseline\n  hint: `kvbench baseline set` makes it anew", file.display())
    })
}

fn table(results: &Path) -> anyhow::Result<Table> {
    let columns = ["name", "run", "scenario", "origin", "verdict", "cells", "aa", "cpu"];
    let columns = columns.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new("Baselines", columns);
    let folder = results.join(FOLDER);
    if !folder.is_dir() {
        return Ok(table);
    }
    let entries = std::fs::read_dir(&folder)
        .with_context(|| format!("{}: could not be listed", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|ext| ext == "json")) {
        table.rows.push(row(file, results)?);
    }
    Ok(table)
}

/// A run that is gone is still listed, without what only it could tell.
fn row(file: &Path, results: &Path) -> anyhow::Result<Vec<Value>> {
    let named = read(file)?;
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let run = results.join(&named.run);
    let manifest = Manifest::read(&run).ok();
    let text = |text: Option<String>| text.map_or(Value::Missing, Value::Text);
    let of = |what: fn(&Manifest) -> Option<String>| text(manifest.as_ref().and_then(what));
    Ok(vec![
        Value::Text(name),
        Value::Text(run.display().to_string()),
        of(|manifest| Some(manifest.scenario.name.clone())),
        of(|manifest| Some(manifest.origin.clone())),
        of(|manifest| manifest.verdict.map(|verdict| verdict.to_string())),
        manifest.as_ref().map_or(Value::Missing, |manifest| Value::count(manifest.n_cells)),
        Value::count(named.aa.len()),
        of(|manifest| manifest.machine.cpu_model.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for good in ["main", "release-1.2", "a"] {
            check_name(good).unwrap();
        }
        for bad in ["", "..", ".x", "a/b", "Main", &"a".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
