//! `kvbench plan` of a router's scenario.

use anyhow::bail;
use regex::Regex;

use crate::{
    cli::ui::Ui,
    report::{Column, Table, Value, render},
    route::{PolicySpec, experiment::asks},
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
        "{} cells, each with {} seeds; beside them controls and oracles, and the pool of as many engines of `{}` alone",
        shown.rows.len(),
        scenario.n_seeds,
        scenario.methods[scenario.baseline].name
    ));
    Ok(())
}

/// A policy that asks no predictor stands once for all skills, with the skill `-`, as in the ids of what is simulated.
fn table(scenario: &RouteScenario) -> Table {
    let names = ["id", "pool", "trace", "load", "skill", "policy", "seeds"];
    let columns = names.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new(&format!("Plan of {}", scenario.name), columns);
    let skills: Vec<&str> = scenario.skills.iter().map(|skill| skill.name.as_str()).collect();
    for pool in &scenario.pools {
        for trace in &scenario.traces {
            for load in &scenario.loads {
                let place = [pool.name.as_str(), trace.name.as_str(), load.name.as_str()];
                for policy in &scenario.policies {
                    let skills = if asks(policy) { skills.as_slice() } else { &["-"] };
                    let rows = skills.iter().map(|skill| row(place, skill, policy, scenario));
                    table.rows.extend(rows);
                }
            }
        }
    }
    table
}

fn row(
    [pool, trace, load]: [&str; 3],
    skill: &str,
    policy: &PolicySpec,
    scenario: &RouteScenario,
) -> Vec<Value> {
    let parts = [pool, trace, load, skill, &policy.name];
    let words = std::iter::once(parts.join("/")).chain(parts.map(str::to_owned));
    words.map(Value::Text).chain([Value::Int(scenario.n_seeds.into())]).collect()
}
