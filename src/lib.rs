//! kvbench measures what KV-cache compression really does to LLM serving.
//!
//! It turns a scenario into rows, and rows into judgements, and never the other way:
//!
//! ```text
//!  scenarios/*.toml      datasets/*         kernels/*.cu
//!         |                  |                   |
//!     scenario --> plan --> workload --> execute --> record ==> results/<run>/*.parquet + manifest.json
//!    (validated)  (cells)  (requests,   (backend,   (rows)                |
//!                           due times)    sink)                           v
//!                                          report <-- analyse <-- rows (polars)
//!                                     (tables, figures)
//! ```
//!
//! `kvbench run` is the upper line, and `report` is the lower line alone: it needs only files.
//!
//! # Layers, low to high; equals never import each other (held by `tests/it/tidy.rs`)
//!
//! | layer | modules |
//! |---|---|
//! | 0 | [`units`], [`stats`] |
//! | 1 | [`method`], [`record`] |
//! | 2 | [`kernel`], [`token`], [`predict`] |
//! | 3 | [`route`], [`encoder`] |
//! | 4 | [`scenario`] |
//! | 5 | [`plan`] |
//! | 6 | [`workload`] |
//! | 7 | [`serve`], [`execute`], [`analyse`] |
//! | 8 | [`report`], [`import`] |
//! | 9 | [`cli`] |
//!
//! # Invariants, written as absences
//!
//! - [`analyse`] does not know [`execute`]: what is judged is what was written to the file.
//! - Only [`cli`] prints. Progress draws on an observer that `cli` hands down.
//! - Only [`execute`] (and the server it is tested against, [`serve`]) reads the monotonic clock, and only `record::env`
//!   the wall clock.
//! - No row is derived: percentiles, rates and ratios are computed from rows, never stored in them.
//! - An unknown quantity is `None` in a row and empty in a table; it is never zero.

pub mod stats;
pub mod units;

pub mod method;
pub mod record;

pub mod kernel;
pub mod predict;
pub mod token;

pub mod encoder;
pub mod route;

pub mod scenario;

pub mod plan;

pub mod workload;

pub mod execute;
pub mod serve;

pub mod analyse;

pub mod import;
pub mod report;

pub mod cli;
