//! Readers of trace files: Mooncake's JSON lines, and CSV tables whose columns are found by their names.

use std::{io::BufRead, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    scenario::TraceFormat,
    workload::{
        DatasetReport,
        dataset::{
            Found, kind, read_with,
            rows::{LineRows, Raw},
        },
    },
};

/// Tokens of a Mooncake block; each has one hash id, the last block of a prompt may be shorter.
pub const BLOCK_TOKENS: u32 = 512;

/// Longest prompt or answer, as in a scenario.
const TOKENS_MAX: u64 = 1 << 20;

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRow {
    /// Line on which it stands, from 1.
    pub line: u64,
    /// When it came, from the earliest of the file; `None` in files without times.
    pub at_ns: Option<i64>,
    /// Length of the prompt.
    pub prompt_tokens: u32,
    /// Length of the answer.
    pub answer_tokens: u32,
    /// Ids of the prompt's blocks, where the file tells which prompts begin alike; else empty.
    pub blocks: Vec<u64>,
}

/// Reads a whole file: rows in order of their times, those without times in order of the file.
///
/// # Errors
/// The file cannot be read, lacks a column, or holds no usable row.
pub fn read(path: &Path, format: TraceFormat) -> anyhow::Result<(Vec<TraceRow>, DatasetReport)> {
    let (mut rows, report) = read_with(path, |reader| found(reader, format))?;
    if let Some(first_ns) = rows.iter().filter_map(|row| row.at_ns).min() {
        for row in &mut rows {
            row.at_ns = row.at_ns.map(|at_ns| at_ns - first_ns);
        }
    }
    // Stable, so rows of one moment keep their order.
    rows.sort_by_key(|row| row.at_ns);
    Ok((rows, report))
}

pub(super) fn found<R: BufRead + ?Sized>(
    reader: &mut R,
    format: TraceFormat,
) -> anyhow::Result<Found<TraceRow>> {
    let mut lines = LineRows::new(reader);
    let mut found = Found::default();
    if format == TraceFormat::Mooncake {
        while let Some(raw) = lines.next()? {
            found.push(raw.line, raw.json().and_then(|value| mooncake(raw.line, &value)));
        }
        return Ok(found);
    }
    let Some(header) = lines.next()? else { bail!("expected a line of column names, got none") };
    let table = Columns::of(format).find(&header)?;
    while let Some(raw) = lines.next()? {
        found.push(raw.line, table.row(&raw));
    }
    Ok(found)
}

fn mooncake(line: u64, row: &Value) -> Result<TraceRow, String> {
    let number = |key: &str| match row.get(key) {
        Some(Value::Number(number)) => Ok(number),
        Some(other) => Err(format!("expected `{key}` to be a number, got {}", kind(other))),
        None => Err(format!("expected the key `{key}`, got none")),
    };
    let tokens = |key: &str| length(key, &number(key)?.to_string());
    let prompt_tokens = tokens("input_length")?;
    let row = TraceRow {
        line,
        at_ns: Some(ns("timestamp", &number("timestamp")?.to_string(), 1e6)?),
        prompt_tokens,
        answer_tokens: tokens("output_length")?,
        blocks: blocks(row)?,
    };
    let wanted = prompt_tokens.div_ceil(BLOCK_TOKENS) as usize;
    if row.blocks.is_empty() || row.blocks.len() == wanted {
        return Ok(row);
    }
    Err(format!(
        "expected {wanted} hash_ids for {prompt_tokens} tokens ({BLOCK_TOKENS} a block), got {}",
        row.blocks.len()
    ))
}

fn blocks(row: &Value) -> Result<Vec<u64>, String> {
    match row.get("hash_ids") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids
            .iter()
            .map(|id| {
                id.as_u64()
                    .ok_or_else(|| format!("expected hash_ids to be whole numbers, got {id}"))
            })
            .collect(),
        Some(other) => Err(format!("expected `hash_ids` to be an array, got {}", kind(other))),
    }
}

/// Names of the columns that are read, and how a time is written.
struct Columns {
    at: Option<(&'static str, Parse)>,
    prompt: &'static str,
    answer: &'static str,
}

type Parse = fn(&str, &str) -> Result<i64, String>;

impl Columns {
    fn of(format: TraceFormat) -> Self {
        match format {
            // Mooncake is read as JSON; its table would have these.
            TraceFormat::Mooncake => Self {
                at: Some(("timestamp", |key, text| ns(key, text, 1e6))),
                prompt: "input_length",
                answer: "output_length",
            },
            TraceFormat::Azure => Self {
                at: Some(("TIMESTAMP", date)),
                prompt: "ContextTokens",
                answer: "GeneratedTokens",
            },
            TraceFormat::Burstgpt => Self {
                at: Some(("Timestamp", |key, text| ns(key, text, 1e9))),
                prompt: "Request tokens",
                answer: "Response tokens",
            },
            TraceFormat::Lengths => {
                Self { at: None, prompt: "num_prefill_tokens", answer: "num_decode_tokens" }
            }
        }
    }

    /// Where the columns stand in this file.
    fn find(self, header: &Raw) -> anyhow::Result<Table> {
        let text = header.text().map_err(anyhow::Error::msg)?;
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        let place = |name: &str| {
            names.iter().position(|known| *known == name).with_context(|| {
                let shown: String = text.chars().take(120).collect();
                format!("line {}: expected a column `{name}`, got `{shown}`\n  hint: is this the right trace format?", header.line)
            })
        };
        let at = self.at.map(|(name, _)| place(name)).transpose()?;
        let places = (at, place(self.prompt)?, place(self.answer)?);
        Ok(Table { columns: self, places })
    }
}

/// A CSV file without quotes: a stray quote must not swallow the lines after it.
struct Table {
    columns: Columns,
    /// Time, prompt, answer.
    places: (Option<usize>, usize, usize),
}

impl Table {
    fn row(&self, raw: &Raw) -> Result<TraceRow, String> {
        let cells: Vec<&str> = raw.text()?.split(',').map(str::trim).collect();
        let cell = |name: &str, place: usize| {
            let found = cells.get(place).copied();
            found.ok_or_else(|| {
                format!("expected `{name}` in column {}, got {} columns", place + 1, cells.len())
            })
        };
        let (at, prompt, answer) = self.places;
        let at_ns = match (self.columns.at, at) {
            (Some((name, parse)), Some(place)) => Some(parse(name, cell(name, place)?)?),
            _ => None,
        };
        let tokens = |name: &str, place: usize| length(name, cell(name, place)?);
        Ok(TraceRow {
            line: raw.line,
            at_ns,
            prompt_tokens: tokens(self.columns.prompt, prompt)?,
            answer_tokens: tokens(self.columns.answer, answer)?,
            blocks: Vec::new(),
        })
    }
}

/// A length that can be sent: an answer of no token is a request that failed when the trace was taken.
fn length(name: &str, text: &str) -> Result<u32, String> {
    let number: Option<u64> = text.parse().ok();
    let tokens =
        number.filter(|n| (1..=TOKENS_MAX).contains(n)).and_then(|n| u32::try_from(n).ok());
    tokens.ok_or_else(|| {
        format!(
            "expected `{name}` to be a whole number from 1 to {TOKENS_MAX}, got `{}`",
            short(text)
        )
    })
}

/// A number of `unit_ns`; whole numbers exactly.
fn ns(name: &str, text: &str, unit_ns: f64) -> Result<i64, String> {
    let whole = text.parse::<i64>().ok().and_then(|n| n.checked_mul(unit_ns as i64));
    let fraction = text.parse::<f64>().ok().map(|n| n * unit_ns);
    // Half of the range of i64, so that differences of two fit as well.
    let sane = fraction.filter(|ns| ns.abs() < 4.6e18).map(|ns| ns.round() as i64);
    let found = whole.filter(|ns| ns.unsigned_abs() < 1 << 62).or(sane);
    found.ok_or_else(|| format!("expected `{name}` to be a time, got `{}`", short(text)))
}

/// `2023-11-16 18:17:03.9799600`, UTC where it names no offset.
fn date(name: &str, text: &str) -> Result<i64, String> {
    let stamp = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        jiff::tz::Offset::UTC.to_timestamp(civil).ok()
    });
    let ns = stamp.and_then(|stamp| i64::try_from(stamp.as_nanosecond()).ok());
    ns.filter(|ns| ns.unsigned_abs() < 1 << 62).ok_or_else(|| {
        format!("expected `{name}` to be like 2023-11-16 18:17:03.97996, got `{}`", short(text))
    })
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
