//! `kvbench predict audit`: whether profiles are measurements of their own.

use std::{path::PathBuf, process::ExitCode};

use anyhow::ensure;
use serde_json::{Value, json};

use super::eval_files::open;
use crate::{
    cli::ui::Ui,
    predict::audit::{self, Finding, Sheet},
    report::{Format, predict::profile as report},
};

/// Tell whether files of measurements were made from one another, and whether their values can be. Exit code 1: something is
/// flagged.
#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    /// CSV files, .gz too: each is checked, and each with all that follow.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Bandwidth of the device's memory: decode rows of more than 128 MiB that would beat it with fp16 keys and values are
    /// flagged.
    #[arg(long, value_name = "GB_PER_S")]
    bandwidth_gbs: Option<f64>,
}

/// Checks and prints.
///
/// # Errors
/// A file that cannot be read, or has no column of measurements.
pub(super) fn run(args: &AuditArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    ensure!(
        args.bandwidth_gbs.is_none_or(|gb_s| gb_s.is_finite() && gb_s > 0.0),
        "--bandwidth-gbs: expected GB/s above 0, got {}\n  hint: the data sheet has it, such as 768 for an A6000",
        args.bandwidth_gbs.unwrap_or(f64::NAN)
    );
    let sheet = |path: &PathBuf| Sheet::read(open(path)?, &path.display().to_string());
    let sheets = args.files.iter().map(sheet).collect::<anyhow::Result<Vec<_>>>()?;
    let found = audit::audit(&sheets, args.bandwidth_gbs);
    if ui.format == Format::Json {
        ui.out(&(serde_json::to_string_pretty(&as_json(&sheets, &found)?)? + "\n"))?;
    } else {
        ui.out(&ui.tables(&[report::audit(&found)]))?;
        found.iter().for_each(|finding| ui.note(&finding.sentence()));
    }
    let flagged = found.iter().filter(|finding| finding.flagged).count();
    ui.note(&last_word(sheets.len(), flagged, audit::not_compared(&found)));
    Ok(if flagged == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// "Nothing flagged" is said of what was looked at only: files of which none could be compared may well be copies.
fn last_word(n_files: usize, flagged: usize, not_compared: usize) -> String {
    let pairs = n_files * n_files.saturating_sub(1) / 2;
    let flags = match flagged {
        0 => "nothing flagged".to_owned(),
        n => format!("{n} findings flagged"),
    };
    match not_compared {
        0 => format!("{n_files} files, {flags}"),
        n if n == pairs && flagged == 0 => format!(
            "{n_files} files, of which none could be compared with another: whether they are copies is not known"
        ),
        n => format!("{n_files} files, {flags}; {n} of {pairs} pairs could not be compared"),
    }
}

/// `{"flagged": n, "not_compared": pairs, "files": [{file, rows, sha256}], "findings": [{..., "sentence"}]}`.
fn as_json(sheets: &[Sheet], found: &[Finding]) -> anyhow::Result<Value> {
    let findings = found
        .iter()
        .map(|finding| {
            let mut value = serde_json::to_value(finding)?;
            value["sentence"] = Value::from(finding.sentence());
            Ok(value)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let files: Vec<Value> = sheets
        .iter()
        .map(|sheet| json!({"file": sheet.table.name, "rows": sheet.table.len(), "sha256": sheet.sha256}))
        .collect();
    let flagged = found.iter().filter(|finding| finding.flagged).count();
    let not_compared = audit::not_compared(found);
    Ok(
        json!({ "flagged": flagged, "not_compared": not_compared, "files": files, "findings": findings }),
    )
}
