//! A table without a format.

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
    /// Unknown: empty in text, `null` in JSON. Never zero.
    Missing,
}

impl Table {
    /// An empty table.
    pub fn new(title: &str, columns: Vec<Column>) -> Self {
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }
}
