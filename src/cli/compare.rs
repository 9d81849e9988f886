//! `kvbench compare`: runs against a base, with gates for CI.

use std::{path::PathBuf, process::ExitCode};

use super::{baseline, ui::Ui};
use crate::{
    analyse::versus::{Finding, Kind, Side, versus},
    report::versus::{Printed, finding, print, words},
    scenario::gates::Gates,
};

const EXIT_CODES: &str = "\
Exit codes: 0 no gate trips, 1 a regression, 2 cannot judge: bad input, or the runs differ in what must be alike (`--allow`).

Examples:
  kvbench compare results/A results/B
  kvbench baseline set main results/A && kvbench compare main results/B --gate scenarios/gates/strict.toml
  kvbench compare main results/B --format junit > kvbench.xml";

/// Compare runs with a base run, cell by cell, and fail where a gate trips.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct CompareArgs {
    /// Run folder that the others are compared with, or the name of a baseline (`kvbench baseline list`).
    pub base: String,
    /// Run folders.
    #[arg(required = true)]
    pub new: Vec<PathBuf>,
    /// TOML file of gates; without one those of scenarios/gates/default.toml.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    /// A further run of the base: what differs between it and the base is noise. Again for more.
    #[arg(long, value_name = "DIR")]
    pub aa: Vec<PathBuf>,
    /// Compare although this differs, and say so.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub allow: Vec<Kind>,
    /// Folder whose `baselines/` holds the named ones.
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
}

/// Prints verdicts and tables.
///
/// # Errors
/// No such run or baseline, a bad file of gates, or a gate that fits nothing.
pub fn run(args: &CompareArgs, format: Printed, ui: &Ui) -> anyhow::Result<ExitCode> {
    let gates = match &args.gate {
        Some(path) => {
            let gates = Gates::load(path)?;
            known(&gates)?;
            gates
        }
        None => Gates::built_in()?,
    };
    let (folder, mut again) = baseline::resolve(&args.base, &args.results)?;
    again.extend(args.aa.iter().cloned());
    let base = Side::load(&folder)?;
    let again: Vec<Side> =
        again.iter().map(|path| Side::load(path)).collect::<anyhow::Result<_>>()?;
    let mut all = Vec::new();
    for path in &args.new {
        let new = Side::load(path)?;
        all.push(versus(&base, &new, &again, &gates, &args.allow)?);
    }
    ui.out(&print(&all, format, ui.color)?)?;
    if !matches!(format, Printed::Text | Printed::Md) {
        all.iter().flat_map(words).for_each(|line| ui.note(&line));
    }
    Ok(ExitCode::from(match finding(&all) {
        Finding::Pass => 0,
        Finding::Regression => 1,
        Finding::CannotJudge => 2,
    }))
}

/// A metric that nobody measures is a slip of the finger: the gate would never look at anything.
fn known(gates: &Gates) -> anyhow::Result<()> {
    use crate::analyse::versus::metric::{names, negatives_percent};
    let names = names();
    let origin = gates.origin.as_deref().unwrap_or_default();
    for gate in &gates.gates {
        anyhow::ensure!(
            names.contains(&gate.metric) || negatives_percent(&gate.metric).is_some(),
            "{origin}:{}: expected a metric, got `{}`\n  hint: there are {}, and `negatives_10pct` with any percentage",
            gate.line,
            gate.metric,
            names.join(", ")
        );
    }
    Ok(())
}
