//! The report of a router's run: tables, pictures, sentences, JSON and the page. Computes no statistic.

mod figures;
mod json;
mod page;
mod paper;
pub mod replay;
mod tables;
#[cfg(test)]
mod tests;
mod words;

pub use json::as_json;
pub use tables::tables;

use crate::{
    analyse::route::{Gain, Run, Summary, gains, summarise},
    record::{RouteKind, RouteManifest},
    report::{Format, ReportFiles, png, render, svg},
    route::{
        LengthKnowledge, PolicySpec, RiskKnowledge, SpeedKnowledge,
        experiment::{Arrivals, Design},
    },
    scenario::RouteScenario,
};

/// A run and what follows from it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// What was run.
    pub manifest: RouteManifest,
    /// The experiment.
    pub design: Design,
    /// Every cell, over its seeds.
    pub cells: Vec<Summary>,
    /// What of a mixed pool's gain is the mix's and what the policy's.
    pub gains: Vec<Gain>,
    /// What is reported first.
    pub head: Head,
    /// The scenario; `None` of recorded requests.
    pub scenario: Option<RouteScenario>,
}

/// Names of what is reported first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// The pool.
    pub pool: String,
    /// The trace.
    pub trace: String,
    /// The load.
    pub load: String,
    /// The skill.
    pub skill: String,
}

impl Judged {
    /// Judges the rows of a folder; `None` of a live run, which has one policy and no experiment.
    ///
    /// # Errors
    /// The scenario of the manifest is none that this version reads.
    pub fn new(run: Run) -> anyhow::Result<Option<Self>> {
        let Run { manifest, design, stats, worlds } = run;
        let Some(design) = design else { return Ok(None) };
        let scenario = match manifest.kind {
            RouteKind::Simulated => Some(RouteScenario::parse(&manifest.text, &manifest.name)?),
            RouteKind::Live | RouteKind::Replayed => None,
        };
        let cells = summarise(&stats, &worlds, &design);
        let gains = gains(&stats, &design);
        let head = head(scenario.as_ref(), &cells);
        Ok(Some(Self { manifest, design, cells, gains, head, scenario }))
    }

    /// Cells of a pool, trace, load and skill, a policy each.
    pub fn at<'a>(&'a self, head: &'a Head) -> impl Iterator<Item = &'a Summary> {
        self.cells.iter().filter(move |cell| {
            let key = &cell.key;
            (&key.pool, &key.trace, &key.load, &key.skill)
                == (&head.pool, &head.trace, &head.load, &head.skill)
        })
    }

    /// Of the head's pool, trace and skill the cells at every load, in the order of loads and policies.
    fn sweep(&self) -> impl Iterator<Item = &Summary> {
        self.design.loads.iter().flat_map(move |load| {
            self.cells.iter().filter(move |cell| {
                let key = &cell.key;
                key.load == *load
                    && (&key.pool, &key.trace, &key.skill)
                        == (&self.head.pool, &self.head.trace, &self.head.skill)
            })
        })
    }

    /// Simulations of a cell at the head; a filter may have left some out.
    fn n_seeds(&self) -> usize {
        self.at(&self.head).map(|cell| cell.n_seeds).max().unwrap_or(0)
    }

    fn spec(&self, policy: &str) -> Option<&PolicySpec> {
        self.design.policy(policy)
    }

    /// Requests a second of a Poisson load, as the scenario says.
    fn poisson_rate(&self, load: &str) -> Option<f64> {
        let plan = self.scenario.as_ref()?.loads.iter().find(|plan| plan.name == load)?;
        match plan.arrivals {
            Arrivals::Poisson { rate } => Some(rate),
            Arrivals::Recorded { .. } | Arrivals::Utilisation { .. } => None,
        }
    }
}

/// What the scenario names, as far as it was simulated; else the first pool that does not run the baseline alone.
fn head(scenario: Option<&RouteScenario>, cells: &[Summary]) -> Head {
    let of = |cell: &Summary| Head {
        pool: cell.key.pool.clone(),
        trace: cell.key.trace.clone(),
        load: cell.key.load.clone(),
        skill: cell.key.skill.clone(),
    };
    let named = scenario.map(|scenario| Head {
        pool: scenario.pools[scenario.headline.pool].name.clone(),
        trace: scenario.traces[scenario.headline.trace].name.clone(),
        load: scenario.loads[scenario.headline.load].name.clone(),
        skill: scenario.skills[scenario.headline.skill].name.clone(),
    });
    let is_there = |head: &Head| cells.iter().any(|cell| of(cell) == *head);
    let in_pool =
        |cell: &&Summary| scenario.is_none_or(|s| s.pools.iter().any(|p| p.name == cell.key.pool));
    // Of a filtered run what the filter was after has more policies than the pools that it is only compared with.
    let widest = || {
        let n = |cell: &Summary| cells.iter().filter(|other| of(other) == of(cell)).count();
        let most = cells.iter().filter(in_pool).map(n).max()?;
        cells.iter().filter(in_pool).find(|cell| n(cell) == most).map(of)
    };
    named.filter(is_there).or_else(widest).unwrap_or_default()
}

/// Whether a policy knows what nobody can know: a bound on what predictors could do, and nothing to run.
fn is_oracle(spec: &PolicySpec) -> bool {
    spec.length == LengthKnowledge::Oracle
        || spec.speed == SpeedKnowledge::Oracle
        || spec.guard.is_some_and(|guard| guard.risk == RiskKnowledge::Oracle)
}

/// Renders everything: `report.md`, `report.html`, `cells.csv`, `plots/*.svg`, `plots/*.png`.
///
/// # Errors
/// A number that cannot be drawn or a template that does not render.
pub fn build(judged: &Judged) -> anyhow::Result<ReportFiles> {
    let plots = figures::plots(judged);
    let pictures =
        plots.iter().map(|plot| svg(&plot.figure)).collect::<anyhow::Result<Vec<_>>>()?;
    let page = page::Page {
        manifest: &judged.manifest,
        finding: words::finding(judged),
        notes: words::notes(judged),
        plots: &plots,
        policies: policies(judged),
        tables: tables(judged),
        sources: sources(judged),
    };
    let cells = render(&tables::cells(&judged.cells), Format::Csv, false);
    let mut files = vec![
        ("report.md".to_owned(), page.markdown().into_bytes()),
        ("report.html".to_owned(), page.html()?.into_bytes()),
        ("cells.csv".to_owned(), cells.into_bytes()),
    ];
    for (plot, picture) in plots.iter().zip(&pictures) {
        files.push((format!("plots/{}.png", plot.name), png(&plot.figure)?));
        files.push((format!("plots/{}.svg", plot.name), picture.clone().into_bytes()));
    }
    Ok(ReportFiles(files))
}

/// Policies that have numbers, in the order of the scenario.
fn policies(judged: &Judged) -> Vec<String> {
    let names = judged.design.policies.iter().map(|spec| spec.name.clone());
    names.filter(|name| judged.cells.iter().any(|cell| cell.key.policy == *name)).collect()
}

/// What the numbers come to, a sentence or a paragraph each.
pub fn said(judged: &Judged) -> Vec<String> {
    words::finding(judged)
}

/// Sentences of the scenario: what its numbers are of, and where they are from.
fn sources(judged: &Judged) -> Vec<(String, String)> {
    let methods = judged.scenario.iter().flat_map(|scenario| &scenario.methods);
    methods
        .flat_map(|method| {
            let named = |(what, source): &(&'static str, String)| {
                (format!("{}: {what}", method.name), source.clone())
            };
            method.sources.iter().map(named)
        })
        .collect()
}
