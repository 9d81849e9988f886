//! Tables as templates of pages want them.

use serde::Serialize;

use super::{
    shell::{Names, fair_share},
    table::{Table, Value, is_numeric},
};

/// Bytes of rows that all tables of a page may have together: a page stays under 3 MB (held by a test).
const BYTES_MAX: usize = 900_000;
/// Bytes of markup around a cell.
const CELL_BYTES: usize = 24;
/// Columns that say whose a row is.
const WHOSE: [&str; 3] = ["method", "policy", "set"];

/// A table as the template wants it.
#[derive(Serialize)]
pub(super) struct Grid {
    title: String,
    columns: Vec<Head>,
    rows: Vec<Row>,
    /// What is not in the page, if anything.
    note: Option<String>,
}

#[derive(Serialize)]
struct Head {
    header: String,
    numeric: bool,
}

#[derive(Serialize)]
struct Row {
    /// Of which name the row is.
    owner: Option<usize>,
    cells: Vec<Cell>,
}

#[derive(Serialize)]
struct Cell {
    text: String,
    numeric: bool,
    long: bool,
}

impl Grid {
    /// Every table of a page, its values in words. Rows that are too many for a page are left out, which the table says.
    pub(super) fn all(tables: &[Table], names: &Names) -> Vec<Self> {
        let wants: Vec<usize> =
            tables.iter().map(|table| table.rows.iter().map(|row| bytes(row)).sum()).collect();
        let share = fair_share(&wants, BYTES_MAX);
        tables
            .iter()
            .map(|table| Self::owned(table, &owners(table, names)).cut(table, share))
            .collect()
    }

    /// One table whose rows are of these names.
    pub(super) fn owned(table: &Table, owners: &[Option<usize>]) -> Self {
        let numeric: Vec<bool> =
            (0..table.columns.len()).map(|index| is_numeric(table, index)).collect();
        let heads = table.columns.iter().zip(&numeric);
        let cell = |(value, numeric): (&Value, &bool)| {
            let text = value.human();
            Cell { numeric: *numeric, long: text.len() > 60, text }
        };
        let row = |(values, owner): (&Vec<Value>, &Option<usize>)| Row {
            owner: *owner,
            cells: values.iter().zip(&numeric).map(cell).collect(),
        };
        Self {
            title: table.title.clone(),
            columns: heads
                .map(|(column, numeric)| Head { header: column.header(), numeric: *numeric })
                .collect(),
            rows: table.rows.iter().zip(owners).map(row).collect(),
            note: None,
        }
    }

    /// The first rows, as many as fit.
    fn cut(mut self, table: &Table, share: usize) -> Self {
        let mut used = 0_usize;
        let fits = |row: &&Vec<Value>| {
            used = used.saturating_add(bytes(row));
            used <= share
        };
        let (kept, all) = (table.rows.iter().take_while(fits).count(), self.rows.len());
        if kept < all {
            self.rows.truncate(kept);
            self.note = Some(format!(
                "The first {kept} of {all} rows: all of them would make this page too large. report.md beside it has every row."
            ));
        }
        self
    }
}

fn bytes(row: &[Value]) -> usize {
    row.iter().map(|value| value.human().len() + CELL_BYTES).sum()
}

/// Whose each row is: the first cell that holds a known name in a column made for names.
fn owners(table: &Table, names: &Names) -> Vec<Option<usize>> {
    let is_whose = |name: &str| WHOSE.contains(&name);
    let columns: Vec<usize> =
        (0..table.columns.len()).filter(|at| is_whose(&table.columns[*at].name)).collect();
    let name = |value: Option<&Value>| match value {
        Some(Value::Text(text)) => names.exactly(text),
        _ => None,
    };
    let owner = |row: &Vec<Value>| columns.iter().find_map(|at| name(row.get(*at)));
    table.rows.iter().map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::Column;

    fn table(rows: usize) -> Table {
        let columns = ["load", "method", "error"].map(|name| Column::new(name, ""));
        let mut table = Table::new("t", columns.to_vec());
        let text = |text: &str| Value::Text(text.to_owned());
        for n in 0..rows {
            table.rows.push(vec![text("int8"), text(["fp16", "int8", "x"][n % 3]), text("late")]);
        }
        table
    }

    #[test]
    fn a_row_is_of_the_name_in_its_column() {
        let names = Names::new("method", vec!["fp16".into(), "int8".into()]);
        assert_eq!(owners(&table(3), &names), [Some(0), Some(1), None]);
    }

    #[test]
    fn rows_that_are_too_many_are_left_out_and_said() {
        let names = Names::new("method", vec!["fp16".into()]);
        let tables = [table(30_000), table(4)];
        let grids = Grid::all(&tables, &names);
        let note = grids[0].note.as_deref().unwrap();
        let kept = grids[0].rows.len();
        assert!(kept > 5_000 && kept < 30_000, "{kept}");
        assert!(note.starts_with(&format!("The first {kept} of 30000 rows")), "{note}");
        assert_eq!((grids[1].rows.len(), grids[1].note.is_none()), (4, true));
    }
}
