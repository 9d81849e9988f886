//! The text under a figure: what it shows, how to read it, n, what is left out and why, where it comes from.

use super::{Drawing, Judged};
use crate::{
    analyse::Verdict,
    record::PROBE_METHOD,
    report::{
        figure::{Sheet, Size},
        run::distinct,
    },
};

/// Reasons that are told of a doubtful run; its report has all.
const REASONS_MAX: usize = 3;
/// Curves whose n is told one by one.
const NAMED_MAX: usize = 6;

/// The caption of a drawing.
pub(super) fn of(runs: &[&Judged<'_>], drawing: &Drawing) -> String {
    let several = drawing.parts.len() > 1;
    let mut said: Vec<String> = Vec::new();
    for (letter, part) in ('a'..='z').zip(&drawing.parts) {
        let letter = if several { format!("({letter}) ") } else { String::new() };
        // Parts that are read alike say so once.
        let read =
            Some(part.caption.as_str()).filter(|text| !said.iter().any(|s| s.ends_with(text)));
        let text = format!("{letter}{}. {}", part.title, read.unwrap_or_default());
        said.push(text.trim_end().to_owned());
    }
    said.push(drawing.n.clone());
    said.extend(drawing.told.iter().cloned());
    said.extend(runs.iter().filter_map(|run| absent(run, &drawing.methods)));
    said.extend(runs.iter().map(|run| origin(run)));
    said.retain(|text| !text.is_empty());
    said.join(" ")
}

/// `n = 96 pairs a curve`, or the numbers one by one where they differ.
pub(super) fn n_words(what: &str, curves: impl Iterator<Item = (String, usize)>) -> String {
    let curves: Vec<(String, usize)> = curves.collect();
    let range = |all: &mut dyn Iterator<Item = usize>| -> Option<String> {
        let (low, high) = all.fold((usize::MAX, 0), |(l, h), n| (l.min(n), h.max(n)));
        match low.cmp(&high) {
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(low.to_string()),
            std::cmp::Ordering::Less => Some(format!("{low} to {high}")),
        }
    };
    let Some(all) = range(&mut curves.iter().map(|(_, n)| *n)) else { return String::new() };
    let names = distinct(curves.iter().map(|(name, _)| name));
    if !all.contains("to") || names.len() > NAMED_MAX {
        return format!("n = {all} {what}.");
    }
    let one = |name: &&String| {
        let mine = curves.iter().filter(|(other, _)| other == *name);
        Some(format!("{name} {}", range(&mut mine.map(|(_, n)| *n))?))
    };
    let each: Vec<String> = names.iter().filter_map(one).collect();
    format!("n ({what}): {}.", each.join(", "))
}

/// Which methods of the plan are not in the figure, and why.
fn absent(run: &Judged<'_>, drawn: &[String]) -> Option<String> {
    let manifest = run.source.manifest;
    let planned = distinct(manifest.cells.iter().map(|cell| cell.method.clone()));
    let missing =
        planned.iter().filter(|method| !drawn.contains(method) && *method != PROBE_METHOD);
    let why: Vec<String> =
        missing.map(|method| format!("{method} ({})", reason(run, method))).collect();
    (!why.is_empty()).then(|| format!("Not shown: {}.", why.join("; ")))
}

/// The first thing known of why a method has nothing to show.
fn reason(run: &Judged<'_>, method: &str) -> String {
    let judgement = run.source.judgement;
    let kernel = judgement.kernels.iter().filter(|k| k.point.method == method);
    let kernel = kernel.filter_map(|k| k.err.clone()).next();
    let served = judgement.requests.iter().filter(|r| r.point.method == method);
    let served = served.filter(|r| r.n_failed > 0).map(|r| {
        let (class, n) = r.failures.iter().max_by_key(|(_, n)| **n).unzip();
        let (class, n) = (class.map_or("", String::as_str), n.copied().unwrap_or(r.n_failed));
        format!("{n} of {} requests failed: {class}", r.n_requests)
    });
    let cells = judgement.cells.iter().zip(&run.source.manifest.cells);
    let judged = cells.filter(|(_, cell)| cell.method == method);
    let judged = judged.filter_map(|(verdict, _)| verdict.reasons.first().cloned());
    kernel
        .into_iter()
        .chain(served)
        .chain(judged)
        .next()
        .unwrap_or_else(|| "nothing of this kind was measured".to_owned())
}

/// Run, version and whether its numbers can be believed.
fn origin(run: &Judged<'_>) -> String {
    let manifest = run.source.manifest;
    let judgement = run.source.judgement;
    let revision = manifest.kvbench_git_revision.as_deref().and_then(|text| text.get(..12));
    let revision = revision.map_or(String::new(), |text| format!(" ({text})"));
    let version = &manifest.kvbench_version;
    let run = format!("Run {} by kvbench {version}{revision}", manifest.run_id);
    let severe = judgement.warnings.iter().filter(|w| w.severity() != Verdict::Valid);
    let reasons: Vec<String> = severe.map(|warning| brief(&warning.to_string())).collect();
    match judgement.verdict {
        Verdict::Valid => format!("{run}."),
        verdict if reasons.is_empty() => format!("{run}, {verdict}."),
        verdict => {
            let more = reasons.len().saturating_sub(REASONS_MAX);
            let more =
                if more > 0 { format!("; {more} more in its report") } else { String::new() };
            let told: Vec<&str> = reasons.iter().take(REASONS_MAX).map(String::as_str).collect();
            format!("{run}, {verdict}: {}{more}.", told.join("; "))
        }
    }
}

/// A reason without its figures and its remedy, which the report has.
fn brief(reason: &str) -> String {
    let end = reason.find([';', '(']).unwrap_or(reason.len());
    reason[..end].trim_end_matches([' ', '.', ':', ',']).to_owned()
}

/// The caption as a text file.
pub fn plain(sheet: &Sheet) -> String {
    format!("{}\n", sheet.caption)
}

/// The figure as LaTeX: `file` lies beside it.
pub fn latex(sheet: &Sheet, size: Size, file: &str) -> String {
    let (environment, width) = match size {
        Size::Column => ("figure", "\\columnwidth"),
        Size::Page => ("figure*", "\\textwidth"),
    };
    let (package, command) = if file.ends_with(".svg") {
        ("svg", "includesvg")
    } else {
        ("graphicx", "includegraphics")
    };
    let caption = escaped(&sheet.caption);
    let name = &sheet.name;
    format!(
        "% \\usepackage{{{package}}}\n\\begin{{{environment}}}[t]\n  \\centering\n  \\{command}[width={width}]{{{file}}}\n  \
         \\caption{{{caption}}}\n  \\label{{fig:{name}}}\n\\end{{{environment}}}\n"
    )
}

/// Text that LaTeX sets as it stands.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}
