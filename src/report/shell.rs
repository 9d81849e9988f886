//! What pages share: the layout around them, their looks, their script, and the names that a reader can hide.

use anyhow::Context as _;
use minijinja::{Environment, Value, context, value::Serde};
use serde::Serialize;

use super::{picture::Picture, run::Plot, svg::swatch};

/// Files that templates include. All stand in the page itself: nothing is loaded from anywhere.
const PARTS: [(&str, &str); 4] = [
    ("shell.html", include_str!("assets/shell.html")),
    ("parts.html", include_str!("assets/parts.html")),
    ("style.css", include_str!("assets/style.css")),
    ("script.js", include_str!("assets/script.js")),
];

/// The names whose marks and rows a reader can hide: methods, or policies of a router.
pub(super) struct Names {
    /// What one of them is: `method`.
    word: &'static str,
    all: Vec<String>,
}

/// A name as the filter shows it.
#[derive(Serialize)]
struct Choice {
    name: String,
    sample: String,
}

impl Names {
    pub(super) fn new(word: &'static str, all: Vec<String>) -> Self {
        Self { word, all }
    }

    /// The place of a name.
    pub(super) fn exactly(&self, text: &str) -> Option<usize> {
        self.all.iter().position(|name| name == text)
    }

    /// The longest name that a label begins with, as whole words: `int4 (compresses nothing)`, `fp16, mirror`.
    pub(super) fn leading(&self, label: &str) -> Option<usize> {
        let ends = |rest: &str| rest.is_empty() || rest.starts_with([',', ' ', ':']);
        let begins = |name: &str| !name.is_empty() && label.strip_prefix(name).is_some_and(ends);
        let fitting = self.all.iter().enumerate().filter(|(_, name)| begins(name));
        fitting.max_by_key(|(_, name)| name.len()).map(|(place, _)| place)
    }

    /// The checkboxes; none where there is nothing to choose.
    fn choices(&self, plots: &[Plot]) -> Vec<Choice> {
        let panels = || plots.iter().flat_map(|plot| &plot.figure.panels);
        let slot = |name: &str| {
            let series = panels().flat_map(|panel| &panel.series).find(|one| one.name == name);
            series.map(|series| series.slot)
        };
        let choice = |name: &String| Choice {
            name: name.clone(),
            sample: slot(name).map(swatch).unwrap_or_default(),
        };
        if self.all.len() < 2 { Vec::new() } else { self.all.iter().map(choice).collect() }
    }
}

/// Renders a page: `body` is its template, which extends `shell.html`; names and errors come from outside, so templates escape
/// whatever they print.
///
/// # Errors
/// A figure that cannot be drawn, or a template that does not parse or render.
pub(super) fn page(
    name: &'static str,
    body: &'static str,
    names: &Names,
    plots: &[Plot],
    said: Value,
) -> anyhow::Result<String> {
    let mut templates = Environment::new();
    let parts = PARTS.into_iter().chain([(name, body)]);
    for (part, text) in parts {
        templates
            .add_template(part, text)
            .with_context(|| format!("{name}: the template {part} does not parse"))?;
    }
    let whole = context! {
        word => names.word,
        choices => Serde(names.choices(plots)),
        figures => Serde(Picture::all(plots, names)?),
        ..said
    };
    let template = templates.get_template(name).with_context(|| format!("{name}: no template"))?;
    template.render(whole).with_context(|| format!("{name}: the template does not render"))
}

/// The largest share that each may have so that all together have no more than `total`: who wants less leaves the rest to others.
pub(super) fn fair_share(wants: &[usize], total: usize) -> usize {
    let mut sorted = wants.to_vec();
    sorted.sort_unstable();
    let mut left = total;
    for (n, want) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - n);
        if *want > share {
            return share;
        }
        left -= want;
    }
    usize::MAX
}

#[cfg(test)]
#[path = "shell_tests.rs"]
mod tests;
