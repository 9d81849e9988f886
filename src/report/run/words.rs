//! The finding in plain words, made of judged points only.

use super::{distinct, kernels::shape_label};
use crate::{
    analyse::{Estimate, Judgement, KernelPoint, Point},
    units::significant,
};

/// What holds for every kernel number.
pub(super) const ONE_LAYER: &str = "Kernel numbers are those of one attention layer, not of a model: a model also spends time in its other \
     layers' projections and feed-forward blocks, which cache compression does not speed up.";
/// What holds for numbers from a CPU.
pub(super) const CPU_ONLY: &str =
    "These kernels ran on a CPU. Their times and speed-ups do not predict those of a GPU.";

/// Sentences about kernels, one paragraph a target and model, then about served requests.
pub(super) fn finding(judgement: &Judgement, baseline: &str) -> Vec<String> {
    let mut out = Vec::new();
    let compared: Vec<&KernelPoint> = judgement
        .kernels
        .iter()
        .filter(|k| k.op == "decode" && k.verified && is_real(k, baseline))
        .collect();
    for (target, model) in distinct(compared.iter().map(|k| (&k.point.target, &k.model_shape))) {
        let here = compared
            .iter()
            .copied()
            .filter(|k| (&k.point.target, &k.model_shape) == (target, model));
        out.extend(of_target(here.collect(), baseline));
    }
    out.extend(served(judgement, baseline));
    out.extend(super::lengths::finding(&judgement.lengths));
    out.extend(super::forced::finding(&judgement.forced));
    out.extend(super::quality::finding(&judgement.quality));
    if out.is_empty() {
        out.push(format!(
            "No method could be compared with {baseline}: see what failed and what is unfinished."
        ));
    }
    out
}

/// A comparison that says something: with a speed-up, and not the control.
fn is_real(k: &KernelPoint, baseline: &str) -> bool {
    k.speedup.is_some() && k.point.method != format!("{baseline}-aa")
}

/// The largest shape is where compression matters most, so that is the one spoken about, on the fewest ranks.
fn of_target(mut points: Vec<&KernelPoint>, baseline: &str) -> Option<String> {
    let fewest = points.iter().map(|k| k.tensor_parallel).min()?;
    points.retain(|k| k.tensor_parallel == fewest);
    let largest = points.iter().max_by_key(|k| k.kv_tokens)?;
    // A replayed cell holds several shapes under one label: only the very same shape is compared.
    let shape = |k: &KernelPoint| (shape_label(k), k.batch, k.kv_len, k.kv_tokens);
    let mut at: Vec<&KernelPoint> =
        points.iter().copied().filter(|k| shape(k) == shape(largest)).collect();
    let value = |k: &KernelPoint| k.speedup.map_or(f64::NAN, |s| s.value);
    at.sort_by(|a, b| value(b).total_cmp(&value(a)));
    let (best, worst) = (*at.first()?, *at.last()?);
    let place = if best.point.load == "launch" {
        format!("batch {}, kv_len {}", best.batch, best.kv_len)
    } else {
        format!("{}, {}", best.point.workload, best.point.load)
    };
    let rank = if fewest > 1 { format!("one of {fewest} ranks of ") } else { String::new() };
    let mut text = format!(
        "On this machine ({}), {rank}one attention layer of {}: at {place}, {}",
        best.backend,
        best.model_shape,
        sentence(best, baseline)
    );
    if at.len() > 1 {
        text += &format!(
            " The slowest of the {} methods there, {}",
            at.len(),
            sentence(worst, baseline)
        );
    }
    Some(text)
}

fn sentence(k: &KernelPoint, baseline: &str) -> String {
    let speedup = k.speedup.map_or(String::new(), times);
    let mut text = format!("{} decodes {speedup} as fast as {baseline}", k.point.method);
    if let Some(ideal) = k.ideal_speedup {
        text += &format!("; the ratio of bytes would allow {}x", significant(ideal, 3));
    }
    if let Some(captured) = k.captured_fraction {
        text += &format!(", so it captures {:.0} % of that gain", 100.0 * captured);
    }
    text += ".";
    if k.within_noise == Some(true) {
        text += " That is within the noise of the A/A control.";
    }
    text
}

fn times(estimate: Estimate) -> String {
    let value = significant(estimate.value, 3);
    match estimate.interval {
        Some((low, high)) => {
            format!("{value}x [{}, {}]", significant(low, 3), significant(high, 3))
        }
        None => format!("{value}x (no interval: {} sample)", estimate.n),
    }
}

/// One sentence a served method and load about the latency, where its interval excludes 1 or not.
fn served(judgement: &Judgement, baseline: &str) -> Vec<String> {
    let control = format!("{baseline}-aa");
    let compresses_nothing = |point: &Point| {
        point.method == control
            || judgement.lengths.iter().any(|one| one.control.is_some() && one.point == *point)
    };
    let spoken = judgement
        .comparisons
        .iter()
        .filter(|c| ["e2e_due", "e2e"].contains(&c.metric.as_str()))
        .filter(|c| !compresses_nothing(&c.point));
    let mut out: Vec<String> = Vec::new();
    let mut seen = Vec::new();
    for c in spoken {
        if seen.contains(&&c.point) {
            continue;
        }
        seen.push(&c.point);
        let clear = c.ratio.interval.is_some_and(|(low, high)| low > 1.0 || high < 1.0)
            && c.within_noise != Some(true);
        let doubt = if clear { "" } else { " This is no difference that the data can show." };
        out.push(format!(
            "{} at {}, {}: a request takes {} as long as with {}.{doubt}",
            c.point.method,
            c.point.workload,
            c.point.load,
            times(c.ratio),
            c.baseline.method
        ));
    }
    out
}
