//! Quality, throughput and KV memory: a table, the sentences, a picture a spot.

use super::{
    figure::{Axis, Figure, Kind, Panel, Point, Reference, Scale, Series},
    palette::looks,
    run::{
        Plot, slug,
        tables::{columns, estimate, text},
    },
    table::{Table, Value},
};
use crate::{
    analyse::{
        Estimate,
        pareto::{Best, Candidate, Front},
        rank::Spot,
    },
    units::significant,
};

/// Candidates of every spot.
pub fn table(fronts: &[Front]) -> Table {
    let names = [
        ("workload", ""),
        ("load", ""),
        ("method", ""),
        ("throughput", "tokens/s"),
        ("of", ""),
        ("quality", "points"),
        ("quality_loss", "%"),
        ("kv_bytes_per_token", "B"),
        ("compression", "x"),
        ("on_front", ""),
        ("front_share", "% of draws"),
        ("front_of", ""),
        ("repeats", ""),
        ("quality_from", ""),
        ("memory_from", ""),
    ];
    let title = "Quality, throughput and KV memory; 95 % bootstrap over repeats and over prompts, the same for all methods of a draw";
    let mut table = Table::new(title, columns(&names));
    for front in fronts {
        table.rows.extend(front.candidates.iter().map(|candidate| row(front, candidate)));
    }
    table
}

fn row(front: &Front, candidate: &Candidate) -> Vec<Value> {
    let Spot { workload, load, shape, target, .. } = &front.spot;
    let parts = [workload, shape, target];
    let work: Vec<&str> =
        parts.iter().filter(|part| !part.is_empty()).map(|part| part.as_str()).collect();
    let memory = candidate.memory.as_ref();
    vec![
        text(&work.join(" ")),
        text(load),
        text(&candidate.name),
        estimate(Some(candidate.throughput)),
        text(if front.throughput.name == "decode_tokens_per_s" { "one layer" } else { "server" }),
        estimate(candidate.quality),
        if candidate.is_baseline { Value::Missing } else { estimate(candidate.loss_pct) },
        Value::maybe(memory.map(|memory| memory.bytes_per_token)),
        Value::maybe(candidate.compression),
        candidate.on_front.map_or(Value::Missing, |on| text(if on { "yes" } else { "no" })),
        Value::percent(candidate.front_share),
        text(&front.axes.join(", ")),
        Value::count(front.n_repeats),
        text(&front.quality_from),
        text(memory.map_or("not known: neither the method nor the engine tells", |memory| {
            memory.from.as_str()
        })),
    ]
}

/// The answers, for programs.
pub fn answers(best: &[Best]) -> Table {
    let names = [
        ("work", ""),
        ("method", ""),
        ("load", ""),
        ("throughput", "tokens/s"),
        ("meets_objective", "% of draws"),
        ("certainty", "% of draws"),
        ("said", ""),
    ];
    let mut table = Table::new("Best under the objective", columns(&names));
    table.rows.extend(best.iter().map(|best| {
        let who = best.who.as_ref();
        let word = |word: Option<&String>| word.map_or(Value::Missing, |word| text(word));
        vec![
            text(&best.work),
            word(who.map(|who| &who.0)),
            word(who.map(|who| &who.1)),
            Value::maybe(best.throughput),
            Value::percent(best.meets),
            Value::percent(best.certainty),
            text(&best.said),
        ]
    }));
    table
}

/// One picture a spot with two candidates or more: quality over throughput, or memory over throughput where quality is not known.
pub fn plots(fronts: &[Front]) -> Vec<Plot> {
    let one = |front: &Front| {
        let Spot { workload, load, shape, target, .. } = &front.spot;
        let parts = ["pareto", workload, load, shape, target];
        let named: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let y: fn(&Candidate) -> Option<Estimate> =
            if front.axes.contains(&"quality") { |c| c.quality } else { memory };
        let known = front.candidates.iter().filter(|candidate| y(candidate).is_some()).count();
        (known > 1).then(|| Plot { name: slug(&named), figure: figure(front, y) })
    };
    fronts.iter().filter_map(one).collect()
}

fn memory(candidate: &Candidate) -> Option<Estimate> {
    let bytes = candidate.memory.as_ref()?.bytes_per_token;
    Some(Estimate { value: bytes, interval: None, n: 1 })
}

fn figure(front: &Front, y: fn(&Candidate) -> Option<Estimate>) -> Figure {
    let mut panel = Panel::default();
    // The baseline comes first, then by name: the same order whatever the throughputs; colours are those of all figures.
    let mut order: Vec<&Candidate> = front.candidates.iter().collect();
    order.sort_by_key(|candidate| (!candidate.is_baseline, &candidate.name));
    let look = looks(order.iter().map(|candidate| candidate.name.clone()).collect());
    for candidate in order {
        let slot = look(&candidate.name);
        let Some(height) = y(candidate) else { continue };
        let (low, high) = height.interval.unzip();
        let x = candidate.throughput.value;
        panel.series.push(Series {
            name: label(candidate),
            slot,
            kind: Kind::Points,
            points: vec![Point { x, y: height.value, low, high }],
        });
        if let Some((low, high)) = candidate.throughput.interval {
            let ends = vec![(low, height.value), (high, height.value)];
            panel.references.push(Reference::curve("95 % of throughput", slot, ends));
        }
    }
    let quality = front.axes.contains(&"quality");
    let vertical = if quality {
        Axis::new("mean score", "points", Scale::Linear)
    } else {
        Axis::from_zero("KV memory of a token", "B")
    };
    let title = format!("Who is on the front: {}, {}", front.spot.workload, front.spot.load);
    let caption = format!(
        "Front of {}; in brackets the share of 1000 draws (repeats and prompts) in which a method is on it. {} repeats. Quality: {}.",
        front.axes.join(", "),
        front.n_repeats,
        front.quality_from
    );
    let of = if front.throughput.name == "decode_tokens_per_s" {
        "decode throughput, one layer"
    } else {
        "output throughput"
    };
    Figure::single(&title, &caption, Axis::new(of, "tokens/s", Scale::Linear), vertical, panel)
}

/// `kivi-4, 3.8x smaller (97 %)`.
fn label(candidate: &Candidate) -> String {
    let mut label = candidate.name.clone();
    if let Some(times) = candidate.compression.filter(|_| !candidate.is_baseline) {
        label += &format!(", {}x smaller", significant(times, 2));
    }
    match candidate.front_share {
        Some(share) => label + &format!(" ({:.0} %)", 100.0 * share),
        None => label,
    }
}
