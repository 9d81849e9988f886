//! What a run's requests were and how they fared, cell by cell: what a simulated engine is given, and what it is judged by.

use std::collections::{BTreeMap, BTreeSet};

use super::{RunData, requests::token_arrivals};
use crate::{
    predict::simulate::Request,
    record::{
        RequestRow,
        manifest::{CellFacts, Verdict},
        parquet::TableRow as _,
    },
    units::ns_to_s,
};

/// The end of a row of which none is known: no later moment is free of it.
pub const NO_END: i64 = i64::MAX;

/// One cell's requests.
#[derive(Debug, Clone, PartialEq)]
pub struct CellTrace {
    /// Which.
    pub cell: CellFacts,
    /// Good requests whose tokens the server counted, in the order of sending.
    pub requests: Vec<Observed>,
    /// Rows that are not among them, by reason. What they asked of the engine is missing from a replay.
    pub left_out: BTreeMap<String, usize>,
    /// When those rows were in flight, from sending to the last that was heard of them, ns; [`NO_END`] where nothing was. The engine
    /// may have computed them, however they ended, so nothing beside them is known to have had it for itself. (Whether it stopped
    /// when a client hung up cannot be seen from here.)
    pub left_out_ns: Vec<(i64, i64)>,
    /// Of `requests`: nobody told how many tokens of the prompt a cache served, and none is assumed.
    pub n_cached_unknown: usize,
    /// Why its times are not to be used, where client or server were found INVALID.
    pub invalid: Option<String>,
    /// Why its times are to be doubted, where client or server were found SUSPECT and not INVALID.
    pub suspect: Option<String>,
}

/// One good request.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Its number in the workload.
    pub request_id: i64,
    /// When it was due.
    pub due_ns: i64,
    /// When it was sent.
    pub sent_ns: i64,
    /// When the first token came.
    pub first_token_ns: i64,
    /// When the last token came.
    pub last_token_ns: i64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that a cache served.
    pub cached_tokens: u64,
    /// Tokens of the answer that came: a stop token, which has no text, is none.
    pub output_tokens: u64,
    /// Whether a stop token ended it: drawing it took the engine a step more, in which nothing came.
    pub is_stopped: bool,
    /// When the engine was done with it: with the last token, or a step later with the stop token.
    pub ended_ns: i64,
    /// When each of them came; empty where the chunks do not tell.
    pub token_ns: Vec<i64>,
}

impl Observed {
    /// Seconds from sending to the first token.
    pub fn ttft_s(&self) -> f64 {
        ns_to_s(self.first_token_ns - self.sent_ns)
    }

    /// Seconds from sending to the last token.
    pub fn e2e_s(&self) -> f64 {
        ns_to_s(self.last_token_ns - self.sent_ns)
    }

    /// Seconds a token after the first; `None` for an answer of one token.
    pub fn tpot_s(&self) -> Option<f64> {
        let more = self.output_tokens.checked_sub(1).filter(|more| *more > 0)?;
        Some(ns_to_s(self.last_token_ns - self.first_token_ns) / more as f64)
    }

    /// The same as an engine is asked, with an answer as long as the one that came, and the stop token where one was drawn.
    pub fn request(&self) -> Request {
        self.request_of(self.output_tokens + u64::from(self.is_stopped))
    }

    /// The same with an answer of another length, such as one that was predicted; at least one token.
    pub fn request_of(&self, output_tokens: u64) -> Request {
        Request {
            id: self.request_id.unsigned_abs(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: output_tokens.max(1),
        }
    }
}

/// The traces of a run's served cells, in plan order; cells without any row of a request are none.
///
/// # Errors
/// A table without the columns of this version.
pub fn cells(data: &RunData) -> anyhow::Result<Vec<CellTrace>> {
    let rows = RequestRow::rows(&data.requests)?;
    let warm_up = RequestRow::rows(&data.warm_up)?;
    let mut by_cell: BTreeMap<&str, Vec<&RequestRow>> = BTreeMap::new();
    for row in rows.iter().chain(&warm_up) {
        by_cell.entry(&row.cell_id).or_default().push(row);
    }
    let trace = |cell: &CellFacts| {
        by_cell.get(cell.id.as_str()).map(|rows| {
            let mut trace = trace(cell, rows);
            trace.invalid = found(data, cell, Verdict::Invalid);
            let is_valid = trace.invalid.is_none();
            trace.suspect = is_valid.then(|| found(data, cell, Verdict::Suspect)).flatten();
            trace
        })
    };
    Ok(data.manifest.cells.iter().filter_map(trace).collect())
}

fn trace(cell: &CellFacts, rows: &[&RequestRow]) -> CellTrace {
    let mut trace = CellTrace {
        cell: cell.clone(),
        requests: Vec::new(),
        left_out: BTreeMap::new(),
        left_out_ns: Vec::new(),
        n_cached_unknown: 0,
        invalid: None,
        suspect: None,
    };
    for row in rows {
        match observed(cell, row) {
            Ok(request) => {
                trace.n_cached_unknown += usize::from(row.cached_tokens.is_none());
                trace.requests.push(request);
            }
            Err(why) => {
                *trace.left_out.entry(why.to_owned()).or_default() += 1;
                trace.left_out_ns.extend(in_flight_ns(row));
            }
        }
    }
    trace.requests.sort_by_key(|request| (request.sent_ns, request.request_id));
    trace
}

/// `None` of a row that was never sent.
fn in_flight_ns(row: &RequestRow) -> Option<(i64, i64)> {
    Some((row.sent_ns?, row.done_ns.max(row.last_token_ns).unwrap_or(NO_END)))
}

fn observed(cell: &CellFacts, row: &RequestRow) -> Result<Observed, &'static str> {
    let count = |tokens: Option<i64>| tokens.and_then(|tokens| u64::try_from(tokens).ok());
    if row.warmup {
        return Err("sent before measuring began");
    }
    if row.err.is_some() {
        return Err("failed");
    }
    if row.load != cell.load {
        return Err("a probe of a saturation search");
    }
    let (Some(sent_ns), Some(first_token_ns), Some(last_token_ns)) =
        (row.sent_ns, row.first_token_ns, row.last_token_ns)
    else {
        return Err("without an answer");
    };
    let (Some(prompt_tokens), Some(output)) = (count(row.prompt_tokens), count(row.output_tokens))
    else {
        return Err("its tokens were not counted by the server");
    };
    let (output_tokens, token_ns) = arrivals(row, output);
    let is_stopped = output_tokens < output;
    if prompt_tokens == 0 || output_tokens == 0 {
        return Err("without a token of prompt or answer");
    }
    Ok(Observed {
        request_id: row.request_id,
        due_ns: row.due_ns,
        sent_ns,
        first_token_ns,
        last_token_ns,
        prompt_tokens,
        cached_tokens: count(row.cached_tokens).unwrap_or(0),
        output_tokens,
        is_stopped,
        ended_ns: row
            .done_ns
            .filter(|done| is_stopped && *done > last_token_ns)
            .unwrap_or(last_token_ns),
        token_ns,
    })
}

/// Tokens that came and when. A server counts the stop token, which has no text: such an answer has one chunk less.
fn arrivals(row: &RequestRow, output_tokens: u64) -> (u64, Vec<i64>) {
    let chunks = row.chunk_ns.len() as u64;
    let stopped = row.finish_reason.as_deref() == Some("stop") && row.chunk_tokens.is_empty();
    if stopped && chunks > 0 && output_tokens == chunks + 1 {
        return (chunks, row.chunk_ns.clone());
    }
    (output_tokens, token_arrivals(row))
}

/// Why client or server were found so in a cell; `None` where they were not.
fn found(data: &RunData, cell: &CellFacts, wanted: Verdict) -> Option<String> {
    let (clients, proofs) = (&data.manifest.client_health, &data.manifest.proofs);
    let said = clients.iter().map(|it| (&it.cell_id, it.verdict, &it.reasons));
    let said = said.chain(proofs.iter().map(|it| (&it.cell_id, it.verdict, &it.reasons)));
    let reasons: BTreeSet<&str> = said
        .filter(|(id, verdict, _)| **id == cell.id && *verdict == wanted)
        .map(|(_, _, reasons)| reasons.first().map_or("no reason given", String::as_str))
        .collect();
    (!reasons.is_empty()).then(|| reasons.into_iter().collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cell_id: &str, request_id: i64) -> RequestRow {
        RequestRow {
            cell_id: cell_id.to_owned(),
            load: "closed-1".to_owned(),
            request_id,
            sent_ns: Some(1000 - request_id),
            first_token_ns: Some(2_000_000_000),
            last_token_ns: Some(4_000_000_000),
            chunk_ns: vec![2_000_000_000, 3_000_000_000, 4_000_000_000],
            prompt_tokens: Some(7),
            output_tokens: Some(3),
            ..RequestRow::default()
        }
    }

    #[test]
    fn every_row_is_a_request_or_has_a_reason() {
        let id = "example/vllm/fp16/chat/closed-1/0";
        let other = "example/vllm/fp16/chat/closed-2/0";
        let rows = [
            row(id, 0),
            RequestRow {
                output_tokens: Some(4),
                finish_reason: Some("stop".into()),
                done_ns: Some(4_500_000_000),
                ..row(id, 1)
            },
            RequestRow { cached_tokens: Some(5), chunk_ns: vec![], ..row(id, 2) },
            RequestRow { err: Some("reset".into()), done_ns: Some(5_000_000_000), ..row(id, 3) },
            RequestRow { output_tokens: None, ..row(id, 4) },
            RequestRow { first_token_ns: None, last_token_ns: None, ..row(id, 5) },
            RequestRow { load: "sat-poisson4".into(), sent_ns: None, ..row(id, 6) },
        ];
        let mut data = super::super::tests::data(&[id, other], &[], &rows);
        data.warm_up = RequestRow::frame(&[RequestRow { warmup: true, ..row(id, 7) }]).unwrap();
        data.manifest.client_health = vec![crate::record::manifest::ClientFacts {
            cell_id: id.to_owned(),
            verdict: Verdict::Invalid,
            reasons: vec!["starved".to_owned()],
            measured: serde_json::Value::Null,
        }];
        let traces = cells(&data).unwrap();
        let [trace] = traces.as_slice() else { panic!("expected one cell with rows") };
        let ids: Vec<i64> = trace.requests.iter().map(|request| request.request_id).collect();
        assert_eq!(ids, [2, 1, 0], "in the order of sending");
        assert_eq!(trace.left_out.values().sum::<usize>() + ids.len(), 8);
        assert_eq!((trace.left_out.len(), trace.n_cached_unknown), (5, 2));
        assert_eq!((trace.invalid.as_deref(), &trace.suspect), (Some("starved"), &None));
        let in_flight = [(997, 5_000_000_000), (996, 4_000_000_000), (995, NO_END)];
        assert_eq!(trace.left_out_ns[..3], in_flight, "also what failed was in flight");
        assert_eq!(trace.left_out_ns[3..], [(993, 4_000_000_000)], "but not what was never sent");
        let [cached, stopped, plain] = trace.requests.as_slice() else { panic!() };
        assert_eq!((cached.cached_tokens, cached.token_ns.len()), (5, 0), "no chunk, no arrival");
        assert_eq!((stopped.output_tokens, stopped.token_ns.len()), (3, 3), "a stop token is none");
        assert_eq!((stopped.is_stopped, stopped.request().output_tokens), (true, 4), "but a step");
        assert_eq!((stopped.ended_ns, plain.ended_ns), (4_500_000_000, 4_000_000_000));
        assert!((plain.tpot_s().unwrap() - 1.0).abs() < 1e-9);
        assert!((plain.e2e_s() - 3.999_999).abs() < 1e-9 && plain.ttft_s() < 2.0);
        assert_eq!((plain.request().output_tokens, plain.request_of(0).output_tokens), (3, 1));
    }
}
