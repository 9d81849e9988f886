//! Tables and figures as plain data, rendered last: text, Markdown, CSV, JSON, SVG, PNG, PDF, HTML. Returns bytes, writes nothing.

pub mod figure;
mod grid;
pub mod negatives;
pub mod palette;
mod picture;
pub mod plots;
mod png;
pub mod predict;
pub mod route;
pub mod run;
mod scale;
mod shell;
pub mod svg;
pub mod table;

pub use figure::Figure;
pub use run::{
    ReportFiles, build,
    judged::beside_headline,
    tables::{headline, narrow},
};
pub use svg::{png, print, svg};
pub use table::{Column, Format, Table, Value, render};
