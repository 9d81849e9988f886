//! `kvbench predict length fit`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::{Encoded, Loaded, Source};
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
    let model = Model::fit_with(&loaded.known(), &options, loaded.identity())
        .with_context(|| args.source.shown())?;
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
        "encoder": loaded.encoded.as_ref().map(Encoded::json),
        "trained": model.trained,
        "calibration": model.calibration,
        "notes": loaded.labels.notes,
        "shifts": serde_json::from_str::<Json>(&shifts)?,
    }))
}

/// What was done to both ends.
fn ends(calibration: &Calibration) -> String {
    let factor = |log: f32| f64::from(log).exp();
    let low = calibration.low.map(|low| format!("q10 divided by {:.2}", factor(low)));
    let high = calibration.high.map(|high| format!("q90 multiplied by {:.2}", factor(high)));
    let moved: Vec<String> = low.into_iter().chain(high).collect();
    let n = calibration.n_prompts;
    let moved = (!moved.is_empty())
        .then(|| format!("{}, as {n} held-out prompts ask for", moved.join(" and ")));
    moved.into_iter().chain(calibration.missing()).collect::<Vec<_>>().join("; ")
}

fn words(model: &Model) -> String {
    let trained = &model.trained;
    let ends = ends(&model.calibration);
    format!(
        "fitted on {} answers of `{}` to {} prompts in {} families, {} of them ended at max_tokens; {ends}",
        trained.n_answers,
        model.baseline,
        trained.n_prompts,
        trained.n_families,
        trained.n_censored
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_moved_is_told_where_the_other_was_not() {
        let said = ends(&Calibration { n_prompts: 24, low: Some(0.0), high: None });
        assert!(
            said.starts_with("q10 divided by 1.00, as 24 held-out prompts ask for; q90 is not")
        );
    }
}
