//! Rows, Parquet, the manifest and the run directory. Layer 1: nothing here computes a result.

pub mod rows;

pub use rows::{KernelRow, RequestRow, Row, Sink, TelemetryRow};
