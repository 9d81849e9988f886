//! The page: one set of parts, written as Markdown and as HTML.

use minijinja::{context, value::Serde};
use serde::Serialize;

use super::{Looks, Plot, Source, glossary, judged, tables, words};
use crate::{
    record::{
        Manifest,
        manifest::{Status, Verdict},
    },
    report::{
        Format, Table,
        grid::Grid,
        render,
        shell::{Names, page},
        table::escape_markdown,
    },
    units::human_bytes,
};

/// What the page says, within the layout that pages share.
const TEMPLATE: &str = include_str!("../assets/report.html");

/// Everything the page says.
pub(super) struct Page<'a> {
    manifest: &'a Manifest,
    verdict: Verdict,
    finding: Vec<String>,
    notes: Vec<&'static str>,
    warnings: Vec<Reason>,
    plots: &'a [Plot],
    methods: Vec<String>,
    tables: Vec<Table>,
    /// Of `tables` those that come first: what was measured, before what it says of doubts and failures.
    n_headline: usize,
    provenance: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Reason {
    severity: String,
    text: String,
}

impl<'a> Page<'a> {
    pub(super) fn new(source: &Source<'a>, plots: &'a [Plot]) -> Self {
        let judgement = source.judgement;
        let reason = |w: &crate::analyse::Warning| Reason {
            severity: w.severity().to_string(),
            text: w.to_string(),
        };
        let mut warnings: Vec<_> =
            judgement.warnings.iter().map(|w| (w.severity(), reason(w))).collect();
        warnings.extend(
            judged::doubt(&judgement.cells).map(|(severity, text)| {
                (severity, Reason { severity: severity.to_string(), text })
            }),
        );
        warnings.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
        let mut tables = tables::headline(judgement);
        tables.retain(|table| !table.rows.is_empty());
        let n_headline = tables.len();
        tables.extend(judged::tables(judgement));
        tables.push(tables::failures(judgement));
        tables.retain(|table| !table.rows.is_empty());
        Self {
            manifest: source.manifest,
            verdict: judgement.verdict,
            finding: words::finding(judgement, &source.manifest.scenario.baseline),
            notes: notes(source),
            warnings: warnings.into_iter().map(|(_, reason)| reason).collect(),
            plots,
            methods: Looks::new(source).methods,
            tables,
            n_headline,
            provenance: provenance(source.manifest),
        }
    }

    /// `report.html`.
    pub(super) fn html(&self) -> anyhow::Result<String> {
        let names = Names::new("method", self.methods.clone());
        let mut grids = Grid::all(&self.tables, &names);
        let further = grids.split_off(self.n_headline);
        let said = context! {
            run_id => self.manifest.run_id.as_str(),
            verdict => self.verdict.to_string(),
            scenario => self.manifest.scenario.name.as_str(),
            status => status(self.manifest.status),
            partial => partial(self.manifest.status),
            finding => Serde(&self.finding),
            notes => Serde(&self.notes),
            warnings => Serde(&self.warnings),
            tables => Serde(grids),
            further => Serde(further),
            columns => Serde(glossary::COLUMNS),
            definitions => Serde(glossary::definitions()),
            methods => Serde(glossary::METHODS),
            provenance => Serde(&self.provenance),
            scenario_text => self.manifest.scenario.text.as_str(),
        };
        page("report.html", TEMPLATE, &names, self.plots, said)
    }

    /// `report.md`.
    pub(super) fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n", escape_markdown(&self.manifest.run_id));
        let scenario = escape_markdown(&self.manifest.scenario.name);
        out += &format!(
            "**{}** (scenario {scenario}, {})\n\n",
            self.verdict,
            status(self.manifest.status)
        );
        if let Some(text) = partial(self.manifest.status) {
            out += &format!("**Partial:** {text}\n\n");
        }
        self.finding.iter().for_each(|text| out += &format!("{}\n\n", escape_markdown(text)));
        self.notes.iter().for_each(|text| out += &format!("> {text}\n\n"));
        out += &format!("## Why {}\n\n", self.verdict);
        if self.warnings.is_empty() {
            out += "Nothing speaks against these numbers.\n";
        }
        self.warnings
            .iter()
            .for_each(|w| out += &format!("- **{}** {}\n", w.severity, escape_markdown(&w.text)));
        if !self.plots.is_empty() {
            out += "\n## Figures\n\n";
        }
        let image = |plot: &Plot| {
            format!("![{}](plots/{}.png)\n\n", escape_markdown(&plot.figure.title), plot.name)
        };
        self.plots.iter().for_each(|plot| out += &image(plot));
        out += "\n## Tables\n\n";
        self.tables
            .iter()
            .for_each(|table| out += &format!("{}\n", render(table, Format::Md, false)));
        out += &definitions("How to read it", &glossary::COLUMNS);
        out += &definitions("Definitions", &glossary::definitions());
        out += &definitions("Methods", &glossary::METHODS);
        out += &definitions("Provenance", &self.provenance);
        out + &format!("\n## Scenario\n\n{}\n", fenced(&self.manifest.scenario.text))
    }
}

/// A Markdown section of terms and their meaning.
pub(in crate::report) fn definitions<S: AsRef<str>>(title: &str, entries: &[(S, S)]) -> String {
    let line = |(term, text): &(S, S)| {
        format!("- **{}**: {}\n", escape_markdown(term.as_ref()), escape_markdown(text.as_ref()))
    };
    format!("\n## {title}\n\n{}", entries.iter().map(line).collect::<String>())
}

/// A fence longer than any run of backticks in the text, so that the text cannot close it.
pub(in crate::report) fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}toml\n{}\n{fence}", text.trim_end())
}

fn notes(source: &Source<'_>) -> Vec<&'static str> {
    let kernels = &source.judgement.kernels;
    let mut out = Vec::new();
    if !kernels.is_empty() {
        out.push(words::ONE_LAYER);
    }
    if kernels.iter().any(|k| k.backend.starts_with("cpu")) {
        out.push(words::CPU_ONLY);
    }
    out
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Complete => "complete",
        Status::Incomplete => "incomplete",
        Status::Interrupted => "interrupted",
        Status::Failed => "failed",
    }
}

/// What an unfinished run's reader must know.
pub(super) fn partial(status: Status) -> Option<&'static str> {
    match status {
        Status::Complete => None,
        Status::Running => {
            Some("the run goes on or was killed; this holds the cells finished so far.")
        }
        Status::Incomplete => Some(
            "some cells were never sent, since their server did not start or answer; `kvbench run --resume` measures them.",
        ),
        Status::Interrupted => {
            Some("the run was stopped by its user; this holds the cells finished until then.")
        }
        Status::Failed => {
            Some("the run was stopped by an error; this holds the cells finished until then.")
        }
    }
}

/// What ran, on what, from which inputs.
fn provenance(m: &Manifest) -> Vec<(String, String)> {
    let unknown = || "unknown".to_owned();
    let machine = &m.machine;
    let mut out = vec![
        (
            "kvbench",
            format!(
                "{}, git {}",
                m.kvbench_version,
                m.kvbench_git_revision.clone().unwrap_or_else(unknown)
            ),
        ),
        ("Build", format!("{} {}", machine.profile, machine.platform)),
        ("Seed", m.scenario.seed.to_string()),
        ("Repeats", m.scenario.repeats.to_string()),
        ("Baseline", m.scenario.baseline.clone()),
        ("Command", m.command_line.join(" ")),
        ("Began (ns 0 of every clock column)", m.origin.clone()),
        ("Ended", m.ended.clone().unwrap_or_else(unknown)),
        ("Times resumed", m.n_resumed.to_string()),
        ("Cells", format!("{} planned, {} failed", m.n_cells, m.n_failed)),
        ("Machine", machine.hostname.clone().unwrap_or_else(unknown)),
        ("CPU", machine.cpu_model.clone().unwrap_or_else(unknown)),
        ("CPUs", machine.cpus.map_or_else(unknown, |n| n.to_string())),
        ("CPU features", machine.cpu_features.join(" ")),
        ("Last-level cache", machine.llc_bytes.map_or_else(unknown, human_bytes)),
        ("Memory", machine.memory_bytes.map_or_else(unknown, human_bytes)),
        ("Kernel", machine.kernel.clone().unwrap_or_else(unknown)),
    ];
    out.extend(m.telemetry.as_ref().map(|value| ("Telemetry", value.to_string())));
    out.extend(m.notices.iter().map(|notice| ("Notice", notice.clone())));
    let mut out: Vec<(String, String)> =
        out.into_iter().map(|(term, text)| (term.to_owned(), text)).collect();
    out.extend(m.client_health.iter().map(|client| {
        (format!("Client in {}", client.cell_id), format!("{} {}", client.verdict, client.measured))
    }));
    out.extend(
        m.engines.iter().map(|(target, value)| (format!("Engine {target}"), value.to_string())),
    );
    out.extend(
        m.inputs.iter().map(|i| {
            (format!("Input {}", i.path), format!("sha256 {}, {} bytes", i.sha256, i.bytes))
        }),
    );
    out
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
