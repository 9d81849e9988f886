//! Rows, Parquet, the manifest and the run directory. Layer 1: nothing here computes a result.

mod disk;
pub mod env;
pub mod manifest;
pub mod parquet;
pub mod rows;

pub use manifest::{Manifest, SCHEMA_VERSION};
pub use rows::{KernelRow, RequestRow, Row, Sink, TelemetryRow};
