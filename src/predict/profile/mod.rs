//! Profiles in the format of Vidur (MLSys'24): medians of single operations of one layer, by shape.
//!
//! - Linear operations: nine columns `time_stats.<op>.median` (ms) by `num_tokens`, the tokens of a pass.
//! - Attention: `time_stats.attn_decode.median` by `batch_size` and `kv_cache_size`, and `time_stats.attn_prefill.median` by
//!   `prefill_chunk_size` and `kv_cache_size`, both ms.
//!
//! A step is `layers * (sum of the nine + attention)`; [`evaluate`] holds it against measured throughput. Other columns are not
//! read, so a file may have more or fewer of them.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::{Phase, columns::Columns};

pub mod evaluate;
mod line;
mod roofline;

use line::Line;
pub use roofline::Roofline;

/// Linear operations of a layer that make a step, as Vidur names them.
pub const LINEAR_OPS: [&str; 9] = [
    "attn_pre_proj",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_down_proj",
    "mlp_act",
    "input_layernorm",
    "post_attention_layernorm",
    "attn_rope",
    "add",
];

/// Ranks that share a layer, in files that tell.
const RANKS: &str = "num_tensor_parallel_workers";

/// One row of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionRow {
    /// Decode or prefill.
    pub phase: Phase,
    /// Sequences.
    pub batch: f64,
    /// New tokens of a sequence; decode: 0.
    pub chunk: f64,
    /// Tokens of a sequence that lie in the cache.
    pub kv_len: f64,
    /// Median time of one layer's attention.
    pub ms: f64,
}

/// One row of linear operations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinearRow {
    /// Tokens of the pass.
    pub tokens: f64,
    /// Medians, in the order of [`LINEAR_OPS`].
    pub ms: [f64; LINEAR_OPS.len()],
}

impl LinearRow {
    /// All operations together.
    pub fn sum_ms(&self) -> f64 {
        self.ms.iter().sum()
    }
}

/// Rows of a profile on one rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Attention.
    pub attention: Vec<AttentionRow>,
    /// Everything else.
    pub linear: Vec<LinearRow>,
    /// What was not taken in, in words.
    pub left_out: Vec<String>,
}

/// Whatever tells what one layer takes.
pub trait LayerTimes {
    /// Linear operations of a pass over `tokens`, ms.
    fn linear_ms(&self, tokens: f64) -> f64;
    /// Attention of one token each of `batch` sequences over `kv_len` cached ones, ms.
    ///
    /// # Errors
    /// It cannot tell, with the reason.
    fn decode_ms(&self, batch: f64, kv_len: f64) -> Result<f64, String>;
    /// Causal attention of a prompt of `chunk` tokens, ms.
    fn prefill_ms(&self, chunk: f64) -> f64;
}

impl Profile {
    /// Takes both files. Rows of several ranks and rows without a time are left out, and told.
    ///
    /// # Errors
    /// A column that is not there, a field that is no number, or nothing left of a phase.
    pub fn read(attention: &Columns, linear: &Columns) -> anyhow::Result<Self> {
        let mut left_out = Vec::new();
        let profile = Self {
            attention: attention_rows(attention, &mut left_out)?,
            linear: linear_rows(linear, &mut left_out)?,
            left_out,
        };
        for (what, file, is_there) in [
            ("decode attention", attention, profile.of(Phase::Decode).next().is_some()),
            (
                "prefill attention of an empty cache",
                attention,
                profile.fresh_prefills().next().is_some(),
            ),
            ("linear operations", linear, !profile.linear.is_empty()),
        ] {
            anyhow::ensure!(
                is_there,
                "{}: expected rows of {what} on one rank, got none\n  hint: is this the file for that option?",
                file.name
            );
        }
        Ok(profile)
    }

    /// Attention rows of a phase.
    pub fn of(&self, phase: Phase) -> impl Iterator<Item = &AttentionRow> {
        self.attention.iter().filter(move |row| row.phase == phase)
    }

    /// Prompts that meet an empty cache.
    fn fresh_prefills(&self) -> impl Iterator<Item = &AttentionRow> {
        self.of(Phase::Prefill).filter(|row| row.kv_len <= 0.0)
    }

    /// The tables to interpolate in.
    pub fn interpolated(&self) -> Interpolated {
        let mut batches: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        for row in self.of(Phase::Decode) {
            batches.entry(row.batch as u64).or_default().push((row.kv_len, row.ms));
        }
        let op = |op: usize| Line::of(self.linear.iter().map(|row| (row.tokens, row.ms[op])));
        Interpolated {
            linear: (0..LINEAR_OPS.len()).map(op).collect(),
            decode: batches.into_iter().map(|(batch, points)| (batch, Line::of(points))).collect(),
            prefill: Line::of(self.fresh_prefills().map(|row| (row.chunk, row.ms))),
        }
    }
}

/// Rows on one rank: a file without the column has no others.
fn one_rank(table: &Columns) -> anyhow::Result<Vec<bool>> {
    if !table.has(RANKS) {
        return Ok(vec![true; table.len()]);
    }
    let ranks = table.numbers(RANKS)?;
    Ok(ranks.iter().map(|ranks| ranks.is_none_or(|ranks| (ranks - 1.0).abs() < 0.5)).collect())
}

fn told(table: &Columns, skipped: usize, left_out: &mut Vec<String>) {
    if skipped > 0 {
        let of = table.len();
        left_out.push(format!(
            "{}: {skipped} of {of} rows have no time or are of several ranks",
            table.name
        ));
    }
}

fn attention_rows(
    table: &Columns,
    left_out: &mut Vec<String>,
) -> anyhow::Result<Vec<AttentionRow>> {
    let [batch, chunk, kv_len] = [
        table.numbers("batch_size")?,
        table.numbers("prefill_chunk_size")?,
        table.numbers("kv_cache_size")?,
    ];
    let decode_ms = table.numbers("time_stats.attn_decode.median")?;
    let prefill_ms = table.numbers("time_stats.attn_prefill.median")?;
    let is_one = one_rank(table)?;
    let one = |row: usize| {
        let (batch, chunk, kv_len) = (batch[row]?, chunk[row]?, kv_len[row]?);
        let (phase, ms) = if chunk > 0.0 {
            (Phase::Prefill, prefill_ms[row]?)
        } else {
            (Phase::Decode, decode_ms[row]?)
        };
        is_one[row].then_some(AttentionRow { phase, batch, chunk, kv_len, ms })
    };
    let rows: Vec<AttentionRow> = (0..table.len()).filter_map(one).collect();
    told(table, table.len() - rows.len(), left_out);
    Ok(rows)
}

fn linear_rows(table: &Columns, left_out: &mut Vec<String>) -> anyhow::Result<Vec<LinearRow>> {
    let tokens = table.numbers("num_tokens")?;
    let column = |op: &&str| table.numbers(&format!("time_stats.{op}.median"));
    let medians = LINEAR_OPS
        .iter()
        .map(column)
        .collect::<anyhow::Result<Vec<_>>>()
        .context("nine linear operations make a step")?;
    let is_one = one_rank(table)?;
    let one = |row: usize| {
        let mut ms = [0.0; LINEAR_OPS.len()];
        for (slot, column) in ms.iter_mut().zip(&medians) {
            *slot = column[row]?;
        }
        is_one[row].then_some(LinearRow { tokens: tokens[row]?, ms })
    };
    let rows: Vec<LinearRow> = (0..table.len()).filter_map(one).collect();
    told(table, table.len() - rows.len(), left_out);
    Ok(rows)
}

/// Medians, straight lines between them, and no further than the outermost.
#[derive(Debug, Clone)]
pub struct Interpolated {
    linear: Vec<Line>,
    decode: BTreeMap<u64, Line>,
    prefill: Line,
}

impl LayerTimes for Interpolated {
    fn linear_ms(&self, tokens: f64) -> f64 {
        self.linear.iter().map(|line| line.at(tokens)).sum()
    }

    fn decode_ms(&self, batch: f64, kv_len: f64) -> Result<f64, String> {
        let line = self.decode.get(&(batch as u64));
        line.map(|line| line.at(kv_len))
            .ok_or_else(|| format!("the profile has no decode rows of batch {batch}"))
    }

    fn prefill_ms(&self, chunk: f64) -> f64 {
        self.prefill.at(chunk)
    }
}

#[cfg(test)]
mod tests;
