//! A discrete-event model of an engine that batches continuously: what happens to requests when every step takes as long as a
//! [`StepTimes`](super::StepTimes) says. No clock, no randomness, no files: the same requests give the same times.
//!
//! [`Engine`] is one engine, stepped from outside, so that one loop can drive several of them behind a router. [`replay`] drives
//! one through the requests of a load.
//!
//! A step holds whole numbers of tokens: one of every sequence that decodes, and as many tokens of prompts as the rules of the
//! engine ([`Mixing`]) leave room for. The last token of a prompt yields the first token of the answer, so an answer of n tokens
//! takes n - 1 decode steps; where a stop token ends it, whoever asks counts it as one more. Time stands in integer nanoseconds,
//! so that what happens at one moment has one order.
//!
//! What is left out, because it is no property of the engine's rules: a prefix cache that frees blocks (`cached_tokens` shorten the
//! prefill and still fill blocks of their own), speculative decoding, swapping to host memory (a preempted sequence is computed
//! anew, its cached prefix too), and steps that are prepared while the last one still runs.

mod config;
mod engine;
mod linear;
mod replay;
mod schedule;
mod tiles;

pub use config::{ConfigError, EngineConfig, Mixing};
pub use engine::{
    Engine, EngineState, Event, Happening, Rejected, Request, RequestState, StepError, Times,
};
pub use linear::LinearTimes;
pub use replay::{Client, Load, Outcome, ReplayError, Replayed, replay};
pub use tiles::Tiles;

#[cfg(test)]
mod tests;
