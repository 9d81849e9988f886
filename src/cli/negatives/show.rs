//! Negative samples as JSON, and pictures into files.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value as Json, json};

use crate::{
    analyse::negatives::{Benign, Counts, Delta, Found},
    report::{Figure, png, svg},
};

pub(super) fn as_json(found: &Found) -> Json {
    let named = |counts: &[Counts]| -> Map<String, Json> {
        counts.iter().map(|counts| (counts.name.clone(), counts_json(counts))).collect()
    };
    let mut methods = named(&found.methods);
    for (name, confirmed) in &found.confirmed {
        if let Some(method) = methods.get_mut(name) {
            method["confirmed"] = json!({
                "n_repeats": confirmed.n_repeats,
                "n_paired": confirmed.counts.n_paired,
                "negatives": confirmed.counts.negatives,
            });
        }
    }
    let baseline = found
        .means
        .first()
        .map(|means| json!({ "mean": means.mean, "mean_by_dataset": means.by_dataset }));
    for means in found.means.iter().skip(1) {
        if let Some(method) = methods.get_mut(&means.name) {
            method["mean"] = json!(means.mean);
            method["mean_by_dataset"] = json!(means.by_dataset);
        }
    }
    let Benign { total, by_task, by_dataset } = &found.benign;
    let by_task: Map<String, Json> =
        by_task.iter().map(|(task, n)| (task.name().to_owned(), json!(n))).collect();
    json!({
        "theta": found.theta,
        "baseline": baseline,
        "methods": methods,
        "ensembles": named(&found.ensembles),
        "noise_floor": named(&found.noise),
        "benign": { "total": total, "by_task": by_task, "by_dataset": by_dataset },
    })
}

fn counts_json(counts: &Counts) -> Json {
    let by_task: Map<String, Json> =
        counts.by_task.iter().map(|(task, n)| (task.name().to_owned(), json!(n))).collect();
    let mut out = json!({
        "n_paired": counts.n_paired,
        "n_benign": counts.n_benign,
        "negatives": counts.negatives,
        "negatives_ci": counts.intervals,
        "by_task": by_task,
        "by_dataset": counts.by_dataset,
    });
    if let (Some(mirror), Some(p_sign)) = (&counts.mirror, &counts.p_sign) {
        out["mirror"] = json!(mirror);
        out["p_sign"] = json!(p_sign);
        out["q_sign"] = json!(counts.q_sign);
    }
    if let Some(fair) = &counts.fair {
        let found_at: Vec<_> = (0..fair.lost.len()).map(|theta| fair.found_at(theta)).collect();
        out["one_bar"] = json!({
            "lost": fair.lost,
            "gained": fair.gained,
            "p": fair.p,
            "q": fair.q,
            "excess_found_at": found_at,
        });
    }
    if let Some(delta) = &counts.delta {
        let Delta { n, mean, interval, p_wilcoxon, n_worse, n_better, p_mcnemar } = delta;
        out["delta"] = json!({ "n": n, "mean": mean, "ci": interval });
        out["p_wilcoxon"] = json!(p_wilcoxon);
        out["flips"] = json!({ "worse": n_worse, "better": n_better });
        out["p_mcnemar"] = json!(p_mcnemar);
    }
    out
}

/// Refuses a name that does not say how to draw, before anything is counted.
pub(in crate::cli) fn can_draw(path: &Path) -> anyhow::Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg" | "png") => Ok(()),
        _ => bail!("--plot: expected a file that ends with .svg or .png, got {}", path.display()),
    }
}

/// Draws into a file; its name says how.
pub(in crate::cli) fn draw(path: &Path, figure: &Figure) -> anyhow::Result<()> {
    can_draw(path)?;
    let bytes = match path.extension().is_some_and(|extension| extension == "png") {
        true => png(figure)?,
        false => svg(figure)?.into_bytes(),
    };
    std::fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}
