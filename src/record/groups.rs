//! Tables that are read in pieces: a table of millions of rows is never in memory as a whole.

use std::{fs::File, path::Path};

use anyhow::Context as _;
use polars::prelude::DataFrame;
use polars_io::{SerReader, prelude::ParquetReader};

use super::{RunDir, Table, columns, parquet::another};

impl RunDir {
    /// Hands some columns of a table, in this order, to `each`, a row group at a time and in the order of the file.
    ///
    /// # Errors
    /// I/O, another schema, or an error of `each`.
    pub fn each_group(
        &self,
        table: Table,
        columns: &[&str],
        each: &mut dyn FnMut(&DataFrame) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for path in self.files_of(table)? {
            each_group_of(&path, columns, each)
                .with_context(|| format!("{}: could not be read", path.display()))?;
        }
        Ok(())
    }
}

fn each_group_of(
    path: &Path,
    names: &[&str],
    each: &mut dyn FnMut(&DataFrame) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let file = File::open(path)?;
    let mut reader = ParquetReader::new(file.try_clone()?);
    let known = reader.schema()?;
    let missing: Vec<&str> = names.iter().copied().filter(|name| !known.contains(name)).collect();
    anyhow::ensure!(missing.is_empty(), another(path, &columns::without(&missing)));
    let metadata = reader.get_metadata()?.clone();
    let mut from = 0;
    for group in &metadata.row_groups {
        let rows = group.num_rows();
        let mut reader = ParquetReader::new(file.try_clone()?);
        reader.set_metadata(metadata.clone());
        let wanted = names.iter().map(|name| (*name).to_owned()).collect();
        let frame = reader.with_columns(Some(wanted)).with_slice(Some((from, rows))).finish()?;
        each(&frame.select(names.iter().copied())?)?;
        from += rows;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use polars_io::prelude::ParquetWriter;

    use super::*;
    use crate::record::{manifest::example, parquet::TableRow as _, rows::RequestRow};

    #[test]
    fn pieces_together_are_the_table() {
        let dir = tempfile::tempdir().unwrap();
        example("r", &[]).write(dir.path()).unwrap();
        let row = |n: i64| RequestRow {
            request_id: n,
            cell_id: format!("c{n}"),
            ..RequestRow::default()
        };
        let mut frame = RequestRow::frame(&(0..10).map(row).collect::<Vec<_>>()).unwrap();
        let file = File::create(dir.path().join("requests.parquet")).unwrap();
        ParquetWriter::new(file).with_row_group_size(Some(4)).finish(&mut frame).unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        let (mut heights, mut ids) = (Vec::new(), Vec::new());
        run.each_group(Table::Requests, &["request_id", "cell_id"], &mut |piece| {
            assert_eq!(piece.width(), 2);
            heights.push(piece.height());
            ids.extend(piece.column("request_id")?.i64()?.iter().flatten());
            Ok(())
        })
        .unwrap();
        assert_eq!(ids, (0..10).collect::<Vec<i64>>());
        assert!(heights.len() > 1, "{heights:?}");
        let error = run.each_group(Table::Requests, &["moons"], &mut |_| Ok(())).unwrap_err();
        assert!(format!("{error:#}").contains("`moons`"), "{error:#}");
    }
}
