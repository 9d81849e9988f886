//! aiperf's `profile_export_aiperf.json` (its statistics) and `profile_export.jsonl` (one record a request, with every gap
//! between chunks).
//!
//! Tokens are counted by a tokenizer of its own unless told otherwise, so what it divides by need not be what the server
//! generated; where the server's usage is in the file, rows take that.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Imported, PeerCell, Reported, UNKNOWN,
    json::{count, number, numbers, text},
    vllm::MAX_TOKENS_UNKNOWN,
};
use crate::record::RequestRow;

/// Distributions: key, id.
const DISTRIBUTIONS: [(&str, &str); 7] = [
    ("time_to_first_token", "ttft.first_content"),
    ("time_to_second_token", "ttst.second_chunk"),
    ("request_latency", "e2e.last_content"),
    ("inter_token_latency", "itl.request_mean"),
    ("inter_chunk_latency", "itl.per_chunk"),
    ("input_sequence_length", "length.prompt.peer_count"),
    ("output_sequence_length", "length.output.peer_count"),
];

/// Lengths by usage, where the server sent it.
const BY_USAGE: [(&str, &str); 2] = [
    ("usage_prompt_tokens", "length.prompt.server_count"),
    ("usage_completion_tokens", "length.output.server_count"),
];

/// Rows whose tokens the tool counted with its own tokenizer.
const OWN_TOKENIZER: &[(&str, Option<&str>)] = &[
    ("itl.per_token", None),
    ("tpot.request_mean", Some("itl.request_mean")),
    ("length.prompt.server_count", Some("length.prompt.peer_count")),
    ("length.output.server_count", Some("length.output.peer_count")),
    (
        "throughput.output_tokens_per_s.whole_run",
        Some("throughput.output_tokens_per_s.whole_run.peer_count"),
    ),
    ("throughput.output_tokens_per_s.steady_state", None),
    ("tpot.request_mean.steady_state", None),
];

/// Statistics of a run.
pub(super) fn summary(document: &Value) -> anyhow::Result<Imported> {
    let concurrency =
        count(document, "/input_config/phases/0/concurrency").and_then(|n| u32::try_from(n).ok());
    let usage = number(document, "/usage_completion_tokens/avg");
    let own = number(document, "/output_sequence_length/avg");
    let agrees = usage.zip(own).is_some_and(|(usage, own)| (usage - own).abs() < 0.5);
    let cell = PeerCell {
        workload: text(document, "/input_config/models/items/0/name").unwrap_or(UNKNOWN).to_owned(),
        load: load(concurrency),
        concurrency,
        reported: reported(document, agrees),
        ..PeerCell::default()
    };
    ensure!(!cell.reported.is_empty(), "expected statistics of aiperf, got none that is known");
    let mut notes = vec![
        "statistics only: profile_export.jsonl of the same run holds the single requests"
            .to_owned(),
        "TTFT and latency hold the time to connect where a connection was not reused".to_owned(),
    ];
    if let Some((usage, own)) = usage.zip(own).filter(|_| !agrees) {
        notes.push(format!(
            "its tokenizer counts {own:.0} output tokens an answer, the server's usage {usage:.0}: its ITL and token rates \
             are off by a factor of {:.2}",
            own / usage
        ));
    }
    Ok(Imported {
        tool: "aiperf",
        version: text(document, "/aiperf_version").map(str::to_owned),
        cells: vec![cell],
        notes,
    })
}

fn load(concurrency: Option<u32>) -> String {
    concurrency.map_or_else(|| UNKNOWN.to_owned(), |n| format!("closed-{n}"))
}

fn reported(document: &Value, agrees: bool) -> Vec<Reported> {
    let distribution = |(key, definition): (&str, &'static str)| {
        let at = |end: &str| number(document, &format!("/{key}/{end}"));
        at("avg").map(|mean| Reported {
            metric: key.to_owned(),
            definition,
            n: at("count").map(|n| n as u64),
            mean: Some(mean),
            p50: at("p50"),
            p90: at("p90"),
            p95: at("p95"),
            p99: at("p99"),
        })
    };
    let tokens = if agrees {
        "throughput.output_tokens_per_s.whole_run"
    } else {
        "throughput.output_tokens_per_s.whole_run.peer_count"
    };
    let rates = [
        ("request_throughput", "throughput.requests_per_s.whole_run"),
        ("output_token_throughput", tokens),
    ];
    let rate = |(key, definition): (&str, &'static str)| {
        Reported::whole(key, definition, number(document, &format!("/{key}/avg")))
    };
    DISTRIBUTIONS
        .into_iter()
        .chain(BY_USAGE)
        .filter_map(distribution)
        .chain(rates.into_iter().filter_map(rate))
        .collect()
}

/// Whether a text is one record a line.
pub(super) fn is_records(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty());
    first.and_then(|line| serde_json::from_str::<Value>(line).ok()).is_some_and(|record| {
        record.pointer("/metadata/request_start_ns").is_some() && record.get("metrics").is_some()
    })
}

/// One record a request.
pub(super) fn records(text: &str) -> anyhow::Result<Imported> {
    let mut records: Vec<Value> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let record: Value = serde_json::from_str(line)
            .with_context(|| format!("line {}: expected a record of aiperf", number + 1))?;
        // Warm-up is in the same file.
        if record.pointer("/metadata/benchmark_phase").and_then(Value::as_str) == Some("profiling")
        {
            records.push(record);
        }
    }
    ensure!(!records.is_empty(), "expected records of the phase `profiling`, got none");
    records.sort_by_key(|record| time(record, "request_start_ns").unwrap_or(i64::MAX));
    let due = |record: &Value| {
        time(record, "credit_issued_ns").or_else(|| time(record, "request_start_ns"))
    };
    let origin = records.iter().filter_map(due).min();
    let origin = origin.context("metadata: expected credit_issued_ns or request_start_ns")?;
    let by_usage = records
        .iter()
        .filter(|record| !is_failed(record))
        .all(|record| number(record, "/metrics/usage_completion_tokens/value").is_some());
    let rows: Vec<RequestRow> = records
        .iter()
        .enumerate()
        .map(|(index, record)| row(record, (index, origin), by_usage))
        .collect();
    let cell = PeerCell {
        workload: UNKNOWN.to_owned(),
        load: UNKNOWN.to_owned(),
        concurrency: None,
        due_known: records.iter().all(|record| time(record, "credit_issued_ns").is_some()),
        rows,
        reported: Vec::new(),
        relabel: if by_usage { &[] } else { OWN_TOKENIZER },
    };
    Ok(Imported {
        tool: "aiperf",
        version: None,
        cells: vec![cell],
        notes: notes(&records, by_usage),
    })
}

/// Nanoseconds since 1970 need all 63 bits; a float would round them to 256 ns.
fn time(record: &Value, key: &str) -> Option<i64> {
    record.pointer(&format!("/metadata/{key}"))?.as_i64()
}

fn is_failed(record: &Value) -> bool {
    record.get("error").is_some_and(|error| !error.is_null())
        || record.pointer("/metadata/was_cancelled") == Some(&Value::Bool(true))
}

fn row(record: &Value, (index, origin): (usize, i64), by_usage: bool) -> RequestRow {
    let metric = |key: &str| number(record, &format!("/metrics/{key}/value"));
    let tokens = |usage: &str, own: &str| {
        metric(if by_usage { usage } else { own }).map(|n| n.round() as i64)
    };
    let sent_ns = time(record, "request_start_ns").map(|at| at - origin);
    let after = |ms: f64| sent_ns.map(|sent| sent + (ms * 1e6).round() as i64);
    let first_ms = metric("time_to_first_token");
    let mut at = first_ms;
    let gaps = numbers(record, "/metrics/inter_chunk_latency/value").unwrap_or_default();
    let later = gaps.iter().map(|gap| {
        at = at.map(|ms| ms + gap);
        at
    });
    let chunks: Option<Vec<f64>> = std::iter::once(first_ms).chain(later).collect();
    let err = is_failed(record).then(|| {
        text(record, "/error/message")
            .or(text(record, "/error/type"))
            .unwrap_or("failed")
            .to_owned()
    });
    RequestRow {
        request_id: index as i64,
        sample_id: text(record, "/metadata/conversation_id").unwrap_or_default().to_owned(),
        turn: count(record, "/metadata/turn_index").unwrap_or(0),
        due_ns: time(record, "credit_issued_ns").map_or(sent_ns.unwrap_or(0), |at| at - origin),
        sent_ns,
        first_token_ns: first_ms.and_then(after),
        last_token_ns: metric("request_latency").and_then(after),
        done_ns: time(record, "request_end_ns").map(|at| at - origin),
        chunk_ns: chunks.unwrap_or_default().into_iter().filter_map(after).collect(),
        prompt_tokens: tokens("usage_prompt_tokens", "input_sequence_length"),
        output_tokens: tokens("usage_completion_tokens", "output_sequence_length"),
        token_source: Some(if by_usage { "usage" } else { "peer" }.to_owned()),
        max_tokens: MAX_TOKENS_UNKNOWN,
        attempt: 1,
        err,
        ..RequestRow::default()
    }
}

fn notes(records: &[Value], by_usage: bool) -> Vec<String> {
    let mut notes = vec![
        "answers are not in this file: nothing tells how they read".to_owned(),
        "load and model are in profile_export_aiperf.json of the same run".to_owned(),
    ];
    let value = |record: &Value, key: &str| number(record, &format!("/metrics/{key}/value"));
    let differ = |record: &&Value| {
        let usage = value(record, "usage_completion_tokens");
        usage.zip(value(record, "output_sequence_length")).is_some_and(|(a, b)| (a - b).abs() > 0.5)
    };
    let n = records.iter().filter(differ).count();
    if n > 0 {
        notes.push(format!(
            "in {n} of {} records its own tokenizer disagrees with the server's usage; rows take usage",
            records.len()
        ));
    }
    if !by_usage {
        notes.push(
            "the server's usage is not in every record: tokens are those of its own tokenizer"
                .to_owned(),
        );
    }
    let reconnected = records
        .iter()
        .filter(|record| value(record, "http_req_connecting").is_some_and(|ms| ms > 0.0))
        .count();
    if reconnected > 0 {
        notes.push(format!(
            "{reconnected} of {} requests opened a connection within their TTFT",
            records.len()
        ));
    }
    notes
}
