//! Rows of requests. `attempt` is 0 on a row that was never sent, whose `sent_ns` is `None`.

use sha2::{Digest, Sha256};

use super::{
    answer::{self, Answer, Capture},
    drive::Outcome,
    health::Tally,
    logprobs::Listed,
};
use crate::{
    plan::{Cell, Task},
    record::RequestRow,
    scenario::Endpoint,
    units::hex,
    workload::{Place, Request},
};

/// The row of an outcome; `tally` learns what the client's health is judged by.
pub(super) fn of(
    run_id: &str,
    cell: &Cell,
    request: &Request,
    outcome: Outcome,
    tally: &mut Tally,
) -> RequestRow {
    let endpoint = match &cell.task {
        Task::Serve { target, .. } => target.endpoint,
        // Kernel cells send nothing.
        Task::Launch { .. } | Task::Replay { .. } => Endpoint::Completions,
    };
    let base = RequestRow {
        request_id: i64::try_from(request.id).unwrap_or(i64::MAX),
        sample_id: request.sample_id.clone(),
        turn: i64::from(request.turn),
        due_ns: outcome.due_ns,
        connect_ns: outcome.result.as_ref().ok().and_then(|capture| capture.connect_ns),
        max_tokens: i64::from(request.max_tokens),
        forced_at: request.forced.as_ref().map(|place| place.at),
        prompt_tokens_local: request.tokens_sent(endpoint).map(i64::from),
        prompt_sha256: hex(&Sha256::digest(
            outcome.transcript.as_deref().unwrap_or(request.text_for(endpoint)).as_bytes(),
        )),
        ..of_cell(run_id, cell)
    };
    match outcome.result {
        Ok(capture) => {
            let answer = answer::read(&capture);
            tally.add(outcome.due_ns, &capture, &answer);
            let listed = answer.listed.clone();
            let row = sent(base, capture, answer);
            match &request.forced {
                Some(place) => forced(row, place, listed.as_ref()),
                None => row,
            }
        }
        Err(err) => {
            tally.n_over_cap += u64::from(err.contains("in flight"));
            RequestRow { err: Some(err), ..base }
        }
    }
}

/// What the answer says of the stop token; a server that does not say is a failure, because nothing else was asked.
fn forced(row: RequestRow, place: &Place, listed: Option<&Listed>) -> RequestRow {
    if row.err.is_some() {
        return row;
    }
    let none = "expected log-probabilities of the first token (`logprobs`), got none".to_owned();
    match listed.ok_or(none).and_then(|listed| listed.stop(&place.stop)) {
        Ok(stop) => {
            RequestRow { stop_logprob: stop.logprob, logprob_floor: Some(stop.floor), ..row }
        }
        Err(err) => RequestRow { err: Some(err), ..row },
    }
}

/// The one row of a cell whose server could not be used: no request was made.
pub(super) fn without_request(run_id: &str, cell: &Cell, now_ns: i64, err: String) -> RequestRow {
    RequestRow { due_ns: now_ns, err: Some(err), ..of_cell(run_id, cell) }
}

fn of_cell(run_id: &str, cell: &Cell) -> RequestRow {
    RequestRow {
        run_id: run_id.to_owned(),
        cell_id: cell.id.clone(),
        target: cell.target.clone(),
        method: cell.method.name.clone(),
        workload: cell.workload.clone(),
        load: cell.load.clone(),
        repeat: i64::from(cell.repeat),
        ..RequestRow::default()
    }
}

fn sent(base: RequestRow, capture: Capture, answer: Answer) -> RequestRow {
    RequestRow {
        sent_ns: capture.sent_ns,
        first_token_ns: answer.chunk_ns.first().copied(),
        last_token_ns: answer.chunk_ns.last().copied(),
        done_ns: capture.done_ns,
        chunk_ns: answer.chunk_ns,
        chunk_tokens: answer.chunk_tokens,
        prompt_tokens: answer.prompt_tokens,
        output_tokens: answer.output_tokens,
        token_source: answer.token_source.map(str::to_owned),
        cached_tokens: answer.cached_tokens,
        finish_reason: answer.finish_reason,
        http_status: capture.http_status,
        err: answer.err,
        attempt: capture.attempt,
        output_text: answer.text,
        ..base
    }
}
