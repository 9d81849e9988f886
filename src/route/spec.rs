//! Policies as data: what a scenario or a configuration of the proxy names.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an engine is chosen among those that may be asked. Equals are taken by lot, by the seed: the order of a pool is no merit.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Rule {
    /// One after the other.
    RoundRobin,
    /// Any, by the seed.
    Random,
    /// The one with the fewest requests inside.
    JoinShortestQueue,
    /// The one with fewer requests inside of two drawn at random (Mitzenmacher 2001).
    PowerOfTwo,
    /// The one with the fewest tokens to compute: prompts not computed yet and expected answers.
    LeastTokens,
    /// The one with the fewest tokens in its KV cache and its queue: the paper's load balancing (arXiv 2503.24000, section 5.4).
    LeastMemory,
    /// Join shortest queue among engines of the one method whose engines together serve most: requests a second of 1024 tokens of
    /// prompt and 256 of answer, in full batches.
    StaticBest,
    /// The paper's `w/Thr`: the highest predicted decode throughput of the batch that the request would join.
    HighestThroughput,
    /// The paper's `w/Len`: the shortest predicted answer; equals by join shortest queue.
    ShortestAnswer,
    /// The paper's `w/Both`: its own finish alone, waiting, prefill and predicted length times the step of the batch that it joins.
    /// (The paper's text multiplies length with throughput, which is no time.)
    EarliestFinish,
    /// Its own finish plus the delay that it imposes on those inside: its prompt stops each of them, and each of its steps makes
    /// theirs longer. As many as there are now are taken to be there in all of its steps, since places that get free are taken.
    MarginalCost,
}

impl Rule {
    /// Whether its choice depends on expected lengths.
    pub fn asks_lengths(self) -> bool {
        matches!(
            self,
            Rule::LeastTokens | Rule::ShortestAnswer | Rule::EarliestFinish | Rule::MarginalCost
        )
    }
}

/// Where a policy has lengths of answers from.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum LengthKnowledge {
    /// One number for all requests: the mean.
    #[default]
    Constant,
    /// A predictor, as good as the scenario says.
    Predicted,
    /// The length that the answer will have under each method.
    Oracle,
}

/// Where a policy has step times from.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SpeedKnowledge {
    /// A predictor, as good as the scenario says.
    #[default]
    Predicted,
    /// The true step times.
    Oracle,
}

/// Where a guard knows from which prompts a method breaks.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum RiskKnowledge {
    /// Counts by task, length and method, with their confidence bound.
    #[default]
    Learned,
    /// The truth of each prompt.
    Oracle,
}

/// Keeps requests from methods that may break their answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardSpec {
    /// What it knows.
    pub risk: RiskKnowledge,
    /// Highest upper confidence bound of the excess rate of negatives, of one, under which a method is safe.
    pub epsilon: f64,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// Its name in tables.
    pub name: String,
    /// How it chooses.
    pub rule: Rule,
    /// What it knows of lengths.
    pub length: LengthKnowledge,
    /// What it knows of speeds.
    pub speed: SpeedKnowledge,
    /// What it keeps away from; `None` for nothing.
    pub guard: Option<GuardSpec>,
}
