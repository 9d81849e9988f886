//! Tables of a run inside a document: what stands between two marks is replaced, so that a README's figures are made from
//! rows and never typed.

use std::path::Path;

use anyhow::Context as _;

use crate::{
    analyse::Judgement,
    record::Manifest,
    report::{Format, Table, narrow, render},
};

const BEGIN: &str = "<!-- kvbench report: made from rows, do not edit -->";
const END: &str = "<!-- /kvbench report -->";

/// Replaces what stands between the marks of a document.
///
/// # Errors
/// No such file, no marks in it, or it cannot be written.
pub(super) fn splice(
    document: &Path,
    run_dir: &Path,
    (manifest, judgement): (&Manifest, &Judgement),
    tables: &[Table],
) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(document)
        .with_context(|| format!("{}: cannot be read", document.display()))?;
    let new = replaced(&text, &section(run_dir, (manifest, judgement), tables))
        .with_context(|| document.display().to_string())?;
    let aside = document.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&aside, new)
        .and_then(|()| std::fs::rename(&aside, document))
        .with_context(|| format!("{}: cannot be written", document.display()))
}

fn replaced(text: &str, section: &str) -> anyhow::Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.with_context(|| {
        format!("expected the lines `{BEGIN}` and `{END}`, got none\n  hint: put them where the tables are to stand")
    })?;
    Ok(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

/// The tables with what they were made from.
fn section(
    run_dir: &Path,
    (manifest, judgement): (&Manifest, &Judgement),
    tables: &[Table],
) -> String {
    let Judgement { kernels, verdict, .. } = judgement;
    // Runs of engines name no device: their server knows it, we do not.
    let device = kernels.first().map_or("a server's device", |point| point.device.as_str());
    let notices: String = manifest.notices.iter().map(|notice| format!("\n{notice}.")).collect();
    let revision = manifest.kvbench_git_revision.as_deref().unwrap_or("revision unknown");
    let tables: Vec<String> =
        tables.iter().map(|table| render(&narrow(table), Format::Md, false)).collect();
    format!(
        "\nMade by `kvbench report {} --splice` from a run of scenario `{}` on {device}, {} (kvbench {}, {revision}): {verdict}.{notices}\n\n{}\n",
        run_dir.display(),
        manifest.scenario.name,
        manifest.origin,
        manifest.kvbench_version,
        tables.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analyse::Verdict,
        record::manifest::example,
        report::{Column, Value},
    };

    fn judgement() -> Judgement {
        Judgement {
            summary: Vec::new(),
            kernels: Vec::new(),
            parallel: Vec::new(),
            requests: Vec::new(),
            searches: Vec::new(),
            comparisons: Vec::new(),
            steady: Vec::new(),
            texts: Vec::new(),
            cells: Vec::new(),
            engines: crate::analyse::Engines::default(),
            warm_ups: vec![],
            clients: vec![],
            lengths: vec![],
            forced: vec![],
            quality: crate::analyse::quality::Quality::default(),
            warnings: Vec::new(),
            verdict: Verdict::Valid,
        }
    }

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let document = dir.path().join("README.md");
        std::fs::write(&document, format!("before\n{BEGIN}\nold\n{END}\nafter\n")).unwrap();
        let mut table = Table::new("Decode", vec![Column::new("method", "")]);
        table.rows.push(vec![Value::Text("kivi-4".to_owned())]);
        let cells = ["example/cpu/fp16/w/launch/0", "example/cpu/int8/w/launch/0"];
        let manifest = example("r", &cells);
        for _ in 0..2 {
            splice(&document, Path::new("results/r"), (&manifest, &judgement()), &[table.clone()])
                .unwrap();
            let text = std::fs::read_to_string(&document).unwrap();
            assert!(text.starts_with("before\n") && text.ends_with("after\n"), "{text}");
            assert!(text.contains("kivi-4") && text.contains("results/r") && !text.contains("old"));
            assert_eq!(text.matches(BEGIN).count(), 1);
        }
    }

    #[test]
    fn a_document_without_marks_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let document = dir.path().join("README.md");
        std::fs::write(&document, "nothing here").unwrap();
        let cells = ["example/cpu/fp16/w/launch/0", "example/cpu/int8/w/launch/0"];
        let manifest = example("r", &cells);
        let error = splice(&document, Path::new("r"), (&manifest, &judgement()), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("hint"), "{error:#}");
        assert_eq!(std::fs::read_to_string(&document).unwrap(), "nothing here");
    }
}
