//! What judging rows needs to know of the experiment that made them.

use serde::{Deserialize, Serialize};

use super::Slo;
use crate::route::PolicySpec;

/// The experiment without its traces and step times: small, and written into the manifest of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Design {
    /// Name of the baseline's method.
    pub baseline: String,
    /// Pools, those of the baseline alone among them.
    pub pools: Vec<DesignPool>,
    /// Names of traces.
    pub traces: Vec<String>,
    /// Names of loads.
    pub loads: Vec<String>,
    /// Names of skills; the first is what is reported unless another is named.
    pub skills: Vec<String>,
    /// Names of those under which step times are known as they are, so that there is nothing to regret in them.
    #[serde(default)]
    pub skills_of_true_speed: Vec<String>,
    /// Policies, controls and oracles among them.
    pub policies: Vec<PolicySpec>,
    /// Name of the policy that is round robin.
    pub round_robin: String,
    /// Name of the policy that is join shortest queue.
    pub shortest_queue: String,
    /// Name of the policy that is the paper's load balancing, least memory.
    pub least_memory: String,
    /// Names of the policies with oracle knowledge of one kind.
    pub oracles: Oracles,
    /// Simulations of each cell.
    pub n_seeds: u32,
    /// When an answer is on time.
    pub slo: Option<Slo>,
}

/// A pool, by names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesignPool {
    /// Its name.
    pub name: String,
    /// Name of an engine and of its method.
    pub engines: Vec<(String, String)>,
    /// The pool of as many engines of the baseline alone; its own name where it is that.
    pub baseline_pool: String,
    /// Of a pool of the baseline and one other method: the pool of as many engines of that method alone, where the experiment has
    /// one. It is what arXiv 2503.24000 compares its router with.
    pub own_pool: Option<String>,
}

/// Policies of marginal cost that know one thing for certain and predict the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oracles {
    /// Step times.
    pub speed: String,
    /// Lengths under each method.
    pub length: String,
    /// Which prompts a method breaks: such methods are never asked.
    pub fragility: String,
}

impl Design {
    /// A policy by its name.
    pub fn policy(&self, name: &str) -> Option<&PolicySpec> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// A pool by its name.
    pub fn pool(&self, name: &str) -> Option<&DesignPool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}
