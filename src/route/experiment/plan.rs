//! An experiment, checked and completed, and its cells.

use std::collections::BTreeSet;

use super::{Arrivals, Design, DesignPool, Experiment, LoadPlan, Oracles, PoolPlan, TracePlan};
use crate::{
    predict::simulate::StepError,
    route::{
        GuardSpec, LengthKnowledge, PolicySpec, RiskKnowledge, Rule, SpeedKnowledge,
        bound::saturation_per_s,
    },
    stats::mixed,
};

/// Rows of a trace that saturation is looked for with.
const ROWS_OF_CAPACITY: usize = 2000;

/// An experiment that can be simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The experiment, with the pools and policies that were added.
    pub experiment: Experiment,
    /// What its rows need to be judged.
    pub design: Design,
    /// What is left out, in words.
    pub notices: Vec<String>,
    /// Requests a second that one engine of the baseline keeps up with, by trace; `None` where it takes none of them.
    capacity_per_s: Vec<Option<f64>>,
}

/// One simulation, as places in the plan's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// Of [`Experiment::pools`].
    pub pool: usize,
    /// Of [`Experiment::traces`].
    pub trace: usize,
    /// Of [`Experiment::loads`].
    pub load: usize,
    /// Number of the seed.
    pub seed: u32,
    /// Of [`Experiment::skills`]; `None` for a policy that asks no predictor.
    pub skill: Option<usize>,
    /// Of [`Experiment::policies`].
    pub policy: usize,
}

/// Why an experiment is none.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A list that may not be empty.
    #[error("expected at least one of {0}, got none")]
    Nothing(&'static str),
    /// Two things of one name.
    #[error("{kind} {name}: expected a name of its own, got it twice")]
    Twice {
        /// What they are.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A place of a method that there is not.
    #[error("{0}: expected the place of one of {1} methods, got {2}")]
    Method(String, usize, usize),
    /// A number out of its range.
    #[error("{place}: expected {expected}, got {got}")]
    Number {
        /// Where.
        place: String,
        /// What would do.
        expected: &'static str,
        /// What is there.
        got: f64,
    },
    /// Nothing is said of what a method breaks.
    #[error(
        "method {method}: expected the excess rate of negatives of task {task}, got none\n  hint: give it, or one for all other tasks under the name \"\""
    )]
    Excess {
        /// The method.
        method: String,
        /// The task.
        task: String,
    },
    /// A share of what cannot be served.
    #[error(
        "load {load}, trace {trace}: expected requests that an engine of the baseline can serve, got none, so there is no utilisation"
    )]
    NoCapacity {
        /// The load.
        load: String,
        /// The trace.
        trace: String,
    },
    /// Rules or step times of a method.
    #[error("method {0}: {1}")]
    Engine(String, String),
}

impl Plan {
    /// Checks an experiment and completes it:
    ///
    /// - for every pool the pool of as many engines of the baseline alone, named `4x<baseline>`, where there is none;
    /// - the controls `round_robin`, `join_shortest_queue` and `least_memory`, where no policy is one;
    /// - `oracle_speed`, `oracle_length` and, where it is known what breaks, `oracle_fragility`: marginal cost with predictors, of which
    ///   one is the truth.
    ///
    /// # Errors
    /// Something that is missing, there twice, or out of its range, with its place.
    pub fn new(mut experiment: Experiment) -> Result<Self, PlanError> {
        check(&experiment)?;
        add_pools(&mut experiment);
        let names = add_policies(&mut experiment);
        unique(&experiment)?;
        let capacity_per_s = experiment
            .traces
            .iter()
            .map(|trace| capacity(&experiment, trace))
            .collect::<Result<Vec<_>, _>>()?;
        let design = design(&experiment, names);
        let plan = Self { design, notices: notices(&experiment), experiment, capacity_per_s };
        plan.check_capacity()?;
        Ok(plan)
    }

    fn check_capacity(&self) -> Result<(), PlanError> {
        let Experiment { loads, traces, .. } = &self.experiment;
        for load in loads.iter().filter(|l| matches!(l.arrivals, Arrivals::Utilisation { .. })) {
            if let Some(trace) = self.capacity_per_s.iter().position(Option::is_none) {
                let trace = traces[trace].name.clone();
                return Err(PlanError::NoCapacity { load: load.name.clone(), trace });
            }
        }
        Ok(())
    }

    /// Requests a second that as many engines of the baseline as the pool has keep up with; `None` where they take none.
    pub fn capacity_per_s(&self, pool: usize, trace: usize) -> Option<f64> {
        let engines = self.experiment.pools[pool].engines.len();
        self.capacity_per_s[trace].map(|one| one * engines as f64)
    }

    /// The seed of everything that is drawn in simulations of this number.
    pub(super) fn seed(&self, number: u32) -> u64 {
        mixed(self.experiment.seed, u64::from(number))
    }
}

/// Every cell of a plan, those that share a world beside each other.
pub fn cells(plan: &Plan) -> Vec<Cell> {
    let Experiment { pools, traces, loads, skills, policies, n_seeds, .. } = &plan.experiment;
    let mut all = Vec::new();
    for (pool, trace, load, seed) in worlds(pools.len(), traces, loads, *n_seeds) {
        for (policy, spec) in policies.iter().enumerate() {
            let skills: Vec<Option<usize>> =
                if asks(spec) { (0..skills.len()).map(Some).collect() } else { vec![None] };
            let cell = |skill| Cell { pool, trace, load, seed, skill, policy };
            all.extend(skills.into_iter().map(cell));
        }
    }
    all
}

/// Pool, trace, load and seed of every world.
pub(super) fn worlds(
    n_pools: usize,
    traces: &[TracePlan],
    loads: &[LoadPlan],
    n_seeds: u32,
) -> Vec<(usize, usize, usize, u32)> {
    let mut all = Vec::new();
    for pool in 0..n_pools {
        for (trace, plan) in traces.iter().enumerate() {
            for (load, _) in loads.iter().enumerate().filter(|(_, load)| goes_with(plan, load)) {
                all.extend((0..n_seeds).map(|seed| (pool, trace, load, seed)));
            }
        }
    }
    all
}

/// A sample has no times to replay.
fn goes_with(trace: &TracePlan, load: &LoadPlan) -> bool {
    !(trace.is_sample && matches!(load.arrivals, Arrivals::Recorded { .. }))
}

fn notices(experiment: &Experiment) -> Vec<String> {
    let pairs = experiment
        .traces
        .iter()
        .flat_map(|trace| experiment.loads.iter().map(move |load| (trace, load)));
    pairs
        .filter(|(trace, load)| !goes_with(trace, load))
        .map(|(trace, load)| {
            format!(
                "load {} is not simulated on trace {}, which is a sample and has no times.",
                load.name, trace.name
            )
        })
        .collect()
}

/// Whether anything that a policy does depends on how good the predictors are.
pub fn asks(policy: &PolicySpec) -> bool {
    let by_speed = matches!(
        policy.rule,
        Rule::StaticBest | Rule::HighestThroughput | Rule::EarliestFinish | Rule::MarginalCost
    );
    let by_length = policy.rule.asks_lengths();
    (by_speed && policy.speed == SpeedKnowledge::Predicted)
        || (by_length && policy.length == LengthKnowledge::Predicted)
        || policy.guard.is_some_and(|guard| guard.risk == RiskKnowledge::Learned)
}

fn add_pools(experiment: &mut Experiment) {
    let baseline = experiment.baseline;
    let sizes: BTreeSet<usize> = experiment.pools.iter().map(|pool| pool.engines.len()).collect();
    for n in sizes {
        if baseline_pool(experiment, n).is_some() {
            continue;
        }
        let name = format!("{n}x{}", experiment.methods[baseline].name);
        let engines = (0..n).map(|i| (format!("{name}-{i}"), baseline)).collect();
        experiment.pools.push(PoolPlan { name, engines });
    }
}

/// The pool of `n` engines of this method alone.
fn pool_of(experiment: &Experiment, method: usize, n: usize) -> Option<&PoolPlan> {
    let all = |pool: &PoolPlan| pool.engines.iter().all(|(_, own)| *own == method);
    experiment.pools.iter().find(|pool| pool.engines.len() == n && all(pool))
}

fn baseline_pool(experiment: &Experiment, n: usize) -> Option<&PoolPlan> {
    pool_of(experiment, experiment.baseline, n)
}

/// Names of round robin, join shortest queue and least memory, and of the oracles.
type Names = ([String; 3], Oracles);

fn add_policies(experiment: &mut Experiment) -> Names {
    let knows_breaks = experiment.knows_breaks;
    let mut named = |name: &str, spec: PolicySpec| {
        let same = |p: &&PolicySpec| PolicySpec { name: spec.name.clone(), ..(*p).clone() } == spec;
        if let Some(there) = experiment.policies.iter().find(same) {
            return there.name.clone();
        }
        experiment.policies.push(spec.clone());
        name.to_owned()
    };
    let plain = |name: &str, rule: Rule| PolicySpec {
        name: name.to_owned(),
        rule,
        length: LengthKnowledge::Constant,
        speed: SpeedKnowledge::Predicted,
        guard: None,
    };
    let controls = [
        ("round_robin", Rule::RoundRobin),
        ("join_shortest_queue", Rule::JoinShortestQueue),
        ("least_memory", Rule::LeastMemory),
    ]
    .map(|(name, rule)| named(name, plain(name, rule)));
    let marginal = |name: &str| PolicySpec {
        length: LengthKnowledge::Predicted,
        ..plain(name, Rule::MarginalCost)
    };
    let speed = PolicySpec { speed: SpeedKnowledge::Oracle, ..marginal("oracle_speed") };
    let length = PolicySpec { length: LengthKnowledge::Oracle, ..marginal("oracle_length") };
    let guard = Some(GuardSpec { risk: RiskKnowledge::Oracle, epsilon: 0.0 });
    let fragility = PolicySpec { guard, ..marginal("oracle_fragility") };
    let [speed, length] = [speed, length].map(|spec| named(&spec.name.clone(), spec));
    // Where nobody knows what breaks, there is no oracle of it: the name is nobody's.
    let fragility =
        if knows_breaks { named(&fragility.name.clone(), fragility) } else { fragility.name };
    (controls, Oracles { speed, length, fragility })
}

/// Requests a second of one engine of the baseline on the trace's own lengths.
fn capacity(experiment: &Experiment, trace: &TracePlan) -> Result<Option<f64>, PlanError> {
    let method = &experiment.methods[experiment.baseline];
    let lengths: Vec<(u64, u64)> = trace
        .rows
        .iter()
        .filter(|row| row.patience_ns.is_none())
        .take(ROWS_OF_CAPACITY)
        .map(|row| (row.prompt_tokens, row.output_tokens))
        .collect();
    saturation_per_s(method.config, &method.times, &lengths)
        .map_err(|why: StepError| PlanError::Engine(method.name.clone(), why.to_string()))
}

fn design(experiment: &Experiment, (controls, oracles): Names) -> Design {
    let [round_robin, shortest_queue, least_memory] = controls;
    Design {
        baseline: experiment.methods[experiment.baseline].name.clone(),
        pools: experiment.pools.iter().map(|pool| design_pool(experiment, pool)).collect(),
        traces: experiment.traces.iter().map(|trace| trace.name.clone()).collect(),
        loads: experiment.loads.iter().map(|load| load.name.clone()).collect(),
        skills: experiment.skills.iter().map(|skill| skill.name.clone()).collect(),
        skills_of_true_speed: experiment
            .skills
            .iter()
            .filter(|skill| (skill.skill.speed_factor - 1.0).abs() < f64::EPSILON)
            .map(|skill| skill.name.clone())
            .collect(),
        policies: experiment.policies.clone(),
        round_robin,
        shortest_queue,
        least_memory,
        oracles,
        n_seeds: experiment.n_seeds,
        slo: experiment.slo,
    }
}

fn design_pool(experiment: &Experiment, pool: &PoolPlan) -> DesignPool {
    let n = pool.engines.len();
    let others: BTreeSet<usize> = pool
        .engines
        .iter()
        .map(|(_, method)| *method)
        .filter(|method| *method != experiment.baseline)
        .collect();
    let is_mixed = pool.engines.iter().any(|(_, method)| *method == experiment.baseline);
    let own = others.first().filter(|_| is_mixed && others.len() == 1);
    let name = |pool: &PoolPlan| pool.name.clone();
    DesignPool {
        name: pool.name.clone(),
        engines: pool
            .engines
            .iter()
            .map(|(engine, method)| (engine.clone(), experiment.methods[*method].name.clone()))
            .collect(),
        // It was added where it was missing.
        baseline_pool: baseline_pool(experiment, n).map_or_else(|| name(pool), name),
        own_pool: own.and_then(|method| pool_of(experiment, *method, n)).map(name),
    }
}

fn check(experiment: &Experiment) -> Result<(), PlanError> {
    let lists = [
        ("methods", experiment.methods.is_empty()),
        ("pools", experiment.pools.is_empty()),
        ("traces", experiment.traces.is_empty()),
        ("loads", experiment.loads.is_empty()),
        ("skills", experiment.skills.is_empty()),
        ("seeds", experiment.n_seeds == 0),
        ("engines of each pool", experiment.pools.iter().any(|pool| pool.engines.is_empty())),
        ("rows of each trace", experiment.traces.iter().any(|trace| trace.rows.is_empty())),
        ("requests of each trace", experiment.traces.iter().any(|trace| trace.n_requests == 0)),
    ];
    if let Some((name, _)) = lists.iter().find(|(_, empty)| *empty) {
        return Err(PlanError::Nothing(name));
    }
    let n = experiment.methods.len();
    let places = experiment.pools.iter().flat_map(|pool| &pool.engines);
    let mut places = places
        .map(|(name, place)| (name.as_str(), *place))
        .chain(std::iter::once(("baseline", experiment.baseline)));
    if let Some((name, place)) = places.find(|(_, place)| *place >= n) {
        return Err(PlanError::Method(name.to_owned(), n, place));
    }
    check_methods(experiment)?;
    check_numbers(experiment)
}

fn check_methods(experiment: &Experiment) -> Result<(), PlanError> {
    for (place, method) in experiment.methods.iter().enumerate() {
        method
            .config
            .check()
            .map_err(|why| PlanError::Engine(method.name.clone(), why.to_string()))?;
        let rows = experiment.traces.iter().flat_map(|trace| &trace.rows);
        let unknown = rows
            .filter(|_| place != experiment.baseline)
            .find(|row| method.excess_of(row.task.as_deref()).is_none());
        if let Some(row) = unknown {
            let task = row.task.clone().unwrap_or_else(|| "\"\"".to_owned());
            return Err(PlanError::Excess { method: method.name.clone(), task });
        }
    }
    Ok(())
}

fn check_numbers(experiment: &Experiment) -> Result<(), PlanError> {
    let above = |place: String, got: f64| (place, "a number above 0", got, got > 0.0);
    let not_below = |place: String, got: f64| (place, "a number of at least 0", got, got >= 0.0);
    let share =
        |place: String, got: f64| (place, "a share from 0 to 1", got, (0.0..=1.0).contains(&got));
    let mut all = Vec::new();
    for LoadPlan { name, arrivals } in &experiment.loads {
        let (Arrivals::Poisson { rate: value }
        | Arrivals::Recorded { speed: value }
        | Arrivals::Utilisation { rho: value }) = arrivals;
        all.push(above(format!("load {name}"), *value));
    }
    for skill in &experiment.skills {
        let place = |what: &str| format!("skill {}, {what}", skill.name);
        all.push(above(place("speed_factor"), skill.skill.speed_factor));
        all.push(not_below(place("length_sigma_log"), skill.skill.length_sigma_log));
    }
    for method in &experiment.methods {
        let place = |what: &str| format!("method {}, {what}", method.name);
        all.push(not_below(place("shift, sigma_log"), method.shift.sigma_log));
        all.extend(method.excess.iter().map(|(task, rate)| share(place(task), *rate)));
    }
    match all.into_iter().find(|(_, _, got, good)| !(*good && got.is_finite())) {
        Some((place, expected, got, _)) => Err(PlanError::Number { place, expected, got }),
        None => Ok(()),
    }
}

fn unique(experiment: &Experiment) -> Result<(), PlanError> {
    let Experiment { methods, pools, traces, loads, skills, policies, .. } = experiment;
    let mut kinds: Vec<(&'static str, Vec<&String>)> = vec![
        ("method", methods.iter().map(|x| &x.name).collect()),
        ("pool", pools.iter().map(|x| &x.name).collect()),
        ("trace", traces.iter().map(|x| &x.name).collect()),
        ("load", loads.iter().map(|x| &x.name).collect()),
        ("skill", skills.iter().map(|x| &x.name).collect()),
        ("policy", policies.iter().map(|x| &x.name).collect()),
    ];
    kinds.extend(pools.iter().map(|p| ("engine", p.engines.iter().map(|(n, _)| n).collect())));
    for (kind, names) in kinds {
        let mut seen = BTreeSet::new();
        if let Some(name) = names.into_iter().find(|name| !seen.insert(*name)) {
            return Err(PlanError::Twice { kind, name: name.clone() });
        }
    }
    Ok(())
}
