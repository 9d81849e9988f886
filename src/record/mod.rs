//! Rows, Parquet, the manifest and the run directory. Layer 1: nothing here computes a result.

mod columns;
mod disk;
pub mod env;
mod groups;
pub mod manifest;
pub mod parquet;
mod recorder;
pub mod route;
pub mod rows;
mod run_dir;
mod slo;
#[cfg(test)]
mod tests;

pub use manifest::{Manifest, SCHEMA_VERSION};
pub use parquet::Table;
pub use recorder::{PROBE_METHOD, Recorder};
pub use route::{
    RouteDir, RouteEngineRow, RouteKind, RouteLog, RouteManifest, RouteRequestRow, RouteWorldRow,
};
pub use rows::{EngineMetricRow, KernelRow, RequestRow, Row, Sink, TelemetryRow};
pub use run_dir::RunDir;
pub use slo::tpot_ms;
