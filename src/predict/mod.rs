//! Models fitted on what was measured: features in, a model that can be written down out. No files, no clock.
//!
//! A pass through the model is described by a [`Work`]; what one took is a [`Pass`]. Everything that predicts a pass
//! implements [`StepTimes`], so that a simulated engine runs on a fitted model, on a table or on a test's constant alike.
//!
//! [`fit::fit`] makes one [`Model`] a subject, method and phase: a sum of costs ([`curve`]) that cannot be negative ([`nnls`]), where
//! many repeated points allow it corrected at the measured points ([`local`]), with an interval from points that were held out
//! ([`interval`]) and the range in which it holds ([`domain`]). [`eval`] asks how far to trust it: beside the null (the baseline's curve
//! at what the method keeps), beside a [`table`], beside the noise of repeats, and whether choosing a method by it pays.
//!
//! Of others come [`measured`] throughput and the [`profile`]s of single operations; [`audit`] asks whether they are measurements at all.

#[cfg(test)]
mod artifact_tests;
pub mod audit;
pub mod columns;
pub mod curve;
pub mod domain;
pub mod eval;
mod fault;
pub mod file;
pub mod fit;
pub mod interval;
pub mod length;
pub mod local;
pub mod measured;
pub mod model;
pub mod nnls;
pub mod origin;
pub mod pass;
pub mod points;
pub mod profile;
pub mod regret;
pub mod simulate;
pub mod split;
pub mod table;
#[cfg(test)]
mod tests;

pub use file::ModelFile;
pub use model::{Model, Prediction, Steps};
pub use pass::{Observation, Pass, Phase, Source, StepTimes, Subject, Work};
