//! Arguments, printing and exit codes; one file a command. The only module that prints.

pub mod doctor_client;
pub mod ui;
