//! Tables as templates of pages want them.

use serde::Serialize;

use super::{
    shell::{Names, fair_share},
    table::{Column, Table, Value, is_numeric},
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
    class: &'static str,
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
    class: &'static str,
}

impl Grid {
    /// Every table of a page, its values in words. Rows that are too many for a page are left out, which the table says.
    pub(super) fn all(tables: &[Table], names: &Names) -> Vec<Self> {
        let (tables, notes): (Vec<Table>, Vec<Option<String>>) = tables.iter().map(filled).unzip();
        let wants: Vec<usize> =
            tables.iter().map(|table| table.rows.iter().map(|row| bytes(row)).sum()).collect();
        let share = fair_share(&wants, BYTES_MAX);
        let grid = |(table, note): (&Table, Option<String>)| {
            let whole = Self { note, ..Self::owned(table, &owners(table, names)) };
            whole.cut(table, share)
        };
        tables.iter().zip(notes).map(grid).collect()
    }

    /// One table whose rows are of these names.
    pub(super) fn owned(table: &Table, owners: &[Option<usize>]) -> Self {
        let own = own_column(table);
        let class = |at: usize| match is_numeric(table, at) {
            _ if Some(at) == own => "own",
            true => "num",
            false => "",
        };
        let classes: Vec<&'static str> = (0..table.columns.len()).map(class).collect();
        let cell = |(value, class): (&Value, &&'static str)| {
            let text = value.human();
            Cell { class: if class.is_empty() && text.len() > 60 { "long" } else { class }, text }
        };
        let row = |(values, owner): (&Vec<Value>, &Option<usize>)| Row {
            owner: *owner,
            cells: values.iter().zip(&classes).map(cell).collect(),
        };
        let heads = table.columns.iter().zip(&classes);
        Self {
            title: table.title.clone(),
            columns: heads.map(|(column, class)| Head { header: column.header(), class }).collect(),
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
            let left_out = format!(
                "The first {kept} of {all} rows: all of them would make this page too large. report.md beside it has every row."
            );
            self.note =
                Some(self.note.map_or(left_out.clone(), |note| format!("{left_out} {note}")));
        }
        self
    }
}

/// The column that names whose a row is.
fn own_column(table: &Table) -> Option<usize> {
    let names = |column: &Column| WHOSE.contains(&column.name.as_str()) || column.name == "series";
    table.columns.iter().position(names)
}

/// The table without columns in which nothing is known, and which those are.
fn filled(table: &Table) -> (Table, Option<String>) {
    let known = |at: usize| table.rows.iter().any(|row| row.get(at) != Some(&Value::Missing));
    let (kept, empty): (Vec<usize>, Vec<usize>) =
        (0..table.columns.len()).partition(|at| known(*at));
    let row = |row: &Vec<Value>| kept.iter().filter_map(|at| row.get(*at).cloned()).collect();
    let filled = Table {
        title: table.title.clone(),
        columns: kept.iter().map(|at| table.columns[*at].clone()).collect(),
        rows: table.rows.iter().map(row).collect(),
    };
    let names: Vec<&str> = empty.iter().map(|at| table.columns[*at].name.as_str()).collect();
    let note = format!("Nothing is known for {}: not shown.", names.join(", "));
    (filled, (!names.is_empty()).then_some(note))
}

fn bytes(row: &[Value]) -> usize {
    row.iter().map(|value| value.human().len() + CELL_BYTES).sum()
}

/// Whose each row is: the first cell that begins with a known name in a column made for names, or has it in the path of a cell.
fn owners(table: &Table, names: &Names) -> Vec<Option<usize>> {
    let of = |column: &Column, value: &Value| match value {
        Value::Text(text) if WHOSE.contains(&column.name.as_str()) => names.leading(text),
        // `scenario/target/method/workload/load/repeat`
        Value::Text(path) if column.name == "cell" => names.exactly(path.split('/').nth(2)?),
        _ => None,
    };
    let owner = |row: &Vec<Value>| {
        table.columns.iter().zip(row).find_map(|(column, value)| of(column, value))
    };
    table.rows.iter().map(owner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut control = table(1);
        control.rows[0][1] = Value::Text("fp16, other repeats".to_owned());
        assert_eq!(owners(&control, &names), [Some(0)]);
        let mut cells = Table::new("t", vec![Column::new("cell", ""), Column::new("verdict", "")]);
        for path in ["int8/fp16/int8/w/l/r0", "int8"] {
            cells.rows.push(vec![Value::Text(path.to_owned()), Value::Text("fp16".into())]);
        }
        assert_eq!(owners(&cells, &names), [Some(1), None]);
    }

    #[test]
    fn a_column_in_which_nothing_is_known_is_named_and_not_shown() {
        let mut one = table(3);
        one.columns.push(Column::new("bound", ""));
        one.rows.iter_mut().for_each(|row| row.push(Value::Missing));
        let names = Names::new("method", vec!["fp16".into()]);
        let grid = Grid::all(&[one.clone()], &names).remove(0);
        assert_eq!(grid.columns.len(), 3);
        assert_eq!(grid.note.as_deref(), Some("Nothing is known for bound: not shown."));
        one.rows[1][3] = Value::Float(1.0);
        assert_eq!(Grid::all(&[one], &names).remove(0).columns.len(), 4);
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
