//! What happened when: requests under way, and what the machine reported.

use super::{Drawing, Judged, caption, named};
use crate::{
    analyse::InFlight,
    report::{
        figure::{Axis, Figure, Kind, Panel, Point, Scale, Series},
        run::Looks,
    },
};

/// Requests above telemetry; `None` where there is neither.
pub(super) fn drawing(run: &Judged<'_>) -> Option<Drawing> {
    let drawn: Vec<&InFlight> =
        run.in_flight.iter().filter(|curve| !curve.steps.is_empty()).collect();
    let mut parts: Vec<Figure> = requests(run, &drawn).into_iter().collect();
    parts.extend(
        named(&run.source, &["power", "sm-util", "host-cpu", "memory"]).into_iter().map(machine),
    );
    // They lie below one another: the last has the title of the time for all.
    if let Some((_, above)) = parts.split_last_mut() {
        for part in above {
            part.x.label.clear();
            part.x.unit.clear();
        }
    }
    let n = caption::n_words("requests", drawn.iter().map(|curve| (curve.method.clone(), curve.n)));
    let left_out: usize = run.in_flight.iter().map(|curve| curve.n_left_out).sum();
    let mut told = Vec::new();
    if left_out > 0 {
        told.push(format!("{left_out} requests without a known start or end are not counted."));
    }
    // The machine's samples are of all methods: without requests nobody is left out.
    let methods = if drawn.is_empty() {
        run.source.manifest.cells.iter().map(|cell| cell.method.clone()).collect()
    } else {
        drawn.iter().map(|curve| curve.method.clone()).collect()
    };
    (!parts.is_empty()).then_some(Drawing { parts, n, methods, told, stacked: true })
}

/// Devices look like no method: a lone one is grey and without a name in the legend.
fn machine(mut figure: Figure) -> Figure {
    const GREY: usize = 7;
    const OTHERS: usize = 70;
    for panel in &mut figure.panels {
        let alone = panel.series.len() == 1;
        for (n, series) in panel.series.iter_mut().enumerate() {
            series.slot = if alone { GREY } else { OTHERS + n };
            series.kind = Kind::Step;
            if alone {
                figure.caption = format!("{}: {}", series.name, figure.caption);
                series.name = String::new();
            }
        }
    }
    figure
}

fn requests(run: &Judged<'_>, drawn: &[&InFlight]) -> Option<Figure> {
    let looks = Looks::new(&run.source);
    let series = drawn.iter().map(|curve| Series {
        name: curve.method.clone(),
        slot: looks.slot(&curve.method),
        kind: Kind::Step,
        points: curve.steps.iter().map(|(s, n)| Point::new(*s, *n as f64)).collect(),
    });
    let panel = Panel { series: series.collect(), ..Panel::default() };
    let figure = Figure::single(
        "Requests in flight",
        "The most at once in each of 300 slices of the run; warm-ups are not counted.",
        Axis::new("time since the run began", "s", Scale::Linear),
        Axis::from_zero("requests in flight", ""),
        panel,
    );
    (!drawn.is_empty()).then_some(figure)
}
