//! `kvbench plan`: which cells a scenario has and what they will roughly cost. Runs nothing.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};
use regex::Regex;

use super::{rank::open, ui::Ui};
use crate::{
    analyse::{
        Point,
        enough::{self, Need},
    },
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
    /// Run folder to learn from: how many repeats each metric of each point needs for `--ci`, and how long that takes
    #[arg(long, value_name = "RUN_DIR")]
    pub pilot: Option<PathBuf>,
    /// With `--pilot`: half-width of the 95 % interval of a mean that is wanted, of the mean
    #[arg(long, value_name = "PERCENT", requires = "pilot", value_parser = percent, default_value = "2%")]
    pub ci: f64,
}

/// `2%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    number
        .filter(|number| *number > 0.0 && number.is_finite())
        .ok_or_else(|| format!("expected a percentage above 0 such as 2%, got `{text}`"))
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
    if let Some(pilot) = &args.pilot {
        return repeats(pilot, &cells, args.ci, ui);
    }
    ui.out(&report::render(&table(&scenario, &cells), ui.format, ui.color))?;
    ui.note(&totals(&cells, &scenario.timing));
    ui.note(plan::ASSUMPTION);
    Ok(ExitCode::SUCCESS)
}

/// Points that are named where the pilot lacks them.
const NAMED_MAX: usize = 5;

/// Prints what each metric of each planned point needs, and what that takes.
fn repeats(pilot: &PathBuf, cells: &[Cell], ci: f64, ui: &Ui) -> anyhow::Result<ExitCode> {
    let runs = open(std::slice::from_ref(pilot))?;
    let mut points: Vec<Point> = cells.iter().map(point).collect();
    points.sort();
    points.dedup();
    let (needs, absent) = enough::needs(&runs[0], &points, ci);
    ensure!(
        !needs.is_empty(),
        "{}: expected a run of cells of this scenario, got none of {}\n  hint: run the scenario once with a few repeats and take that run",
        pilot.display(),
        points.len()
    );
    ui.out(&report::render(&needs_table(&needs, ci), ui.format, ui.color))?;
    for point in absent.iter().take(NAMED_MAX) {
        ui.note(&format!("not in the pilot: {point}"));
    }
    if absent.len() > NAMED_MAX {
        ui.note(&format!("and {} more points are not in the pilot", absent.len() - NAMED_MAX));
    }
    if needs.iter().any(|need| need.n_repeats < 2) {
        ui.note("where the pilot has one repeat the spread between repeats is unknown, and so is the number: run it with `repeats = 3` or more");
    }
    ui.note(&cost(&needs, enough::seconds_per_repeat(&runs[0])?, ci));
    Ok(ExitCode::SUCCESS)
}

fn point(cell: &Cell) -> Point {
    Point {
        target: cell.target.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        method: cell.method.name.clone(),
    }
}

fn needs_table(needs: &[Need], ci: f64) -> Table {
    let names = [
        ("target", ""),
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("metric", ""),
        ("mean", ""),
        ("unit", ""),
        ("pilot_repeats", ""),
        ("per_repeat", "observations"),
        ("between", "%"),
        ("within", "%"),
        ("pilot_half_width", "%"),
        ("repeats", ""),
        ("repeats_if_unlucky", ""),
    ];
    let columns = names.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let title =
        format!("Repeats for a 95 % interval of +-{ci} % of the mean, from the pilot's spread");
    let mut table = Table::new(&title, columns);
    let text = |text: &str| Value::Text(text.to_owned());
    table.rows.extend(needs.iter().map(|need| {
        let Point { target, workload, load, method } = &need.point;
        let mut row: Vec<Value> =
            [target, workload, load, method, &need.metric].map(|word| text(word)).into();
        row.extend([
            Value::Float(need.mean),
            text(need.unit),
            Value::count(need.n_repeats),
            Value::Float(need.per_repeat),
            Value::maybe(need.between_pct),
            Value::maybe(need.within_pct),
            Value::maybe(need.half_pct),
            need.repeats.map_or(Value::Missing, Value::count),
            need.repeats_high.map_or(Value::Missing, Value::count),
        ]);
        row
    }));
    table
}

/// What all of them together need: a scenario has one number of repeats.
fn cost(needs: &[Need], seconds: Option<f64>, ci: f64) -> String {
    let known = needs.iter().filter(|need| need.repeats.is_some()).count();
    let Some(repeats) = needs.iter().filter_map(|need| need.repeats).max() else {
        return format!("no mean can be had within {ci} % as far as the pilot tells");
    };
    let all = match needs.len() - known {
        0 => "all".to_owned(),
        more => format!(
            "all but {more} means, which the pilot tells nothing of or which take more than 10000"
        ),
    };
    let takes = |repeats: usize| match seconds {
        Some(seconds) => format!("about {} s in all", significant(seconds * repeats as f64, 2)),
        None => "for a time that the pilot does not tell, since it was resumed".to_owned(),
    };
    let high = needs.iter().filter(|need| need.repeats.is_some()).map(|need| need.repeats_high);
    let unlucky =
        high.collect::<Option<Vec<usize>>>().and_then(|all| all.into_iter().max()).map_or_else(
            || "more than 10000".to_owned(),
            |repeats| format!("{repeats}, {}", takes(repeats)),
        );
    format!(
        "`repeats = {repeats}` suffices for {all}, {}, at the pilot's time a repeat; if its spread was luckily small (80 % bound): {unlucky}",
        takes(repeats)
    )
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
    fn a_percentage_is_read_with_its_sign() {
        assert!((percent("2.5%").unwrap() - 2.5).abs() < 1e-12);
        for wrong in ["2", "0%", "-1%", "%", "x%"] {
            assert!(percent(wrong).unwrap_err().contains("2%"), "{wrong}");
        }
    }

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
