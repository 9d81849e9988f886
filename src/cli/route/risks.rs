//! `kvbench route risks`: what a guard learns from, out of a run folder or files of scores.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, ensure};

use crate::{
    analyse::{
        RunData,
        risk::{self, Null, PromptTokens, Rule},
        score_run::Subjects,
    },
    cli::{
        scored::{FromRun, Source},
        ui::Ui,
    },
    route::risk::Risks,
    scenario::DatasetFormat,
    workload::{self, dataset},
};

/// Count by task, prompt length and method which answers a method breaks, for the guard of a router.
#[derive(Debug, clap::Args)]
pub(super) struct RisksArgs {
    #[command(flatten)]
    source: Source,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Loss from which on an answer is negative, in percent of the baseline's score.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    theta: f64,
    /// What is negative by chance; without it the baseline's repeats where there are some, else nothing.
    #[arg(long, value_enum)]
    null: Option<Null>,
}

/// Counts and writes.
///
/// # Errors
/// Scores that cannot be read, a loss that is none, a null without repeats, or a file that cannot be written.
pub(super) fn run(args: &RisksArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    ensure!(
        args.theta > 0.0 && args.theta <= 100.0,
        "--theta: expected a percentage above 0 and up to 100, got {}",
        args.theta
    );
    let (subjects, from) = args.source.read(ui)?;
    let null = null(args, &subjects, ui)?;
    let lengths = lengths(args, from.as_ref(), ui)?;
    let source = from.as_ref().map_or_else(
        || "files of scores".to_owned(),
        |from| format!("run {}", from.data.manifest.run_id),
    );
    let rule =
        Rule { theta: args.theta / 100.0, null, prompt_tokens: lengths.as_ref(), source: &source };
    let (risks, n_without) = risk::risks(&subjects, &rule)?;
    if n_without > 0 {
        ui.note(&format!("{n_without} answers left out: the length of their prompt is not known"));
    }
    let path = args.out.display();
    std::fs::write(&args.out, risks.to_json()?)
        .with_context(|| format!("{path}: cannot be written"))?;
    told(&risks, ui);
    ui.note(&format!("risks: {path}"));
    Ok(ExitCode::SUCCESS)
}

fn null(args: &RisksArgs, subjects: &Subjects, ui: &Ui) -> anyhow::Result<Null> {
    let has_repeats = !subjects.again.is_empty();
    match args.null {
        Some(Null::Repeats) => {
            ensure!(
                has_repeats,
                "--null repeats: expected scores of the baseline measured again, got none\n  hint: name them with --baseline-repeat, or run the baseline with repeats"
            );
            Ok(Null::Repeats)
        }
        Some(other) => Ok(other),
        None if has_repeats => Ok(Null::Repeats),
        None => {
            ui.note("the baseline was measured once: whatever is negative counts as broken; --null mirror sets gains against losses");
            Ok(Null::Nothing)
        }
    }
}

/// Lengths of prompts: of a run as it counted them, beside files of scores estimated from the data set.
fn lengths(
    args: &RisksArgs,
    from: Option<&FromRun>,
    ui: &Ui,
) -> anyhow::Result<Option<PromptTokens>> {
    if let (Some(from), Some(dir)) = (from, &args.source.run_dir) {
        if from.data.scores.is_empty() {
            // It has been scored since it was read.
            return risk::prompt_tokens(&RunData::load(dir)?).map(Some);
        }
        return risk::prompt_tokens(&from.data).map(Some);
    }
    if args.source.data.is_empty() {
        ui.note("lengths of prompts are not known: one bin for all; name the data set with --data for bins");
        return Ok(None);
    }
    ui.note("lengths of prompts are estimated, four bytes a token");
    let mut lengths = PromptTokens::new();
    for file in &args.source.data {
        let (samples, _) = dataset::read(file, DatasetFormat::Longbench)?;
        for sample in samples {
            if let Some(reference) = sample.reference {
                let tokens = u64::from(workload::tokens_est(&sample.prompt));
                lengths.insert((reference.dataset, sample.id), tokens);
            }
        }
    }
    Ok(Some(lengths))
}

/// How many cells a guard would let through, by its epsilon.
fn told(risks: &Risks, ui: &Ui) {
    for epsilon in [0.02, 0.05, 0.1] {
        let safe =
            risks.cells().iter().filter(|cell| cell.upper().is_some_and(|upper| upper <= epsilon));
        ui.note(&format!(
            "epsilon {epsilon}: {} of {} cells (task, prompt length, method) are safe",
            safe.count(),
            risks.cells().len()
        ));
    }
}
