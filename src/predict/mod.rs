//! Models fitted on what was measured: features in, a model that can be written down out. No files, no clock.
//!
//! A pass through the model is described by a [`Work`]; what one took is a [`Pass`]. Everything that predicts a pass
//! implements [`StepTimes`], so that a simulated engine runs on a fitted model, on a table or on a test's constant alike.

pub mod length;
pub mod pass;

pub use pass::{Observation, Pass, Phase, Source, StepTimes, Subject, Work};
