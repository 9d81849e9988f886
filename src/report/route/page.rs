//! The page of a router's run: one set of parts, written as Markdown and as HTML.

use minijinja::{context, value::Serde};

use crate::{
    record::{RouteKind, RouteManifest, manifest::Status},
    report::{
        Format, Table,
        grid::Grid,
        render,
        run::{
            Plot,
            page::{definitions, fenced},
        },
        shell::{Names, page},
        table::escape_markdown,
    },
};

/// What the page says, within the layout that pages share.
const TEMPLATE: &str = include_str!("../assets/route.html");

/// Everything the page says.
pub(super) struct Page<'a> {
    pub(super) manifest: &'a RouteManifest,
    /// What the numbers come to, a paragraph each.
    pub(super) finding: Vec<String>,
    /// What to know before they are used.
    pub(super) notes: Vec<String>,
    pub(super) plots: &'a [Plot],
    /// Policies, in their order.
    pub(super) policies: Vec<String>,
    pub(super) tables: Vec<Table>,
    /// What numbers of the scenario are of, and where they are from.
    pub(super) sources: Vec<(String, String)>,
}

impl Page<'_> {
    /// `report.html`.
    pub(super) fn html(&self) -> anyhow::Result<String> {
        let names = Names::new("policy", self.policies.clone());
        let said = context! {
            run_id => self.manifest.run_id.as_str(),
            what => what(self.manifest.kind),
            name => self.manifest.name.as_str(),
            status => self.manifest.status.name(),
            finding => Serde(&self.finding),
            notes => Serde(&self.notes),
            tables => Serde(Grid::all(&self.tables, &names)),
            sources => Serde(&self.sources),
            columns => Serde(COLUMNS),
            provenance => Serde(provenance(self.manifest)),
            scenario_text => self.manifest.text.as_str(),
        };
        page("route.html", TEMPLATE, &names, self.plots, said)
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
