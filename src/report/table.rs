//! A table without a format, and the four formats.

use crate::{
    stats::needed_for,
    units::{harmless, significant},
};

/// How a table is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for a terminal.
    Text,
    /// GitHub Markdown.
    Md,
    /// An array of objects, unrounded; a missing value is `null`.
    Json,
    /// Comma-separated, unrounded; a missing value is empty.
    Csv,
}

/// Named columns and rows of values.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Printed above the table in text and Markdown.
    pub title: String,
    /// Columns, left to right.
    pub columns: Vec<Column>,
    /// Rows; each as long as `columns`.
    pub rows: Vec<Vec<Value>>,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Machine name, key in JSON and CSV: `ttft_p99`.
    pub name: String,
    /// Unit as printed, `""` for none: `ms`.
    pub unit: String,
}

impl Column {
    /// A column with a unit (`""` for none).
    pub fn new(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned() }
    }
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A count.
    Int(i64),
    /// A measurement; printed with three significant digits in text and Markdown.
    Float(f64),
    /// A measurement with its 95 % interval: `1.92 [1.88, 1.97]`; three columns `x`, `x_ci_low`, `x_ci_high` in JSON and CSV.
    Interval {
        /// Point estimate.
        value: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// A percentile that the sample is too small for: `n too small (20 of 368)` in text, `null` in JSON. Never zero.
    TooFew {
        /// Observations.
        n: usize,
        /// Observations that it takes.
        needed: usize,
    },
    /// Unknown: empty in text, `null` in JSON. Never zero.
    Missing,
    /// Nobody could know it, since its source does not tell: `-` in text, `null` in JSON. Never zero.
    Absent,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: Vec<Column>) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }
}

/// Renders a table. Text and Markdown round to three significant digits; JSON and CSV do not round.
/// `color` makes title and header of a text table bold; other formats ignore it.
pub fn render(table: &Table, format: Format, color: bool) -> String {
    match format {
        Format::Text => text(table, color),
        Format::Md => markdown(table),
        Format::Json => json(table),
        Format::Csv => csv_text(table),
    }
}

impl Value {
    /// The value as people read it: three significant digits, `1.92 [1.88, 1.97]`, nothing where it is unknown.
    pub fn human(&self) -> String {
        match self {
            // Errors and names come from logs, servers and files of others.
            Value::Text(text) => harmless(text),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => significant(*x, 3),
            Value::Interval { value, low, high } => {
                format!(
                    "{} [{}, {}]",
                    significant(*value, 3),
                    significant(*low, 3),
                    significant(*high, 3)
                )
            }
            Value::TooFew { n, needed } => format!("n too small ({n} of {needed})"),
            Value::Missing => String::new(),
            Value::Absent => "-".to_owned(),
        }
    }

    /// A count.
    pub fn count(n: usize) -> Self {
        i64::try_from(n).map_or(Value::Missing, Value::Int)
    }

    /// A float, or [`Value::Missing`] where there is none.
    pub fn maybe(value: Option<f64>) -> Self {
        value.map_or(Value::Missing, Value::Float)
    }

    /// A percentile of `n` observations, or [`Value::TooFew`] where they cannot hold it; missing where there is no observation.
    pub fn percentile(value: Option<f64>, percent: u32, n: usize) -> Self {
        match value {
            None if (1..needed_for(percent)).contains(&n) => {
                Value::TooFew { n, needed: needed_for(percent) }
            }
            value => Value::maybe(value),
        }
    }

    /// A share as percent, or [`Value::Missing`] where there is none.
    pub fn percent(share: Option<f64>) -> Self {
        Self::maybe(share.map(|share| 100.0 * share))
    }

    /// An estimate with its interval; without an interval a plain float, without an estimate missing.
    pub fn estimate(value: Option<f64>, low: Option<f64>, high: Option<f64>) -> Self {
        match (value, low, high) {
            (Some(value), Some(low), Some(high)) => Value::Interval { value, low, high },
            (value, _, _) => Value::maybe(value),
        }
    }
}

impl Column {
    /// Name with unit: `ttft_p99 (ms)`.
    pub(super) fn header(&self) -> String {
        if self.unit.is_empty() {
            self.name.clone()
        } else {
            format!("{} ({})", self.name, self.unit)
        }
    }
}

/// A column of words is flush left, a column with any number in it flush right.
pub(super) fn is_numeric(table: &Table, column: usize) -> bool {
    let mut values = table.rows.iter().filter_map(|row| row.get(column));
    values.any(|value| {
        !matches!(value, Value::Text(_) | Value::TooFew { .. } | Value::Missing | Value::Absent)
    })
}

fn text(table: &Table, color: bool) -> String {
    let mut grid = comfy_table::Table::new();
    grid.load_preset(comfy_table::presets::NOTHING);
    grid.set_style(comfy_table::TableComponent::HeaderLines, '─');
    grid.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    grid.set_header(table.columns.iter().map(Column::header));
    for row in &table.rows {
        grid.add_row(row.iter().map(Value::human));
    }
    for (index, column) in grid.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if is_numeric(table, index) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    let mut body: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
    // The rule would run on under the padding of the last column.
    let widest =
        body.iter().filter(|l| !l.starts_with('─')).map(|l| l.chars().count()).max().unwrap_or(0);
    for rule in body.iter_mut().filter(|line| line.starts_with('─')) {
        *rule = "─".repeat(widest);
    }
    let mut lines = Vec::with_capacity(body.len() + 1);
    if !table.title.is_empty() {
        lines.push(bold(&table.title, color));
    }
    lines.extend(body.iter().enumerate().map(|(n, line)| bold(line, color && n == 0)));
    lines.join("\n") + "\n"
}

fn bold(line: &str, color: bool) -> String {
    if color { format!("\u{1b}[1m{line}\u{1b}[0m") } else { line.to_owned() }
}

fn markdown(table: &Table) -> String {
    let mut out = String::new();
    if !table.title.is_empty() {
        out += &format!("**{}**\n\n", escape_markdown(&table.title));
    }
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    out += &line(table.columns.iter().map(|c| escape_markdown(&c.header())).collect());
    let rule = |index| if is_numeric(table, index) { "---:" } else { "---" };
    out += &line((0..table.columns.len()).map(|index| rule(index).to_owned()).collect());
    for row in &table.rows {
        out += &line(row.iter().map(|value| escape_markdown(&value.human())).collect());
    }
    out
}

/// Text that cannot break out of a Markdown table cell or start a tag.
pub(super) fn escape_markdown(text: &str) -> String {
    let one_line = text.replace("\r\n", " ").replace(['\n', '\r'], " ");
    one_line.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

/// One key of the machine formats and the number behind it.
pub(crate) fn flat(table: &Table) -> (Vec<String>, Vec<Vec<serde_json::Value>>) {
    let wide: Vec<bool> =
        (0..table.columns.len()).map(|index| has_interval(table, index)).collect();
    let mut keys = Vec::new();
    for (column, wide) in table.columns.iter().zip(&wide) {
        keys.push(column.name.clone());
        if *wide {
            keys.extend([format!("{}_ci_low", column.name), format!("{}_ci_high", column.name)]);
        }
    }
    let row_of = |row: &Vec<Value>| {
        row.iter().zip(&wide).flat_map(|(value, wide)| flat_value(value, *wide)).collect()
    };
    (keys, table.rows.iter().map(row_of).collect())
}

fn has_interval(table: &Table, column: usize) -> bool {
    table.rows.iter().any(|row| matches!(row.get(column), Some(Value::Interval { .. })))
}

/// A value as one JSON value, or as three in a column that holds intervals. A number that is not finite is unknown.
fn flat_value(value: &Value, wide: bool) -> Vec<serde_json::Value> {
    use serde_json::Value::Null;
    let mut flat = match value {
        Value::Text(text) => vec![text.as_str().into()],
        Value::Int(n) => vec![(*n).into()],
        Value::Float(x) => vec![(*x).into()],
        Value::Interval { value, low, high } => {
            vec![(*value).into(), (*low).into(), (*high).into()]
        }
        Value::TooFew { .. } | Value::Missing | Value::Absent => vec![Null],
    };
    if wide {
        flat.resize(3, Null);
    }
    flat
}

fn json(table: &Table) -> String {
    let (keys, rows) = flat(table);
    let object = |row: &Vec<serde_json::Value>| {
        let pairs = keys
            .iter()
            .zip(row)
            .map(|(key, value)| format!("{}: {value}", serde_json::Value::from(key.as_str())));
        format!("  {{{}}}", pairs.collect::<Vec<_>>().join(", "))
    };
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    format!("[\n{}\n]\n", rows.iter().map(object).collect::<Vec<_>>().join(",\n"))
}

fn csv_text(table: &Table) -> String {
    let (keys, rows) = flat(table);
    let field = |value: &serde_json::Value| match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => harmless(text),
        other => other.to_string(),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let records =
        std::iter::once(keys).chain(rows.iter().map(|row| row.iter().map(field).collect()));
    for record in records {
        writer
            .write_record(&record)
            .expect("records of a table are equally long and a Vec takes every write");
    }
    let bytes = writer.into_inner().expect("a Vec takes every write");
    String::from_utf8(bytes).expect("made of strings")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let columns =
            vec![Column::new("method", ""), Column::new("speedup", "x"), Column::new("n", "")];
        let mut table = Table::new("Decode", columns);
        let interval = Value::Interval { value: 1.923_45, low: 1.881, high: 1.97 };
        table.rows.push(vec![Value::Text("kivi-4|g32".into()), interval, Value::Int(12)]);
        table.rows.push(vec![Value::Text("a \"b\",\nc".into()), Value::Missing, Value::Int(0)]);
        table.rows.push(vec![Value::Text(String::new()), Value::Float(f64::NAN), Value::Missing]);
        table
    }

    #[test]
    fn text_is_aligned() {
        let mut table = sample();
        table.rows.truncate(1);
        table.rows.push(vec![Value::Text("fp16".into()), Value::Float(1.0), Value::Int(1234)]);
        let expected = "Decode\n\
                        method            speedup (x)     n\n\
                        ───────────────────────────────────\n\
                        kivi-4|g32  1.92 [1.88, 1.97]    12\n\
                        fp16                     1.00  1234\n";
        assert_eq!(render(&table, Format::Text, false), expected);
        assert!(
            render(&table, Format::Text, true)
                .starts_with("\u{1b}[1mDecode\u{1b}[0m\n\u{1b}[1mmethod")
        );
    }

    #[test]
    fn what_is_too_few_says_how_many_are_needed() {
        let too_few = Value::percentile(None, 99, 20);
        assert_eq!(too_few.human(), format!("n too small (20 of {})", needed_for(99)));
        let mut table = Table::new("", vec![Column::new("p99", "ms")]);
        table.rows.push(vec![too_few]);
        assert_eq!(render(&table, Format::Json, false), "[\n  {\"p99\": null}\n]\n");
        assert_eq!(Value::percentile(Some(1.5), 99, 400), Value::Float(1.5));
        assert_eq!(Value::percentile(None, 99, 0), Value::Missing);
    }

    #[test]
    fn markdown_cannot_be_broken_by_a_name() {
        let expected = "**Decode**\n\n\
                        | method | speedup (x) | n |\n\
                        | --- | ---: | ---: |\n\
                        | kivi-4\\|g32 | 1.92 [1.88, 1.97] | 12 |\n\
                        | a \"b\", c |  | 0 |\n\
                        |  |  |  |\n";
        assert_eq!(render(&sample(), Format::Md, true), expected);
    }

    #[test]
    fn json_is_unrounded_and_unknown_is_null() {
        let text = render(&sample(), Format::Json, false);
        let expected = "[\n  {\"method\": \"kivi-4|g32\", \"speedup\": 1.92345, \"speedup_ci_low\": 1.881, \"speedup_ci_high\": 1.97, \"n\": 12},\n  \
                        {\"method\": \"a \\\"b\\\",\\nc\", \"speedup\": null, \"speedup_ci_low\": null, \"speedup_ci_high\": null, \"n\": 0},\n  \
                        {\"method\": \"\", \"speedup\": null, \"speedup_ci_low\": null, \"speedup_ci_high\": null, \"n\": null}\n]\n";
        assert_eq!(text, expected);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed[1]["method"], "a \"b\",\nc");
        assert_eq!(render(&Table::new("", vec![]), Format::Json, false), "[]\n");
    }

    #[test]
    fn csv_quotes_what_needs_quotes() {
        let expected = "method,speedup,speedup_ci_low,speedup_ci_high,n\n\
                        kivi-4|g32,1.92345,1.881,1.97,12\n\
                        \"a \"\"b\"\",\nc\",,,,0\n\
                        ,,,,\n";
        assert_eq!(render(&sample(), Format::Csv, false), expected);
    }
}
