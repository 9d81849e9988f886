//! `kvbench schema`: the JSON Schema of a scenario file.

use std::process::ExitCode;

use super::ui::Ui;
use crate::scenario;

/// Print the JSON Schema of a scenario file, for editors and for checks in CI
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Of a scenario of `kvbench route simulate`.
    #[arg(long)]
    pub route: bool,
}

/// Prints the schema on stdout, whatever `--format` says.
///
/// # Errors
/// Stdout cannot be written.
pub fn run(args: &SchemaArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let schema = if args.route { scenario::route::schema() } else { scenario::schema() };
    ui.out(&format!("{schema:#}\n"))?;
    Ok(ExitCode::SUCCESS)
}
