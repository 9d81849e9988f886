//! `kvbench predict length eval`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Map, Value as Json, json};

use super::{Encoded, Loaded, Source};
use crate::{
    cli::{plots::draw, ui::Ui},
    predict::length::{
        QUANTILES,
        evaluate::{self, Evaluation, Options},
    },
    report::{Format, predict::length as report, render},
};

/// Format of the JSON.
const SCHEMA: &str = "kvbench-length-eval/1";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Task and `max_tokens`.
    T0,
    /// The prompt's text as well.
    T1,
    /// What an encoder says of it as well.
    T2,
}

#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    source: Source,
    /// The highest tier that is judged; t2 where an encoder is named, else t1, unless given.
    #[arg(long, value_enum)]
    tier: Option<Tier>,
    /// Folds of prompt families.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=50))]
    folds: u8,
    /// Bootstrap samples behind each interval.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(40..=10000))]
    resamples: u16,
    /// Draw predictions, coverage and rank correlations, as .svg and .png into this folder.
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

pub(super) fn run(args: &EvalArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    check_tier(args)?;
    let loaded = args.source.load(ui)?;
    let options = Options {
        baseline: &loaded.labels.baseline,
        folds: usize::from(args.folds),
        seed: args.source.seed,
        resamples: usize::from(args.resamples),
        tier: match (args.tier, loaded.identity()) {
            (_, Some(identity)) => evaluate::Tier::T2(identity),
            (Some(Tier::T0), None) => evaluate::Tier::T0,
            (_, None) => evaluate::Tier::T1,
        },
    };
    let found =
        evaluate::evaluate(&loaded.known(), &options).with_context(|| args.source.shown())?;
    let finding = report::finding(&found);
    if ui.format == Format::Json {
        let json = json(&loaded, &found, &options, &finding)?;
        ui.out(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    } else {
        ui.note(&corpus_words(&loaded, &found));
        finding.iter().for_each(|said| ui.note(said));
        ui.out(&ui.tables(&report::tables(&found)))?;
    }
    if let Some(folder) = &args.plots {
        draw(folder, &report::figures(&found))?;
        ui.note(&format!("pictures: {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// An encoder belongs to T2, and T2 to an encoder.
fn check_tier(args: &EvalArgs) -> anyhow::Result<()> {
    match (args.tier, &args.source.encoder.path) {
        (Some(Tier::T2), None) => anyhow::bail!(
            "--tier t2: expected an encoder beside it, got none\n  hint: name one with --encoder"
        ),
        (Some(Tier::T0 | Tier::T1), Some(_)) => anyhow::bail!(
            "--encoder: expected tier t2, which it is for, got a lower one\n  hint: leave --tier or --encoder out"
        ),
        _ => Ok(()),
    }
}

fn corpus_words(loaded: &Loaded, found: &Evaluation) -> String {
    format!(
        "{} answers of `{}` ({}) to {} prompts in {} families, {} tasks; {} ended at max_tokens",
        found.n_answers,
        loaded.labels.baseline,
        loaded.labels.llm.as_deref().unwrap_or("an LLM that no scenario names"),
        found.n_prompts,
        found.n_families,
        found.n_tasks,
        found.n_censored
    )
}

fn json(
    loaded: &Loaded,
    found: &Evaluation,
    options: &Options<'_>,
    finding: &[String],
) -> anyhow::Result<Json> {
    let left_out = loaded.labels.left_out.iter();
    let left_out: Vec<Json> = left_out
        .map(|left| json!({ "why": left.why, "n": left.n, "example": left.example }))
        .collect();
    let corpus = json!({
        "llm": loaded.labels.llm,
        "baseline": loaded.labels.baseline,
        "prompts": found.n_prompts,
        "families": found.n_families,
        "answers": found.n_answers,
        "answers_at_max_tokens": found.n_censored,
        "prompts_with_several_answers": found.n_repeated,
        "tasks": found.n_tasks,
        "left_out": left_out,
        "notes": loaded.labels.notes,
    });
    let mut out = Map::from_iter([
        ("schema".to_owned(), Json::from(SCHEMA)),
        ("finding".to_owned(), Json::from(finding.to_vec())),
        ("corpus".to_owned(), corpus),
        ("quantiles".to_owned(), json!(QUANTILES)),
        ("folds".to_owned(), json!(options.folds)),
        ("seed".to_owned(), json!(options.seed)),
        ("resamples".to_owned(), json!(options.resamples)),
        ("encoder".to_owned(), json!(loaded.encoded.as_ref().map(Encoded::json))),
    ]);
    for (name, table) in report::named_tables(found) {
        out.insert(name.to_owned(), serde_json::from_str(&render(&table, Format::Json, false))?);
    }
    Ok(Json::Object(out))
}
