//! Arguments, printing and exit codes; one file a command. The only module that prints.

pub mod data;
pub mod plan;
pub mod schema;
pub mod ui;
