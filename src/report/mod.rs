//! Tables and figures as plain data, rendered last: text, Markdown, CSV, JSON, SVG, PNG, HTML. Returns bytes, writes nothing.

pub mod table;

pub use table::{Column, Format, Table, Value};
