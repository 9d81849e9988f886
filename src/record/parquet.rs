//! Rows to Parquet and back, through polars. The order of a struct's fields is the order of its columns.

use std::{fs::File, path::Path};

use anyhow::{Context as _, ensure};
use polars::prelude::{
    BooleanChunked, Column, DataFrame, DataType, Float64Chunked, Int64Chunked, IntoColumn,
    ListBuilderTrait, ListPrimitiveChunkedBuilder, NewChunkedArray, PlSmallStr, StringChunked,
};
use polars_io::{
    SerReader,
    prelude::{ParquetCompression, ParquetReader, ParquetWriter},
};

use super::{
    columns,
    disk::{Files, RealFiles, write_aside},
    rows::{EngineMetricRow, KernelRow, RequestRow, TelemetryRow},
};

/// The tables of a run that hold raw rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `requests.parquet`.
    Requests,
    /// `kernels.parquet`.
    Kernels,
    /// `telemetry.parquet`.
    Telemetry,
    /// `engine_metrics.parquet`.
    EngineMetrics,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 4] =
        [Table::Requests, Table::Kernels, Table::Telemetry, Table::EngineMetrics];

    /// Stem of its file.
    pub fn name(self) -> &'static str {
        match self {
            Table::Requests => RequestRow::NAME,
            Table::Kernels => KernelRow::NAME,
            Table::Telemetry => TelemetryRow::NAME,
            Table::EngineMetrics => EngineMetricRow::NAME,
        }
    }

    /// No rows, all columns.
    ///
    /// # Errors
    /// None in practice: polars refuses duplicate column names.
    pub fn empty(self) -> anyhow::Result<DataFrame> {
        match self {
            Table::Requests => RequestRow::frame(&[]),
            Table::Kernels => KernelRow::frame(&[]),
            Table::Telemetry => TelemetryRow::frame(&[]),
            Table::EngineMetrics => EngineMetricRow::frame(&[]),
        }
    }
}

/// A struct that is one row of a table.
pub trait TableRow: Sized {
    /// Stem of the table's file.
    const NAME: &'static str;
    /// Names of the columns, in order.
    const COLUMNS: &'static [&'static str];
    /// Rows to a data frame.
    ///
    /// # Errors
    /// Polars refuses the columns.
    fn frame(rows: &[Self]) -> anyhow::Result<DataFrame>;
    /// A data frame to rows.
    ///
    /// # Errors
    /// A column is missing, has another type, or holds a null where the row knows none.
    fn rows(frame: &DataFrame) -> anyhow::Result<Vec<Self>>;
}

/// A field that can be a column.
pub(crate) trait Field: Sized {
    fn column(name: &str, values: impl Iterator<Item = Self>) -> Column;
    fn values(column: &Column) -> anyhow::Result<Vec<Self>>;
}

fn required<T>(column: &Column, value: Option<T>) -> anyhow::Result<T> {
    value.with_context(|| {
        format!("column `{}`: expected a value in every row, got a null", column.name())
    })
}

/// `Option<$type>` is a nullable column, `$type` one without nulls.
macro_rules! nullable_field {
    ($type:ty, $array:ty, $getter:ident, $own:expr) => {
        impl Field for Option<$type> {
            fn column(name: &str, values: impl Iterator<Item = Self>) -> Column {
                <$array>::from_iter_options(name.into(), values).into_column()
            }

            fn values(column: &Column) -> anyhow::Result<Vec<Self>> {
                Ok(column.$getter()?.iter().map(|value| value.map($own)).collect())
            }
        }

        impl Field for $type {
            fn column(name: &str, values: impl Iterator<Item = Self>) -> Column {
                <$array>::from_iter_values(name.into(), values).into_column()
            }

            fn values(column: &Column) -> anyhow::Result<Vec<Self>> {
                column
                    .$getter()?
                    .iter()
                    .map(|value| Ok(required(column, value)?).map($own))
                    .collect()
            }
        }
    };
}

nullable_field!(i64, Int64Chunked, i64, |value| value);
nullable_field!(bool, BooleanChunked, bool, |value| value);
nullable_field!(f64, Float64Chunked, f64, |value| value);
nullable_field!(String, StringChunked, str, str::to_owned);

impl Field for u64 {
    fn column(name: &str, values: impl Iterator<Item = Self>) -> Column {
        // Counts of rows: they cannot reach 2^63, and one integer type keeps the tables simple for other tools.
        i64::column(name, values.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn values(column: &Column) -> anyhow::Result<Vec<Self>> {
        let one = |value| {
            u64::try_from(value)
                .with_context(|| format!("column `{}`: negative count", column.name()))
        };
        i64::values(column)?.into_iter().map(one).collect()
    }
}

impl Field for Vec<i64> {
    fn column(name: &str, values: impl Iterator<Item = Self>) -> Column {
        let name = PlSmallStr::from_str(name);
        let mut lists = ListPrimitiveChunkedBuilder::<polars::prelude::Int64Type>::new(
            name,
            0,
            0,
            DataType::Int64,
        );
        values.for_each(|list| lists.append_slice(&list));
        lists.finish().into_column()
    }

    fn values(column: &Column) -> anyhow::Result<Vec<Self>> {
        let one = |list: Option<polars::prelude::Series>| -> anyhow::Result<Vec<i64>> {
            let list = required(column, list)?;
            list.i64()?.iter().map(|value| required(column, value)).collect()
        };
        column.list()?.series_iter().map(one).collect()
    }
}

/// Implements [`TableRow`] for a struct whose fields are all [`Field`]s. A field left out does not compile.
macro_rules! table_row {
    ($row:ident, $name:literal, $($field:ident),+ $(,)?) => {
        impl $crate::record::parquet::TableRow for $row {
            const NAME: &'static str = $name;
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),+];

            fn frame(rows: &[Self]) -> anyhow::Result<polars::prelude::DataFrame> {
                let columns = vec![$(
                    $crate::record::parquet::Field::column(stringify!($field), rows.iter().map(|row| row.$field.clone()))
                ),+];
                Ok(polars::prelude::DataFrame::new(rows.len(), columns)?)
            }

            fn rows(frame: &polars::prelude::DataFrame) -> anyhow::Result<Vec<Self>> {
                $(let mut $field = $crate::record::parquet::Field::values(frame.column(stringify!($field))?)?.into_iter();)+
                let columns_end = "every column of a frame is as long as the frame";
                Ok((0..frame.height())
                    .map(|_| $row { $($field: $field.next().expect(columns_end)),+ })
                    .collect())
            }
        }
    };
}
pub(crate) use table_row;

table_row!(
    RequestRow,
    "requests",
    run_id,
    cell_id,
    target,
    method,
    workload,
    load,
    repeat,
    request_id,
    sample_id,
    turn,
    warmup,
    due_ns,
    sent_ns,
    connect_ns,
    first_token_ns,
    last_token_ns,
    done_ns,
    chunk_ns,
    chunk_tokens,
    prompt_tokens,
    prompt_tokens_local,
    output_tokens,
    token_source,
    cached_tokens,
    max_tokens,
    finish_reason,
    http_status,
    err,
    attempt,
    output_text,
    prompt_sha256,
    forced_at,
    stop_logprob,
    logprob_floor,
);

table_row!(
    KernelRow,
    "kernels",
    run_id,
    cell_id,
    target,
    method,
    workload,
    load,
    repeat,
    device,
    backend,
    op,
    model_shape,
    batch,
    q_len,
    kv_len,
    kv_tokens,
    heads_q,
    heads_kv,
    head_dim,
    tensor_parallel,
    dtype,
    sample,
    t_ns,
    duration_ns,
    thread_cpu_ns,
    bytes_moved,
    flops,
    max_rel_err,
    verified,
    launches,
    timer,
    lane_instructions,
    n_sm,
    sm_clock_max_mhz,
    sm_clock_mhz,
    power_w,
    n_discarded,
    err,
);

table_row!(
    TelemetryRow,
    "telemetry",
    run_id,
    t_ns,
    device,
    power_w,
    energy_j,
    sm_util_pct,
    mem_util_pct,
    mem_used_bytes,
    sm_clock_mhz,
    temp_c,
    throttle,
    host_cpu_pct,
    source,
);

table_row!(
    EngineMetricRow,
    "engine_metrics",
    run_id,
    cell_id,
    t_ns,
    name,
    labels,
    source,
    value,
    scrape_ns,
);

/// A data frame as the bytes of a zstd-compressed Parquet file.
pub(crate) fn to_bytes(frame: &mut DataFrame) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .finish(frame)?;
    Ok(bytes)
}

/// Reads a Parquet file.
///
/// # Errors
/// I/O, or not Parquet.
pub fn read_frame(path: &Path) -> anyhow::Result<DataFrame> {
    let file =
        File::open(path).with_context(|| format!("{}: could not be opened", path.display()))?;
    ParquetReader::new(file)
        .finish()
        .with_context(|| format!("{}: expected a Parquet file written by kvbench", path.display()))
}

/// Reads some columns of a Parquet file, in this order.
///
/// # Errors
/// I/O, not Parquet, or a column that is not there.
pub fn read_columns(path: &Path, columns: &[&str]) -> anyhow::Result<DataFrame> {
    let file =
        File::open(path).with_context(|| format!("{}: could not be opened", path.display()))?;
    let named = columns.iter().map(|name| (*name).to_owned()).collect();
    let mut reader = ParquetReader::new(file);
    let known = reader.schema().with_context(|| {
        format!("{}: expected a Parquet file written by kvbench", path.display())
    })?;
    let missing: Vec<&str> = columns.iter().copied().filter(|name| !known.contains(name)).collect();
    ensure!(missing.is_empty(), another(path, &columns::without(&missing)));
    let frame = reader.with_columns(Some(named)).finish()?;
    Ok(frame.select(columns.iter().copied())?)
}

/// Writes rows to `dir/<table>.parquet`, aside and renamed; for tables that are made from rows, such as the summary.
///
/// # Errors
/// I/O, with the path.
pub fn write_rows<R: TableRow>(dir: &Path, rows: &[R]) -> anyhow::Result<()> {
    let files: &dyn Files = &RealFiles;
    write_aside(files, &dir.join(format!("{}.parquet", R::NAME)), &to_bytes(&mut R::frame(rows)?)?)
}

/// Reads the rows of `dir/<table>.parquet`.
///
/// # Errors
/// I/O, or another schema.
pub fn read_rows<R: TableRow>(dir: &Path) -> anyhow::Result<Vec<R>> {
    let path = dir.join(format!("{}.parquet", R::NAME));
    R::rows(&read_frame(&path)?).with_context(|| format!("{}: another schema", path.display()))
}

/// The error of a file with other columns.
pub(super) fn another(path: &Path, difference: &str) -> String {
    format!(
        "{}: expected the columns of schema version {}, got a file {difference}\n  hint: read this run with the kvbench that wrote it",
        path.display(),
        super::SCHEMA_VERSION,
    )
}

/// Refuses a frame whose columns are not those of its table.
pub(crate) fn check_columns(frame: &DataFrame, table: Table, path: &Path) -> anyhow::Result<()> {
    let (got, expected) = (frame.schema().clone(), table.empty()?.schema().clone());
    ensure!(got == expected, another(path, &columns::difference(&got, &expected)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        ".{0,12}"
    }

    fn requests() -> impl Strategy<Value = RequestRow> {
        let ids = (text(), text(), any::<i64>(), option::of(any::<i64>()));
        let lists = (vec(any::<i64>(), 0..5), vec(any::<i64>(), 0..5));
        let rest = (option::of(text()), option::of(any::<i64>()), text());
        (ids, lists, rest).prop_map(|(ids, lists, rest)| RequestRow {
            run_id: ids.0,
            cell_id: ids.1,
            request_id: ids.2,
            sent_ns: ids.3,
            chunk_ns: lists.0,
            chunk_tokens: lists.1,
            err: rest.0,
            output_tokens: rest.1,
            output_text: rest.2,
            ..RequestRow::default()
        })
    }

    fn kernels() -> impl Strategy<Value = KernelRow> {
        let measured = (option::of(any::<i64>()), option::of(-1e300..1e300), any::<bool>());
        (text(), any::<i64>(), measured).prop_map(
            |(cell_id, batch, (duration_ns, max_rel_err, verified))| KernelRow {
                cell_id,
                batch,
                duration_ns,
                max_rel_err,
                verified,
                ..KernelRow::default()
            },
        )
    }

    fn telemetry() -> impl Strategy<Value = TelemetryRow> {
        (any::<i64>(), option::of(0.0..1e3), option::of(text())).prop_map(
            |(t_ns, power_w, throttle)| TelemetryRow {
                t_ns,
                power_w,
                throttle,
                ..TelemetryRow::default()
            },
        )
    }

    fn from_bytes(bytes: Vec<u8>) -> anyhow::Result<DataFrame> {
        Ok(ParquetReader::new(Cursor::new(bytes)).finish()?)
    }

    fn through_parquet<R: TableRow>(rows: &[R]) -> Vec<R> {
        let bytes = to_bytes(&mut R::frame(rows).unwrap()).unwrap();
        R::rows(&from_bytes(bytes).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn requests_survive(rows in vec(requests(), 0..6)) {
            prop_assert_eq!(through_parquet(&rows), rows);
        }

        #[test]
        fn kernel_rows_survive(rows in vec(kernels(), 0..6)) {
            prop_assert_eq!(through_parquet(&rows), rows);
        }

        #[test]
        fn telemetry_survives(rows in vec(telemetry(), 0..6)) {
            prop_assert_eq!(through_parquet(&rows), rows);
        }
    }

    #[test]
    fn columns_are_those_other_tools_rely_on() {
        let names = |table: Table| -> Vec<String> {
            table
                .empty()
                .unwrap()
                .get_column_names_owned()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(names(Table::Requests), RequestRow::COLUMNS);
        assert_eq!(names(Table::Kernels), KernelRow::COLUMNS);
        assert_eq!(names(Table::Telemetry), TelemetryRow::COLUMNS);
        let metrics =
            ["run_id", "cell_id", "t_ns", "name", "labels", "source", "value", "scrape_ns"];
        assert_eq!(names(Table::EngineMetrics), metrics);
        let lists = Table::Requests.empty().unwrap();
        let list = DataType::List(Box::new(DataType::Int64));
        assert_eq!(lists.column("chunk_ns").unwrap().dtype(), &list);
        assert_eq!(lists.column("sent_ns").unwrap().dtype(), &DataType::Int64);
    }

    #[test]
    fn a_null_where_none_is_known_is_an_error() {
        let mut frame = TelemetryRow::frame(&[TelemetryRow::default()]).unwrap();
        frame.with_column(Column::full_null("t_ns".into(), 1, &DataType::Int64)).unwrap();
        let err = TelemetryRow::rows(&frame).unwrap_err().to_string();
        assert!(err.contains("column `t_ns`: expected a value in every row, got a null"), "{err}");
    }
}
