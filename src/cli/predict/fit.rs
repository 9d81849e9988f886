//! `kvbench predict fit`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};
use serde_json::json;

use super::source::SourceArgs;
use crate::{
    cli::ui::Ui,
    predict::{
        ModelFile,
        fit::{self, OWN_MIN, Options},
        points::without_baseline,
    },
    report::{Format, predict as report},
};

/// Fit a sum of costs to what passes took, for each subject, method and phase.
#[derive(Debug, clap::Args)]
pub(super) struct FitArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only subjects whose model holds this.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// File for the models, JSON.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Give this method one factor on its baseline's curve, however many points it has. A method with few points gets that anyway.
    #[arg(long, value_name = "METHOD")]
    calibrate: Vec<String>,
}

/// Writes the file and prints a row a model.
pub(super) fn run(args: &FitArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let found = args.source.read(args.model.as_deref(), ui)?;
    for name in &args.calibrate {
        ensure!(
            found.observations.iter().any(|one| one.method == *name && !one.is_baseline),
            "--calibrate: expected a method other than the baseline, got `{name}`\n  hint: the methods are {}",
            methods(&found.observations)
        );
    }
    without_baseline(&found.observations).iter().for_each(|said| ui.note(said));
    let fit = fit::fit(&found.observations, &Options { calibrate: args.calibrate.clone() });
    for unfit in &fit.unfit {
        ui.note(&format!("not fitted: {}: {}", unfit.what, unfit.reason));
    }
    ensure!(
        !fit.models.is_empty(),
        "expected points enough for one model, got none\n  hint: a baseline needs at least 4 shapes, a method {OWN_MIN}, or some and a fitted baseline"
    );
    let file = ModelFile::new(found.origins, fit.models);
    std::fs::write(&args.out, file.text()?)
        .with_context(|| format!("{}: cannot be written", args.out.display()))?;
    if ui.format == Format::Json {
        let unfit: Vec<_> = fit
            .unfit
            .iter()
            .map(|one| json!({"what": one.what, "n_points": one.n_points, "reason": one.reason}))
            .collect();
        let whole = json!({"out": args.out.display().to_string(), "file": file, "unfit": unfit});
        ui.out(&(serde_json::to_string_pretty(&whole)? + "\n"))?;
    } else {
        ui.out(&ui.tables(&[report::models(&file.models)]))?;
        ui.note(&format!("models: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn methods(observations: &[crate::predict::Observation]) -> String {
    let mut names: Vec<&str> =
        observations.iter().filter(|one| !one.is_baseline).map(|one| one.method.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}
