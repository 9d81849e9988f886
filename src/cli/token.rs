//! `kvbench token`: what a tokenizer and a chat template make of a text. Also what a run does with them.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};

use super::ui::Ui;
use crate::{
    analyse::RunData,
    execute::engine::BuildWorkload,
    record::{
        RequestRow,
        manifest::{Input, TokenFacts},
        parquet::TableRow as _,
    },
    report::{self, Column, Table, Value},
    scenario::{Scenario, TemplateSource},
    token::{self, ChatTemplate, DATE_DEFAULT, Tokenizer},
    workload,
};

/// Tokenizers and chat templates: what is sent, and how long it is
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    /// What to do
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What to do with tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Count the tokens of a text as a server does for `/v1/completions`
    Count(CountArgs),
    /// Print messages in a model's chat template
    Render(RenderArgs),
}

/// Arguments of `token count`.
#[derive(Debug, clap::Args)]
pub struct CountArgs {
    /// A `tokenizer.json`, or a folder that holds one
    pub tokenizer: PathBuf,
    /// The text [default: standard input]
    #[arg(conflicts_with = "file")]
    pub text: Option<String>,
    /// Read the text from this file
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// One row a token, with its id and its text
    #[arg(long)]
    pub ids: bool,
}

/// Arguments of `token render`.
#[derive(Debug, clap::Args)]
pub struct RenderArgs {
    /// A `tokenizer.json`, or a folder that holds one
    pub tokenizer: PathBuf,
    /// A user's message [default: standard input]
    #[arg(conflicts_with = "messages")]
    pub text: Option<String>,
    /// JSON file with messages: `[{"role": "user", "content": "hi"}]`
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// File with the template [default: the model's own]
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Day that `strftime_now` tells
    #[arg(long, value_name = "DAY", default_value = DATE_DEFAULT)]
    pub date: String,
    /// End after the last message, not where the assistant's answer begins
    #[arg(long)]
    pub no_generation_prompt: bool,
}

/// Runs one of the two.
///
/// # Errors
/// A file cannot be read, or the template refuses the messages.
pub fn run(args: &TokenArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    match &args.command {
        TokenCommand::Count(args) => count(args, ui),
        TokenCommand::Render(args) => render(args, ui),
    }
}

fn count(args: &CountArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let text = match &args.file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("{}: cannot read", file.display()))?,
        None => given(args.text.as_deref())?,
    };
    let table = if args.ids { ids(&tokenizer, &text)? } else { facts(&tokenizer, &text)? };
    ui.out(&report::render(&table, ui.format, ui.color))?;
    tokenizer.note().iter().for_each(|note| ui.note(&format!("note: {note}")));
    Ok(ExitCode::SUCCESS)
}

/// One fact a row, as in `data inspect`.
fn facts(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Table> {
    let columns = vec![Column::new("fact", ""), Column::new("value", "")];
    let mut table = Table::new(&tokenizer.path().display().to_string(), columns);
    let mut fact =
        |name: &str, value: Value| table.rows.push(vec![Value::Text(name.to_owned()), value]);
    fact("tokens", whole(tokenizer.count(text)?));
    fact("tokens_without_special", whole(tokenizer.encode(text, false)?.len()));
    fact("bytes", whole(text.len()));
    fact("adds_bos", Value::Text(if tokenizer.adds_bos() { "yes" } else { "no" }.to_owned()));
    for name in ["bos_token", "eos_token"] {
        let value = tokenizer.special(name).map_or(Value::Missing, |it| Value::Text(it.to_owned()));
        fact(name, value);
    }
    let template = if tokenizer.chat_template().is_some() { "yes" } else { "no" };
    fact("has_chat_template", Value::Text(template.to_owned()));
    fact("sha256", Value::Text(tokenizer.sha256().to_owned()));
    Ok(table)
}

fn ids(tokenizer: &Tokenizer, text: &str) -> anyhow::Result<Table> {
    let columns = vec![Column::new("id", ""), Column::new("text", "")];
    let mut table = Table::new("Tokens", columns);
    for id in tokenizer.encode(text, true)? {
        let piece = tokenizer.piece(id).map_or(Value::Missing, Value::Text);
        table.rows.push(vec![Value::Int(i64::from(id)), piece]);
    }
    Ok(table)
}

fn whole(n: usize) -> Value {
    i64::try_from(n).map_or(Value::Missing, Value::Int)
}

fn given(text: Option<&str>) -> anyhow::Result<String> {
    if let Some(text) = text {
        return Ok(text.to_owned());
    }
    let mut read = String::new();
    std::io::stdin().read_to_string(&mut read).context("standard input: cannot read")?;
    Ok(read)
}

fn render(args: &RenderArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let tokenizer = Tokenizer::load(&args.tokenizer)?;
    let source = match &args.template {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("{}: cannot read", file.display()))?,
        None => tokenizer.chat_template().map(str::to_owned).with_context(|| {
            format!(
                "{}: expected a chat template beside it, got none\n  hint: name a file with `--template`",
                tokenizer.path().display()
            )
        })?,
    };
    let messages = match &args.messages {
        Some(file) => token::messages(file)?,
        None => vec![token::user_message(&given(args.text.as_deref())?)],
    };
    let date = token::date(&args.date).context("--date")?;
    let template = ChatTemplate::new(&source, tokenizer.specials().clone(), date)?;
    let text = template.render(&messages, !args.no_generation_prompt)?;
    ui.out(&text)?;
    let n = tokenizer.encode(&text, false)?.len();
    ui.note(&format!("\n{n} tokens, special tokens of the template included and none added"));
    Ok(ExitCode::SUCCESS)
}

/// What workloads did to prompts, while a run goes on.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<BTreeSet<String>>>);

impl Notes {
    /// All notes so far, each once.
    pub(super) fn take(&self) -> Vec<String> {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *notes).into_iter().collect()
    }
}

/// Builds the requests of a cell and keeps what is worth telling.
pub(super) fn noting(notes: Notes) -> BuildWorkload {
    Box::new(move |workload, arrival, seed| {
        let built = workload::build_reporting(workload, arrival, seed)?;
        notes.0.lock().unwrap_or_else(PoisonError::into_inner).extend(built.notes);
        Ok(built.requests)
    })
}

/// Tokenizers and templates that go into a run, each once.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn inputs(scenario: &Scenario) -> anyhow::Result<Vec<Input>> {
    let mut inputs: Vec<Input> = Vec::new();
    for rules in scenario.workloads.iter().filter_map(|workload| workload.kind.tokens()) {
        let tokenizer = token::shared(&rules.tokenizer)?;
        let mut found = vec![Input {
            path: tokenizer.path().display().to_string(),
            sha256: tokenizer.sha256().to_owned(),
            bytes: tokenizer.n_bytes(),
        }];
        match &rules.chat_template {
            None => {}
            Some(TemplateSource::File(path)) => found.push(file_input(path)?),
            Some(TemplateSource::Model) => {
                found.extend(tokenizer.template_path().map(file_input).transpose()?)
            }
        }
        found.retain(|input| !inputs.contains(input));
        inputs.append(&mut found);
    }
    Ok(inputs)
}

fn file_input(path: &Path) -> anyhow::Result<Input> {
    let bytes = std::fs::metadata(path)
        .with_context(|| format!("{}: cannot read the chat template", path.display()))?
        .len();
    let sha256 = workload::sha256_file(path)?;
    Ok(Input { path: path.display().to_string(), sha256, bytes })
}

/// Servers' token counts of a run against those of the workloads' tokenizers.
///
/// # Errors
/// A tokenizer cannot be read any more, or the rows cannot.
pub(super) fn checks(scenario: &Scenario, data: &RunData) -> anyhow::Result<Vec<TokenFacts>> {
    if scenario.workloads.iter().all(|workload| workload.kind.tokens().is_none()) {
        return Ok(Vec::new());
    }
    let rows = RequestRow::rows(&data.requests)?;
    let mut facts = Vec::new();
    for named in &scenario.workloads {
        let Some(rules) = named.kind.tokens() else { continue };
        let of: Vec<&RequestRow> = rows.iter().filter(|row| row.workload == named.name).collect();
        facts.append(&mut token::triangulate(&of, &*token::shared(&rules.tokenizer)?)?);
    }
    let cells: BTreeSet<&str> = facts.iter().map(|facts| facts.cell_id.as_str()).collect();
    ensure!(cells.len() == facts.len(), "expected one workload a cell, got several");
    Ok(facts)
}
