//! How the columns of a file differ from those of its table, in words: the few that do, not all with their types.

use polars::prelude::Schema;

/// Columns that are named in an error.
const NAMED_MAX: usize = 4;

fn listed<T: std::fmt::Display>(names: &[T]) -> String {
    let named: Vec<String> = names.iter().take(NAMED_MAX).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &more
}

/// Says which columns a file lacks.
pub(super) fn without<T: std::fmt::Display>(names: &[T]) -> String {
    format!("without {}", listed(names))
}

/// How the columns of a file differ from those of its table, in words that follow "got a file".
pub(super) fn difference(got: &Schema, expected: &Schema) -> String {
    let only = |these: &Schema, others: &Schema| -> Vec<String> {
        these.iter_names().filter(|name| !others.contains(name)).map(ToString::to_string).collect()
    };
    let (missing, unknown) = (only(expected, got), only(got, expected));
    let others: Vec<String> = expected
        .iter()
        .filter_map(|(name, kind)| {
            got.get(name).filter(|own| *own != kind).map(|own| (name, kind, own))
        })
        .map(|(name, kind, own)| format!("`{name}` as {own} and not {kind}"))
        .collect();
    let mut said = Vec::new();
    if !missing.is_empty() {
        said.push(without(&missing));
    }
    if !unknown.is_empty() {
        said.push(format!("with {}, which it does not know", listed(&unknown)));
    }
    if let Some(first) = others.first() {
        let more = others.len() - 1;
        said.push(if more > 0 {
            format!("with {first}, and {more} more")
        } else {
            format!("with {first}")
        });
    }
    if said.is_empty() {
        said.push("with the same in another order".to_owned());
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use polars::prelude::{Column, DataFrame, DataType};

    use super::super::{
        TelemetryRow,
        parquet::{Table, TableRow as _, check_columns, read_columns, to_bytes},
    };

    /// One sentence, not all columns with their types.
    #[test]
    fn other_columns_are_named() {
        let whole = TelemetryRow::frame(&[TelemetryRow::default()]).unwrap();
        let said = |frame: &DataFrame| {
            let error = check_columns(frame, Table::Telemetry, Path::new("t.parquet")).unwrap_err();
            error.to_string()
        };
        let mut frame = whole.drop("temp_c").unwrap();
        frame.with_column(Column::full_null("t_ns".into(), 1, &DataType::String)).unwrap();
        frame.with_column(Column::full_null("moons".into(), 1, &DataType::Int64)).unwrap();
        assert!(said(&frame).ends_with(
            "got a file without `temp_c`, with `moons`, which it does not know, with `t_ns` as str and not i64\n  hint: read this run with the kvbench that wrote it"
        ), "{}", said(&frame));
        let turned = whole.select(TelemetryRow::COLUMNS.iter().rev().copied()).unwrap();
        assert!(said(&turned).contains("got a file with the same in another order"));
        let none = whole.select(["t_ns"]).unwrap();
        assert!(said(&none).contains("`energy_j` and 8 more\n"), "{}", said(&none));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        std::fs::write(&path, to_bytes(&mut frame).unwrap()).unwrap();
        let error = read_columns(&path, &["t_ns", "temp_c"]).unwrap_err().to_string();
        assert!(error.contains("got a file without `temp_c`\n  hint:"), "{error}");
        assert_eq!(read_columns(&path, &["device", "t_ns"]).unwrap().width(), 2);
    }
}
