//! Comparisons of runs for people and for machines: verdicts in words first, then tables; JUnit XML and GitHub annotations.

use serde_json::{Value as Json, json};

use super::{Column, Format, Table, Value, render};
use crate::{
    analyse::{
        Better,
        versus::{Finding, Gated, Line, Mismatch, Outcome, Versus, Word, tally},
    },
    units::significant,
};

mod github;
mod junit;

pub use github::github;
pub use junit::junit;

/// Gates of one outcome that are told in words.
const LISTED_MAX: usize = 12;

/// How `kvbench` prints: tables as in [`Format`], and what only `compare` can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Printed {
    /// Aligned columns for a terminal.
    Text,
    /// GitHub Markdown.
    Md,
    /// An array of objects, unrounded; a missing value is `null`.
    Json,
    /// Comma-separated, unrounded; a missing value is empty.
    Csv,
    /// JUnit XML, a test case a cell and gate (`compare` alone).
    Junit,
    /// Annotations of GitHub Actions (`compare` alone).
    Github,
}

impl Printed {
    /// The format of tables; `None` of what is no table.
    pub fn of_tables(self) -> Option<Format> {
        match self {
            Printed::Text => Some(Format::Text),
            Printed::Md => Some(Format::Md),
            Printed::Json => Some(Format::Json),
            Printed::Csv => Some(Format::Csv),
            Printed::Junit | Printed::Github => None,
        }
    }
}

/// What all comparisons of one base come to.
pub fn finding(all: &[Versus]) -> Finding {
    all.iter().map(Versus::finding).max().unwrap_or(Finding::Pass)
}

/// The verdict in words: what it comes to, why, what is missing to know more.
pub fn words(versus: &Versus) -> Vec<String> {
    let mut said = vec![headline(versus)];
    said.extend(versus.mismatches.iter().map(|mismatch| {
        format!("  {}; `--allow {}` compares all the same", because(mismatch), mismatch.kind.name())
    }));
    for outcome in [Outcome::Fail, Outcome::Unclear] {
        let listed = of(versus, outcome).take(LISTED_MAX);
        said.extend(listed.map(|gate| format!("  {}  {}", outcome.name(), sentence(gate))));
        let more = of(versus, outcome).count().saturating_sub(LISTED_MAX);
        said.extend((more > 0).then(|| format!("  {}  {more} more, in the table", outcome.name())));
    }
    said.extend(versus.allowed.iter().map(|mismatch| format!("  allowed: {}", because(mismatch))));
    said.extend(versus.notes.iter().map(|note| format!("  note: {note}")));
    if versus.mismatches.is_empty() {
        said.extend(overall(versus));
    }
    said
}

fn of(versus: &Versus, outcome: Outcome) -> impl Iterator<Item = &Gated> {
    versus.gates.iter().filter(move |gate| gate.outcome == outcome)
}

fn headline(versus: &Versus) -> String {
    let (new, base) = (&versus.new, &versus.base);
    let n = versus.gates.len();
    let unclear = of(versus, Outcome::Unclear).count();
    let failed = of(versus, Outcome::Fail).count();
    match versus.finding() {
        Finding::CannotJudge => format!("CANNOT JUDGE {new} against {base}:"),
        Finding::Regression if failed > 0 => {
            format!(
                "REGRESSION: {failed} of {n} gates fail, {unclear} are unclear, {new} against {base}"
            )
        }
        Finding::Regression => {
            format!(
                "REGRESSION: {unclear} of {n} gates are unclear, which fails them here, {new} against {base}"
            )
        }
        Finding::Pass if n == 0 => {
            format!("NOTHING WAS GATED: no gate fits a cell, {new} against {base}")
        }
        Finding::Pass if unclear > 0 => {
            format!(
                "PASS, NOT PROVEN: {unclear} of {n} gates are unclear, none fails, {new} against {base}"
            )
        }
        Finding::Pass => {
            format!("PASS: all {n} gates are certainly within their limits, {new} against {base}")
        }
    }
}

fn because(mismatch: &Mismatch) -> String {
    format!("{} differ: {}", plural(mismatch.kind.name()), mismatch.what)
}

fn plural(kind: &str) -> String {
    if kind.ends_with('s') { kind.to_owned() } else { format!("{kind}s") }
}

/// One gate at one cell.
fn sentence(gate: &Gated) -> String {
    let more = gate.more.map(|more| format!("; {}", more.words())).unwrap_or_default();
    format!("{} {}: {}, {}{more}", gate.cell, gate.metric, gate.seen, gate.limit)
}

/// Counts of words, and what these repeats can see at all.
fn overall(versus: &Versus) -> Vec<String> {
    let counts = tally(&versus.lines);
    let listed: Vec<String> =
        counts.iter().map(|(word, n)| format!("{n} {}", word.name())).collect();
    let mut said = vec![format!(
        "  {} metrics of cells: {} (same: within {:.3}x, shown and not assumed)",
        versus.lines.len(),
        listed.join(", "),
        versus.rules.bound.exp()
    )];
    if let Some((middle, worst)) = detectable(versus) {
        said.push(format!(
            "  smallest change that one gated metric finds in four of five cases: {} in the median, {} at worst",
            percent(middle),
            percent(worst)
        ));
    }
    if !versus.has_floor {
        said.push(
            "  no noise floor: the base has no A/A cells (`aa_control = true`) and no further run (`--aa`), so what changes from run to run is not known".to_owned(),
        );
    }
    said
}

/// Smallest changes that gated metrics show, as ratios: median and largest.
fn detectable(versus: &Versus) -> Option<(f64, f64)> {
    let gated = versus.lines.iter().filter(|line| line.gated);
    let mut all: Vec<f64> = gated.filter_map(|line| line.detectable(versus.rules.alpha)).collect();
    let middle = crate::stats::median(&mut all)?;
    Some((middle, all.into_iter().fold(middle, f64::max)))
}

fn percent(ratio: f64) -> String {
    format!("{} %", significant(100.0 * (ratio - 1.0), 2))
}

/// Gates, then the metrics that people look for: gated ones, and others of which something is certain.
pub fn tables(versus: &Versus) -> Vec<Table> {
    let mut tables = Vec::new();
    if !versus.gates.is_empty() {
        tables.push(gates(versus));
    }
    let certain = |line: &&Line| {
        line.gated || matches!(line.word, Word::Worse | Word::Better | Word::Differs)
    };
    let shown: Vec<&Line> = versus.lines.iter().filter(certain).collect();
    if !shown.is_empty() {
        let n = versus.lines.len();
        let title = format!(
            "{} of {n} metrics: gated, or certainly other than the base; each end of an interval is wrong with chance {} %",
            shown.len(),
            significant(100.0 * versus.rules.alpha, 1)
        );
        tables.push(lines(&title, &shown, versus.rules.alpha));
    }
    tables
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn gates(versus: &Versus) -> Table {
    let columns = ["outcome", "cell", "metric", "limit", "seen", "q", "lacks", "line"];
    let columns = columns.iter().map(|name| Column::new(name, "")).collect();
    let mut table = Table::new("Gates", columns);
    let mut gates: Vec<&Gated> = versus.gates.iter().collect();
    gates.sort_by_key(|gate| gate.outcome);
    table.rows = gates
        .into_iter()
        .map(|gate| {
            let lacks = gate.more.map_or(Value::Missing, |more| text(&more.words()));
            let line = gate.line.map_or(Value::Missing, Value::count);
            vec![
                text(gate.outcome.name()),
                text(&gate.cell),
                text(&gate.metric),
                text(&gate.limit),
                text(&gate.seen),
                Value::maybe(gate.q),
                lacks,
                line,
            ]
        })
        .collect();
    table
}

/// The table of metrics.
pub fn lines(title: &str, lines: &[&Line], alpha: f64) -> Table {
    let columns = [
        ("cell", ""),
        ("metric", ""),
        ("unit", ""),
        ("base", ""),
        ("new", ""),
        ("ratio", "x"),
        ("verdict", ""),
        ("lacks", ""),
        ("q_worse", ""),
        ("between", "%"),
        ("within", "%"),
        ("detectable", "%"),
        ("floor", "%"),
        ("bound", "x"),
        ("repeats", ""),
        ("n_least", ""),
        ("better", ""),
        ("definition", ""),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new(title, columns);
    table.rows = lines.iter().map(|line| row(line, alpha)).collect();
    table
}

fn row(line: &Line, alpha: f64) -> Vec<Value> {
    let interval = line.interval(alpha);
    let ends = interval.map(|interval| (interval.low, interval.high)).unzip();
    let spread =
        |deviation: Option<f64>| Value::percent(deviation.map(|deviation| deviation.exp_m1()));
    vec![
        text(&line.cell),
        text(&line.metric.name),
        text(line.metric.unit),
        Value::Float(line.base),
        Value::Float(line.new),
        Value::estimate(Some(line.ratio()), ends.0, ends.1),
        text(line.word.name()),
        line.more.map_or(Value::Missing, |more| text(&more.words())),
        Value::maybe(line.q.map(|q| q[0])),
        spread(line.between),
        spread(line.within),
        Value::percent(line.detectable(alpha).map(|ratio| ratio - 1.0)),
        Value::percent((line.floor > 0.0).then(|| line.floor.exp_m1())),
        Value::Float(line.bound.exp()),
        text(&format!("{}/{}", line.n_repeats.0, line.n_repeats.1)),
        Value::count(line.n_least),
        text(match line.metric.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
            Better::Neither => "neither",
        }),
        line.metric.definition.map_or(Value::Missing, text),
    ]
}

/// Columns that a terminal has room for; the other formats have all.
const NARROW: [&str; 9] =
    ["cell", "metric", "base", "new", "ratio", "verdict", "lacks", "detectable", "repeats"];

fn narrowed(table: &Table) -> Table {
    if !table.columns.iter().any(|column| column.name == "ratio") {
        return table.clone();
    }
    let kept: Vec<usize> = (0..table.columns.len())
        .filter(|at| NARROW.contains(&table.columns[*at].name.as_str()))
        .collect();
    Table {
        title: table.title.clone(),
        columns: kept.iter().map(|at| table.columns[*at].clone()).collect(),
        rows: table
            .rows
            .iter()
            .map(|row| kept.iter().map(|at| row[*at].clone()).collect())
            .collect(),
    }
}

/// Everything in one format.
///
/// # Errors
/// A table is no JSON, which a test would find.
pub fn print(all: &[Versus], format: Printed, color: bool) -> anyhow::Result<String> {
    match format {
        Printed::Junit => Ok(junit(all)),
        Printed::Github => Ok(github(all)),
        Printed::Json => Ok(serde_json::to_string_pretty(&json_of(all)?)? + "\n"),
        Printed::Csv => {
            let whole = |versus: &Versus| {
                let every: Vec<&Line> = versus.lines.iter().collect();
                render(&lines("", &every, versus.rules.alpha), Format::Csv, false)
            };
            Ok(all.iter().map(whole).collect::<Vec<_>>().join("\n"))
        }
        Printed::Text => {
            Ok(all.iter().map(|versus| plain(versus, color)).collect::<Vec<_>>().join("\n"))
        }
        Printed::Md => Ok(all.iter().map(markdown).collect::<Vec<_>>().join("\n")),
    }
}

fn plain(versus: &Versus, color: bool) -> String {
    let tables = tables(versus);
    let tables =
        tables.iter().map(|table| "\n".to_owned() + &render(&narrowed(table), Format::Text, color));
    let words = crate::units::harmless(&words(versus).join("\n"));
    words + "\n" + &tables.collect::<String>()
}

fn markdown(versus: &Versus) -> String {
    let words = words(versus);
    let escaped = |line: &str| super::table::escape_markdown(line.trim_start());
    let mut out =
        format!("### {}\n\n", words.first().map(|line| escaped(line)).unwrap_or_default());
    words.iter().skip(1).for_each(|line| out += &format!("- {}\n", escaped(line)));
    for table in tables(versus) {
        let table = render(&narrowed(&table), Format::Md, false);
        out += &format!("\n<details open><summary>table</summary>\n\n{table}\n</details>\n");
    }
    out
}

fn json_of(all: &[Versus]) -> anyhow::Result<Json> {
    let one = |versus: &Versus| -> anyhow::Result<Json> {
        let rows =
            |table: &Table| serde_json::from_str::<Json>(&render(table, Format::Json, false));
        let every: Vec<&Line> = versus.lines.iter().collect();
        let listed = |mismatches: &[Mismatch]| -> Vec<Json> {
            mismatches.iter().map(|m| json!({ "kind": m.kind.name(), "what": m.what })).collect()
        };
        Ok(json!({
            "base": versus.base,
            "new": versus.new,
            "finding": name(versus.finding()),
            "words": words(versus),
            "cannot_judge": listed(&versus.mismatches),
            "allowed": listed(&versus.allowed),
            "notes": versus.notes,
            "gates": rows(&gates(versus))?,
            "metrics": rows(&lines("", &every, versus.rules.alpha))?,
        }))
    };
    let comparisons = all.iter().map(one).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({ "finding": name(finding(all)), "comparisons": comparisons }))
}

fn name(finding: Finding) -> &'static str {
    match finding {
        Finding::Pass => "pass",
        Finding::Regression => "regression",
        Finding::CannotJudge => "cannot_judge",
    }
}
