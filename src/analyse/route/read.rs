//! A router's folder, without all of its rows in memory at a time.

use std::path::Path;

use super::{CellStats, cell::is_same, stats_of};
use crate::{
    record::{RouteDir, RouteEngineRow, RouteManifest, RouteRequestRow, RouteWorldRow},
    route::experiment::{Design, Slo},
};

/// What a router's folder says, simulation by simulation.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run.
    pub manifest: RouteManifest,
    /// What the rows were made from; `None` of a live run.
    pub design: Option<Design>,
    /// Statistics of each simulation, or of the live run.
    pub stats: Vec<CellStats>,
    /// The worlds; none of a live run.
    pub worlds: Vec<RouteWorldRow>,
}

/// Reads a router's folder. `slo` is for a run without a design, which has none of its own.
///
/// # Errors
/// No such folder, I/O, or another schema.
pub fn read(path: &Path, slo: Option<Slo>) -> anyhow::Result<Run> {
    let dir = RouteDir::open(path)?;
    let design: Option<Design> = serde_json::from_value(dir.manifest.design.clone())?;
    let slo = design.as_ref().map_or(slo, |design| design.slo);
    let engines = dir.rows::<RouteEngineRow>()?;
    let (mut stats, mut rows) = (Vec::new(), Vec::new());
    for part in dir.parts::<RouteRequestRow>()? {
        rows.extend(RouteDir::part::<RouteRequestRow>(&part)?);
        // The last simulation of a part may go on in the next one.
        let begins = last_begins(&rows);
        let rest = rows.split_off(begins);
        stats.extend(stats_of(&rows, &engines, slo));
        rows = rest;
    }
    stats.extend(stats_of(&rows, &engines, slo));
    Ok(Run { design, stats, worlds: dir.rows::<RouteWorldRow>()?, manifest: dir.manifest })
}

fn last_begins(rows: &[RouteRequestRow]) -> usize {
    let Some(last) = rows.last() else { return 0 };
    rows.iter().rposition(|row| !is_same(row, last)).map_or(0, |before| before + 1)
}
