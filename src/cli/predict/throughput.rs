//! `kvbench predict throughput`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use crate::{
    cli::ui::Ui,
    predict::{Model, ModelFile, Phase, Prediction, Work},
    report::{Format, Table, Value, predict as report},
};

/// What a decode step, or the prefill of prompts, takes.
#[derive(Debug, clap::Args)]
pub(super) struct ThroughputArgs {
    /// File that `kvbench predict fit` wrote.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Method, as its runs call it.
    #[arg(long)]
    method: String,
    /// Sequences.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Decode: tokens a sequence has in the cache, those that the method evicts among them. Prefill: tokens of a prompt.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    kv_len: u32,
    /// Prompts enter the cache, in place of a decode step.
    #[arg(long)]
    prefill: bool,
    /// Tokens of each prompt that lie in the cache already.
    #[arg(long, value_name = "TOKENS", requires = "prefill", default_value_t = 0)]
    cached: u32,
    /// Only subjects whose model, device, engine, target or source (kernel, engine, file) holds this, in any case.
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Tokens that the method keeps, where the file knows it with several budgets.
    #[arg(long, value_name = "TOKENS")]
    budget: Option<f64>,
}

/// Prints one prediction.
pub(super) fn run(args: &ThroughputArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let name = args.model.display().to_string();
    let text =
        std::fs::read_to_string(&args.model).with_context(|| format!("{name}: cannot be read"))?;
    let file = ModelFile::parse(&text, &name)?;
    ensure!(
        args.cached < args.kv_len,
        "--cached: expected fewer than the {} tokens of the prompt, got {}",
        args.kv_len,
        args.cached
    );
    let model = chosen(args, &file, &name)?;
    let work = work(args, model.budget);
    let said = model.predict(&work);
    ensure!(
        said.time_s > 0.0 && said.time_s.is_finite(),
        "{name}: expected a time above 0, got {} s of {}\n  hint: ask for a shape nearer to what was fitted",
        said.time_s,
        words(model)
    );
    let tokens_per_s = work.new_tokens / said.time_s;
    if ui.format == Format::Json {
        let shown = serde_json::to_string_pretty(&as_json(args, &file, model, &work, &said)?)?;
        ui.out(&(shown + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    ui.out(&ui.tables(&[table(args, model, &said, tokens_per_s)]))?;
    if let Some(reason) = &said.place.reason {
        let far = if said.place.far { "far outside of" } else { "outside of" };
        ui.note(&format!("{far} what was fitted: {reason}"));
    }
    if let Some(why) = no_interval(model, &said) {
        ui.note(why);
    }
    let fitted_to = match model.origins() {
        Some(own) => format!("fitted to {own}"),
        None => format!("the file was fitted to {}", report::origins(&file)),
    };
    ui.note(&format!("of {}; {fitted_to}", model.subject.words()));
    Ok(ExitCode::SUCCESS)
}

/// Why there is no interval, where there is none.
fn no_interval(model: &Model, said: &Prediction) -> Option<&'static str> {
    match (said.interval_s, model.interval) {
        (Some(_), _) => None,
        (None, Some(_)) => Some("no interval: nothing that was held out lies so far out"),
        (None, None) => Some("no interval: too few points could be held out"),
    }
}

fn work(args: &ThroughputArgs, budget: Option<f64>) -> Work {
    let sequences = f64::from(args.batch);
    let (kv_len, cached) = (f64::from(args.kv_len), f64::from(args.cached));
    if args.prefill {
        Work::prefill_alike(sequences, (kv_len - cached, cached))
    } else {
        Work::decode_alike(sequences, kv_len, budget)
    }
}

/// The one model that is meant.
fn chosen<'a>(args: &ThroughputArgs, file: &'a ModelFile, name: &str) -> anyhow::Result<&'a Model> {
    let phase = if args.prefill { Phase::Prefill } else { Phase::Decode };
    let called = file
        .subjects(args.subject.as_deref().unwrap_or_default())
        .map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    let here: Vec<&Model> =
        file.models.iter().filter(|model| called.contains(&model.subject)).collect();
    let is_meant = |model: &&Model| {
        let budget = args.budget.filter(|_| phase == Phase::Decode);
        let fits =
            budget.is_none_or(|most| model.budget.is_some_and(|own| (own - most).abs() < 0.5));
        model.phase == phase && model.method == args.method && fits
    };
    let meant: Vec<&Model> = here.iter().copied().filter(is_meant).collect();
    match meant[..] {
        [one] => Ok(one),
        [] => bail!(
            "{name}: expected a {} model of method `{}`, got none\n  hint: it has {}",
            phase.name(),
            args.method,
            listed(here.iter().map(|model| format!("{} ({})", model.method, words(model))))
        ),
        _ => bail!(
            "{name}: expected one model of method `{}`, got {}\n  hint: {}",
            args.method,
            meant.len(),
            remedy(&meant)
        ),
    }
}

/// How to tell several models apart. What a method is the baseline of is no option: runs that differ in it are fitted apart.
fn remedy(meant: &[&Model]) -> String {
    let full = |model: &&Model| format!("{} ({})", model.subject.full(), words(model));
    let names: BTreeSet<String> = meant.iter().map(full).collect();
    if names.len() < meant.len() {
        return "it is the baseline of one run and a method of another; fit the runs apart"
            .to_owned();
    }
    let names = listed(names.into_iter());
    format!("name one of these with --subject, or a budget with --budget: {names}")
}

fn words(model: &Model) -> String {
    match model.budget {
        Some(budget) => format!("{}, budget {budget}", model.phase.name()),
        None => model.phase.name().to_owned(),
    }
}

fn listed(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = words.collect();
    words.sort_unstable();
    words.dedup();
    words.join("; ")
}

fn table(args: &ThroughputArgs, model: &Model, said: &Prediction, tokens_per_s: f64) -> Table {
    let ends = |interval: Option<(f64, f64)>| interval.unzip();
    let ms = |seconds: Option<f64>| Value::maybe(seconds.map(|seconds| 1e3 * seconds));
    let (low, high) = ends(said.interval_s);
    let (one_low, one_high) = ends(said.one_repeat_s);
    let place = match (said.place.in_domain, said.place.far) {
        (true, _) => "yes",
        (false, false) => "no",
        (false, true) => "far",
    };
    let cells = [
        ("method", "", Value::Text(model.method.clone())),
        ("phase", "", Value::Text(model.phase.name().to_owned())),
        ("batch", "", Value::Int(args.batch.into())),
        ("kv_len", "", Value::Int(args.kv_len.into())),
        ("step", "ms", Value::Float(1e3 * said.time_s)),
        ("p10", "ms", ms(low)),
        ("p90", "ms", ms(high)),
        ("one_repeat_p10", "ms", ms(one_low)),
        ("one_repeat_p90", "ms", ms(one_high)),
        ("throughput", "tok/s", Value::Float(tokens_per_s)),
        ("in_domain", "", Value::Text(place.to_owned())),
    ];
    report::one_row("Predicted", cells)
}

fn as_json(
    args: &ThroughputArgs,
    file: &ModelFile,
    model: &Model,
    work: &Work,
    said: &Prediction,
) -> anyhow::Result<serde_json::Value> {
    let (p10, p90) = said.interval_s.unzip();
    let (one_p10, one_p90) = said.one_repeat_s.unzip();
    Ok(json!({
        "subject": serde_json::to_value(&model.subject)?,
        "method": model.method,
        "phase": model.phase.name(),
        "batch": args.batch,
        "kv_len": args.kv_len,
        "cached": args.prefill.then_some(args.cached),
        "kv_eff": (!args.prefill).then(|| work.attended / work.batch),
        "budget": model.budget,
        "time_s": said.time_s,
        "p10_s": p10,
        "p90_s": p90,
        "one_repeat_p10_s": one_p10,
        "one_repeat_p90_s": one_p90,
        "no_interval": no_interval(model, said),
        "tokens_per_s": work.new_tokens / said.time_s,
        "in_domain": said.place.in_domain,
        "far": said.place.far,
        "reason": said.place.reason,
        "kind": serde_json::to_value(model.kind)?,
        "n_points": model.n_points,
        "errors": serde_json::to_value(model.errors)?,
        "created_from": serde_json::to_value(&file.created_from)?,
        "fitted_to": serde_json::to_value(&model.created_from)?,
    }))
}
