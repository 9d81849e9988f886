//! The one integration binary: what a user sees, from the outside, and the house rules.
#![expect(clippy::unwrap_used, reason = "a test panics when it fails")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests are told by the environment and measure a run to kill it midway"
)]
#![expect(
    clippy::print_stdout,
    reason = "a test that was skipped, or killed at a random moment, says so"
)]

mod ci_kit;
mod cli;
mod client;
mod conversations;
mod engine;
mod engine_faults;
mod engine_resume;
mod fake_gpu;
mod faulty;
mod forced;
mod lengths;
mod longbench;
mod negatives;
mod predict;
mod predict_files;
mod predict_length;
mod predict_replay;
mod proxy;
mod quality;
mod resume;
mod route_sim;
mod route_simulate;
mod route_task;
mod saturation;
mod serve;
mod tidy;
mod tls;
mod tui;
