//! `kvbench negatives`: prompts whose answer a method breaks, from files of scores.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value as Json, json};

use super::ui::Ui;
use crate::{
    analyse::negatives::{self, Benign, Counts, Mode, Paired, Rule, Scores},
    report::{
        Column, Figure, Format, Table, Value,
        figure::{Axis, Kind, Panel, Point, Reference, Series},
        png, render, svg,
    },
};

/// Count the prompts whose answer a method breaks, and as many as the baseline itself loses by chance.
#[derive(Debug, clap::Args)]
pub struct NegativesArgs {
    /// Scores of the baseline: JSON lines of `dataset`, `id` and `score` (0 to 1).
    #[arg(long, value_name = "FILE")]
    pub baseline: PathBuf,
    /// Scores of a method, as NAME=FILE; once each.
    #[arg(long = "method", value_name = "NAME=FILE", required = true, value_parser = named)]
    pub methods: Vec<(String, PathBuf)>,
    /// Another run of the baseline: what it "breaks" is the noise floor. As often as there are runs.
    #[arg(long, value_name = "FILE")]
    pub baseline_repeat: Vec<PathBuf>,
    /// An ensemble, as NAME=METHOD,METHOD: it breaks what each of them breaks. `all` is always counted.
    #[arg(long = "group", value_name = "NAME=METHODS", value_parser = group)]
    pub groups: Vec<(String, Vec<String>)>,
    /// Losses that count, in percent of the baseline's score.
    #[arg(
        long,
        value_name = "PERCENT",
        value_delimiter = ',',
        default_value = "1,2,4,8,10,16,24,32"
    )]
    pub theta: Vec<f64>,
    /// Which samples count.
    #[arg(long, value_enum, default_value_t = Mode::Algorithm1)]
    pub mode: Mode,
    /// Seed of the intervals.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Draw the counts over theta; .svg or .png.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), PathBuf::from(file)))
        }
        _ => Err(format!("expected NAME=FILE, got `{text}`")),
    }
}

fn group(text: &str) -> Result<(String, Vec<String>), String> {
    match text.split_once('=') {
        Some((name, members)) if !name.is_empty() && !members.is_empty() => {
            Ok((name.to_owned(), members.split(',').map(str::to_owned).collect()))
        }
        _ => Err(format!("expected NAME=METHOD,METHOD, got `{text}`")),
    }
}

/// What was counted.
struct Found {
    theta: Vec<f64>,
    methods: Vec<Counts>,
    ensembles: Vec<Counts>,
    noise: Vec<Counts>,
    benign: Benign,
}

/// Counts and prints.
///
/// # Errors
/// A file cannot be read or holds a bad row; a name that occurs twice or is none; writing.
pub fn run(args: &NegativesArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let good = |theta: &f64| *theta > 0.0 && *theta <= 100.0;
    if let Some(theta) = args.theta.iter().find(|theta| !good(theta)) {
        bail!("--theta: expected percentages above 0 and up to 100, got {theta}");
    }
    if let Some((name, _)) = args.groups.iter().find(|(name, _)| name == "all") {
        bail!("--group {name}: expected another name than `all`, which is every method");
    }
    let found = count(args, ui)?;
    let text = match ui.format {
        Format::Json => serde_json::to_string_pretty(&as_json(&found))? + "\n",
        format => {
            let tables = [counts_table(&found), task_table(&found)];
            tables
                .iter()
                .map(|table| render(table, format, ui.color))
                .collect::<Vec<_>>()
                .join("\n")
        }
    };
    ui.out(&text)?;
    if let Some(path) = &args.plot {
        draw(path, &figure(&found, args.mode))?;
        ui.note(&format!("figure: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn count(args: &NegativesArgs, ui: &Ui) -> anyhow::Result<Found> {
    let baseline = load("baseline", &args.baseline)?;
    let methods: Vec<Scores> =
        args.methods.iter().map(|(name, path)| load(name, path)).collect::<Result<_, _>>()?;
    let repeats = args.baseline_repeat.iter().enumerate();
    let repeats: Vec<Scores> = repeats
        .map(|(i, path)| load(&format!("baseline repeat {}", i + 1), path))
        .collect::<Result<_, _>>()?;
    let thetas: Vec<f64> = args.theta.iter().map(|percent| percent / 100.0).collect();
    let rule = Rule { mode: args.mode, thetas: &thetas, seed: args.seed };
    let paired = Paired::new(&baseline, &methods)?;
    let again = Paired::new(&baseline, &repeats)?;
    for excluded in paired.excluded.iter().chain(&again.excluded) {
        let negatives::Excluded { method, why, n, example } = excluded;
        ui.note(&format!("{method}: {n} rows left out, {why} (such as {example})"));
    }
    let mut ensembles = vec![paired.ensemble("all", &paired.names(), &rule)?];
    for (name, members) in &args.groups {
        ensure!(
            ensembles.iter().all(|known| known.name != *name),
            "--group {name}: expected each name once"
        );
        ensembles.push(paired.ensemble(name, members, &rule)?);
    }
    Ok(Found {
        theta: args.theta.clone(),
        methods: paired.methods(&rule),
        ensembles,
        noise: again.methods(&rule),
        benign: paired.benign(args.mode),
    })
}

fn load(name: &str, path: &Path) -> anyhow::Result<Scores> {
    let place = path.display().to_string();
    let file = File::open(path).with_context(|| format!("{place}: cannot be read"))?;
    negatives::read(name, &place, BufReader::new(file))
}

fn as_json(found: &Found) -> Json {
    let named = |counts: &[Counts]| -> Map<String, Json> {
        counts.iter().map(|counts| (counts.name.clone(), counts_json(counts))).collect()
    };
    let Benign { total, by_task, by_dataset } = &found.benign;
    let by_task: Map<String, Json> =
        by_task.iter().map(|(task, n)| (task.name().to_owned(), json!(n))).collect();
    json!({
        "theta": found.theta,
        "methods": named(&found.methods),
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
    }
    out
}

/// Every set of methods with its kind. One method's ensemble is that method, and is left out.
fn sets(found: &Found) -> Vec<(&'static str, &Counts)> {
    let ensembles = if found.methods.len() > 1 { found.ensembles.as_slice() } else { &[] };
    let kinds = [
        ("method", found.methods.as_slice()),
        ("ensemble", ensembles),
        ("noise floor", &found.noise),
    ];
    kinds.into_iter().flat_map(|(kind, sets)| sets.iter().map(move |set| (kind, set))).collect()
}

fn counts_table(found: &Found) -> Table {
    let columns = [
        ("kind", ""),
        ("set", ""),
        ("theta", "%"),
        ("benign", ""),
        ("negatives", ""),
        ("mirror", ""),
        ("p_sign", ""),
        ("more_than_mirror", ""),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new("Negative samples, and as many the other way round", columns);
    for (kind, counts) in sets(found) {
        for (t, theta) in found.theta.iter().enumerate() {
            let (low, high) = counts.intervals[t];
            let mirror = counts.mirror.as_ref().map(|mirror| mirror[t]);
            let p = counts.p_sign.as_ref().map(|p| p[t]);
            table.rows.push(vec![
                Value::Text(kind.to_owned()),
                Value::Text(counts.name.clone()),
                Value::Float(*theta),
                int(counts.n_benign),
                Value::estimate(Some(counts.negatives[t] as f64), Some(low), Some(high)),
                mirror.map_or(Value::Missing, int),
                Value::maybe(p),
                in_words(counts.negatives[t], mirror, p),
            ]);
        }
    }
    table
}

fn in_words(negatives: usize, mirror: Option<usize>, p: Option<f64>) -> Value {
    let (Some(mirror), Some(p)) = (mirror, p) else { return Value::Missing };
    let text = match p < 0.05 {
        true if negatives > mirror => "yes",
        true => "fewer",
        false => "not shown",
    };
    Value::Text(text.to_owned())
}

fn int(n: usize) -> Value {
    i64::try_from(n).map_or(Value::Missing, Value::Int)
}

fn task_table(found: &Found) -> Table {
    let mut columns = vec![Column::new("set", ""), Column::new("task", "")];
    columns.push(Column::new("benign", ""));
    columns.extend(found.theta.iter().map(|theta| Column::new(&format!("at_{theta}"), "")));
    let mut table =
        Table::new("Negative samples by kind of task, at each theta in percent", columns);
    for (_, counts) in sets(found) {
        for (task, n) in &counts.by_task {
            let benign = found.benign.by_task.get(task).copied();
            let mut row = vec![
                Value::Text(counts.name.clone()),
                Value::Text(task.name().to_owned()),
                benign.map_or(Value::Missing, int),
            ];
            row.extend(n.iter().map(|n| int(*n)));
            table.rows.push(row);
        }
    }
    table
}

fn figure(found: &Found, mode: Mode) -> Figure {
    let mut panel = Panel::default();
    for (slot, (_, counts)) in sets(found).into_iter().enumerate() {
        let point = |(t, theta): (usize, &f64)| Point {
            x: *theta,
            y: counts.negatives[t] as f64,
            low: Some(counts.intervals[t].0),
            high: Some(counts.intervals[t].1),
        };
        panel.series.push(Series {
            name: counts.name.clone(),
            slot,
            kind: Kind::Line,
            points: found.theta.iter().enumerate().map(point).collect(),
        });
        if let Some(mirror) = &counts.mirror {
            let corners = found.theta.iter().zip(mirror).map(|(x, y)| (*x, *y as f64)).collect();
            panel.references.push(Reference::curve(
                "mirror: the baseline loses as much",
                slot,
                corners,
            ));
        }
    }
    let rule = match mode {
        Mode::Algorithm1 => "benign: the baseline reaches its data set's mean",
        Mode::AsShipped => "as the paper's script counts: median, ties lost, one data set twice",
    };
    let caption = format!(
        "Of {} benign samples ({rule}). Bars: 95 % bootstrap of samples within data sets. Dashed: roles swapped, the null.",
        found.benign.total
    );
    let x = Axis::from_zero("loss against the baseline that counts (theta)", "%");
    let y = Axis::from_zero("negative samples", "");
    Figure::single("Prompts that a method breaks", &caption, x, y, panel)
}

fn draw(path: &Path, figure: &Figure) -> anyhow::Result<()> {
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => svg(figure)?.into_bytes(),
        Some("png") => png(figure)?,
        _ => bail!("--plot: expected a file that ends with .svg or .png, got {}", path.display()),
    };
    std::fs::write(path, bytes).with_context(|| format!("{}: cannot be written", path.display()))
}
