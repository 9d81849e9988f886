//! `kvbench negatives`: prompts whose answer a method breaks, from a run folder or from files of scores.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;

use super::{scored::Source, ui::Ui};
use crate::{
    analyse::{
        negatives::{self, Found, Mode},
        score_run::Subjects,
    },
    report::{Format, negatives as report},
};

mod export;
mod show;

pub(super) use show::{can_draw, draw};

/// Count the prompts whose answer a method breaks, and as many as the baseline itself loses by chance.
#[derive(Debug, clap::Args)]
pub struct NegativesArgs {
    #[command(flatten)]
    pub(super) source: Source,
    /// An ensemble, as NAME=METHOD,METHOD: it breaks what each of them breaks. `all` is always counted.
    #[arg(long = "group", value_name = "NAME=METHODS", value_parser = group)]
    pub groups: Vec<(String, Vec<String>)>,
    /// Losses that count, in percent of the baseline's score.
    #[arg(
        long,
        value_name = "PERCENT",
        value_delimiter = ',',
        default_value = "1,2,4,8,10,16,24,32"
    )]
    pub theta: Vec<f64>,
    /// Which samples count.
    #[arg(long, value_enum, default_value_t = Mode::Algorithm1)]
    pub mode: Mode,
    /// Seed of the intervals.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Draw the counts over theta; .svg or .png.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Write the negative samples as a LongBench file of their own, rows as they are in the data set, and beside it a scenario
    /// that runs nothing else; from score files name the data set with --data.
    #[arg(long, value_name = "FILE")]
    pub export: Option<PathBuf>,
    /// Write --export over files that exist.
    #[arg(long, requires = "export")]
    pub force: bool,
    /// Loss that counts for --export, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "export")]
    pub export_theta: f64,
    /// Method or ensemble whose negative samples --export writes.
    #[arg(long, value_name = "NAME", default_value = "all", requires = "export")]
    pub export_set: String,
}

fn group(text: &str) -> Result<(String, Vec<String>), String> {
    match text.split_once('=') {
        Some((name, members)) if !name.is_empty() && !members.is_empty() => {
            Ok((name.to_owned(), members.split(',').map(str::to_owned).collect()))
        }
        _ => Err(format!("expected NAME=METHOD,METHOD, got `{text}`")),
    }
}

/// Counts and prints.
///
/// # Errors
/// A run that cannot be scored, a file that cannot be read or holds a bad row; a name that occurs twice or is none; writing.
pub fn run(args: &NegativesArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let good = |theta: &f64| *theta > 0.0 && *theta <= 100.0;
    if let Some(theta) = args.theta.iter().find(|theta| !good(theta)) {
        bail!("--theta: expected percentages above 0 and up to 100, got {theta}");
    }
    let repeated = |at: &usize| {
        args.theta[..*at].iter().any(|theta| theta.total_cmp(&args.theta[*at]).is_eq())
    };
    if let Some(at) = (1..args.theta.len()).find(repeated) {
        bail!("--theta: expected each percentage once, got {} twice", args.theta[at]);
    }
    if !good(&args.export_theta) {
        bail!(
            "--export-theta: expected a percentage above 0 and up to 100, got {}",
            args.export_theta
        );
    }
    if let Some((name, _)) = args.groups.iter().find(|(name, _)| name == "all") {
        bail!("--group {name}: expected another name than `all`, which is every method");
    }
    if let Some(path) = &args.plot {
        can_draw(path)?;
    }
    let (subjects, from) = args.source.read(ui)?;
    let found = count(args, &subjects, ui)?;
    let text = match ui.format {
        Format::Json => serde_json::to_string_pretty(&show::as_json(&found))? + "\n",
        _ => ui.tables(&report::tables(&found)),
    };
    ui.out(&text)?;
    if let Some(path) = &args.plot {
        draw(path, &report::figure(&found))?;
        ui.note(&format!("figure: {}", path.display()));
    }
    if let Some(path) = &args.export {
        export::write(path, args, &subjects, from.as_ref(), ui)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn count(args: &NegativesArgs, subjects: &Subjects, ui: &Ui) -> anyhow::Result<Found> {
    let (found, excluded) =
        negatives::found(subjects, &args.groups, &args.theta, args.mode, args.seed)?;
    for negatives::Excluded { method, why, n, example } in &excluded {
        ui.note(&format!("{method}: {n} rows left out, {why} (such as {example})"));
    }
    Ok(found)
}

/// Members of a method or an ensemble by its name.
fn members(args: &NegativesArgs, subjects: &Subjects, name: &str) -> Vec<String> {
    let group = args.groups.iter().find(|(group, _)| group == name);
    match (name, group) {
        ("all", _) => subjects.methods.iter().map(|method| method.name.clone()).collect(),
        (_, Some((_, members))) => members.clone(),
        (_, None) => vec![name.to_owned()],
    }
}

/// File beside another, with another ending.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("toml")
}
