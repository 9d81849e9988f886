//! `vllm bench serve`, the Python client and the Rust one: the same keys, the same definitions. With `--save-detailed` there
//! are lists of times, one entry a request.
//!
//! `ttfts` are to the first message with `choices`, `itls` are the gaps between such messages, `latencies` end at the last of
//! them, all from when the request got past `--max-concurrency`; `queue_times` is how long that took.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{
    Imported, PeerCell, Reported, UNKNOWN,
    aiperf::SLACK_NS,
    json::{self, Kind, amount, count, in_order, numbers, span_ns, text},
};
use crate::record::RequestRow;

/// `max_tokens` is in no file of this tool.
pub(super) const MAX_TOKENS_UNKNOWN: i64 = -1;

/// What rows made of these lists are under our names.
const RELABEL: &[(&str, Option<&str>)] = &[
    ("ttft.first_content", Some("ttft.first_choices")),
    ("ttft.first_content.from_due", Some("ttft.first_choices.from_due")),
    ("e2e.last_content", Some("e2e.last_choices")),
    ("e2e.last_content.from_due", Some("e2e.last_choices.from_due")),
    ("tpot.request_mean", Some("tpot.request_mean.choices")),
    ("itl.per_chunk", Some("itl.per_choices_chunk")),
    // As many messages as tokens does not mean one each: an empty last message and a wrong count make it so by chance.
    ("itl.per_token", None),
    ("length.prompt.server_count", Some("length.prompt.peer_count")),
    ("length.output.server_count", Some("length.output.peer_count")),
    ("ttft.first_content.steady_state", Some("ttft.first_choices.steady_state")),
    ("e2e.last_content.steady_state", Some("e2e.last_choices.steady_state")),
    ("tpot.request_mean.steady_state", Some("tpot.request_mean.choices.steady_state")),
];

/// Distributions: stem of the keys, id.
const DISTRIBUTIONS: [(&str, &str); 4] = [
    ("ttft", "ttft.first_choices"),
    ("tpot", "tpot.request_mean.choices"),
    ("itl", "itl.per_choices_chunk"),
    ("e2el", "e2e.last_choices"),
];

/// Numbers for the whole: key, id.
const WHOLES: [(&str, &str); 6] = [
    ("request_throughput", "throughput.requests_per_s.whole_run"),
    ("output_throughput", "throughput.output_tokens_per_s.whole_run"),
    ("total_token_throughput", "throughput.total_tokens_per_s.whole_run"),
    ("request_goodput", "throughput.goodput_per_s.whole_run"),
    ("max_output_tokens_per_s", "throughput.chunks_per_s.peak_1s_bucket"),
    ("max_concurrent_requests", "concurrency.peak_1s_bucket"),
];

pub(super) fn read(document: &Value) -> anyhow::Result<Imported> {
    // The Python client writes 20261123-200427, the Rust one RFC 3339.
    let is_rust = text(document, "/date").is_some_and(|date| date.contains('T'));
    let requests = Requests::of(document)?;
    let rows = requests.as_ref().map(Requests::rows).transpose()?.unwrap_or_default();
    let concurrency = count(document, "/max_concurrency")?.and_then(|n| u32::try_from(n).ok());
    let rate = rate(document)?;
    let cell = PeerCell {
        workload: text(document, "/model_id").unwrap_or(UNKNOWN).to_owned(),
        load: load(rate, concurrency),
        concurrency: concurrency.filter(|_| rate.is_none()),
        due_known: requests.as_ref().is_some_and(|requests| requests.queues.is_some()),
        reported: reported(document)?,
        relabel: RELABEL,
        rows,
    };
    let mut notes = notes(document, requests.as_ref())?;
    if cell.rows.is_empty() {
        notes.push(
            "no lists of single requests: nothing could be computed again; save with --save-detailed".to_owned(),
        );
    }
    Ok(Imported {
        tool: if is_rust { "vllm-bench-rs" } else { "vllm-bench-serve" },
        version: None,
        cells: vec![cell],
        notes,
    })
}

/// Requests per second; `None` of a closed loop, whose rate is written as `"inf"`.
fn rate(document: &Value) -> anyhow::Result<Option<f64>> {
    if text(document, "/request_rate") == Some("inf") {
        return Ok(None);
    }
    amount(document, "/request_rate")
}

fn load(rate: Option<f64>, concurrency: Option<u32>) -> String {
    match (rate, concurrency) {
        (Some(rate), Some(cap)) => format!("gamma-{rate}-capped-{cap}"),
        (Some(rate), None) => format!("gamma-{rate}"),
        (None, Some(cap)) => format!("closed-{cap}"),
        (None, None) => "all-at-once".to_owned(),
    }
}

fn reported(document: &Value) -> anyhow::Result<Vec<Reported>> {
    let completed = count(document, "/completed")?.and_then(|n| u64::try_from(n).ok());
    let gaps = document.pointer("/itls").and_then(Value::as_array).map(|itls| {
        itls.iter().filter_map(Value::as_array).map(|gaps| gaps.len() as u64).sum::<u64>()
    });
    let of = |(stem, definition): (&str, &'static str)| -> anyhow::Result<_> {
        let at = |front: &str| amount(document, &format!("/{front}_{stem}_ms"));
        let n = match stem {
            "itl" => gaps,
            // Answers of one token have no TPOT, and nothing says how many there were.
            "tpot" => None,
            _ => completed,
        };
        let Some(mean) = at("mean")? else { return Ok(None) };
        Ok(Some(Reported {
            metric: format!("{stem}_ms"),
            definition,
            n,
            mean: Some(mean),
            p50: at("median")?.or(at("p50")?),
            p90: at("p90")?,
            p95: at("p95")?,
            p99: at("p99")?,
        }))
    };
    let whole = |(key, definition): (&str, &'static str)| -> anyhow::Result<_> {
        Ok(Reported::whole(key, definition, amount(document, &format!("/{key}"))?))
    };
    let steady = Reported::whole(
        "steady_state.request_throughput",
        "throughput.requests_per_s.steady_state",
        amount(document, "/steady_state/request_throughput")?,
    );
    let all = DISTRIBUTIONS.into_iter().map(of).chain(WHOLES.into_iter().map(whole));
    let all: Vec<Option<Reported>> = all.collect::<anyhow::Result<_>>()?;
    Ok(all.into_iter().flatten().chain(steady).collect())
}

/// The lists, one entry a request; all of one length. Seconds.
struct Requests {
    starts: Vec<f64>,
    ttfts: Vec<f64>,
    itls: Vec<Vec<f64>>,
    latencies: Vec<f64>,
    input_lens: Vec<f64>,
    output_lens: Vec<f64>,
    errors: Vec<String>,
    /// `None` of clients before they recorded it.
    queues: Option<Vec<f64>>,
    texts: Option<Vec<String>>,
}

impl Requests {
    /// `None` without `--save-detailed`.
    fn of(document: &Value) -> anyhow::Result<Option<Self>> {
        if document.get("start_times").is_none() {
            return Ok(None);
        }
        let list = |key: &str, kind: Kind| {
            numbers(document, &format!("/{key}"), kind)?
                .with_context(|| format!("{key}: expected a list of numbers, got none"))
        };
        let strings = |key: &str| -> anyhow::Result<Option<Vec<String>>> {
            let Some(list) = document.get(key).filter(|list| !list.is_null()) else {
                return Ok(None);
            };
            let list = serde_json::from_value(list.clone());
            list.map(Some).with_context(|| format!("{key}: expected a list of texts"))
        };
        let requests = Requests {
            starts: list("start_times", Kind::Moments)?,
            ttfts: list("ttfts", Kind::Durations)?,
            itls: gaps(&document["itls"])?,
            latencies: list("latencies", Kind::Durations)?,
            input_lens: list("input_lens", Kind::Counts)?,
            output_lens: list("output_lens", Kind::Counts)?,
            errors: strings("errors")?.context("errors: expected a list of texts, got none")?,
            queues: numbers(document, "/queue_times", Kind::Durations)?,
            texts: strings("generated_texts")?,
        };
        requests.check()?;
        Ok(Some(requests))
    }

    fn check(&self) -> anyhow::Result<()> {
        let n = self.starts.len();
        let lengths = [
            ("ttfts", self.ttfts.len()),
            ("itls", self.itls.len()),
            ("latencies", self.latencies.len()),
            ("input_lens", self.input_lens.len()),
            ("output_lens", self.output_lens.len()),
            ("errors", self.errors.len()),
            ("queue_times", self.queues.as_ref().map_or(n, Vec::len)),
            ("generated_texts", self.texts.as_ref().map_or(n, Vec::len)),
        ];
        for (key, length) in lengths {
            ensure!(
                length == n,
                "{key}: expected {n} entries, as many as start_times, got {length}"
            );
        }
        Ok(())
    }

    fn good(&self) -> impl Iterator<Item = usize> {
        (0..self.starts.len()).filter(|&i| self.errors[i].is_empty())
    }

    /// Seconds from the first request sent to the last answer.
    fn span(&self) -> Option<f64> {
        let start = self.starts.iter().copied().reduce(f64::min)?;
        let end = self.good().map(|i| self.starts[i] + self.latencies[i]).reduce(f64::max)?;
        Some(end - start)
    }

    fn due(&self, i: usize) -> f64 {
        self.starts[i] - self.queues.as_ref().map_or(0.0, |queues| queues[i])
    }

    fn rows(&self) -> anyhow::Result<Vec<RequestRow>> {
        let first = (0..self.starts.len()).map(|i| self.due(i)).reduce(f64::min);
        let origin = first.context("start_times: expected at least one request")?;
        (0..self.starts.len()).map(|i| self.row(i, origin)).collect()
    }

    fn row(&self, i: usize, origin: f64) -> anyhow::Result<RequestRow> {
        let at = |s: f64, list: &str| span_ns(s, &|| format!("{list}[{i}]"));
        let sent_ns = at(self.starts[i] - origin, "start_times")?;
        let sent = RequestRow {
            request_id: i as i64,
            due_ns: at(self.due(i) - origin, "queue_times")?,
            sent_ns: Some(sent_ns),
            max_tokens: MAX_TOKENS_UNKNOWN,
            attempt: 1,
            ..RequestRow::default()
        };
        if !self.errors[i].is_empty() {
            // The lists hold zeros here, which are no times.
            let last_line = self.errors[i].trim().lines().last().unwrap_or("failed");
            return Ok(RequestRow { err: Some(last_line.to_owned()), ..sent });
        }
        let mut since = self.ttfts[i];
        let mut chunk_ns = vec![sent_ns + at(since, "ttfts")?];
        for gap in &self.itls[i] {
            since += gap;
            chunk_ns.push(sent_ns + at(since, "itls")?);
        }
        let row = RequestRow {
            first_token_ns: chunk_ns.first().copied(),
            last_token_ns: Some(sent_ns + at(self.latencies[i], "latencies")?),
            chunk_ns,
            prompt_tokens: Some(self.input_lens[i].round() as i64),
            output_tokens: Some(self.output_lens[i].round() as i64),
            token_source: Some("peer".to_owned()),
            output_text: self.texts.as_ref().map(|texts| texts[i].clone()).unwrap_or_default(),
            ..sent
        };
        let times = [("ttfts", row.first_token_ns), ("latencies", row.last_token_ns)];
        in_order(&times, SLACK_NS, &|| format!("latencies[{i}]"))?;
        Ok(row)
    }
}

/// The gaps of each request.
fn gaps(itls: &Value) -> anyhow::Result<Vec<Vec<f64>>> {
    let Some(lists) = itls.as_array() else {
        bail!("itls: expected a list of lists of numbers, got {}", json::shape(itls));
    };
    let one = |(i, list): (usize, &Value)| json::all(list, &format!("itls[{i}]"), Kind::Durations);
    lists.iter().enumerate().map(one).collect()
}

/// Traps that this file shows, and those that it cannot.
fn notes(document: &Value, requests: Option<&Requests>) -> anyhow::Result<Vec<String>> {
    let mut notes = vec![
        "no seed, no version and no prompt hashes are in the file: nothing shows that two runs sent the same prompts"
            .to_owned(),
        "lengths of answers are `usage` where the server sent it in a message of its own, else the text tokenised again, \
         else 1: the file does not say which"
            .to_owned(),
    ];
    if text(document, "/endpoint_type").is_some_and(|kind| kind.contains("chat")) {
        notes.push(
            "a chat endpoint sends the role first: its empty message ends the TTFT and adds an ITL"
                .to_owned(),
        );
    }
    let of = |key: &str| amount(document, key);
    if let (Some(peak), Some(cap)) = (of("/max_concurrent_requests")?, of("/max_concurrency")?)
        && peak > cap
    {
        notes.push(format!(
            "max_concurrent_requests {peak} exceeds the cap of {cap}: it counts requests that touch a second"
        ));
    }
    if let (Some(duration), Some(span)) = (of("/duration")?, requests.and_then(Requests::span)) {
        notes.push(format!(
            "its rates divide by {duration:.2} s, which hold more than the {span:.2} s from the first request to the last \
             answer"
        ));
    }
    if document.get("steady_state").is_some_and(Value::is_object) {
        notes.push(
            "of `steady_state` only the request rate is taken: which requests its latencies and token rates hold is not \
             in the file"
                .to_owned(),
        );
    }
    notes.extend(requests.map(seen).unwrap_or_default());
    Ok(notes)
}

/// What the lists show.
fn seen(requests: &Requests) -> Vec<String> {
    let good: Vec<usize> = requests.good().collect();
    let chunks = |i: &usize| requests.itls[*i].len() + 1;
    let tokens = |i: &usize| requests.output_lens[*i] as usize;
    let fewer: Vec<&usize> = good.iter().filter(|i| chunks(i) < tokens(i)).collect();
    let mut notes = Vec::new();
    if let Some(least) = fewer.iter().map(|i| chunks(i)).min() {
        notes.push(format!(
            "{} of {} answers came in fewer messages than they have tokens (fewest {least}): ITL is per message, so it is \
             too long and there are too few",
            fewer.len(),
            good.len()
        ));
    }
    let failed = requests.starts.len() - good.len();
    if failed > 0 {
        notes.push(format!(
            "{failed} of {} requests failed; they are in no latency",
            requests.starts.len()
        ));
    }
    let mut lengths: Vec<usize> = good.iter().map(tokens).collect();
    lengths.sort_unstable();
    if let [low, .., high] = lengths[..]
        && low < high
        && high - low <= 2
        && lengths.len() >= 10
    {
        notes.push(format!(
            "lengths of answers are {low} to {high}: asked-for lengths that differ by one or two are a sign of text \
             tokenised again instead of usage"
        ));
    }
    let queued = good.iter().map(|&i| requests.starts[i] - requests.due(i));
    let longest = queued.fold(0.0, f64::max);
    if longest > 0.1 {
        notes.push(format!(
            "requests waited up to {longest:.1} s behind --max-concurrency, which TTFT and E2E leave out: see the \
             numbers from due"
        ));
    }
    notes
}
