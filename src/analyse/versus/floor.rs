//! The noise floor: what comparing a thing with itself shows.

use std::collections::BTreeMap;

use super::side::{Measured, Side, id};
use crate::analyse::Point;

/// Where a floor was seen: target, workload, load and metric.
type Place = (String, String, String, String);

/// Largest logarithm of a ratio between things that are the same.
pub(super) type Floors = BTreeMap<Place, f64>;

fn place(point: &Point, metric: &str) -> Place {
    let Point { target, workload, load, .. } = point;
    (target.clone(), workload.clone(), load.clone(), metric.to_owned())
}

/// The floor under one metric of one cell: of its own target, or, since one server runs one method, of the only target that has one.
pub(super) fn of(floors: &Floors, point: &Point, metric: &str) -> f64 {
    let wanted = place(point, metric);
    if let Some(floor) = floors.get(&wanted) {
        return *floor;
    }
    let alike = |(target, workload, load, name): &&Place| {
        *workload == wanted.1 && *load == wanted.2 && *name == wanted.3 && *target != wanted.0
    };
    let mut others = floors.iter().filter(|(place, _)| alike(place)).map(|(_, floor)| *floor);
    match (others.next(), others.next()) {
        (Some(only), None) => only,
        _ => 0.0,
    }
}

/// What the A/A cells of the base show, and what further runs of it show, of every cell.
pub(super) fn floors(base: &Side, again: &[Side]) -> Floors {
    let mut floors = Floors::new();
    let mut note = |point: &Point, metric: &str, a: &Measured, b: &Measured| {
        let apart = (a.value() / b.value()).ln().abs();
        if apart.is_finite() {
            let floor = floors.entry(place(point, metric)).or_insert(0.0_f64);
            *floor = floor.max(apart);
        }
    };
    let scenario = &base.manifest.scenario;
    let aa = format!("{}-aa", scenario.baseline);
    for cell in base.cells.values().filter(|cell| cell.point.method == aa) {
        let point = Point { method: scenario.baseline.clone(), ..cell.point.clone() };
        let Some(baseline) = base.cells.get(&id(&scenario.name, &point)) else { continue };
        for (name, measured) in &cell.measured {
            if let Some(own) = baseline.measured.get(name) {
                note(&cell.point, name, measured, own);
            }
        }
    }
    for other in again {
        for (id, cell) in &other.cells {
            let Some(own) = base.cells.get(id) else { continue };
            for (name, measured) in &cell.measured {
                if let Some(own) = own.measured.get(name) {
                    note(&cell.point, name, measured, own);
                }
            }
        }
    }
    floors
}
