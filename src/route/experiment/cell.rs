//! One simulation.

use std::sync::Arc;

use rayon::prelude::*;

use super::{Cell, Experiment, Plan, PoolPlan, plan::worlds as all_worlds};
use crate::{
    record::{RouteEngineRow, RouteRequestRow, RouteWorldRow},
    route::{
        LengthKnowledge, Member, PolicySpec, Pool, RiskKnowledge, SpeedKnowledge,
        bound::bound,
        cluster::{
            Arrival, Cluster, ClusterError, EngineWork, Fared, LengthsSeen, Ran, engines, run,
        },
        risk::Risks,
        router::{Router, RouterError},
        world::{Skill, Traced, Truth, believed, policy_seed, rows, times_ns, tokens_most},
    },
    stats,
    units::ns_to_s,
};

/// Rows of one simulation, in the order of requests and of engines.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CellRows {
    /// Requests.
    pub requests: Vec<RouteRequestRow>,
    /// Engines.
    pub engines: Vec<RouteEngineRow>,
}

/// Why a cell cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// The policy does not go with the pool.
    #[error("cell {0}: {1}")]
    Router(String, RouterError),
    /// The simulation stopped.
    #[error("cell {0}: {1}")]
    Cluster(String, ClusterError),
    /// What a guard learns from could not be drawn.
    #[error("cell {0}: {1}")]
    Risks(String, anyhow::Error),
}

impl Cell {
    /// `pool/trace/load/skill/policy/seed`, for a filter and for errors; `-` for no skill.
    pub fn id(&self, plan: &Plan) -> String {
        let Experiment { pools, traces, loads, skills, policies, .. } = &plan.experiment;
        let skill = self.skill.map_or("-", |skill| &skills[skill].name);
        let (pool, trace) = (&pools[self.pool].name, &traces[self.trace].name);
        let (load, policy) = (&loads[self.load].name, &policies[self.policy].name);
        format!("{pool}/{trace}/{load}/{skill}/{policy}/{}", self.seed)
    }
}

/// A world: what is the same for all policies.
struct World<'a> {
    plan: &'a Plan,
    pool: &'a PoolPlan,
    rows: Vec<&'a Traced>,
    times_ns: Vec<i64>,
    tokens_most: u64,
    seed: u64,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, (pool, trace, load, number): (usize, usize, usize, u32)) -> Self {
        let Experiment { pools, traces, loads, .. } = &plan.experiment;
        let seed = plan.seed(number);
        let rows = rows(&traces[trace], number, seed);
        let capacity_per_s = plan.capacity_per_s(pool, trace).unwrap_or(f64::NAN);
        let times_ns = times_ns(loads[load].arrivals, &rows, capacity_per_s, seed);
        let tokens_most = tokens_most(&traces[trace].rows);
        Self { plan, pool: &pools[pool], rows, times_ns, tokens_most, seed }
    }

    fn truth(&self, skill: Skill) -> Truth<'a> {
        let Experiment { methods, baseline, .. } = &self.plan.experiment;
        let Self { tokens_most, seed, .. } = *self;
        Truth { methods, baseline: *baseline, skill, tokens_most, seed }
    }

    fn arrivals(&self, skill: Skill) -> Vec<Arrival> {
        self.truth(skill).arrivals(&self.rows, &self.times_ns)
    }
}

/// Simulates one cell.
///
/// # Errors
/// A policy that does not go with the pool, or step times that are no times.
pub fn run_cell(plan: &Plan, cell: &Cell) -> Result<CellRows, CellError> {
    let experiment = &plan.experiment;
    let spec = &experiment.policies[cell.policy];
    // A policy that asks no predictor does the same under all of them.
    let skill = experiment.skills[cell.skill.unwrap_or(0)].skill;
    let world = World::new(plan, (cell.pool, cell.trace, cell.load, cell.seed));
    let arrivals = world.arrivals(skill);
    let pool = believed_pool(experiment, world.pool, spec.speed, skill);
    let risks =
        learned(&world, cell, spec, skill).map_err(|why| CellError::Risks(cell.id(plan), why))?;
    let mut router = Router::new(spec, &pool, risks, policy_seed(world.seed))
        .map_err(|why| CellError::Router(cell.id(plan), why))?;
    let ran = cluster(plan, cell, &pool, world.pool)
        .and_then(|cluster| {
            run(cluster, &arrivals, |ask, pool, seen| router.decide(ask, pool, seen))
        })
        .map_err(|why| CellError::Cluster(cell.id(plan), why))?;
    Ok(Told { plan, cell, pool: &pool, arrivals: &arrivals }.rows(&ran))
}

fn learned(
    world: &World<'_>,
    cell: &Cell,
    spec: &PolicySpec,
    skill: Skill,
) -> anyhow::Result<Option<Arc<Risks>>> {
    if spec.guard.is_none_or(|guard| guard.risk != RiskKnowledge::Learned) {
        return Ok(None);
    }
    if let Some(risks) = &world.plan.experiment.risks {
        return Ok(Some(Arc::clone(risks)));
    }
    world.truth(skill).risks(&world.plan.experiment.traces[cell.trace].rows).map(Some)
}

/// The pool as a router believes it to be.
fn believed_pool(
    experiment: &Experiment,
    plan: &PoolPlan,
    speed: SpeedKnowledge,
    skill: Skill,
) -> Pool {
    let member = |(name, place): &(String, usize)| {
        let method = &experiment.methods[*place];
        let knows = speed == SpeedKnowledge::Oracle || *place == experiment.baseline;
        let times = if knows {
            Arc::clone(&method.times)
        } else {
            believed(&method.times, skill.speed_factor)
        };
        Member { name: name.clone(), method: *place, config: method.config, times }
    };
    Pool {
        methods: experiment.methods.iter().map(|method| method.name.clone()).collect(),
        baseline: experiment.baseline,
        engines: plan.engines.iter().map(member).collect(),
    }
}

fn cluster<'a>(
    plan: &Plan,
    cell: &Cell,
    pool: &'a Pool,
    engines_of: &PoolPlan,
) -> Result<Cluster<'a>, ClusterError> {
    let experiment = &plan.experiment;
    let spec = &experiment.policies[cell.policy];
    let members = engines_of.engines.iter().map(|(name, place)| {
        let method = &experiment.methods[*place];
        (name.as_str(), method.config, Arc::clone(&method.times))
    });
    Ok(Cluster {
        pool,
        engines: engines(members)?,
        lengths: match spec.length {
            LengthKnowledge::Constant => {
                LengthsSeen::Constant(mean_output(&experiment.traces[cell.trace].rows))
            }
            LengthKnowledge::Predicted => LengthsSeen::Predicted,
            LengthKnowledge::Oracle => LengthsSeen::True,
        },
        sees_breaks: spec.guard.is_some_and(|guard| guard.risk == RiskKnowledge::Oracle),
    })
}

/// Mean tokens of an answer under the baseline: what an operator knows of a trace without predicting anything. At least 1, which is what it
/// is where no answer was waited for.
fn mean_output(rows: &[Traced]) -> f64 {
    let waited_for = rows.iter().filter(|row| row.patience_ns.is_none());
    let tokens: Vec<f64> = waited_for.map(|row| row.output_tokens as f64).collect();
    stats::mean(&tokens).unwrap_or(1.0)
}

/// What a simulation told, with the names that its rows need.
struct Told<'a> {
    plan: &'a Plan,
    cell: &'a Cell,
    pool: &'a Pool,
    arrivals: &'a [Arrival],
}

impl Told<'_> {
    fn rows(&self, ran: &Ran) -> CellRows {
        let began_ns = self.arrivals.first().map_or(0, |first| first.at_ns);
        let engine = |(place, work): (usize, &EngineWork)| RouteEngineRow {
            began_ns,
            ended_ns: ran.ended_ns,
            ..self.engine(place, work)
        };
        CellRows {
            requests: ran.fared.iter().map(|fared| self.request(fared)).collect(),
            engines: ran.engines.iter().enumerate().map(engine).collect(),
        }
    }

    /// A row with its key alone.
    fn blank(&self) -> RouteRequestRow {
        let Experiment { pools, traces, loads, skills, policies, .. } = &self.plan.experiment;
        let Cell { pool, trace, load, seed, skill, policy } = *self.cell;
        RouteRequestRow {
            pool: pools[pool].name.clone(),
            trace: traces[trace].name.clone(),
            load: loads[load].name.clone(),
            skill: skill.map_or_else(String::new, |skill| skills[skill].name.clone()),
            policy: policies[policy].name.clone(),
            seed: i64::from(seed),
            ..RouteRequestRow::default()
        }
    }

    fn request(&self, fared: &Fared) -> RouteRequestRow {
        let arrival = &self.arrivals[fared.arrival];
        let (decision, served) = (fared.decision, fared.err.is_none());
        let member = decision.engine.map(|engine| &self.pool.engines[engine]);
        let of_method = |value: fn(&Arrival, usize) -> i64| {
            member.filter(|_| served).map(|member| value(arrival, member.method))
        };
        RouteRequestRow {
            request_id: arrival.id as i64,
            arrived_ns: arrival.at_ns,
            admitted_ns: fared.admitted_ns,
            first_token_ns: fared.first_token_ns,
            finished_ns: fared.finished_ns,
            gone_ns: fared.gone_ns,
            prompt_tokens: Some(arrival.prompt_tokens as i64),
            output_tokens: of_method(|arrival, m| arrival.output_tokens[m] as i64),
            task: arrival.task.clone(),
            engine: member.map(|member| member.name.clone()),
            method: member.map(|member| self.pool.methods[member.method].clone()),
            reason: decision.reason.name().to_owned(),
            n_candidates: decision.n_candidates as i64,
            predicted_output_tokens: decision.predicted.output_tokens,
            predicted_ttft_s: decision.predicted.ttft_s,
            predicted_e2e_s: decision.predicted.e2e_s,
            predicted_delay_s: decision.predicted.delay_s,
            harm_upper: decision.predicted.harm_upper,
            breaks: of_method(|arrival, m| i64::from(arrival.breaks[m]))
                .filter(|_| self.plan.experiment.knows_breaks)
                .map(|one| one == 1),
            n_preempted: Some(i64::from(fared.n_preempted)),
            http_status: None,
            attempt: i64::from(fared.n_asked),
            err: fared.err.clone(),
            ..self.blank()
        }
    }

    fn engine(&self, place: usize, work: &EngineWork) -> RouteEngineRow {
        let RouteRequestRow { pool, trace, load, skill, policy, seed, .. } = self.blank();
        let member = &self.pool.engines[place];
        RouteEngineRow {
            pool,
            trace,
            load,
            skill,
            policy,
            seed,
            engine: member.name.clone(),
            method: self.pool.methods[member.method].clone(),
            began_ns: 0,
            ended_ns: 0,
            busy_ns: Some(work.busy_ns),
            n_steps: Some(work.n_steps as i64),
            n_requests: work.n_requests as i64,
            n_preempted: Some(work.n_preempted as i64),
            kv_tokens_most: Some(work.kv_tokens_most as i64),
        }
    }
}

/// What each world of a plan is, whatever the policy.
pub fn worlds(plan: &Plan) -> Vec<RouteWorldRow> {
    let Experiment { pools, traces, loads, n_seeds, .. } = &plan.experiment;
    let all = all_worlds(pools.len(), traces, loads, *n_seeds);
    all.into_par_iter().filter_map(|key| world_row(plan, key)).collect()
}

fn world_row(plan: &Plan, key: (usize, usize, usize, u32)) -> Option<RouteWorldRow> {
    let Experiment { pools, traces, loads, skills, methods, .. } = &plan.experiment;
    let (pool, trace, load, number) = key;
    let world = World::new(plan, key);
    let arrivals = world.arrivals(skills[0].skill);
    let engines: Vec<_> =
        pools[pool].engines.iter().map(|(_, place)| (*place, &methods[*place])).collect();
    let bound = bound(&arrivals, &engines)?;
    Some(RouteWorldRow {
        pool: pools[pool].name.clone(),
        trace: traces[trace].name.clone(),
        load: loads[load].name.clone(),
        seed: i64::from(number),
        n_requests: arrivals.len() as i64,
        rate_per_s: rate_per_s(&world.times_ns),
        capacity_per_s: plan.capacity_per_s(pool, trace),
        bound_e2e_mean_s: bound.e2e_mean_s,
        bound_ttft_mean_s: bound.ttft_mean_s,
        bound_work_s: bound.work_s,
    })
}

/// Arrivals a second, observed; `None` of fewer than two moments.
fn rate_per_s(times_ns: &[i64]) -> Option<f64> {
    let span_s = ns_to_s(times_ns.last()? - times_ns.first()?);
    (span_s > 0.0).then(|| (times_ns.len() - 1) as f64 / span_s)
}
