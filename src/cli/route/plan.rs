//! `kvbench plan` of a router's scenario.

use anyhow::bail;
use regex::Regex;

use crate::{
    cli::ui::Ui,
    report::{Column, Table, Value, render},
    scenario::RouteScenario,
};

/// Prints one row a cell, `id`, `pool`, `trace`, `load`, `skill`, `policy` and the `seeds` that it is simulated with; reads none of the
/// files that the scenario names. The keys of the JSON are stable.
///
/// # Errors
/// The filter leaves no cell.
pub(in crate::cli) fn run(
    scenario: &RouteScenario,
    filter: Option<&Regex>,
    ui: &Ui,
) -> anyhow::Result<()> {
    let all = table(scenario);
    let mut shown = all.clone();
    shown.rows.retain(|row| match (filter, row.first()) {
        (Some(pattern), Some(Value::Text(id))) => pattern.is_match(id),
        _ => true,
    });
    if let (true, Some(Value::Text(first))) =
        (shown.rows.is_empty(), all.rows.first().and_then(|row| row.first()))
    {
        bail!(
            "--filter: expected a pattern that matches a cell id, got none of {}\n  hint: ids look like `{first}`",
            all.rows.len()
        );
    }
    ui.out(&render(&shown, ui.format, ui.color))?;
    ui.note(&format!(
        "{} cells, each with {} seeds; beside each pool the one of as many engines of `{}` alone. Policies that ask no predictor are \
         simulated once for all skills",
        shown.rows.len(),
        scenario.n_seeds,
        scenario.methods[scenario.baseline].name
    ));
    Ok(())
}

fn table(scenario: &RouteScenario) -> Table {
    let names = ["id", "pool", "trace", "load", "skill", "policy", "seeds"];
    let columns = names.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new(&format!("Plan of {}", scenario.name), columns);
    for pool in &scenario.pools {
        for trace in &scenario.traces {
            for load in &scenario.loads {
                for skill in &scenario.skills {
                    for policy in &scenario.policies {
                        let parts =
                            [&pool.name, &trace.name, &load.name, &skill.name, &policy.name];
                        let id = parts.map(String::as_str).join("/");
                        let words = std::iter::once(id).chain(parts.map(Clone::clone));
                        let row = words.map(Value::Text);
                        let seeds = Value::Int(scenario.n_seeds.into());
                        table.rows.push(row.chain([seeds]).collect());
                    }
                }
            }
        }
    }
    table
}
