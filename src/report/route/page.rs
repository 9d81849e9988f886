//! The page of a router's run: one set of parts, written as Markdown and as HTML.

use anyhow::Context as _;
use minijinja::{Environment, context, value::Serde};
use serde::Serialize;

use crate::{
    record::{RouteKind, RouteManifest, manifest::Status},
    report::{
        Format, Table,
        grid::{Grid, STYLE},
        render,
        run::{
            Plot,
            page::{definitions, fenced},
        },
        table::escape_markdown,
    },
};

/// The page's layout; no script, no external resource.
const TEMPLATE: &str = include_str!("../assets/route.html");

/// Everything the page says.
pub(super) struct Page<'a> {
    pub(super) manifest: &'a RouteManifest,
    /// What the numbers come to, a paragraph each.
    pub(super) finding: Vec<String>,
    /// What to know before they are used.
    pub(super) notes: Vec<String>,
    pub(super) plots: &'a [Plot],
    /// The plots as SVG.
    pub(super) pictures: &'a [String],
    pub(super) tables: Vec<Table>,
    /// What numbers of the scenario are of, and where they are from.
    pub(super) sources: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Picture<'a> {
    name: &'a str,
    svg: &'a str,
}

impl Page<'_> {
    /// `report.html`: names and errors come from outside, so the template escapes whatever it prints.
    pub(super) fn html(&self) -> anyhow::Result<String> {
        let mut templates = Environment::new();
        templates
            .add_template("route.html", TEMPLATE)
            .and_then(|()| templates.add_template("style.css", STYLE))
            .context("route.html: the template does not parse")?;
        let pictures = self.plots.iter().zip(self.pictures);
        let figures: Vec<_> =
            pictures.map(|(plot, svg)| Picture { name: &plot.name, svg }).collect();
        let page = context! {
            run_id => self.manifest.run_id.as_str(),
            what => what(self.manifest.kind),
            name => self.manifest.name.as_str(),
            status => self.manifest.status.name(),
            finding => Serde(&self.finding),
            notes => Serde(&self.notes),
            figures => Serde(&figures),
            tables => Serde(self.tables.iter().map(Grid::new).collect::<Vec<_>>()),
            sources => Serde(&self.sources),
            columns => Serde(COLUMNS),
            provenance => Serde(provenance(self.manifest)),
            scenario_text => self.manifest.text.as_str(),
        };
        let template = templates.get_template("route.html").context("route.html: no template")?;
        template.render(page).context("route.html: the template does not render")
    }

    /// `report.md`.
    pub(super) fn markdown(&self) -> String {
        let manifest = self.manifest;
        let mut out = format!("# {}\n\n", escape_markdown(&manifest.run_id));
        let name = escape_markdown(&manifest.name);
        out += &format!("{}, {name}, {}\n\n", what(manifest.kind), manifest.status.name());
        self.finding.iter().for_each(|text| out += &format!("{}\n\n", escape_markdown(text)));
        self.notes.iter().for_each(|text| out += &format!("> {}\n\n", escape_markdown(text)));
        if !self.plots.is_empty() {
            out += "## Figures\n\n";
        }
        for plot in self.plots {
            let title = escape_markdown(&plot.figure.title);
            out += &format!("![{title}](plots/{}.png)\n\n", plot.name);
        }
        out += "## Tables\n\n";
        self.tables
            .iter()
            .for_each(|table| out += &format!("{}\n", render(table, Format::Md, false)));
        if !self.sources.is_empty() {
            out += &definitions("Where the numbers of the world are from", &self.sources);
        }
        out += &definitions("How to read it", &COLUMNS);
        out += &definitions("Provenance", &provenance(manifest));
        out + &format!("\n## Scenario\n\n{}\n", fenced(&manifest.text))
    }
}

fn what(kind: RouteKind) -> &'static str {
    match kind {
        RouteKind::Simulated => "router, simulated",
        RouteKind::Live => "router, live",
        RouteKind::Replayed => "router, recorded requests in simulated engines",
    }
}

fn provenance(m: &RouteManifest) -> Vec<(String, String)> {
    let unknown = || "unknown".to_owned();
    let git = m.kvbench_git_revision.clone().unwrap_or_else(unknown);
    let partial = match m.status {
        Status::Complete => m.status.name().to_owned(),
        _ => format!("{}: what is missing was not simulated", m.status.name()),
    };
    let mut out = vec![
        ("kvbench".to_owned(), format!("{}, git {git}", m.kvbench_version)),
        ("Build".to_owned(), format!("{} {}", m.machine.profile, m.machine.platform)),
        ("Status".to_owned(), partial),
        ("Seed".to_owned(), m.seed.to_string()),
        ("Command".to_owned(), m.command_line.join(" ")),
        ("Began".to_owned(), m.origin.clone()),
        ("Ended".to_owned(), m.ended.clone().unwrap_or_else(unknown)),
        ("Machine".to_owned(), m.machine.hostname.clone().unwrap_or_else(unknown)),
        ("CPU".to_owned(), m.machine.cpu_model.clone().unwrap_or_else(unknown)),
    ];
    out.extend(m.notices.iter().map(|notice| ("Notice".to_owned(), notice.clone())));
    out.extend(m.inputs.iter().map(|input| {
        let words = format!("sha256 {}, {} bytes", input.sha256, input.bytes);
        (format!("Input {}", input.path), words)
    }));
    out
}

/// `(term, meaning)`.
const COLUMNS: [(&str, &str); 12] = [
    (
        "1.92 [1.88, 1.97]",
        "A mean over seeds with the 95 % interval of a bootstrap over seeds. Empty: it cannot be known.",
    ),
    ("e2e", "Seconds from a request's arrival at the router to its last token."),
    (
        "speed-up",
        "Mean E2E of what is named over mean E2E of the policy, paired by seed: the same requests with the same true lengths. Above 1 the policy is faster.",
    ),
    (
        "all baseline",
        "As many engines as the pool has, all of the method that compresses nothing, under join shortest queue.",
    ),
    (
        "harmed",
        "Requests that were sent to a method which breaks their answer beyond chance, of those that were served.",
    ),
    ("share", "Requests that were sent to engines of a method, of those that were served."),
    (
        "rho",
        "Offered load as a share of what as many engines of the baseline keep up with at most.",
    ),
    (
        "growing",
        "Requests arrive faster than they leave: times grow with the length of the run and are no property of the policy. The number inside rises over the time of the arrivals (the filling left out): the 95 % interval over seeds of its slope lies above 0 and reaches a quarter of its mean. Nothing is said where the interval ends below a quarter; `steady? cannot tell` is between.",
    ),
    (
        "regret",
        "How much longer the mean E2E is than under marginal cost (without a guard) that knows one thing for certain: speeds, lengths under each method, or which prompts a method breaks. It holds the difference between the rules too. Empty where the predictors know that one thing anyway.",
    ),
    (
        "bound",
        "No router can do better: work over capacity, and each request alone. It is not said to be reached.",
    ),
    ("skill", "How good the simulated predictors are; empty for policies that ask none."),
    ("as-run", "A method as one program ran it, which need not be the method of its authors."),
];
