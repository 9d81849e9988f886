//! The verdict on each cell: everything that speaks against it, joined, and the worst of it.

use std::collections::BTreeMap;

use super::{
    Comparison, KernelPoint, Point, RunData, SummaryRow, TextPoint, Warning,
    requests::{Served, class},
    suspicion::lateness_ms,
};
use crate::record::{
    PROBE_METHOD, RequestRow,
    manifest::{CellFacts, Verdict},
};

/// Whether the numbers of one cell can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellVerdict {
    /// The cell.
    pub cell_id: String,
    /// The worst of its reasons.
    pub verdict: Verdict,
    /// What speaks against it, worst first; a VALID cell may have some to be read with its numbers.
    pub reasons: Vec<String>,
}

/// What verdicts are made of.
pub(super) struct Findings<'a> {
    pub(super) data: &'a RunData,
    pub(super) served: &'a Served,
    pub(super) kernels: &'a [KernelPoint],
    pub(super) comparisons: &'a [Comparison],
    pub(super) texts: &'a [TextPoint],
    pub(super) warnings: &'a [Warning],
    pub(super) summary: &'a [SummaryRow],
}

type Reason = (Verdict, String);

/// One verdict a planned cell, in plan order.
///
/// # Errors
/// A table without the columns of this version.
pub(super) fn verdicts(findings: &Findings<'_>) -> anyhow::Result<Vec<CellVerdict>> {
    let kernels = kernel_cells(findings.data)?;
    let mut requests: BTreeMap<&str, Vec<&RequestRow>> = BTreeMap::new();
    for row in &findings.served.rows {
        requests.entry(&row.cell_id).or_default().push(row);
    }
    let one = |cell: &CellFacts| {
        let (kernel, rows) = (kernels.get(&cell.id), requests.get(cell.id.as_str()));
        let mut reasons: Vec<Reason> = Vec::new();
        let rows_of = rows.map(Vec::as_slice);
        reasons.extend(presence(findings.data, cell, kernel.is_some(), rows_of));
        reasons.extend(kernel.map(|kernel| kernel_reasons(findings, kernel)).unwrap_or_default());
        reasons.extend(rows.map(|rows| served_reasons(findings, cell, rows)).unwrap_or_default());
        reasons.extend(control(findings, cell));
        reasons.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
        CellVerdict {
            cell_id: cell.id.clone(),
            verdict: reasons.first().map_or(Verdict::Valid, |(verdict, _)| *verdict),
            reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
        }
    };
    Ok(findings.data.manifest.cells.iter().map(one).collect())
}

fn presence(
    data: &RunData,
    cell: &CellFacts,
    is_kernel: bool,
    rows: Option<&[&RequestRow]>,
) -> Option<Reason> {
    let text = match rows {
        None if !is_kernel => "was not measured: it has no rows",
        _ if data.finished.contains(&cell.id) => return None,
        Some(rows) if !sent(rows) => "was never sent: `kvbench run --resume` measures it",
        _ => "is unfinished: its numbers rest on fewer samples",
    };
    Some((Verdict::Suspect, text.to_owned()))
}

/// Whether anything reached a server.
fn sent(rows: &[&RequestRow]) -> bool {
    rows.iter().any(|row| row.was_sent())
}

/// Rows of one kernel cell.
#[derive(Default)]
struct KernelCell {
    n: usize,
    failed: usize,
    unverified: bool,
    example: Option<String>,
}

fn kernel_cells(data: &RunData) -> anyhow::Result<BTreeMap<String, KernelCell>> {
    let frame = &data.kernels;
    let (ids, methods) = (frame.column("cell_id")?.str()?, frame.column("method")?.str()?);
    let (errs, verified) = (frame.column("err")?.str()?, frame.column("verified")?.bool()?);
    let mut cells: BTreeMap<String, KernelCell> = BTreeMap::new();
    let rows = ids.iter().zip(methods.iter()).zip(errs.iter()).zip(verified.iter());
    for (((id, method), err), verified) in rows {
        let Some(id) = id.filter(|_| method != Some(PROBE_METHOD)) else { continue };
        let cell = cells.entry(id.to_owned()).or_default();
        cell.n += 1;
        cell.failed += usize::from(err.is_some());
        cell.unverified |= verified == Some(false) && err.is_none_or(is_failed_check);
        cell.example = cell.example.take().or(err.map(str::to_owned));
    }
    Ok(cells)
}

fn is_failed_check(err: &str) -> bool {
    err.starts_with("verification failed")
}

fn kernel_reasons(findings: &Findings<'_>, cell: &KernelCell) -> Vec<Reason> {
    let mut reasons = failures("launches", cell.failed, cell.n, cell.example.as_deref());
    if cell.unverified {
        reasons.push((Verdict::Invalid, "its kernel failed the check against f64".to_owned()));
    }
    reasons.extend(findings.warnings.iter().filter_map(machine));
    reasons
}

/// What the machine did holds for every kernel of the run; said in few words, since each cell repeats it.
fn machine(warning: &Warning) -> Option<Reason> {
    let text = match warning {
        Warning::Drift { ratio } => format!("read bandwidth moved {ratio:.1}x within the run"),
        Warning::NoProbe => "no read-bandwidth probe was recorded".to_owned(),
        _ => return None,
    };
    Some((warning.severity(), text))
}

fn failures(what: &str, failed: usize, of: usize, example: Option<&str>) -> Vec<Reason> {
    let verdict = match failed {
        0 => return Vec::new(),
        _ if failed == of => Verdict::Invalid,
        _ => Verdict::Suspect,
    };
    let example = example.map(|err| format!(" ({})", class(err))).unwrap_or_default();
    vec![(verdict, format!("{failed} of {of} {what} failed{example}"))]
}

fn served_reasons(findings: &Findings<'_>, cell: &CellFacts, rows: &[&RequestRow]) -> Vec<Reason> {
    let failed = rows.iter().filter(|row| row.err.is_some()).count();
    let example = rows.iter().find_map(|row| row.err.as_deref());
    let mut reasons = failures("requests", failed, rows.len(), example);
    reasons.extend(client(findings.data, cell, rows));
    reasons.extend(proof(findings.data, cell, rows));
    let fixed = findings.data.has_fixed_lengths(&cell.target, &cell.workload);
    reasons.extend(counted(rows, fixed));
    let metrics = findings.summary.iter().filter(|row| row.cell_id == cell.id);
    reasons.extend(metrics.filter(|row| row.metric == "queue_delay").find_map(lateness_ms).map(
        |delay_ms| (Verdict::Suspect, format!("requests left up to {delay_ms:.1} ms after due")),
    ));
    let of_cell = |text: &&TextPoint| {
        let point = &text.point;
        (&point.target, &point.method, &point.workload, &point.load)
            == (&cell.target, &cell.method, &cell.workload, &cell.load)
    };
    let texts = findings.texts.iter().filter(of_cell).flat_map(|text| &text.reasons);
    reasons.extend(texts.map(|reason| (Verdict::Suspect, reason.clone())));
    reasons
}

/// What the client says of itself; a client that was never watched may have been the bottleneck.
fn client(data: &RunData, cell: &CellFacts, rows: &[&RequestRow]) -> Vec<Reason> {
    match data.manifest.client_health.iter().find(|health| health.cell_id == cell.id) {
        Some(health) if health.verdict == Verdict::Valid => Vec::new(),
        Some(health) => {
            vec![(health.verdict, format!("client: {}", health.reasons.join("; ")))]
        }
        None if !sent(rows) => Vec::new(),
        None => vec![(Verdict::Suspect, "nothing tells whether the client kept up".to_owned())],
    }
}

/// What the server proved to be; of one that proved nothing the scenario's word is all there is.
fn proof(data: &RunData, cell: &CellFacts, rows: &[&RequestRow]) -> Vec<Reason> {
    let mut own = data.manifest.proofs.iter().filter(|proof| proof.cell_id == cell.id).peekable();
    if own.peek().is_none() && sent(rows) {
        let text = "nothing tells whether the server was what the scenario says (no proof of configuration)";
        return vec![(Verdict::Suspect, text.to_owned())];
    }
    own.flat_map(|proof| proof.reasons.iter().map(|why| (proof.verdict, format!("engine: {why}"))))
        .collect()
}

/// Tokens that nobody counted, prompts from a cache, answers that were cut.
fn counted(rows: &[&RequestRow], fixed: bool) -> Vec<Reason> {
    let good: Vec<_> = rows.iter().filter(|row| row.err.is_none()).collect();
    let n = |holds: fn(&RequestRow) -> bool| good.iter().filter(|row| holds(row)).count();
    let unknown = n(|row| row.output_tokens.is_none());
    let cached = n(|row| row.cached_tokens.is_some_and(|tokens| tokens > 0));
    let cut = if fixed { 0 } else { n(|row| row.finish_reason.as_deref() == Some("length")) };
    [
        (Verdict::Suspect, unknown, "good requests have no token count"),
        (Verdict::Suspect, cached, "good requests had prompt tokens in a prefix cache"),
        (Verdict::Valid, cut, "answers were cut at their limit: longer than counted"),
    ]
    .into_iter()
    .filter(|(_, n, _)| *n > 0)
    .map(|(verdict, n, what)| (verdict, format!("{n} of {} {what}", good.len())))
    .collect()
}

/// The A/A control here differs from its own baseline, and controls of the run do so more often than chance lets them.
fn control(findings: &Findings<'_>, cell: &CellFacts) -> Option<Reason> {
    if !findings.warnings.iter().any(|warning| matches!(warning, Warning::AaOutside { .. })) {
        return None;
    }
    let aa = findings.data.aa_method();
    let here = |workload: &str, load: &str, method: &str| {
        method == aa && workload == cell.workload && load == cell.load
    };
    let of_kernels = findings.kernels.iter().filter(|k| {
        k.point.target == cell.target && here(&k.point.workload, &k.point.load, &k.point.method)
    });
    let of_requests = findings
        .comparisons
        .iter()
        .filter(|c| here(&c.point.workload, &c.point.load, &c.point.method));
    let mut ratios =
        of_kernels.filter_map(|k| k.speedup).chain(of_requests.map(|comparison| comparison.ratio));
    ratios.any(|ratio| ratio.excludes_one()).then(|| {
        (Verdict::Suspect, "the A/A control differs from its own baseline here".to_owned())
    })
}

/// Writes the verdict of its cell into every summary row, and the worst of its cells into the rows of a point.
pub(super) fn mark(data: &RunData, summary: &mut [SummaryRow], cells: &[CellVerdict]) {
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    for (cell, facts) in cells.iter().zip(&data.manifest.cells) {
        let point = Point {
            target: facts.target.clone(),
            workload: facts.workload.clone(),
            load: facts.load.clone(),
            method: facts.method.clone(),
        };
        for id in [cell.cell_id.clone(), data.pooled_id(&point)] {
            let known = verdicts.entry(id).or_insert(cell.verdict);
            *known = (*known).max(cell.verdict);
        }
    }
    for row in summary {
        row.verdict = verdicts.get(&row.cell_id).map(ToString::to_string);
    }
}

/// Cells that are not VALID, worst first, in plan order among equals.
pub fn doubtful(cells: &[CellVerdict]) -> Vec<&CellVerdict> {
    let mut doubtful: Vec<&CellVerdict> =
        cells.iter().filter(|cell| cell.verdict != Verdict::Valid).collect();
    doubtful.sort_by_key(|cell| std::cmp::Reverse(cell.verdict));
    doubtful
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
