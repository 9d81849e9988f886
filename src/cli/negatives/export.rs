//! `kvbench negatives --export`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::{NegativesArgs, beside, members};
use crate::{
    analyse::{
        negatives::{Paired, export},
        score_run::Subjects,
    },
    cli::{scored::FromRun, ui::Ui},
};

/// Writes the rows of the negative samples and, beside them, a scenario that sends nothing else.
pub(super) fn write(
    path: &Path,
    args: &NegativesArgs,
    subjects: &Subjects,
    from: Option<&FromRun>,
    ui: &Ui,
) -> anyhow::Result<()> {
    let shown = path.display();
    ensure!(
        path.extension().is_some_and(|extension| extension == "jsonl"),
        "--export: expected a file that ends with .jsonl, got {shown}"
    );
    let taken = [path.to_owned(), beside(path)].into_iter().find(|file| file.exists());
    if let Some(taken) = taken.filter(|_| !args.force) {
        bail!(
            "--export: expected a new file, got {}, which exists\n  hint: give another name, or --force",
            taken.display()
        );
    }
    let paired = Paired::new(&subjects.baseline, &subjects.methods)?;
    let names = members(args, subjects, &args.export_set);
    let theta = args.export_theta / 100.0;
    let broken = paired.broken("--export-set", &names, theta, args.mode)?;
    ensure!(
        !broken.is_empty(),
        "--export: expected negative samples of {} at {} %, got none\n  hint: lower --export-theta, or choose a method with --export-set",
        args.export_set,
        args.export_theta
    );
    let files = match from {
        Some(from) => vec![from.data_file(&args.source.data)?],
        None if args.source.data.is_empty() => bail!(
            "--export: expected the data set of these scores, got none\n  hint: name its files with --data"
        ),
        None => args.source.data.clone(),
    };
    let same = |file: &&PathBuf| {
        file.canonicalize().ok().is_some_and(|file| path.canonicalize().ok() == Some(file))
    };
    if let Some(input) = files.iter().find(same) {
        bail!("--export: expected another file than the data set itself, got {}", input.display());
    }
    let rows = export::rows(&files, &broken)?;
    let about = format!(
        "{} negative samples of {} at {} %, found by `kvbench negatives`.\nPaths are relative to the working directory.",
        broken.len(),
        args.export_set,
        args.export_theta
    );
    let scenario = match from {
        Some(from) => export::scenario(&from.source(), path, &about)?,
        None => {
            let about = format!(
                "{about}\nA part of a scenario: add name, baseline, targets, methods and a load."
            );
            export::workload(path, &about)?
        }
    };
    for (path, text) in [(path, &rows), (&beside(path), &scenario)] {
        std::fs::write(path, text)
            .with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    ui.note(&format!(
        "export: {} rows in {shown}, scenario {}",
        broken.len(),
        beside(path).display()
    ));
    Ok(())
}
