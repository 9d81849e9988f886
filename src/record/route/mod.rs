//! Rows of a router and the folder that holds them: one shape for the simulator and for the live proxy, so that what one wrote the
//! other reads.
//!
//! ```text
//! results/20261124T013000Z-route-paper-1a2b3c/
//!   route.json                       what was run
//!   route_requests-000000.parquet    requests, in parts: a process that is killed loses what it had not yet written, no more
//!   route_engines-000000.parquet     what each engine did in each simulation
//!   route_worlds-000000.parquet      what the simulated world was: rates, capacities, bounds
//! ```
//!
//! It is a folder of its own kind: no `manifest.json`, so what reads the runs of `kvbench run` says so instead of finding no cells.
//! Parts are complete when they have their name, and are read in the order of their numbers.

mod folder;
mod rows;
#[cfg(test)]
mod tests;

pub use folder::{ROUTE_FILE, RouteDir, RouteKind, RouteLog, RouteManifest};
pub use rows::{RouteEngineRow, RouteRequestRow, RouteWorldRow};
