//! Looks for everything that speaks against a run's numbers.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::{IntoLazy as _, col};

use super::{
    Comparison, Engines, KernelPoint, RequestPoint, RunData, SummaryRow, TextPoint, Warning,
    kernels, requests::Served,
};
use crate::{
    record::{
        PROBE_METHOD,
        manifest::{TokenFacts, Verdict},
    },
    scenario::MetricName,
};

/// A generator that is later than this makes requests wait that the server never saw.
const LATE_MS: f64 = 5.0;
/// Read bandwidth that moves by more than this within a run makes unpaired comparisons worthless.
const DRIFT: f64 = 1.5;
/// Counts of tokens that differ in a larger part of a cell's requests are no chance.
const MISCOUNTED: f64 = 0.03;

/// All warnings, worst first.
pub(super) fn warnings(
    data: &RunData,
    served: &Served,
    points: (&[KernelPoint], &[RequestPoint]),
    comparisons: &[Comparison],
    texts: &[TextPoint],
) -> anyhow::Result<Vec<Warning>> {
    let (kernels, requests) = points;
    let slowed = data.manifest.test_slowdown.map(|factor| Warning::Slowed { factor });
    let mut warnings: Vec<Warning> = slowed.into_iter().collect();
    warnings.extend(unverified(kernels));
    warnings.extend(failed_cells(data)?);
    warnings.extend(failed_requests(requests));
    warnings.extend(client(data)?);
    warnings.extend(proofs(data));
    warnings.extend(texts.iter().filter(|text| !text.reasons.is_empty()).map(|text| {
        Warning::Garbled { point: text.point.to_string(), reasons: text.reasons.clone() }
    }));
    warnings.extend(interrupted(data));
    warnings.extend(aa_outside(data, kernels, comparisons));
    warnings.extend(machine(data, kernels)?);
    warnings.extend(requests.iter().filter_map(late));
    warnings.extend(tokens(data, requests, served));
    warnings.extend(data.manifest.token_checks.iter().flat_map(miscounted));
    warnings.extend(small(data, requests));
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
    Ok(warnings)
}

/// What servers told that speaks against their numbers.
pub(super) fn engines(engines: &Engines) -> Vec<Warning> {
    let gained = |view: &super::EngineView, name| view.increase(name).filter(|n| *n > 0.0);
    let mut warnings = Vec::new();
    for view in &engines.points {
        let point = view.point.to_string();
        warnings.extend(gained(view, MetricName::PrefixHitsTotal).map(|hits| {
            let queries = view.increase(MetricName::PrefixQueriesTotal);
            Warning::EnginePrefixHits { point: point.clone(), hits, queries }
        }));
        warnings.extend(
            gained(view, MetricName::PreemptionsTotal)
                .map(|preemptions| Warning::Preempted { point: point.clone(), preemptions }),
        );
        let (failed, of) = (view.n_failed, view.n_failed + view.n_readings);
        warnings.extend((failed > 0).then_some(Warning::EngineUnread { point, failed, of }));
    }
    warnings
}

/// What the client says of itself, and the served cells of which it says nothing.
fn client(data: &RunData) -> anyhow::Result<Vec<Warning>> {
    let known = &data.manifest.client_health;
    let mut warnings: Vec<Warning> = known
        .iter()
        .filter(|facts| facts.verdict != Verdict::Valid)
        .map(|facts| Warning::Client {
            cell: facts.cell_id.clone(),
            verdict: facts.verdict,
            reasons: facts.reasons.clone(),
        })
        .collect();
    let sent = data.requests.clone().lazy().filter(col("sent_ns").is_not_null());
    let served = sent.select([col("cell_id")]).collect()?;
    let served: BTreeSet<&str> = served.column("cell_id")?.str()?.iter().flatten().collect();
    let cells = served.iter().filter(|id| !known.iter().any(|facts| facts.cell_id == **id)).count();
    warnings.extend((cells > 0).then_some(Warning::ClientUnknown { cells }));
    Ok(warnings)
}

/// Engines that did not prove to be what their cells say.
fn proofs(data: &RunData) -> impl Iterator<Item = Warning> {
    let doubtful = data.manifest.proofs.iter().filter(|proof| proof.verdict != Verdict::Valid);
    doubtful.map(|proof| Warning::Proof {
        cell: proof.cell_id.clone(),
        verdict: proof.verdict,
        reasons: proof.reasons.clone(),
    })
}

fn interrupted(data: &RunData) -> Option<Warning> {
    let planned = data.manifest.cells.len();
    let unfinished =
        data.manifest.cells.iter().filter(|cell| !data.finished.contains(&cell.id)).count();
    (unfinished > 0).then_some(Warning::Interrupted { unfinished, planned })
}

/// A kernel that was checked and failed; one that never got so far is a failed cell.
fn unverified(kernels: &[KernelPoint]) -> Option<Warning> {
    let failed = kernels.iter().filter(|point| !point.verified && was_checked(point));
    let points: Vec<String> = failed.map(|point| point.point.to_string()).collect();
    (!points.is_empty()).then_some(Warning::Unverified { points })
}

/// A NaN error is not stored as a number; the row's `err` then says that the check failed.
fn was_checked(point: &KernelPoint) -> bool {
    let said = |err: &String| err.starts_with("verification failed");
    point.max_rel_err.is_some() || point.n_samples > 0 || point.err.as_ref().is_some_and(said)
}

/// Ids of planned cells with at least one row that carries `err`.
///
/// # Errors
/// A table without the columns of this version.
pub fn cells_with_errors(data: &RunData) -> anyhow::Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for table in [&data.kernels, &data.requests] {
        let failed = table
            .clone()
            .lazy()
            .filter(
                col("err").is_not_null().and(col("method").neq(polars::prelude::lit(PROBE_METHOD))),
            )
            .select([col("cell_id")])
            .collect()?;
        ids.extend(failed.column("cell_id")?.str()?.iter().flatten().map(str::to_owned));
    }
    Ok(ids)
}

/// Cells of which every row carries `err`.
fn failed_cells(data: &RunData) -> anyhow::Result<Option<Warning>> {
    let (mut cells, mut example) = (0, None);
    for table in [&data.kernels, &data.requests] {
        let failed = table
            .clone()
            .lazy()
            .filter(col("method").neq(polars::prelude::lit(PROBE_METHOD)))
            .group_by_stable([col("cell_id")])
            .agg([
                col("err").is_not_null().all(true).alias("all_failed"),
                col("err").first().alias("first_err"),
            ])
            .filter(col("all_failed"))
            .collect()?;
        cells += failed.height();
        let first = failed.column("first_err")?.str()?.iter().flatten().next().map(str::to_owned);
        example = example.or(first);
    }
    Ok(example.map(|example| Warning::FailedCells { cells, example }))
}

fn failed_requests(requests: &[RequestPoint]) -> Option<Warning> {
    let failed: usize = requests.iter().map(|point| point.n_failed).sum();
    let total = requests.iter().map(|point| point.n_requests).sum();
    let mut classes: BTreeMap<&str, usize> = BTreeMap::new();
    for (class, n) in requests.iter().flat_map(|point| &point.failures) {
        *classes.entry(class).or_default() += n;
    }
    let example = classes.into_iter().max_by_key(|(_, n)| *n)?.0.to_owned();
    Some(Warning::FailedRequests { failed, total, example })
}

fn aa_outside(
    data: &RunData,
    kernels: &[KernelPoint],
    comparisons: &[Comparison],
) -> Option<Warning> {
    let aa = data.aa_method();
    let of_kernels =
        kernels.iter().filter(|point| point.point.method == aa).filter_map(|point| point.speedup);
    let of_requests =
        comparisons.iter().filter(|ratio| ratio.point.method == aa).map(|ratio| ratio.ratio);
    let controls: Vec<_> = of_kernels.chain(of_requests).collect();
    let outside: Vec<_> = controls.iter().filter(|ratio| ratio.excludes_one()).collect();
    let worst = outside.iter().map(|ratio| (ratio.value - 1.0).abs()).reduce(f64::max)?;
    // One interval in twenty excludes the truth by construction.
    (outside.len() * 20 > controls.len()).then_some(Warning::AaOutside {
        points: outside.len(),
        of: controls.len(),
        worst,
    })
}

fn machine(data: &RunData, points: &[KernelPoint]) -> anyhow::Result<Option<Warning>> {
    if points.iter().all(|point| point.n_samples == 0) {
        return Ok(None);
    }
    let mut targets: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for ((target, ..), read) in kernels::probes(&data.kernels)? {
        let (low, high) = targets.entry(target).or_insert((read, read));
        (*low, *high) = (low.min(read), high.max(read));
    }
    let Some(ratio) = targets.into_values().map(|(low, high)| high / low).reduce(f64::max) else {
        return Ok(Some(Warning::NoProbe));
    };
    Ok((ratio > DRIFT).then_some(Warning::Drift { ratio }))
}

fn late(point: &RequestPoint) -> Option<Warning> {
    let delay_ms = lateness_ms(point.metric("queue_delay")?)?;
    Some(Warning::LateGenerator { point: point.point.to_string(), delay_ms })
}

/// How late requests were sent, where that is too late.
pub(super) fn lateness_ms(queue_delay: &SummaryRow) -> Option<f64> {
    // A sample too small for a p99 is judged by its p90, and a smaller one by its mean: both are lower.
    let delay_ms = queue_delay.p99.or(queue_delay.p90).unwrap_or(queue_delay.mean);
    (delay_ms > LATE_MS).then_some(delay_ms)
}

fn tokens(data: &RunData, requests: &[RequestPoint], served: &Served) -> Vec<Warning> {
    let good: Vec<_> = served.rows.iter().filter(|row| row.err.is_none()).collect();
    let unknown = good.iter().filter(|row| row.output_tokens.is_none()).count();
    let free = |point: &&RequestPoint| {
        point.n_truncated > 0 && !data.has_fixed_lengths(&point.point.target, &point.point.workload)
    };
    let truncated = requests.iter().filter(free).map(|point| point.n_truncated).sum();
    let cached: i64 = good.iter().filter_map(|row| row.cached_tokens).sum();
    let prompts = good
        .iter()
        .filter(|row| row.cached_tokens.is_some())
        .filter_map(|row| row.prompt_tokens)
        .sum();
    let mut warnings = Vec::new();
    if unknown > 0 {
        warnings.push(Warning::TokensUnknown { requests: unknown, of: good.len() });
    }
    if cached > 0 {
        warnings.push(Warning::PrefixCache { cached, of: prompts });
    }
    if truncated > 0 {
        warnings.push(Warning::Truncated { truncated, of: good.len() });
    }
    warnings
}

/// Counts of one cell against those of the workload's tokenizer.
fn miscounted(facts: &TokenFacts) -> impl Iterator<Item = Warning> {
    let cell = &facts.cell_id;
    let answers = often(facts.n_far, facts.n_compared).then(|| Warning::AnswersMiscounted {
        cell: cell.clone(),
        far: facts.n_far,
        of: facts.n_compared,
        ratio: facts.tokens_server as f64 / facts.tokens_ours.max(1) as f64,
    });
    let prompts =
        often(facts.n_prompts_differ, facts.n_prompts).then(|| Warning::PromptsMiscounted {
            cell: cell.clone(),
            differ: facts.n_prompts_differ,
            of: facts.n_prompts,
            worst: facts.worst_prompt,
        });
    answers.into_iter().chain(prompts)
}

/// More than the few of a hundred that can be chance.
fn often(n: u64, of: u64) -> bool {
    n as f64 > MISCOUNTED * of as f64
}

fn small(data: &RunData, requests: &[RequestPoint]) -> Vec<Warning> {
    let for_p99 = crate::stats::needed_for(99);
    let sizes =
        requests.iter().map(|point| point.n_requests - point.n_failed).filter(|n| *n < for_p99);
    let (mut points, mut smallest) = (0, usize::MAX);
    sizes.for_each(|n| (points, smallest) = (points + 1, smallest.min(n)));
    let mut warnings = Vec::new();
    if points > 0 {
        warnings.push(Warning::FewSamples { points, smallest });
    }
    let repeats: BTreeSet<u32> = data.manifest.cells.iter().map(|cell| cell.repeat).collect();
    if repeats.len() == 1 {
        warnings.push(Warning::OneRepeat);
    }
    warnings
}
