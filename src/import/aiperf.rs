//! aiperf's `profile_export_aiperf.json` (its statistics) and `profile_export.jsonl` (one record a request, with every gap
//! between chunks).
//!
//! Tokens are counted by a tokenizer of its own unless told otherwise, so what it divides by need not be what the server
//! generated; where the server's usage is in the file, rows take that.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Imported, PeerCell, Reported, UNKNOWN,
    json::{Kind, amount, count, duration_ms, in_order, moment_ns, numbers, span_ns, text},
    vllm::MAX_TOKENS_UNKNOWN,
};
use crate::{record::RequestRow, units::ns_to_s};

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

/// By how much a last token may come before the first: both are rounded.
pub(super) const SLACK_NS: i64 = 1_000_000;

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
        count(document, "/input_config/phases/0/concurrency")?.and_then(|n| u32::try_from(n).ok());
    let usage = amount(document, "/usage_completion_tokens/avg")?;
    let own = amount(document, "/output_sequence_length/avg")?;
    let agrees = usage.zip(own).is_some_and(|(usage, own)| (usage - own).abs() < 0.5);
    let cell = PeerCell {
        workload: text(document, "/input_config/models/items/0/name").unwrap_or(UNKNOWN).to_owned(),
        load: load(concurrency),
        concurrency,
        reported: reported(document, agrees)?,
        ..PeerCell::default()
    };
    ensure!(!cell.reported.is_empty(), "expected statistics of aiperf, got none that is known");
    let mut notes = vec![
        "statistics only: profile_export.jsonl of the same run holds the single requests"
            .to_owned(),
        "TTFT and latency hold the time to connect where a connection was not reused".to_owned(),
    ];
    if let Some((usage, own)) = usage.zip(own).filter(|(usage, _)| !agrees && *usage > 0.0) {
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

fn reported(document: &Value, agrees: bool) -> anyhow::Result<Vec<Reported>> {
    let distribution = |(key, definition): (&str, &'static str)| -> anyhow::Result<_> {
        let at = |end: &str| amount(document, &format!("/{key}/{end}"));
        let Some(mean) = at("avg")? else { return Ok(None) };
        Ok(Some(Reported {
            metric: key.to_owned(),
            definition,
            n: count(document, &format!("/{key}/count"))?.and_then(|n| u64::try_from(n).ok()),
            mean: Some(mean),
            p50: at("p50")?,
            p90: at("p90")?,
            p95: at("p95")?,
            p99: at("p99")?,
        }))
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
    let rate = |(key, definition): (&str, &'static str)| -> anyhow::Result<_> {
        Ok(Reported::whole(key, definition, amount(document, &format!("/{key}/avg"))?))
    };
    let all = DISTRIBUTIONS.into_iter().chain(BY_USAGE).map(distribution);
    let all: Vec<Option<Reported>> =
        all.chain(rates.into_iter().map(rate)).collect::<anyhow::Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Whether a text is one record a line.
pub(super) fn is_records(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty());
    first.and_then(|line| serde_json::from_str::<Value>(line).ok()).is_some_and(|record| {
        record.pointer("/metadata/request_start_ns").is_some() && record.get("metrics").is_some()
    })
}

/// One record and where it stands.
struct Record {
    /// Line of the file, from 1.
    line: usize,
    json: Value,
    /// When it was due, where the file says.
    due_ns: Option<i64>,
    sent_ns: Option<i64>,
}

impl Record {
    fn of(line: usize, json: Value) -> anyhow::Result<Self> {
        let time = |key: &str| moment_ns(&json, &format!("/metadata/{key}"));
        let times = time("credit_issued_ns").and_then(|due| Ok((due, time("request_start_ns")?)));
        let (due_ns, sent_ns) = times.with_context(|| format!("line {line}"))?;
        Ok(Self { line, json, due_ns, sent_ns })
    }

    /// When it was due, or when it was sent where nobody says.
    fn due(&self) -> Option<i64> {
        self.due_ns.or(self.sent_ns)
    }

    fn is_failed(&self) -> bool {
        self.json.get("error").is_some_and(|error| !error.is_null())
            || self.json.pointer("/metadata/was_cancelled") == Some(&Value::Bool(true))
    }

    fn metric(&self, key: &str) -> anyhow::Result<Option<f64>> {
        amount(&self.json, &format!("/metrics/{key}/value"))
    }
}

/// One record a request.
pub(super) fn records(text: &str) -> anyhow::Result<Imported> {
    let mut records: Vec<Record> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let json: Value = serde_json::from_str(line)
            .with_context(|| format!("line {}: expected a record of aiperf", number + 1))?;
        // Warm-up is in the same file.
        if json.pointer("/metadata/benchmark_phase").and_then(Value::as_str) == Some("profiling") {
            records.push(Record::of(number + 1, json)?);
        }
    }
    ensure!(!records.is_empty(), "expected records of the phase `profiling`, got none");
    records.sort_by_key(|record| record.sent_ns.unwrap_or(i64::MAX));
    let origin = records.iter().filter_map(Record::due).min();
    let origin = origin.context("metadata: expected credit_issued_ns or request_start_ns")?;
    let mut by_usage = true;
    for record in records.iter().filter(|record| !record.is_failed()) {
        let usage = record.metric("usage_completion_tokens");
        by_usage &= usage.with_context(|| format!("line {}", record.line))?.is_some();
    }
    let one = |(index, record): (usize, &Record)| {
        row(record, (index, origin), by_usage).with_context(|| format!("line {}", record.line))
    };
    let rows: Vec<RequestRow> =
        records.iter().enumerate().map(one).collect::<anyhow::Result<_>>()?;
    let cell = PeerCell {
        workload: UNKNOWN.to_owned(),
        load: UNKNOWN.to_owned(),
        concurrency: None,
        due_known: records.iter().all(|record| record.due_ns.is_some()),
        rows,
        reported: Vec::new(),
        relabel: if by_usage { &[] } else { OWN_TOKENIZER },
    };
    Ok(Imported {
        tool: "aiperf",
        version: None,
        cells: vec![cell],
        notes: notes(&records, by_usage)?,
    })
}

fn row(
    record: &Record,
    (index, origin): (usize, i64),
    by_usage: bool,
) -> anyhow::Result<RequestRow> {
    let json = &record.json;
    let tokens = |usage: &str, own: &str| {
        count(json, &format!("/metrics/{}/value", if by_usage { usage } else { own }))
    };
    // Both are not negative, so their difference fits; that it is a time of this run is checked.
    let since = |at: Option<i64>, what: &str| {
        at.map(|at| span_ns(ns_to_s(at - origin), &|| what.to_owned()).map(|_| at - origin))
            .transpose()
    };
    let sent_ns = since(record.sent_ns, "metadata.request_start_ns")?;
    let after = |ms: Option<f64>, what: &str| -> anyhow::Result<Option<i64>> {
        let Some((sent, ms)) = sent_ns.zip(ms) else { return Ok(None) };
        Ok(Some(sent + span_ns(ms / 1e3, &|| what.to_owned())?))
    };
    let first_ms = duration_ms(json, "/metrics/time_to_first_token/value")?;
    let latency_ms = duration_ms(json, "/metrics/request_latency/value")?;
    let gaps = numbers(json, "/metrics/inter_chunk_latency/value", Kind::DurationsMs)?;
    let mut chunk_ns: Vec<i64> = Vec::new();
    let mut at = first_ms;
    chunk_ns.extend(after(at, "metrics.time_to_first_token")?);
    for gap in gaps.unwrap_or_default() {
        at = at.map(|ms| ms + gap);
        chunk_ns.extend(after(at, "metrics.inter_chunk_latency")?);
    }
    let err = record.is_failed().then(|| {
        text(json, "/error/message").or(text(json, "/error/type")).unwrap_or("failed").to_owned()
    });
    let row = RequestRow {
        request_id: index as i64,
        sample_id: text(json, "/metadata/conversation_id").unwrap_or_default().to_owned(),
        turn: count(json, "/metadata/turn_index")?.unwrap_or(0),
        due_ns: since(record.due_ns, "metadata.credit_issued_ns")?.or(sent_ns).unwrap_or(0),
        sent_ns,
        first_token_ns: after(first_ms, "metrics.time_to_first_token")?,
        last_token_ns: after(latency_ms, "metrics.request_latency")?,
        done_ns: since(moment_ns(json, "/metadata/request_end_ns")?, "metadata.request_end_ns")?,
        chunk_ns,
        prompt_tokens: tokens("usage_prompt_tokens", "input_sequence_length")?,
        output_tokens: tokens("usage_completion_tokens", "output_sequence_length")?,
        token_source: Some(if by_usage { "usage" } else { "peer" }.to_owned()),
        max_tokens: MAX_TOKENS_UNKNOWN,
        attempt: 1,
        err,
        ..RequestRow::default()
    };
    let times = [("the first token", row.first_token_ns), ("the last token", row.last_token_ns)];
    in_order(&times, SLACK_NS, &|| "metrics".to_owned())?;
    Ok(row)
}

fn notes(records: &[Record], by_usage: bool) -> anyhow::Result<Vec<String>> {
    let mut notes = vec![
        "answers are not in this file: nothing tells how they read".to_owned(),
        "load and model are in profile_export_aiperf.json of the same run".to_owned(),
    ];
    let (mut n_differ, mut n_reconnected) = (0, 0);
    for record in records {
        let place = || format!("line {}", record.line);
        let value = |key: &str| record.metric(key).with_context(place);
        let counts = value("usage_completion_tokens")?.zip(value("output_sequence_length")?);
        n_differ += usize::from(counts.is_some_and(|(usage, own)| (usage - own).abs() > 0.5));
        n_reconnected += usize::from(value("http_req_connecting")?.is_some_and(|ms| ms > 0.0));
    }
    if n_differ > 0 {
        notes.push(format!(
            "in {n_differ} of {} records its own tokenizer disagrees with the server's usage; rows take usage",
            records.len()
        ));
    }
    if !by_usage {
        notes.push(
            "the server's usage is not in every record: tokens are those of its own tokenizer"
                .to_owned(),
        );
    }
    if n_reconnected > 0 {
        notes.push(format!(
            "{n_reconnected} of {} requests opened a connection within their TTFT",
            records.len()
        ));
    }
    Ok(notes)
}
