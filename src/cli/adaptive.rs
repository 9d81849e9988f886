//! `kvbench adaptive`: what choosing the method by the prompt could win at most.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};
use serde_json::{Map, Value as Json, json};

use super::{
    negatives::{can_draw, draw},
    scored::Source,
    ui::Ui,
};
use crate::{
    analyse::{
        adaptive::{self, Bound, Outcome, Points, Policy, Question},
        negatives::{Excluded, Paired},
    },
    report::{
        Column, Figure, Format, Table, Value,
        figure::{Axis, Kind, Panel, Point, Reference, Series},
    },
};

/// What choosing the method by the task or by the prompt could win at most, and how much of that is luck.
#[derive(Debug, clap::Args)]
pub struct AdaptiveArgs {
    #[command(flatten)]
    source: Source,
    /// Permitted losses of the mean score, in points: how much can be compressed within each.
    #[arg(long, value_name = "POINTS", value_delimiter = ',', default_value = "0.5,1,2")]
    loss: Vec<f64>,
    /// Throughput of a method over the baseline's, as NAME=RATIO [default: from a run folder the measured ratio of E2E latencies]
    #[arg(long, value_name = "NAME=RATIO", value_delimiter = ',', value_parser = speed)]
    speed: Vec<(String, f64)>,
    /// Seed of halves and intervals.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Draw quality over the share that is compressed; .svg or .png.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn speed(text: &str) -> Result<(String, f64), String> {
    let parsed = text.split_once('=').and_then(|(name, ratio)| Some((name, ratio.parse().ok()?)));
    match parsed {
        Some((name, ratio)) if !name.is_empty() && ratio > 0.0 && f64::is_finite(ratio) => {
            Ok((name.to_owned(), ratio))
        }
        _ => Err(format!("expected NAME=RATIO with a ratio above 0, got `{text}`")),
    }
}

/// Computes and prints.
///
/// # Errors
/// Scores that cannot be read, methods that share no sample with the baseline, a bad option, or writing.
pub fn run(args: &AdaptiveArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    if let Some(loss) = args.loss.iter().find(|loss| !(0.0..=100.0).contains(*loss)) {
        bail!("--loss: expected points from 0 to 100, got {loss}");
    }
    if let Some(path) = &args.plot {
        can_draw(path)?;
    }
    let (subjects, from) = args.source.read(ui)?;
    for excluded in &Paired::new(&subjects.baseline, &subjects.methods)?.excluded {
        let Excluded { method, why, n, example } = excluded;
        ui.note(&format!("{method}: {n} rows left out, {why} (such as {example})"));
    }
    let mut speeds: BTreeMap<String, f64> = match &from {
        Some(from) => adaptive::speeds(&from.data, &from.place, &subjects)?,
        None => BTreeMap::new(),
    };
    for (name, ratio) in &args.speed {
        ensure!(
            subjects.methods.iter().any(|method| method.name == *name),
            "--speed: expected one of {}, got `{name}`",
            subjects.methods.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        speeds.insert(name.clone(), *ratio);
    }
    let question = Question { losses: &args.loss, speeds: &speeds, seed: args.seed };
    let bound = adaptive::bound(&subjects, &question)?;
    if bound.n_left_out > 0 {
        ui.note(&format!(
            "{} samples of the baseline left out: some method lacks them, or had another prompt",
            bound.n_left_out
        ));
    }
    ui.out(&match ui.format {
        Format::Json => serde_json::to_string_pretty(&as_json(&bound, &speeds))? + "\n",
        _ => ui.tables(&[methods_table(&bound, &speeds), policies_table(&bound)]),
    })?;
    let has_null = bound.outcomes.iter().any(|outcome| outcome.policy == Policy::Null);
    if subjects.again.is_empty() {
        ui.note("note: no repeat of the baseline, so nothing says how much of the oracle is luck (--baseline-repeat)");
    } else if !has_null {
        ui.note("note: the repeats of the baseline have no sample in common, so nothing says how much of the oracle is luck");
    }
    if let Some(path) = &args.plot {
        draw(path, &figure(&bound))?;
        ui.note(&format!("figure: {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn points_json(points: &Points) -> Json {
    json!({ "mean": points.mean, "ci": points.interval })
}

fn as_json(bound: &Bound, speeds: &BTreeMap<String, f64>) -> Json {
    let methods: Map<String, Json> = bound
        .methods
        .iter()
        .map(|(name, delta)| {
            (name.clone(), json!({ "delta": points_json(delta), "speed": speeds.get(name) }))
        })
        .collect();
    let policies: Vec<Json> = bound.outcomes.iter().map(outcome_json).collect();
    let curves: Map<String, Json> = bound
        .curves
        .iter()
        .map(|(policy, steps)| (policy.name().to_owned(), steps.iter().map(outcome_json).collect()))
        .collect();
    json!({
        "n": bound.n,
        "n_left_out": bound.n_left_out,
        "baseline": bound.baseline,
        "best_method": bound.best,
        "methods": methods,
        "policies": policies,
        "curves": curves,
    })
}

fn outcome_json(outcome: &Outcome) -> Json {
    json!({
        "policy": outcome.policy.name(),
        "candidates": outcome.n_candidates,
        "goal": outcome.goal.name(),
        "allowed_loss": outcome.goal.allowed_loss(),
        "n": outcome.n,
        "compressed": outcome.n_compressed,
        "delta": points_json(&outcome.delta),
        "over_best_method": outcome.over_best.as_ref().map(points_json),
        "speedup": outcome.speedup,
    })
}

fn points(points: &Points) -> Value {
    let (low, high) = points.interval.unzip();
    Value::estimate(Some(points.mean), low, high)
}

fn percent(outcome: &Outcome) -> f64 {
    100.0 * outcome.n_compressed as f64 / outcome.n as f64
}

fn methods_table(bound: &Bound, speeds: &BTreeMap<String, f64>) -> Table {
    let columns = [("method", ""), ("samples", ""), ("delta", "points"), ("speed", "x")];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let mut table = Table::new("Each method for everything, against the baseline", columns);
    table.rows.extend(bound.methods.iter().map(|(name, delta)| {
        vec![
            Value::Text(name.clone()),
            Value::count(bound.n),
            points(delta),
            Value::maybe(speeds.get(name).copied()),
        ]
    }));
    table
}

fn policies_table(bound: &Bound) -> Table {
    let columns = [
        ("policy", ""),
        ("candidates", ""),
        ("goal", ""),
        ("allowed_loss", "points"),
        ("compressed", ""),
        ("share", "%"),
        ("delta", "points"),
        ("over_best_method", "points"),
        ("speedup", "x"),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    let title = "What choosing could win: the best quality, and most compressed or fastest within an allowed loss";
    let mut table = Table::new(title, columns);
    table.rows.extend(bound.outcomes.iter().map(|outcome| {
        vec![
            Value::Text(outcome.policy.name().to_owned()),
            Value::count(outcome.n_candidates),
            Value::Text(outcome.goal.name().to_owned()),
            Value::maybe(outcome.goal.allowed_loss()),
            Value::count(outcome.n_compressed),
            Value::Float(percent(outcome)),
            points(&outcome.delta),
            outcome.over_best.as_ref().map_or(Value::Missing, points),
            Value::maybe(outcome.speedup),
        ]
    }));
    table
}

fn figure(bound: &Bound) -> Figure {
    let mut panel = Panel::default();
    let point = |x: f64, delta: &Points| Point {
        x,
        y: delta.mean,
        low: delta.interval.map(|ends| ends.0),
        high: delta.interval.map(|ends| ends.1),
    };
    for (slot, (policy, steps)) in bound.curves.iter().enumerate() {
        if *policy != Policy::OneMethod {
            panel.series.push(Series {
                name: policy.name().to_owned(),
                slot,
                kind: Kind::Line,
                points: steps.iter().map(|step| point(percent(step), &step.delta)).collect(),
            });
        }
    }
    for (nth, (name, delta)) in bound.methods.iter().enumerate() {
        panel.series.push(Series {
            name: format!("{name} for everything"),
            slot: bound.curves.len() + nth,
            kind: Kind::Points,
            points: vec![point(100.0, delta)],
        });
    }
    panel.references.push(Reference::horizontal("baseline", 0.0));
    let caption = format!(
        "{} samples. Bars: 95 % bootstrap of samples within data sets, choices held fixed. The oracle sees the scores; its null has \
         nothing but repeats of the baseline to choose from.",
        bound.n
    );
    let x = Axis::from_zero("share served compressed", "%");
    let y = Axis::from_zero("mean score less the baseline's", "points");
    Figure::single("What choosing the method by the prompt could win", &caption, x, y, panel)
}
