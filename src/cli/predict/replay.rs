//! `kvbench predict replay`: a run's requests through a simulated engine, and how far off its times are.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use regex::Regex;
use serde_json::{Map, Value as Json, json};

use super::super::{plots::draw, ui::Ui};
use crate::{
    analyse::{
        RunData,
        replay::{self, Options, Replays, Stated},
    },
    predict::{Model, ModelFile, simulate::Mixing},
    report::{Format, narrow, predict::replay as report, render},
};

/// Most tokens of a pass of llama-server, unless it is told another.
const UBATCH_TOKENS: u64 = 512;

/// Simulate the engine of a run under its own loads, and compare the times of its requests with the measured ones.
///
/// Step times are fitted to some cells and judged by the others.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// Folder that `kvbench run` made, finished or not.
    pub run_dir: PathBuf,
    /// Take step times from a file of `kvbench predict fit` instead of fitting them to cells of this run.
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    pub model: Option<PathBuf>,
    /// Of several subjects in --model, the one whose model, device, engine, target or source (kernel, engine, file) holds this, in any
    /// case.
    #[arg(long, value_name = "TEXT", requires = "model", default_value = "")]
    pub subject: String,
    /// Cells to judge, a regular expression on their ids: all that were not calibrated on unless given.
    #[arg(long, value_name = "REGEX")]
    pub cells: Option<Regex>,
    /// Cells to calibrate on: each method's closed loops of least concurrency and of most that the engine computes at a time unless
    /// given, the slowest load where none is closed.
    #[arg(long, value_name = "REGEX")]
    pub calibrate: Option<Regex>,
    /// Most sequences that the engine computes at a time, in the place of what the run tells.
    #[arg(long, value_name = "N")]
    pub max_num_seqs: Option<usize>,
    /// Most tokens of a step.
    #[arg(long, value_name = "N")]
    pub max_batched_tokens: Option<u64>,
    /// How prompts and decoding share steps.
    #[arg(long, value_enum)]
    pub mixing: Option<MixingName>,
    /// Most tokens of a pass, with `--mixing slots`: 512 unless given.
    #[arg(long, value_name = "N", requires = "mixing", value_parser = clap::value_parser!(u64).range(1..))]
    pub ubatch_tokens: Option<u64>,
    /// Tokens that the KV cache holds.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub kv_tokens: Option<u64>,
    /// Tokens of a block of it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub block_tokens: Option<u64>,
    /// Use the times of cells whose client or server were found INVALID.
    #[arg(long)]
    pub keep_invalid: bool,
    /// Draw distributions and times by load, as .svg and .png into this folder.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
}

/// How prompts and decoding share steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum MixingName {
    /// Decoding first, prompts with what is left: vLLM v1.
    DecodeFirst,
    /// Steps of prompts alone while any can be admitted: vLLM v0, LMDeploy.
    PrefillFirst,
    /// As decode-first, run as passes: llama-server.
    Slots,
}

/// Prints what came of it on stderr and the tables on stdout; JSON has both.
///
/// # Errors
/// No run folder, nothing to calibrate on or to judge, rules of the engine that nobody tells, or a folder that cannot be written.
pub(super) fn run(args: &ReplayArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let place = || args.run_dir.display().to_string();
    ensure!(
        args.ubatch_tokens.is_none() || args.mixing == Some(MixingName::Slots),
        "--ubatch-tokens: expected `--mixing slots` beside it, got another\n  hint: only llama-server runs a step as several passes"
    );
    let data = RunData::load(&args.run_dir)?;
    let mut replays = match &args.model {
        None => replay::run(&data, &options(args)).with_context(place)?,
        Some(path) => with_model(args, &data, path).with_context(place)?,
    };
    replays.notes.sort();
    let finding = report::finding(&replays);
    if ui.format == Format::Json {
        ui.out(&(serde_json::to_string_pretty(&as_json(&replays, &finding)?)? + "\n"))?;
    } else {
        said(&replays, &finding, ui);
        let tables = report::named_tables(&replays).map(|(_, table)| table);
        let shown = tables.iter().filter(|table| !table.rows.is_empty());
        let narrowed =
            |table| if ui.format == Format::Text { narrow(table) } else { table.clone() };
        ui.out(&ui.tables(&shown.map(narrowed).collect::<Vec<_>>()))?;
    }
    if let Some(folder) = &args.plots {
        draw(folder, &report::figures(&replays))?;
        ui.note(&format!("pictures: {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &ReplayArgs) -> Options<'_> {
    let mixing = args.mixing.map(|mixing| match mixing {
        MixingName::DecodeFirst => Mixing::DecodeFirst,
        MixingName::PrefillFirst => Mixing::PrefillFirst,
        MixingName::Slots => {
            Mixing::Slots { ubatch_tokens: args.ubatch_tokens.unwrap_or(UBATCH_TOKENS) }
        }
    });
    Options {
        calibrate: args.calibrate.as_ref(),
        judge: args.cells.as_ref(),
        stated: Stated {
            max_num_seqs: args.max_num_seqs,
            max_batched_tokens: args.max_batched_tokens,
            mixing,
            kv_tokens: args.kv_tokens,
            block_tokens: args.block_tokens,
        },
        keep_invalid: args.keep_invalid,
        fitted: None,
    }
}

fn with_model(args: &ReplayArgs, data: &RunData, path: &Path) -> anyhow::Result<Replays> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let file = ModelFile::parse(&text, &path.display().to_string())?;
    let fitted = |_: &str, method: &str, budget: Option<u64>| {
        replay::from_file(&file, &args.subject, method, budget)
    };
    let mut replays = replay::run(data, &Options { fitted: Some(&fitted), ..options(args) })?;
    let own = Some(data.manifest.run_id.as_str());
    // Which models of the file saw the run is told by those that know their rows, else by the file as a whole.
    let saw = |model: &Model| match &model.created_from {
        Some(rows) => rows.iter().any(|one| Some(one.from.as_str()) == own),
        None => file.created_from.iter().any(|origin| origin.run_id.as_deref() == own),
    };
    let is_called = |model: &&Model| model.subject.is_called(&args.subject);
    if file.models.iter().filter(is_called).any(saw) {
        replays.notes.push(format!(
            "{}: was fitted to this very run, so these errors are no forecast's",
            path.display()
        ));
    }
    Ok(replays)
}

fn said(replays: &Replays, finding: &[String], ui: &Ui) {
    finding.iter().for_each(|said| ui.note(said));
    replays.notes.iter().for_each(|note| ui.note(&format!("note: {note}")));
    if !replays.calibrated_on.is_empty() {
        ui.note(&format!(
            "calibrated on {} cells, which are not judged: {}",
            replays.calibrated_on.len(),
            replays.calibrated_on.join(", ")
        ));
    }
}

/// `{"finding", "calibrated_on", "judged", "compared", "loads", "engines", "left_out", "notes"}`; rows by column name, and of each
/// engine its rules as `config`.
fn as_json(replays: &Replays, finding: &[String]) -> anyhow::Result<Json> {
    let judged: Vec<String> = replays.points.iter().map(|p| p.point.to_string()).collect();
    let mut out = Map::from_iter([
        ("finding".to_owned(), json!(finding)),
        ("calibrated_on".to_owned(), json!(replays.calibrated_on)),
        ("judged".to_owned(), json!(judged)),
        ("notes".to_owned(), json!(replays.notes)),
    ]);
    for (name, table) in report::named_tables(replays) {
        out.insert(name.to_owned(), serde_json::from_str(&render(&table, Format::Json, false))?);
    }
    if let Some(engines) = out.get_mut("engines").and_then(Json::as_array_mut) {
        for (engine, simulated) in engines.iter_mut().zip(&replays.simulated) {
            engine["config"] = json!(simulated.config);
        }
    }
    Ok(Json::Object(out))
}
