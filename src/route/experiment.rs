//! What a scenario of the router asks for, without its spelling and its files; and its cells, which are simulated one by one.
//!
//! [`Plan::new`] checks an [`Experiment`] and completes it: with the pools of the baseline alone that others are compared with, the
//! controls (round robin, join shortest queue, least memory) and one policy for each oracle. [`cells`] lists what there is to simulate,
//! and [`run_cell`] simulates one: the same cell gives the same rows, whichever else are run, in whatever order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    risk::Risks,
    spec::PolicySpec,
    world::{MethodWorld, Skill, Traced},
};

mod cell;
mod design;
mod plan;
#[cfg(test)]
mod tests;

pub use cell::{CellError, CellRows, run_cell, worlds};
pub use design::{Design, DesignPool, Oracles};
pub use plan::{Cell, Plan, PlanError, asks, cells};

/// Engines that stand behind a router together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// Name of an engine and place of its method in [`Experiment::methods`].
    pub engines: Vec<(String, usize)>,
}

/// How fast requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrivals {
    /// Exponential gaps, requests per second.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// The times of the trace, so many times as fast.
    Recorded {
        /// Factor.
        speed: f64,
    },
    /// Exponential gaps at this share of what the pool of the baseline alone can serve (the highest rate at which its engines keep
    /// up with the trace's own lengths).
    Utilisation {
        /// Share, of one.
        rho: f64,
    },
}

/// A load.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// Its name; loads of one sweep share the part before the last `-`.
    pub name: String,
    /// How requests come.
    pub arrivals: Arrivals,
}

/// Lengths and times to draw requests from.
#[derive(Debug, Clone, PartialEq)]
pub struct TracePlan {
    /// Its name.
    pub name: String,
    /// Its rows. Of a trace that is longer than `n_requests` each seed takes another window; of a generated one each seed draws rows
    /// anew, with replacement where there are too few.
    pub rows: Vec<Traced>,
    /// Requests of one simulation.
    pub n_requests: usize,
    /// Whether rows are a sample to draw from, in any order, or a recording whose order and times are part of it.
    pub is_sample: bool,
}

/// Skills of the predictors under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedSkill {
    /// Its name.
    pub name: String,
    /// How good they are.
    pub skill: Skill,
}

/// Limits within which an answer is on time; `None` for no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// Seconds until the first token.
    pub ttft_s: Option<f64>,
    /// Seconds a token after the first.
    pub tpot_s: Option<f64>,
    /// Seconds of the whole request.
    pub e2e_s: Option<f64>,
}

/// All of it. A cell is one `(pool, trace, load, skill, policy, seed)`; policies of a cell's other parts see the same arrivals.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Simulations of each cell, each with a seed of its own.
    pub n_seeds: u32,
    /// The methods as they are.
    pub methods: Vec<MethodWorld>,
    /// Place of the baseline among them.
    pub baseline: usize,
    /// Pools to compare policies on. For each the pool of as many engines of the baseline alone is simulated too.
    pub pools: Vec<PoolPlan>,
    /// Traces.
    pub traces: Vec<TracePlan>,
    /// Loads.
    pub loads: Vec<LoadPlan>,
    /// Predictors; the first is what is reported unless another is named.
    pub skills: Vec<NamedSkill>,
    /// Policies. The controls and the oracles are added where they are not among them, see [`Plan::new`].
    pub policies: Vec<PolicySpec>,
    /// When an answer is on time, for goodput; `None` for no goodput.
    pub slo: Option<Slo>,
    /// Counts that a learned guard goes by; `None` where they are drawn from the world.
    pub risks: Option<Arc<Risks>>,
    /// Whether the excess of the methods says which prompts they break. Where nobody knows, harm is unknown and no policy is an oracle of it.
    pub knows_breaks: bool,
}
