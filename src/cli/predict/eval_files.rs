//! `kvbench predict eval --profile-attention A.csv --profile-linear M.csv`: a profile of single operations against measured
//! throughput.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::json;

use crate::{
    cli::ui::Ui,
    predict::{
        Phase,
        columns::Columns,
        measured::{self, MeasuredRow},
        profile::{
            Profile, Roofline,
            evaluate::{self, Evaluation, Question},
        },
    },
    report::{Format, predict::profile as report},
    scenario::ModelShape,
};

/// Cached tokens that sparse methods of the published files keep.
const SPARSE_KV: f64 = 512.0;
/// First letters of their names.
const SPARSE: [&str; 2] = ["h2o", "stream"];

/// First letters of methods that are known well enough to contradict one another.
const FAMILIES: [&str; 6] = ["none", "kivi", "gear", "h2o", "stream", "snap"];

/// The files of a profile in Vidur's format, and what they do not tell.
#[derive(Debug, clap::Args)]
pub(super) struct FilesArgs {
    /// Attention of one layer by shape: CSV as Vidur writes it; .gz too.
    #[arg(long, value_name = "FILE", requires = "profile_linear")]
    profile_attention: Option<PathBuf>,
    /// Linear operations of one layer by tokens: CSV as Vidur writes it; .gz too.
    #[arg(long, value_name = "FILE", requires = "profile_attention")]
    profile_linear: Option<PathBuf>,
    /// Method that the profile is of: h2o and streaming attend to 512 cached tokens, all others to all of them. It also picks the
    /// rows of a measured file that has several methods.
    #[arg(long, value_name = "NAME", requires = "profile_attention")]
    method: Option<String>,
    /// Layers of the model; known for the presets of scenarios, such as llama-2-7b.
    #[arg(long, value_name = "N", requires = "profile_attention", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
}

/// What predicts from a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Predictor {
    /// Straight lines between the medians of the profile.
    Interpolate,
    /// A few non-negative costs fitted on the profile.
    Roofline,
}

impl FilesArgs {
    /// Whether a profile is asked for.
    pub(super) fn are_given(&self) -> bool {
        self.profile_attention.is_some() || self.profile_linear.is_some()
    }
}

impl Predictor {
    fn name(self) -> &'static str {
        match self {
            Predictor::Interpolate => "interpolate",
            Predictor::Roofline => "roofline",
        }
    }
}

/// What was compared, for a table and for JSON.
struct Compared {
    model: String,
    method: String,
    predictor: Predictor,
    kv_cap: Option<f64>,
    layers: u32,
    found: Evaluation,
    left_out: Vec<String>,
    notes: Vec<String>,
}

/// Compares and prints; JSON has the points.
///
/// # Errors
/// A file that cannot be read or is another; a model or a method that is none or several of the measured file's; no point
/// that both sides have.
pub(super) fn run(
    files: &FilesArgs,
    measured: &Path,
    model: &str,
    predictor: Predictor,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let compared = compare(files, measured, model, predictor)?;
    for note in compared.left_out.iter().chain(&compared.found.left_out) {
        ui.note(&format!("left out: {note}"));
    }
    compared.notes.iter().for_each(|note| ui.note(&format!("note: {note}")));
    let text = match ui.format {
        Format::Json => serde_json::to_string_pretty(&as_json(&compared))? + "\n",
        _ => ui.tables(&report::tables(&compared.found)),
    };
    ui.out(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn compare(
    files: &FilesArgs,
    measured: &Path,
    model: &str,
    predictor: Predictor,
) -> anyhow::Result<Compared> {
    let (Some(attention), Some(linear)) = (&files.profile_attention, &files.profile_linear) else {
        bail!(
            "predict eval: expected --profile-attention and --profile-linear, got none\n  hint: both are CSV files of Vidur's format"
        );
    };
    let layers = layers(files.layers, model)?;
    let profile = Profile::read(&table(attention)?, &table(linear)?)?;
    let name = measured.display().to_string();
    let rows = measured::of_model(measured::rows(open(measured)?, &name)?, &name, model)?;
    let rows = of_method(rows, &name, files.method.as_deref())?;
    let Some(first) = rows.first() else {
        bail!("{name}: expected rows of `{model}`, got none\n  hint: is the file whole?");
    };
    let method = files.method.clone().unwrap_or_else(|| first.method.clone());
    let question = Question { rows: &rows, layers, kv_cap: kv_cap(&method) };
    let found = match predictor {
        Predictor::Interpolate => evaluate::evaluate(&profile.interpolated(), &question),
        Predictor::Roofline => {
            let place = || attention.display().to_string();
            let fitted = Roofline::fit(&profile).map_err(anyhow::Error::msg).with_context(place)?;
            evaluate::evaluate(&fitted, &question)
        }
    };
    if found.points.is_empty() {
        bail!(
            "{name}: expected measurements at batch 1, 2 or 4, got none that the profile has as well\n  hint: {}",
            found.left_out.first().map_or("is this the right file?", String::as_str)
        );
    }
    let kv_cap = question.kv_cap;
    let notes = notes(&name, first, &method, (kv_cap, layers));
    let model = first.model.clone();
    let left_out = profile.left_out;
    Ok(Compared { model, method, predictor, kv_cap, layers, found, left_out, notes })
}

/// What was held against what: no file says which method its profile is of, so a wrong one shows in nothing but the numbers.
fn notes(
    file: &str,
    row: &MeasuredRow,
    method: &str,
    (kv_cap, layers): (Option<f64>, u32),
) -> Vec<String> {
    let MeasuredRow { model, method: measured, .. } = row;
    let attends =
        kv_cap.map_or("all cached tokens".to_owned(), |cap| format!("{cap} cached tokens"));
    let what = format!(
        "{file}: rows of method `{measured}` of {model}; the profile is taken as that of `{method}`, {layers} layers, attending to {attends}"
    );
    let doubt = (!is_same_method(method, measured)).then(|| {
        format!(
            "{file}: whether `{measured}` is the method that --method calls `{method}` is not known: the errors are of the profile only if it is"
        )
    });
    [what].into_iter().chain(doubt).collect()
}

/// Opens a file of the command line.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| {
        format!(
            "{}: cannot be opened\n  hint: the path is relative to the working directory",
            path.display()
        )
    })
}

fn table(path: &Path) -> anyhow::Result<Columns> {
    Columns::read(open(path)?, &path.display().to_string())
}

fn layers(told: Option<u32>, model: &str) -> anyhow::Result<u32> {
    if let Some(layers) = told {
        return Ok(layers);
    }
    let wanted = model.to_lowercase();
    let names = ModelShape::preset_names();
    let known = names.iter().filter(|name| wanted.contains(**name));
    // The longest name says most: a preset may be the start of another.
    let shape = known.max_by_key(|name| name.len()).and_then(|name| ModelShape::preset(name));
    let layers = shape.and_then(|shape| u32::try_from(shape.num_layers).ok());
    layers.with_context(|| {
        format!(
            "--model {model}: expected a model whose layers are known ({}), got another\n  hint: tell them with --layers",
            names.join(", ")
        )
    })
}

fn kv_cap(method: &str) -> Option<f64> {
    let method = method.to_lowercase();
    SPARSE.iter().any(|family| method.starts_with(family)).then_some(SPARSE_KV)
}

/// A name without what files spell differently: lower case, `none` for what compresses nothing, `stream` for StreamingLLM.
fn plain(method: &str) -> String {
    match method.to_lowercase() {
        method if method.starts_with("fp16") => "none".to_owned(),
        method if method.starts_with("stream") => "stream".to_owned(),
        method => method,
    }
}

/// Whether one name is the start of the other: `kivi` and `KIVI-4`.
fn is_same_method(a: &str, b: &str) -> bool {
    let (a, b) = (plain(a), plain(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// The family of a known method.
fn family(method: &str) -> Option<&'static str> {
    let method = plain(method);
    FAMILIES.into_iter().find(|family| method.starts_with(family))
}

/// The one method of the rows, or the one that was named.
fn of_method(
    rows: Vec<MeasuredRow>,
    name: &str,
    method: Option<&str>,
) -> anyhow::Result<Vec<MeasuredRow>> {
    let mut all: Vec<&str> = rows.iter().map(|row| row.method.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    // A file of one method needs no name, and its own name for it may be one that nobody knows; two known ones can contradict.
    if all.len() <= 1 {
        if let (Some(told), Some(known)) = (method, all.first())
            && let (Some(wanted), Some(own)) = (family(told), family(known))
        {
            ensure!(
                wanted == own,
                "{name}: expected rows of method `{told}`, got those of `{known}` only\n  hint: name the file that was measured under `{told}`, or the method of this one"
            );
        }
        return Ok(rows);
    }
    let wanted = method.map(plain);
    let is_wanted =
        |known: &str| wanted.as_ref().is_some_and(|wanted| plain(known).starts_with(wanted));
    let found: Vec<&str> = all.iter().copied().filter(|known| is_wanted(known)).collect();
    let [one] = found[..] else {
        bail!(
            "{name}: expected rows of one method{}, got {}\n  hint: name one with --method",
            method.map(|method| format!(" called `{method}`")).unwrap_or_default(),
            all.join(", ")
        );
    };
    let one = one.to_owned();
    Ok(rows.into_iter().filter(|row| row.method == one).collect())
}

fn as_json(compared: &Compared) -> serde_json::Value {
    let Compared { model, method, predictor, kv_cap, layers, found, left_out, notes } = compared;
    let stage = |phase: Phase| {
        json!({
            "accuracy_pct": found.accuracy_pct(Some(phase)),
            "mape_pct": found.mape_pct(Some(phase)),
            "n_points": found.points.iter().filter(|point| point.phase == phase).count(),
        })
    };
    let points: Vec<serde_json::Value> = found
        .points
        .iter()
        .map(|point| {
            json!({
                "stage": point.phase,
                "bsz": point.bsz,
                "prompt_len": point.prompt_len,
                "sequences": point.sequences,
                "measured_s": point.measured_s,
                "predicted_s": point.predicted_s,
                "error_pct": 100.0 * point.relative_error(),
            })
        })
        .collect();
    json!({
        "accuracy_pct": found.accuracy_pct(None),
        "mape_pct": found.mape_pct(None),
        "n_points": found.points.len(),
        "decode": stage(Phase::Decode),
        "prefill": stage(Phase::Prefill),
        "model": model,
        "method": method,
        "predictor": predictor.name(),
        "kv_cap": kv_cap,
        "layers": layers,
        "points": points,
        "left_out": left_out.iter().chain(&found.left_out).collect::<Vec<_>>(),
        "notes": notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(method: &str) -> Vec<MeasuredRow> {
        let file =
            format!("model,method,bsz,prompt_len,stage,thr\nllama,{method},1,256,decode,9\n");
        measured::rows(file.as_bytes(), "t.csv").unwrap()
    }

    #[test]
    fn a_file_of_another_known_method_is_refused() {
        for (own, told) in [("H2O-16", "kivi"), ("None-16", "GEAR"), ("KIVI-4", "fp16")] {
            let error = of_method(rows(own), "t.csv", Some(told)).unwrap_err().to_string();
            let said = format!("expected rows of method `{told}`, got those of `{own}` only");
            assert!(error.contains(&said) && error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn names_that_may_be_right_are_taken_and_told() {
        for (own, told, n_notes) in [
            ("None-16", Some("fp16"), 1),
            ("KIVI-4", Some("kivi"), 1),
            ("GEAR-4", Some("gear"), 1),
            ("stream", Some("StreamingLLM"), 1),
            ("StreamingLLM-16", Some("stream"), 1),
            ("novel", None, 1),
            ("novel", Some("kivi"), 2),
            ("H2O-16", Some("zzz"), 2),
        ] {
            let rows = of_method(rows(own), "t.csv", told).unwrap();
            let taken = told.unwrap_or(own);
            let said = notes("t.csv", &rows[0], taken, (kv_cap(taken), 32));
            assert_eq!(said.len(), n_notes, "{said:?}");
            assert!(said[0].contains(own) && said[0].contains(taken), "{said:?}");
            assert!(said[0].contains("32 layers") && said[0].contains("cached tokens"));
        }
    }
}
