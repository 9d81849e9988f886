//! guidellm's `benchmarks.json`. Each benchmark of a file is a cell. Requests keep when they were sent, when the first and the
//! last token came and when the stream ended, but not the times between: gaps are lost, and `inter_token_latency_ms` is a mean
//! over each answer, whose percentiles count a request once a token.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{
    Imported, PeerCell, Reported, UNKNOWN,
    aiperf::SLACK_NS,
    json::{amount, count, in_order, moment_s, span_ns, text},
    vllm::MAX_TOKENS_UNKNOWN,
};
use crate::record::RequestRow;

/// Rows of this tool know the ends of an answer only.
const RELABEL: &[(&str, Option<&str>)] = &[
    ("itl.per_token", None),
    ("itl.per_chunk", None),
    ("length.prompt.server_count", Some("length.prompt.peer_count")),
    ("length.output.server_count", Some("length.output.peer_count")),
];

/// Distributions over requests: key, id, factor to our unit.
const DISTRIBUTIONS: [(&str, &str, f64); 6] = [
    ("time_to_first_token_ms", "ttft.first_content", 1.0),
    ("request_latency", "e2e.done", 1000.0),
    ("time_per_output_token_ms", "tpot.including_ttft.token_weighted", 1.0),
    ("inter_token_latency_ms", "itl.request_mean.token_weighted", 1.0),
    ("prompt_token_count", "length.prompt.peer_count", 1.0),
    ("output_token_count", "length.output.peer_count", 1.0),
];

/// Rates over time: of these only the mean is that of the run.
const RATES: [(&str, &str); 3] = [
    ("requests_per_second", "throughput.requests_per_s.whole_run"),
    ("output_tokens_per_second", "throughput.output_tokens_per_s.whole_run"),
    ("tokens_per_second", "throughput.total_tokens_per_s.whole_run"),
];

pub(super) fn read(document: &Value) -> anyhow::Result<Imported> {
    let benchmarks = document["benchmarks"].as_array().context("benchmarks: expected a list")?;
    ensure!(!benchmarks.is_empty(), "benchmarks: expected at least one, got none");
    let one = |(index, benchmark): (usize, &Value)| {
        cell(benchmark).with_context(|| format!("benchmarks[{index}]"))
    };
    let cells: Vec<PeerCell> =
        benchmarks.iter().enumerate().map(one).collect::<anyhow::Result<_>>()?;
    let mut notes = vec![
        "times between tokens are not stored: its ITL is a mean over each answer, weighted by tokens, and hides stalls"
            .to_owned(),
        "its TPOT holds the time to the first token; our TPOT is the formula of its ITL, unweighted".to_owned(),
        "tokens are `usage`, or chunks where there was none; the file does not say which".to_owned(),
        "percentiles are observed values (inverted CDF), ours are interpolated".to_owned(),
    ];
    for benchmark in benchmarks {
        notes.extend(notes_of(benchmark)?);
    }
    Ok(Imported {
        tool: "guidellm",
        version: text(document, "/metadata/guidellm_version").map(str::to_owned),
        cells,
        notes,
    })
}

fn cell(benchmark: &Value) -> anyhow::Result<PeerCell> {
    let strategy = text(benchmark, "/config/strategy/type_").unwrap_or(UNKNOWN);
    let of = |key: &str| amount(benchmark, &format!("/config/strategy/{key}"));
    let parameter = of("streams")?.or(of("rate")?).or(of("max_concurrency")?);
    let closed = ["concurrent", "synchronous"].contains(&strategy);
    let streams = count(benchmark, "/config/strategy/streams")?.unwrap_or(1);
    Ok(PeerCell {
        workload: text(benchmark, "/config/backend/model").unwrap_or(UNKNOWN).to_owned(),
        load: parameter.map_or(strategy.to_owned(), |value| format!("{strategy}-{value}")),
        concurrency: u32::try_from(streams).ok().filter(|_| closed),
        rows: rows(benchmark)?,
        due_known: true,
        reported: reported(benchmark)?,
        relabel: RELABEL,
    })
}

fn reported(benchmark: &Value) -> anyhow::Result<Vec<Reported>> {
    let distribution = |(key, definition, factor): (&str, &'static str, f64)| -> anyhow::Result<_> {
        let at = |end: &str| -> anyhow::Result<Option<f64>> {
            let value = amount(benchmark, &format!("/metrics/{key}/successful/{end}"))?;
            Ok(value.map(|value| value * factor))
        };
        let n = count(benchmark, &format!("/metrics/{key}/successful/count"))?;
        let Some(n) = n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0) else {
            return Ok(None);
        };
        Ok(Some(Reported {
            metric: key.to_owned(),
            definition,
            n: Some(n),
            mean: at("mean")?,
            p50: at("percentiles/p50")?,
            p90: at("percentiles/p90")?,
            p95: at("percentiles/p95")?,
            p99: at("percentiles/p99")?,
        }))
    };
    let rate = |(key, definition): (&str, &'static str)| -> anyhow::Result<_> {
        let mean = amount(benchmark, &format!("/metrics/{key}/successful/mean"))?;
        Ok(Reported::whole(&format!("{key}.mean"), definition, mean))
    };
    let all = DISTRIBUTIONS.into_iter().map(distribution).chain(RATES.into_iter().map(rate));
    let all: Vec<Option<Reported>> = all.collect::<anyhow::Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// One request of a benchmark.
struct Asked<'a> {
    json: &'a Value,
    /// Where it stands, such as `requests.successful[3]`.
    place: String,
    /// What it says where it failed without a word.
    failed: Option<&'static str>,
    start_s: Option<f64>,
    /// When it was due, or when it was sent where nobody says.
    due_s: f64,
}

fn asked<'a>(
    json: &'a Value,
    place: String,
    failed: Option<&'static str>,
) -> anyhow::Result<Asked<'a>> {
    let at =
        |key: &str| moment_s(json, &format!("/info/timings/{key}")).with_context(|| place.clone());
    let start_s = at("request_start")?;
    let due_s = at("targeted_start")?.or(start_s).with_context(|| {
        format!("{place}: expected info.timings.targeted_start or request_start, got neither\n  hint: save the result again")
    })?;
    Ok(Asked { json, place, failed, start_s, due_s })
}

/// Every request of a benchmark in the order in which it was sent.
fn rows(benchmark: &Value) -> anyhow::Result<Vec<RequestRow>> {
    let mut found: Vec<Asked<'_>> = Vec::new();
    for (list, failed) in [
        ("successful", None),
        ("errored", Some("failed")),
        ("incomplete", Some("was not finished")),
    ] {
        let items = benchmark.pointer(&format!("/requests/{list}")).and_then(Value::as_array);
        for (index, json) in items.into_iter().flatten().enumerate() {
            found.push(asked(json, format!("requests.{list}[{index}]"), failed)?);
        }
    }
    found.sort_by(|a, b| a.start_s.unwrap_or(f64::MAX).total_cmp(&b.start_s.unwrap_or(f64::MAX)));
    let Some(origin) = found.iter().map(|request| request.due_s).reduce(f64::min) else {
        return Ok(Vec::new());
    };
    let one = |(index, request): (usize, &Asked<'_>)| {
        row(request, index, origin).with_context(|| request.place.clone())
    };
    found.iter().enumerate().map(one).collect()
}

fn row(request: &Asked<'_>, index: usize, origin: f64) -> anyhow::Result<RequestRow> {
    let json = request.json;
    let at = |key: &str| -> anyhow::Result<Option<i64>> {
        let place = || format!("info.timings.{key}");
        let s = moment_s(json, &format!("/info/timings/{key}"))?;
        s.map(|s| span_ns(s - origin, &place)).transpose()
    };
    let err = request.failed.map(|what| text(json, "/info/error").unwrap_or(what).to_owned());
    let first = at("first_token_iteration")?;
    // One chunk: there is no time between tokens, which two equal ends would hide.
    let one_chunk = count(json, "/info/timings/token_iterations")? == Some(1);
    let row = RequestRow {
        request_id: index as i64,
        due_ns: span_ns(request.due_s - origin, &|| "info.timings.targeted_start".to_owned())?,
        sent_ns: at("request_start")?,
        first_token_ns: first,
        last_token_ns: at("last_token_iteration")?,
        done_ns: at("request_end")?,
        chunk_ns: first.filter(|_| one_chunk).into_iter().collect(),
        prompt_tokens: count(json, "/prompt_tokens")?,
        output_tokens: count(json, "/output_tokens")?,
        token_source: count(json, "/output_tokens")?.map(|_| "peer".to_owned()),
        cached_tokens: count(json, "/cached_tokens")?,
        max_tokens: MAX_TOKENS_UNKNOWN,
        output_text: text(json, "/output").unwrap_or_default().to_owned(),
        attempt: 1,
        err,
        ..RequestRow::default()
    };
    let times = [
        ("request_start", row.sent_ns),
        ("first_token_iteration", first),
        ("last_token_iteration", row.last_token_ns),
    ];
    in_order(&times, SLACK_NS, &|| "info.timings".to_owned())?;
    Ok(row)
}

/// Traps that one benchmark shows.
fn notes_of(benchmark: &Value) -> anyhow::Result<Vec<String>> {
    let load = text(benchmark, "/config/strategy/type_").unwrap_or(UNKNOWN);
    let mut notes = Vec::new();
    if load == "poisson"
        && amount(benchmark, "/config/strategy/worker_count")?.is_none_or(|n| n > 1.0)
    {
        notes.push(
            "its Poisson arrivals are none with more than one worker (0.8.1): every worker draws the same delays, so \
             arrivals come in bursts"
                .to_owned(),
        );
    }
    let good = benchmark.pointer("/requests/successful").and_then(Value::as_array);
    let good = good.map(Vec::as_slice).unwrap_or_default();
    let lacks = |key: &str| {
        good.iter().filter(|request| request.pointer(key).and_then(Value::as_f64).is_none()).count()
    };
    for (name, key) in
        [("TTFT", "/info/timings/first_token_iteration"), ("ITL", "/inter_token_latency_ms")]
    {
        let without = lacks(key);
        if without > 0 {
            notes.push(format!(
                "{load}: {without} of {} good requests have no {name}; its statistics count them as 0.0",
                good.len()
            ));
        }
    }
    if benchmark.pointer("/config/sample_size").is_some_and(|size| !size.is_null()) {
        notes.push(format!("{load}: only a sample of the requests is in the file"));
    }
    let warnings = benchmark.get("warnings").and_then(Value::as_array);
    notes.extend(
        warnings
            .into_iter()
            .flatten()
            .filter_map(|warning| text(warning, "/message"))
            .map(|message| format!("{load}: its own warning: {message}")),
    );
    Ok(notes)
}
