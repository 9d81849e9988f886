//! `kvbench lengths`: what methods do to the length of answers, beside what chance does.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use serde_json::{Map, Value as Json};

use super::{plots::draw, ui::Ui};
use crate::{
    analyse::lengths::{self, LengthPoint, Source, forced::ForcedPoint},
    record::{Manifest, RunDir, Table as Rows},
    report::{
        Format, narrow, render,
        run::{forced, lengths as report},
    },
    scenario::Scenario,
    token::{self, Tokenizer},
};

/// Compare the lengths of answers with the baseline's, prompt by prompt, and with runs that compress nothing.
#[derive(Debug, clap::Args)]
pub struct LengthsArgs {
    /// Folder that `kvbench run` made, finished or not.
    pub run_dir: PathBuf,
    /// Draw the ratios, D as the paper does, and where texts part, as .svg and .png into this folder.
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,
    /// A `tokenizer.json`, or a folder that holds one: texts part at a token. The workload's unless given; without one they part at
    /// a character.
    #[arg(long, value_name = "PATH")]
    pub tokenizer: Option<PathBuf>,
}

/// Prints the finding on stderr and the tables on stdout; JSON has both.
///
/// # Errors
/// No run folder, one without answers to compare, or a folder that cannot be written.
pub fn run(args: &LengthsArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let (points, stopping) = judged(args)?;
    let finding = [report::finding(&points), forced::finding(&stopping)].concat();
    if ui.format == Format::Json {
        ui.out(&(serde_json::to_string_pretty(&json(&points, &stopping, &finding)?)? + "\n"))?;
    } else {
        finding.iter().for_each(|said| ui.note(said));
        let tables = [report::tables(&points), forced::tables(&stopping)].concat();
        let narrowed =
            |table| if ui.format == Format::Text { narrow(table) } else { table.clone() };
        ui.out(&ui.tables(&tables.iter().map(narrowed).collect::<Vec<_>>()))?;
    }
    if let Some(folder) = &args.plots {
        let plots: Vec<_> =
            report::figures_of(&points).into_iter().chain(forced::figures_of(&stopping)).collect();
        draw(folder, &plots)?;
        ui.note(&format!("pictures: {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads what is needed and no more: a run of a million answers fits into memory.
fn judged(args: &LengthsArgs) -> anyhow::Result<(Vec<LengthPoint>, Vec<ForcedPoint>)> {
    let run_dir = args.run_dir.as_path();
    let place = || format!("{}: lengths cannot be compared", run_dir.display());
    let manifest = Manifest::read(run_dir)?;
    let columns = [&lengths::COLUMNS[..], &lengths::forced::COLUMNS].concat();
    let all = RunDir::open(run_dir)?.read_columns(Rows::Requests, &columns)?;
    let measured = !all.column("warmup").with_context(place)?.bool().with_context(place)?;
    let requests = all.filter(&measured)?;
    let tokenizer = tokenizer(args.tokenizer.as_deref(), &manifest)?;
    let encode =
        |text: &str| tokenizer.as_ref().map_or_else(|| Ok(Vec::new()), |it| it.encode(text, false));
    let encode: Option<&lengths::Encode<'_>> =
        if tokenizer.is_some() { Some(&encode) } else { None };
    let points = lengths::points(Source { manifest: &manifest, requests: &requests, encode })
        .with_context(place)?;
    let stopping = lengths::forced::points(&manifest, &requests).with_context(place)?;
    anyhow::ensure!(
        stopping.iter().any(|point| !point.is_baseline())
            || points.iter().any(|point| point.n_pairs > 0),
        "{}: expected answers of a method and of the baseline `{}` to the same prompts, got none\n  hint: `kvbench report` says what failed; answers of a fixed length (`mode`, `ignore_eos`) are not compared",
        run_dir.display(),
        manifest.scenario.baseline
    );
    Ok((points, stopping))
}

/// The tokenizer that was named, or the one that every workload of the run shares, where it is still there.
fn tokenizer(named: Option<&Path>, manifest: &Manifest) -> anyhow::Result<Option<Arc<Tokenizer>>> {
    if let Some(path) = named {
        return token::shared(path).map(Some);
    }
    let scenario = Scenario::parse(&manifest.scenario.text, "the run's scenario").ok();
    let workloads = scenario.iter().flat_map(|scenario| &scenario.workloads);
    let mut paths: Vec<&Path> = workloads
        .filter_map(|named| named.kind.tokens())
        .map(|rules| rules.tokenizer.as_path())
        .collect();
    paths.dedup();
    match paths[..] {
        [path] if path.exists() => token::shared(path).map(Some),
        _ => Ok(None),
    }
}

/// `{"finding": [...], "lengths": [...], "endings": [...], "time": [...], "stopping": [...], "stopping_by_place": [...]}`, rows by
/// column name.
fn json(
    points: &[LengthPoint],
    stopping: &[ForcedPoint],
    finding: &[String],
) -> anyhow::Result<Json> {
    let mut out = Map::from_iter([("finding".to_owned(), Json::from(finding.to_vec()))]);
    for (name, table) in
        report::named_tables(points).into_iter().chain(forced::named_tables(stopping))
    {
        out.insert(name.to_owned(), serde_json::from_str(&render(&table, Format::Json, false))?);
    }
    Ok(Json::Object(out))
}
