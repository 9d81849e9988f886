//! `kvbench schema`: the JSON Schema of a scenario file.

use std::process::ExitCode;

use super::ui::Ui;
use crate::scenario;

/// Print the JSON Schema of a scenario file, for editors and for checks in CI
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {}

/// Prints the schema on stdout, whatever `--format` says.
///
/// # Errors
/// Stdout cannot be written.
pub fn run(_args: &SchemaArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    ui.out(&format!("{:#}\n", scenario::schema()))?;
    Ok(ExitCode::SUCCESS)
}
