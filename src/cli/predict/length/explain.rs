//! `kvbench predict length explain`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use serde_json::{Value as Json, json};

use super::EncoderArgs;
use crate::{
    cli::ui::Ui,
    encoder::Opened,
    predict::length::{Explained, Model, Query, encoder::embed, model::Read},
    report::{Column, Format, Table, Value},
};

/// Words and pairs of words that are shown.
const GRAMS: usize = 8;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("text").required(true))]
pub(super) struct ExplainArgs {
    /// File that `fit` wrote.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The prompt.
    #[arg(long, value_name = "TEXT", group = "text")]
    prompt: Option<String>,
    /// A file that holds the prompt and nothing else.
    #[arg(long, value_name = "FILE", group = "text")]
    prompt_file: Option<PathBuf>,
    /// Task of the prompt, as the model knows it: the data set or the workload.
    #[arg(long)]
    task: Option<String>,
    /// Most tokens of the answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Method; the baseline unless given.
    #[arg(long)]
    method: Option<String>,
    #[command(flatten)]
    encoder: EncoderArgs,
}

pub(super) fn run(args: &ExplainArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let shown = args.model.display().to_string();
    let text = std::fs::read_to_string(&args.model).with_context(|| {
        format!("{shown}: cannot be read\n  hint: make one with `kvbench predict length fit`")
    })?;
    let model = Model::from_json(&text, &shown)?;
    let prompt = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("{}: expected a text file", path.display()))?,
        (None, None) => anyhow::bail!("expected --prompt or --prompt-file, got neither"),
    };
    let query = Query {
        prompt: &prompt,
        task: args.task.as_deref(),
        max_tokens: args.max_tokens,
        method: args.method.as_deref(),
    };
    let read = read(args, &model, &prompt).with_context(|| shown.clone())?;
    let told = model.explain_read(&query, &read).with_context(|| shown)?;
    if ui.format == Format::Json {
        ui.out(&(serde_json::to_string_pretty(&json(&model, &query, &told))? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    told.notes.iter().for_each(|note| ui.note(&format!("note: {note}")));
    ui.out(&ui.tables(&tables(&model, &query, &told)))?;
    Ok(ExitCode::SUCCESS)
}

/// The prompt, by the model's own encoder where it has one.
fn read(args: &ExplainArgs, model: &Model, prompt: &str) -> anyhow::Result<Read> {
    let own = model.encoder.as_ref().map(|encoder| &encoder.identity);
    let opened = args.encoder.open(own.map(|own| own.tokens_max))?;
    model.accepts(opened.as_ref().map(|opened| opened.encoder.identity()))?;
    let read = Read::of(prompt);
    let Some(Opened { mut encoder, .. }) = opened else { return Ok(read) };
    let embeddings = embed(&[prompt], &mut *encoder, &mut |_, _| {})?;
    Ok(embeddings.into_iter().fold(read, Read::with))
}

/// The name of what predicts.
fn tier(model: &Model) -> &'static str {
    if model.encoder.is_some() { "T2" } else { "T1" }
}

fn json(model: &Model, query: &Query<'_>, told: &Explained) -> Json {
    let moved = told.moved.iter();
    let moved: Vec<Json> = moved
        .map(|it| json!({ "feature": it.feature, "value": it.value, "factor": it.factor }))
        .collect();
    let grams = told.grams.iter().take(GRAMS);
    let grams: Vec<Json> =
        grams.map(|(gram, adds)| json!({ "gram": gram, "adds": adds })).collect();
    let group = model.group(query).map(|(group, tokens)| {
        json!({
            "task": group.task,
            "max_tokens": group.max_tokens,
            "prompts": group.n_prompts,
            "tokens": quantiles(tokens),
        })
    });
    json!({
        "schema": "kvbench-length-explained/1",
        "predictor": tier(model).to_lowercase(),
        "tokens": quantiles(told.tokens),
        "start": told.start,
        "moved": moved,
        "words": grams,
        "shift": told.shift,
        "t0": group,
        "notes": told.notes,
    })
}

fn quantiles([q10, q50, q90]: [f64; 3]) -> Json {
    json!({ "q10": q10, "q50": q50, "q90": q90 })
}

fn tables(model: &Model, query: &Query<'_>, told: &Explained) -> Vec<Table> {
    let column = |name: &str| Column::new(name, "");
    let tokens = |name: &str| Column::new(name, "tokens");
    let mut said = Table::new(
        "Length of the answer",
        vec![column("predictor"), tokens("q10"), tokens("q50"), tokens("q90")],
    );
    let row = |name: String, values: [f64; 3]| {
        std::iter::once(Value::Text(name)).chain(values.map(Value::Float)).collect()
    };
    said.rows.push(row(tier(model).to_owned(), told.tokens));
    if let Some((group, values)) = model.group(query) {
        let all = |value: Option<String>| value.unwrap_or_else(|| "all".to_owned());
        let name = format!(
            "T0: task {}, max_tokens {}, {} prompts",
            all(group.task.clone()),
            all(group.max_tokens.map(|max| max.to_string())),
            group.n_prompts
        );
        said.rows.push(row(name, values));
    }
    let mut moved = Table::new(
        "What moved q50",
        vec![column("feature"), column("value"), Column::new("factor", "x")],
    );
    moved.rows.push(vec![
        Value::Text("start".to_owned()),
        Value::Float(told.start),
        Value::Missing,
    ]);
    for it in &told.moved {
        moved.rows.push(vec![
            Value::Text(it.feature.clone()),
            Value::Float(it.value),
            Value::Float(it.factor),
        ]);
    }
    if let Some(shift) = told.shift {
        let name = format!("shift of {}", query.method.unwrap_or_default());
        moved.rows.push(vec![Value::Text(name), Value::Missing, Value::Float(shift)]);
    }
    let mut words = Table::new(
        "Words behind the feature `words` (ln tokens)",
        vec![column("gram"), column("adds")],
    );
    let gram = |(gram, adds): &(String, f64)| vec![Value::Text(gram.clone()), Value::Float(*adds)];
    words.rows = told.grams.iter().take(GRAMS).map(gram).collect();
    let all = [said, moved, words];
    all.into_iter().filter(|table| !table.rows.is_empty()).collect()
}
