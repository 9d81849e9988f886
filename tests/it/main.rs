//! One integration binary.

mod client;
