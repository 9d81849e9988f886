//! Whether an answer met the service-level objective: one definition for the search that acts on it while it measures and
//! for the reports that repeat it from rows.

use super::{RequestRow, manifest::SloFacts};
use crate::units::ns_to_ms;

impl SloFacts {
    /// Whether every limit held, counted from when the request was due: what waited in the client was not good either.
    /// A limit on a quantity nobody measured does not hold, but an answer of one token has no TPOT to be late with.
    pub fn holds(&self, row: &RequestRow) -> bool {
        let within = |limit: Option<f64>, value: Option<f64>| {
            limit.is_none_or(|limit| value.is_some_and(|value| value <= limit))
        };
        let since_due = |at: Option<i64>| at.map(|at| ns_to_ms(at - row.due_ns));
        let one_token = row.output_tokens == Some(1);
        row.err.is_none()
            && within(self.ttft_ms, since_due(row.first_token_ns))
            && (one_token || within(self.tpot_ms, tpot_ms(row)))
            && within(self.e2e_ms, since_due(row.last_token_ns))
    }
}

/// Time per output token after the first, `(last - first) / (tokens - 1)`.
pub fn tpot_ms(row: &RequestRow) -> Option<f64> {
    // An answer that came in one chunk has no time between tokens; zero would pass any limit. Rows of other tools may
    // know both ends without the chunks between.
    let tokens = row.output_tokens.filter(|tokens| *tokens >= 2 && row.chunk_ns.len() != 1)?;
    Some(ns_to_ms(row.last_token_ns? - row.first_token_ns?) / (tokens - 1) as f64)
}
