//! `kvbench plan`: which cells a scenario has and what they will roughly cost. Runs nothing.

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use regex::Regex;

use super::ui::Ui;
use crate::{
    plan::{self, Cell},
    report::{self, Column, Table, Value},
    scenario::{RouteScenario, Scenario, Timing},
    units::{human_bytes, significant},
};

/// List the cells of a scenario and an estimate of their cost; run nothing
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Scenario file
    pub scenario: PathBuf,
    /// Only cells whose id matches this regular expression
    #[arg(long, value_name = "REGEX")]
    pub filter: Option<Regex>,
}

/// Prints one row a cell: `block`, `id`, `target`, `method`, `workload`, `load`, `repeat`, `est_time` (seconds) and
/// `est_memory` (bytes), both `null` where only the run can tell. The keys of the JSON are stable.
///
/// # Errors
/// The scenario is not valid, or the filter leaves no cell.
pub fn run(args: &PlanArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if let Some(scenario) = RouteScenario::load_if_meant(&args.scenario)? {
        super::route::plan(&scenario, args.filter.as_ref(), ui)?;
        return Ok(ExitCode::SUCCESS);
    }
    let scenario = Scenario::load(&args.scenario)?;
    let all = plan::expand(&scenario);
    let cells = match &args.filter {
        Some(pattern) => plan::filter(&all, pattern),
        None => all.clone(),
    };
    if let (true, Some(first)) = (cells.is_empty(), all.first()) {
        bail!(
            "--filter: expected a pattern that matches a cell id, got none of {}\n  hint: ids look like `{}`",
            all.len(),
            first.id
        );
    }
    ui.out(&report::render(&table(&scenario, &cells), ui.format, ui.color))?;
    ui.note(&totals(&cells, &scenario.timing));
    ui.note(plan::ASSUMPTION);
    Ok(ExitCode::SUCCESS)
}

fn table(scenario: &Scenario, cells: &[Cell]) -> Table {
    let plain = ["block", "id", "target", "method", "workload", "load", "repeat"];
    let mut columns: Vec<_> = plain.iter().map(|name| Column::new(name, "")).collect();
    columns.extend([Column::new("est_time", "s"), Column::new("est_memory", "B")]);
    let mut table = Table::new(&format!("Plan of {}", scenario.name), columns);
    table.rows = cells.iter().map(|cell| row(cell, &scenario.timing)).collect();
    table
}

fn row(cell: &Cell, timing: &Timing) -> Vec<Value> {
    let estimate = plan::estimate(cell, timing);
    let text = |text: &str| Value::Text(text.to_owned());
    vec![
        Value::Int(cell.block as i64),
        text(&cell.id),
        text(&cell.target),
        text(&cell.method.name),
        text(&cell.workload),
        text(&cell.load),
        Value::Int(i64::from(cell.repeat)),
        estimate.seconds.map_or(Value::Missing, Value::Float),
        estimate
            .memory_bytes
            .and_then(|b| i64::try_from(b).ok())
            .map_or(Value::Missing, Value::Int),
    ]
}

fn totals(cells: &[Cell], timing: &Timing) -> String {
    let blocks: Vec<Vec<&Cell>> =
        cells.chunk_by(|a, b| a.block == b.block).map(|block| block.iter().collect()).collect();
    let known: Vec<f64> =
        blocks.iter().filter_map(|block| plan::block_seconds(block, timing)).collect();
    let unknown = blocks.len() - known.len();
    let mut text = format!("{} cells in {} blocks", cells.len(), blocks.len());
    if !known.is_empty() {
        text += &format!(", about {} s", significant(known.iter().sum(), 2));
    }
    if unknown > 0 {
        text += &format!("; {unknown} blocks of unknown length");
    }
    match blocks.iter().filter_map(|block| block_memory(block, timing)).max() {
        Some(bytes) => format!("{text}; largest block about {}", human_bytes(bytes)),
        None => text,
    }
}

/// All cells of a block are prepared together.
fn block_memory(block: &[&Cell], timing: &Timing) -> Option<u64> {
    block.iter().map(|cell| plan::estimate(cell, timing).memory_bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_cost_is_missing_and_keys_are_stable() {
        let text = "name = \"e\"\nbaseline = \"fp16\"\n[method.fp16.fp16]\n[target.srv.engine]\nurl = \"http://h\"\nendpoint = \"chat\"\nmethod = \"fp16\"\n[workload.w.synthetic]\nn_requests = 2\nprompt_tokens = { fixed = 8 }\noutput_tokens = { fixed = 8 }\n[load.c.closed]\nconcurrency = [1]\n";
        let scenario = Scenario::parse(text, "e.toml").expect("valid");
        let cells = plan::expand(&scenario);
        let table = table(&scenario, &cells);
        let keys: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            keys.join(" "),
            "block id target method workload load repeat est_time est_memory"
        );
        assert_eq!(table.rows[0][1], Value::Text("e/srv/fp16/w/c-1/r0".to_owned()));
        assert_eq!(table.rows[0][7..], [Value::Missing, Value::Missing]);
        assert_eq!(
            totals(&cells, &scenario.timing),
            "1 cells in 1 blocks; 1 blocks of unknown length"
        );
    }
}
