//! What pages share: their looks, and tables as templates want them.

use serde::Serialize;

use super::table::{Table, Value, is_numeric};

/// How pages look.
pub(super) const STYLE: &str = include_str!("assets/style.css");

/// A table as the template wants it.
#[derive(Serialize)]
pub(super) struct Grid {
    title: String,
    columns: Vec<Head>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Serialize)]
struct Head {
    header: String,
    numeric: bool,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    numeric: bool,
    long: bool,
}

impl Grid {
    /// The same, its values in words.
    pub(super) fn new(table: &Table) -> Self {
        let numeric: Vec<bool> =
            (0..table.columns.len()).map(|index| is_numeric(table, index)).collect();
        let heads = table.columns.iter().zip(&numeric);
        let cell = |(value, numeric): (&Value, &bool)| {
            let text = value.human();
            Cell { numeric: *numeric, long: text.len() > 60, text }
        };
        Self {
            title: table.title.clone(),
            columns: heads
                .map(|(column, numeric)| Head { header: column.header(), numeric: *numeric })
                .collect(),
            rows: table
                .rows
                .iter()
                .map(|row| row.iter().zip(&numeric).map(cell).collect())
                .collect(),
        }
    }
}
