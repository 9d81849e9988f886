//! `kvbench definitions`: what each metric means, by id.

use std::process::ExitCode;

use super::ui::Ui;
use crate::{
    analyse::definitions::{DEFINITIONS, Definition, own},
    report::{Column, Table, Value, render},
};

/// Print the id, the formula and the meaning of every metric, ours and those of imported results
#[derive(Debug, clap::Args)]
pub struct DefinitionsArgs {
    /// Only ids that begin with this, such as `ttft`
    pub prefix: Option<String>,
}

/// Prints one row a definition; `metric` is its column in our tables, empty where only other tools report it.
///
/// # Errors
/// No id begins so, or stdout cannot be written.
pub fn run(args: &DefinitionsArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let names = ["id", "metric", "unit", "formula", "meaning"];
    let columns = names.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new("Definitions", columns);
    table.rows = DEFINITIONS.iter().filter(|d| d.id.starts_with(prefix)).map(row).collect();
    anyhow::ensure!(
        !table.rows.is_empty(),
        "expected the beginning of a definition's id, got `{prefix}`\n  hint: `kvbench definitions` lists all"
    );
    ui.out(&render(&table, ui.format, ui.color))?;
    Ok(ExitCode::SUCCESS)
}

fn row(definition: &Definition) -> Vec<Value> {
    let metric = own().find(|(_, own)| own.id == definition.id).map(|(metric, _)| metric);
    let text = |text: &str| Value::Text(text.to_owned());
    vec![
        text(definition.id),
        metric.map_or(Value::Missing, text),
        text(definition.unit),
        text(definition.formula),
        text(definition.words),
    ]
}
