//! Figures for papers: what `kvbench plot` draws of one or several judged runs. Computes no statistic of a method.

mod caption;
mod cdf;
mod roofline;
mod served;
mod throughput;
mod timeline;

pub use caption::{latex, plain};

use super::{
    figure::{Figure, Sheet},
    negatives, pareto,
    run::{self, Plot, Source},
};
use crate::analyse::{
    InFlight,
    lengths::LengthPoint,
    negatives::Found,
    pareto::{Candidate, Front},
};

/// A figure that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Throughput against length and batch by method, as the paper's figures 1, 2 and 8 to 14.
    Fig1,
    /// How much longer answers get, beside what compresses nothing: the paper's figures 4 and 15.
    Lengths,
    /// Prompts that a method breaks, over the loss that counts and by task, beside the null: figures 6, 7, 17 and 18.
    Negatives,
    /// Quality, throughput and KV memory at once: who is on the front, and how surely.
    Pareto,
    /// Arithmetic against memory traffic of each kernel under the device's ceilings.
    Roofline,
    /// Distributions of TTFT, TPOT and E2E latency with 95 % bands: figures 5 and 16.
    Cdf,
    /// Requests under way and what the machine reported, over time.
    Timeline,
}

impl Kind {
    /// Stem of its files.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Fig1 => "fig1",
            Kind::Lengths => "lengths",
            Kind::Negatives => "negatives",
            Kind::Pareto => "pareto",
            Kind::Roofline => "roofline",
            Kind::Cdf => "cdf",
            Kind::Timeline => "timeline",
        }
    }

    /// What a run must hold for it, and the scenario that makes that.
    pub fn needs(self) -> (&'static str, &'static str) {
        match self {
            Kind::Fig1 => (
                "timed prefill or decode kernels of a grid of shapes, or requests served in closed loops",
                "scenarios/paper/fig1-decode.toml",
            ),
            Kind::Lengths => (
                "pairs of answers of a method and the baseline to the same prompts, of unequal lengths",
                "scenarios/paper/fig4-lengths.toml",
            ),
            Kind::Negatives => (
                "answers that can be scored, or scores.parquet",
                "scenarios/paper/fig6-negatives.toml",
            ),
            Kind::Pareto => (
                "two methods with a throughput in the same place, and scores or bytes a token of both",
                "scenarios/paper/fig6-negatives.toml",
            ),
            Kind::Roofline => (
                "timed kernels with their bytes and operations",
                "scenarios/paper/fig1-decode.toml",
            ),
            Kind::Cdf => ("served requests with latencies", "scenarios/paper/fig5-latency.toml"),
            Kind::Timeline => (
                "served requests or samples of the machine (`telemetry_hz`)",
                "scenarios/paper/fig5-latency.toml",
            ),
        }
    }
}

/// A run with all that figures are made of.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// What it was, what was judged and what was recorded.
    pub source: Source<'a>,
    /// Requests under way over time, by method.
    pub in_flight: &'a [InFlight],
    /// What the device could compute at most, 1e9 operations a second, where that is known.
    pub peak_gflop_per_s: Option<f64>,
    /// Fronts of quality, throughput and memory; empty where they were not asked for.
    pub fronts: &'a [Front],
    /// Negative samples; `None` where they were not asked for.
    pub found: Option<&'a Found>,
}

/// The figure of each run, or of several runs together where it is made of kernels; a run without what it needs gives none.
pub fn sheets(kind: Kind, runs: &[Judged<'_>]) -> Vec<Sheet> {
    match kind {
        Kind::Fig1 => throughput::sheets(runs),
        Kind::Lengths => each(kind, runs, lengths),
        Kind::Negatives => each(kind, runs, broken),
        Kind::Pareto => each(kind, runs, front),
        Kind::Roofline => each(kind, runs, roofline::drawing),
        Kind::Cdf => each(kind, runs, cdf::drawing),
        Kind::Timeline => each(kind, runs, timeline::drawing),
    }
}

/// Figures of one sheet and what must be told of them.
struct Drawing {
    parts: Vec<Figure>,
    /// How many observations stand behind a point or curve, in words.
    n: String,
    /// Methods that are in it; those of the plan that are not are accounted for in the caption.
    methods: Vec<String>,
    /// Anything else the reader must know, in sentences.
    told: Vec<String>,
    /// See [`Sheet::stacked`].
    stacked: bool,
}

fn each(
    kind: Kind,
    runs: &[Judged<'_>],
    draw: impl Fn(&Judged<'_>) -> Option<Drawing>,
) -> Vec<Sheet> {
    let drawn = runs.iter().filter_map(|run| Some((run, draw(run)?)));
    drawn
        .map(|(run, drawing)| {
            let name = if runs.len() > 1 {
                run::slug(&[kind.name(), &run.source.manifest.run_id])
            } else {
                kind.name().to_owned()
            };
            sheet(name, &[run], drawing)
        })
        .collect()
}

fn sheet(name: String, runs: &[&Judged<'_>], drawing: Drawing) -> Sheet {
    let caption = caption::of(runs, &drawing);
    Sheet { name, caption, parts: drawing.parts, stacked: drawing.stacked }
}

/// Those of a report's figures that have these names, in the order of the names.
fn named(source: &Source<'_>, names: &[&str]) -> Vec<Figure> {
    let mut plots: Vec<Plot> = run::plots(source);
    let mut take = |name: &&str| {
        let place = plots.iter().position(|plot| plot.name == *name)?;
        Some(plots.swap_remove(place).figure)
    };
    names.iter().filter_map(&mut take).collect()
}

/// The ratio of lengths, and D as the paper draws it.
fn lengths(run: &Judged<'_>) -> Option<Drawing> {
    let mut parts = named(&run.source, &["length-ratio", "length-shift-d"]);
    parts.iter_mut().for_each(of_one_null);
    let points = &run.source.judgement.lengths;
    let drawn: Vec<&LengthPoint> = points.iter().filter(|p| !p.ratios.is_empty()).collect();
    let n = drawn.iter().map(|p| (p.name(), p.ratios.len()));
    let baseline = run.source.manifest.scenario.baseline.clone();
    let methods = drawn.iter().map(|p| p.point.method.clone()).chain([baseline]).collect();
    let left_out: Vec<String> = points
        .iter()
        .filter(|p| !p.excluded.is_empty())
        .map(|p| {
            let why = p.excluded.iter().map(|(why, n)| format!("{n} {}", why.words()));
            format!("{}: {}", p.name(), why.collect::<Vec<_>>().join(", "))
        })
        .collect();
    let mut told = Vec::new();
    let nulls: Vec<String> = drawn.iter().filter(|p| !p.is_subject()).map(|p| p.name()).collect();
    if !nulls.is_empty() {
        told.push(format!("Compressing nothing: {}.", nulls.join(", ")));
    }
    if !left_out.is_empty() {
        told.push(format!("Answers left out: {}.", left_out.join("; ")));
    }
    let n = caption::n_words("pairs of answers", n);
    (!parts.is_empty()).then_some(Drawing { parts, n, methods, told, stacked: false })
}

/// Runs that compress nothing are one cloud, whose names are in the caption.
fn of_one_null(figure: &mut Figure) {
    for line in figure.panels.iter_mut().flat_map(|panel| &mut panel.references) {
        line.label = "runs that compress nothing".to_owned();
        line.slot = None;
    }
}

/// Counts over theta, and by task.
fn broken(run: &Judged<'_>) -> Option<Drawing> {
    let found = run.found?;
    let mut parts = vec![negatives::figure(found)];
    parts.extend(negatives::by_task(found).map(of_one_name));
    let n = found.methods.iter().map(|counts| (counts.name.clone(), counts.n_benign));
    let baseline = run.source.manifest.scenario.baseline.clone();
    let mut methods: Vec<String> = found.methods.iter().map(|counts| counts.name.clone()).collect();
    methods.extend(found.noise.iter().map(|counts| counts.name.clone()));
    methods.extend([format!("{baseline}-aa"), baseline]);
    let n = caption::n_words("benign samples with a score on both sides", n);
    Some(Drawing { parts, n, methods, told: Vec::new(), stacked: false })
}

/// Most places on one sheet.
const FRONTS_MAX: usize = 6;

/// Places where two methods or more can be set against each other.
fn front(run: &Judged<'_>) -> Option<Drawing> {
    let mut parts: Vec<Figure> =
        pareto::plots(run.fronts).into_iter().map(|plot| of_bare_names(plot.figure)).collect();
    let n_places = parts.len();
    parts.truncate(FRONTS_MAX);
    let candidates = || run.fronts.iter().flat_map(|front| &front.candidates);
    let n = caption::n_words(
        "values of throughput",
        candidates().map(|c| (c.name.clone(), c.throughput.n)),
    );
    let methods = candidates().map(|candidate| candidate.name.clone()).collect();
    let mut told: Vec<String> = run
        .fronts
        .iter()
        .map(|front| {
            format!("Front of {}; quality: {}.", front.axes.join(", "), front.quality_from)
        })
        .collect();
    told.dedup();
    if n_places > FRONTS_MAX {
        told.push(format!(
            "The first {FRONTS_MAX} of {n_places} places; `kvbench pareto --plots` draws them all."
        ));
    }
    let shares = run.fronts.iter().take(FRONTS_MAX).map(shares);
    let shares = shares.collect::<Vec<_>>().join("; ");
    told.push(format!(
        "Share of 1000 draws (repeats and prompts) in which a method is on the front: {shares}."
    ));
    (!parts.is_empty()).then_some(Drawing { parts, n, methods, told, stacked: false })
}

/// `mixed, users-4: q8-0 100 %, f16 0 %`.
fn shares(front: &Front) -> String {
    let one = |candidate: &Candidate| {
        let share = candidate.front_share?;
        Some(format!("{} {:.0} %", candidate.name, 100.0 * share))
    };
    let each: Vec<String> = front.candidates.iter().filter_map(one).collect();
    let each = if each.is_empty() { "not known".to_owned() } else { each.join(", ") };
    format!("{}, {}: {each}", front.spot.workload, front.spot.load)
}

/// Places share a legend, so a method has one name in all of them: what is of one place alone is in the caption.
fn of_bare_names(mut figure: Figure) -> Figure {
    for series in figure.panels.iter_mut().flat_map(|panel| &mut panel.series) {
        let end = series.name.find([',', '(']).unwrap_or(series.name.len());
        series.name = series.name[..end].trim_end().to_owned();
    }
    figure
}

/// Ticks, which have their methods' colours and stand beside their markers, share one line of the legend.
fn of_one_name(mut figure: Figure) -> Figure {
    for series in figure.panels.iter_mut().flat_map(|panel| &mut panel.series) {
        if series.kind == super::figure::Kind::Tick {
            series.name = "mirror, by task".to_owned();
        }
    }
    figure
}

#[cfg(test)]
mod tests;
