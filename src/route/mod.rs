//! Which engine of a pool a request goes to, where engines differ in how they compress the KV cache.
//!
//! Everything here is pure: what is known of a request is an [`Ask`], what is known of the engines is a [`Pool`] (what does not
//! change) and an [`EngineState`] each (what does), and what comes out is a [`Decision`] with the predictions that it was made on. So
//! the simulator ([`cluster`]) and the live proxy (`serve::route`) run the very same policies, and what one logs the other replays.

pub mod ask;
pub mod bound;
pub mod cluster;
pub mod decision;
mod estimate;
pub mod experiment;
pub mod lengths;
pub mod pool;
pub mod risk;
pub mod router;
mod rules;
pub mod spec;
mod steps;
pub mod task;
#[cfg(test)]
mod tests;
pub mod world;

pub use ask::Ask;
pub use decision::{Decision, Predicted, Reason};
pub use pool::{EngineState, Member, Pool};
pub use spec::{GuardSpec, LengthKnowledge, PolicySpec, RiskKnowledge, Rule, SpeedKnowledge};
