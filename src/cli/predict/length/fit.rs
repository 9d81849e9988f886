//! `kvbench predict length fit`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::{Loaded, Source};
use crate::{
    cli::ui::Ui,
    predict::length::{
        Inputs, Model,
        model::{Calibration, Options},
    },
    report::{Format, predict::length as report, render},
};

#[derive(Debug, clap::Args)]
pub(super) struct FitArgs {
    #[command(flatten)]
    source: Source,
    /// File of the model.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Do not look at the task: for prompts whose task is not known when they come.
    #[arg(long)]
    without_task: bool,
}

pub(super) fn run(args: &FitArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let loaded = args.source.load(ui)?;
    let inputs = if args.without_task { Inputs::Prompt } else { Inputs::PromptAndTask };
    let options = Options {
        baseline: &loaded.labels.baseline,
        llm: loaded.labels.llm.as_deref(),
        inputs,
        seed: args.source.seed,
    };
    let model = Model::fit(&loaded.known(), &options).with_context(|| args.source.shown())?;
    let shown = args.out.display();
    std::fs::write(&args.out, model.to_json()?)
        .with_context(|| format!("{shown}: cannot be written"))?;
    let table = report::shifts(&model.shifts);
    if ui.format == Format::Json {
        ui.out(
            &(serde_json::to_string_pretty(&json(&loaded, &model, &shown.to_string())?)? + "\n"),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    ui.note(&words(&model));
    if !table.rows.is_empty() {
        ui.out(&ui.tables(&[table]))?;
    }
    ui.note(&format!("model: {shown}"));
    Ok(ExitCode::SUCCESS)
}

fn json(loaded: &Loaded, model: &Model, path: &str) -> anyhow::Result<Json> {
    let shifts = render(&report::shifts(&model.shifts), Format::Json, false);
    Ok(json!({
        "schema": model.schema,
        "model": path,
        "llm": model.llm,
        "baseline": model.baseline,
        "inputs": model.inputs,
        "trained": model.trained,
        "calibration": model.calibration,
        "notes": loaded.labels.notes,
        "shifts": serde_json::from_str::<Json>(&shifts)?,
    }))
}

fn words(model: &Model) -> String {
    let trained = &model.trained;
    let Calibration { n_prompts, low, high } = &model.calibration;
    let factor = |log: f32| f64::from(log).exp();
    let ends = match (low, high) {
        (Some(low), Some(high)) => format!(
            "q10 divided by {:.2} and q90 multiplied by {:.2}, as {n_prompts} held-out prompts ask for",
            factor(*low),
            factor(*high)
        ),
        _ => format!(
            "ends not calibrated: {n_prompts} held-out prompts are too few, or too many of them end at max_tokens"
        ),
    };
    format!(
        "fitted on {} answers of `{}` to {} prompts in {} families, {} of them ended at max_tokens; {ends}",
        trained.n_answers,
        model.baseline,
        trained.n_prompts,
        trained.n_families,
        trained.n_censored
    )
}
