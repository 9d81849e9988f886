//! The report of one run: what was judged becomes tables, figures, `report.md` and `report.html`. Computes no statistic.

mod engine;
pub mod forced;
mod glossary;
pub mod judged;
mod kernels;
pub mod lengths;
pub(super) mod page;
mod quality;
mod saturation;
mod served;
pub mod tables;
mod telemetry;
mod words;

use super::{Figure, palette::looks};
use crate::{
    analyse::{Judgement, Point, RequestFacts, RunData, request_facts},
    record::{Manifest, TelemetryRow, parquet::TableRow as _},
};

/// Files of a report, by path relative to the run folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportFiles(pub Vec<(String, Vec<u8>)>);

/// What a report is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What the run was.
    pub manifest: &'a Manifest,
    /// What follows from its rows.
    pub judgement: &'a Judgement,
    /// One entry a request; empty for a run without engines.
    pub facts: &'a [RequestFacts],
    /// Samples of the machine.
    pub telemetry: &'a [TelemetryRow],
}

/// A figure and the name of its files, without extension.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// `decode-kv-len-cpu-llama-2-7b`.
    pub name: String,
    /// The picture.
    pub figure: Figure,
}

/// Renders the report of a run: see [`build_from`].
///
/// # Errors
/// As [`build_from`], or a table of the run that does not hold what its name says.
pub fn build(data: &RunData, judgement: &Judgement) -> anyhow::Result<ReportFiles> {
    let facts = request_facts(data)?;
    let telemetry = TelemetryRow::rows(&data.telemetry)?;
    build_from(&Source {
        manifest: &data.manifest,
        judgement,
        facts: &facts,
        telemetry: &telemetry,
    })
}

/// Renders everything: `report.md`, `report.html`, `plots/*.svg`, `plots/*.png`.
///
/// # Errors
/// A number that cannot be drawn (see [`Figure::check`]) or a template that does not render.
pub fn build_from(source: &Source<'_>) -> anyhow::Result<ReportFiles> {
    let plots = plots(source);
    let pictures =
        plots.iter().map(|plot| super::svg(&plot.figure)).collect::<anyhow::Result<Vec<_>>>()?;
    let page = page::Page::new(source, &plots);
    let mut files = vec![("report.md".to_owned(), page.markdown().into_bytes())];
    files.push(("report.html".to_owned(), page.html()?.into_bytes()));
    for (plot, picture) in plots.iter().zip(pictures) {
        files.push((format!("plots/{}.png", plot.name), super::png(&plot.figure)?));
        files.push((format!("plots/{}.svg", plot.name), picture.into_bytes()));
    }
    Ok(ReportFiles(files))
}

/// Every figure for which there are rows.
pub fn plots(source: &Source<'_>) -> Vec<Plot> {
    let looks = Looks::new(source);
    let mut out = kernels::plots(source.judgement, &looks);
    out.extend(served::plots(source, &looks));
    out.extend(lengths::plots(&source.judgement.lengths, &looks));
    out.extend(forced::plots(&source.judgement.forced, &looks));
    out.extend(quality::plots(&source.judgement.quality));
    out.extend(saturation::plots(&source.judgement.searches, &looks));
    out.extend(engine::plots(&source.judgement.engines, &looks));
    out.extend(telemetry::plots(source.telemetry));
    out
}

/// Colours of methods by their names, and their order: the baseline first, then as in the plan.
pub(super) struct Looks {
    baseline: String,
    methods: Vec<String>,
}

impl Looks {
    pub(super) fn new(source: &Source<'_>) -> Self {
        let judged = source
            .judgement
            .kernels
            .iter()
            .map(|k| &k.point)
            .chain(source.judgement.requests.iter().map(|r| &r.point));
        let planned = source.manifest.cells.iter().map(|cell| &cell.method);
        let baseline = source.manifest.scenario.baseline.clone();
        let mut methods = vec![baseline.clone()];
        for method in planned.chain(judged.map(|point| &point.method)) {
            if !methods.contains(method) {
                methods.push(method.clone());
            }
        }
        Self { baseline, methods }
    }

    pub(super) fn slot(&self, method: &str) -> usize {
        looks(self.methods.clone())(method)
    }

    pub(super) fn rank(&self, method: &str) -> Option<usize> {
        self.methods.iter().position(|known| known == method)
    }

    /// The methods of these points in legend order.
    pub(super) fn order<'p>(&self, points: impl Iterator<Item = &'p Point>) -> Vec<String> {
        let mut out = distinct(points.map(|point| point.method.clone()));
        out.sort_by_key(|method| self.rank(method).unwrap_or(usize::MAX));
        out
    }
}

/// Values in order of first sight, each once.
pub(super) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut out: Vec<T> = Vec::new();
    for value in values {
        if !out.contains(&value) {
            out.push(value);
        }
    }
    out
}

/// A name that is safe as a file name.
pub(super) fn slug(parts: &[&str]) -> String {
    let joined = parts.join("-").to_lowercase();
    let safe = joined.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' });
    safe.collect::<String>().trim_matches(['-', '.']).to_owned()
}

/// Where the `n`th of `of` methods stands beside the middle of category `category`.
pub(super) fn dodge(category: usize, n: usize, of: usize) -> f64 {
    category as f64 + ((n as f64 + 0.5) / of.max(1) as f64 - 0.5) * 0.86
}

#[cfg(test)]
pub(super) mod tests;
