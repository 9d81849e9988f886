//! `kvbench predict eval`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};

use super::{
    eval_files::{self, FilesArgs},
    source::SourceArgs,
};
use crate::{
    cli::{plots::draw, ui::Ui},
    predict::{eval, points::without_baseline, regret},
    report::{Format, predict as report},
};

/// Hold out part of what was measured and predict it from the rest, in several ways.
#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    source: SourceArgs,
    /// Only subjects whose model holds this, in any case.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What is compared with the null and makes the choices; errors of all three are printed. Roofline unless given; with a profile,
    /// interpolate.
    #[arg(long, value_enum)]
    predictor: Option<Predictor>,
    /// Draw predicted against measured, errors against the distance from the fitted range, and coverage, as .svg and .png into this
    /// folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    files: FilesArgs,
}

/// What predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Predictor {
    /// A sum of costs that cannot be negative, fitted to each method.
    Roofline,
    /// Linear between measured points, silent outside.
    Interpolate,
    /// The baseline's curve at what the method keeps.
    Null,
}

impl Predictor {
    fn kind(self) -> eval::Predictor {
        match self {
            Predictor::Roofline => eval::Predictor::Roofline,
            Predictor::Interpolate => eval::Predictor::Interpolate,
            Predictor::Null => eval::Predictor::Null,
        }
    }
}

/// Prints the finding on stderr and the tables on stdout; JSON has both.
pub(super) fn run(args: &EvalArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if args.files.are_given() {
        return of_profile(args, ui);
    }
    let found = args.source.read(args.model.as_deref(), ui)?;
    let predictor = args.predictor.unwrap_or(Predictor::Roofline).kind();
    let held = eval::held_out(&found.observations);
    ensure!(
        held.iter().any(|one| one.time_s(predictor).is_some()),
        "expected points enough to hold some out, got {}\n  hint: a baseline needs at least 5 shapes a phase",
        found.observations.len()
    );
    let judged = report::Judged {
        predictor,
        scores: eval::scores(&held, predictor),
        decisions: regret::decisions(&held, predictor),
        without_baseline: without_baseline(&found.observations),
        held,
    };
    if ui.format == Format::Json {
        let whole = report::as_json(&judged, &found.left_out, &found.origins)?;
        ui.out(&(serde_json::to_string_pretty(&whole)? + "\n"))?;
    } else {
        ui.out(&ui.tables(&report::tables(&judged)))?;
        report::said(&judged).iter().for_each(|said| ui.note(said));
    }
    if let Some(folder) = &args.plots {
        draw(folder, &report::figures(&judged))?;
        ui.note(&format!("pictures: {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// A profile of single operations is not fitted to what it is held against.
fn of_profile(args: &EvalArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let ([], [measured], Some(model)) =
        (&args.source.runs[..], &args.source.measured[..], args.model.as_deref())
    else {
        bail!(
            "--profile-attention: expected one --measured file and a --model beside it, and no run\n  hint: a profile is of one method of one model"
        );
    };
    ensure!(
        args.plots.is_none() && args.source.budget.is_none() && args.source.generated.is_none(),
        "--profile-attention: expected no --plots, --budget or --generated beside it, got one\n  hint: --format json has every point"
    );
    let predictor = match args.predictor {
        Some(Predictor::Roofline) => eval_files::Predictor::Roofline,
        None | Some(Predictor::Interpolate) => eval_files::Predictor::Interpolate,
        Some(Predictor::Null) => bail!(
            "--predictor null: expected roofline or interpolate with a profile, got null\n  hint: the null takes a baseline's measurements, which a profile has none of"
        ),
    };
    eval_files::run(&args.files, measured, model, predictor, ui)
}
