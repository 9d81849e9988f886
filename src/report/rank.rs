//! Rankings as tables.

use super::{
    run::tables::{columns, estimate, text},
    table::{Table, Value},
};
use crate::analyse::rank::{Left, Ranked, Ranking};

/// Every ranking in one table, best first within each metric.
pub fn table(rankings: &[Ranking]) -> Table {
    let names = [
        ("metric", ""),
        ("method", ""),
        ("times_worse_than_best", "x"),
        ("times_better_than_baseline", "x"),
        ("worse_than_best_in_common_cells", "x"),
        ("cells", ""),
        ("of", "cells"),
        ("repeats", ""),
        ("first", "% of draws"),
        ("role", ""),
    ];
    let title = "Methods ranked: geometric means over cells, 95 % bootstrap over cells and, within each, over repeats";
    let mut table = Table::new(title, columns(&names));
    for ranking in rankings {
        table.rows.extend(ranking.ranked.iter().map(|ranked| row(ranking, ranked)));
    }
    table
}

fn row(ranking: &Ranking, ranked: &Ranked) -> Vec<Value> {
    vec![
        text(&ranking.metric.name),
        text(&ranked.name),
        estimate(Some(ranked.to_best)),
        estimate(ranked.to_baseline),
        Value::maybe(ranked.in_common),
        Value::count(ranked.n_cells),
        Value::count(ranking.n_cells),
        Value::count(ranking.n_repeats),
        Value::percent(ranked.first),
        if ranked.is_control { text("control: the baseline again") } else { Value::Missing },
    ]
}

/// What has no value, and why.
pub fn left_out<'a>(left: impl Iterator<Item = (&'a str, &'a Left)>) -> Table {
    let names = [
        ("metric", ""),
        ("target", ""),
        ("method", ""),
        ("cell", ""),
        ("repeats_missing", ""),
        ("of", "repeats"),
        ("why", ""),
    ];
    let mut table = Table::new("Not in these numbers", columns(&names));
    table.rows.extend(left.map(|(metric, left)| {
        vec![
            text(metric),
            text(&left.target),
            text(&left.method),
            text(&left.place),
            Value::count(left.n),
            Value::count(left.of),
            text(&left.why),
        ]
    }));
    table
}

/// What a reader must know of these intervals, in words.
pub fn told(rankings: &[Ranking]) -> Vec<String> {
    let mut out = Vec::new();
    for ranking in rankings.iter().filter(|ranking| !ranking.ranked.is_empty()) {
        let name = &ranking.metric.name;
        if ranking.n_repeats < 2 {
            out.push(format!(
                "{name}: a cell was measured once, so its spread between repeats is in no interval"
            ));
        }
        let partial = ranking.ranked.iter().filter(|ranked| ranked.n_cells < ranking.n_cells);
        let partial: Vec<&str> = partial.map(|ranked| ranked.name.as_str()).collect();
        if !partial.is_empty() {
            out.push(format!(
                "{name}: {} not in every cell: who is missing where others are slow looks better than it is; compare worse_than_best_in_common_cells",
                partial.join(", ")
            ));
        }
    }
    out
}
