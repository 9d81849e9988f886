//! A policy at work: which engines may be asked, which of them the rule takes, and what it believed.

use std::sync::Arc;

use super::{
    Ask, Decision, EngineState, PolicySpec, Pool, Predicted, Reason, RiskKnowledge,
    risk::Risks,
    rules::{self, Choose, Situation},
    steps::Steps,
};

/// Why a policy cannot be set up.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RouterError {
    /// Nothing to choose from.
    #[error("expected a pool of at least one engine, got none")]
    NoEngines,
    /// A method that the pool does not name.
    #[error("engine {engine}: expected the place of one of {n_methods} methods, got {method}")]
    UnknownMethod {
        /// The engine.
        engine: String,
        /// Place of its method.
        method: usize,
        /// Methods that there are.
        n_methods: usize,
    },
    /// The guard knows nothing.
    #[error(
        "guard of policy {0}: expected counts of negatives to learn from, got none\n  hint: make a file with `kvbench route risks`"
    )]
    NoRisks(String),
    /// A bound that bounds nothing.
    #[error(
        "guard of policy {policy}: expected an epsilon of at least 0 and below 1, got {epsilon}"
    )]
    Epsilon {
        /// The policy.
        policy: String,
        /// What was asked for.
        epsilon: f64,
    },
}

/// A policy in front of a pool. Of its own it remembers whose turn it is and the state of its generator, nothing of requests: the
/// same seed and the same calls give the same decisions.
pub struct Router {
    spec: PolicySpec,
    rule: Box<dyn Choose>,
    steps: Vec<Arc<Steps>>,
    risks: Option<Arc<Risks>>,
    /// Upper bounds of harm by method, of the request at hand.
    harm: Vec<Option<f64>>,
    candidates: Vec<usize>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Router {
    /// A policy for a pool. `risks` are what a learned guard judges by; others do not look at them.
    ///
    /// # Errors
    /// A pool without engines or with an engine of no method; a guard that has nothing to learn from, or an epsilon that is no share.
    pub fn new(
        spec: &PolicySpec,
        pool: &Pool,
        risks: Option<Arc<Risks>>,
        seed: u64,
    ) -> Result<Self, RouterError> {
        check(spec, pool, risks.is_some())?;
        let steps = Steps::of_all(&pool.engines);
        Ok(Self {
            spec: spec.clone(),
            rule: rules::of(spec.rule, pool, &steps, seed),
            steps,
            risks,
            harm: Vec::with_capacity(pool.methods.len()),
            candidates: Vec::with_capacity(pool.engines.len()),
        })
    }

    /// The policy.
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// Where this request is to go. `pool` is the one that the policy was made for; `states` has one entry an engine, in its order,
    /// and an engine without one is down.
    pub fn decide(&mut self, ask: &Ask<'_>, pool: &Pool, states: &[EngineState]) -> Decision {
        let n_up = self.find_candidates(ask, pool, states);
        let mut decision = Decision {
            engine: None,
            reason: Reason::NoneSafe,
            predicted: Predicted::default(),
            n_candidates: self.candidates.len(),
        };
        let situation = Situation { ask, pool, states, steps: &self.steps };
        let Some(engine) = self.rule.choose(&situation, &self.candidates) else { return decision };
        decision.engine = Some(engine);
        decision.reason = self.reason(pool, n_up);
        decision.predicted = self.rule.predicted(&situation, engine);
        decision.predicted.harm_upper = self.harm[pool.engines[engine].method];
        decision
    }

    /// Writes down which engines may be asked; returns how many are up.
    fn find_candidates(&mut self, ask: &Ask<'_>, pool: &Pool, states: &[EngineState]) -> usize {
        self.harm.clear();
        self.harm.extend(
            (0..pool.methods.len())
                .map(|method| harm_upper(&self.spec, self.risks.as_deref(), ask, pool, method)),
        );
        let n = pool.engines.len().min(self.steps.len());
        self.candidates.clear();
        self.candidates
            .extend((0..n).filter(|at| states.get(*at).is_some_and(|state| state.is_up)));
        let n_up = self.candidates.len();
        if let Some(guard) = self.spec.guard {
            let harm = &self.harm;
            self.candidates.retain(|at| {
                let method = pool.engines[*at].method;
                harm[method].is_some_and(|upper| upper <= guard.epsilon)
            });
        }
        n_up
    }

    fn reason(&self, pool: &Pool, n_up: usize) -> Reason {
        if n_up == 1 {
            Reason::OnlyOne
        } else if self.candidates.len() == n_up {
            Reason::Rule
        } else if self.candidates.iter().all(|at| pool.is_baseline(*at)) {
            Reason::GuardBaseline
        } else {
            Reason::Guarded
        }
    }
}

/// Upper bound of the share of answers that a method breaks beyond chance, of one: 0 of the baseline, 0 or 1 for the oracle. `None`
/// without a guard, and where a guard knows nothing: then the method is not safe.
fn harm_upper(
    spec: &PolicySpec,
    risks: Option<&Risks>,
    ask: &Ask<'_>,
    pool: &Pool,
    method: usize,
) -> Option<f64> {
    let guard = spec.guard?;
    if method == pool.baseline {
        return Some(0.0);
    }
    match guard.risk {
        RiskKnowledge::Oracle => {
            let breaks = *ask.breaks?.get(method)?;
            Some(f64::from(u8::from(breaks)))
        }
        RiskKnowledge::Learned => {
            risks?.upper(ask.task?, ask.prompt_tokens, pool.methods.get(method)?)
        }
    }
}

fn check(spec: &PolicySpec, pool: &Pool, has_risks: bool) -> Result<(), RouterError> {
    if pool.engines.is_empty() {
        return Err(RouterError::NoEngines);
    }
    let n_methods = pool.methods.len();
    if let Some(member) = pool.engines.iter().find(|member| member.method >= n_methods) {
        let (engine, method) = (member.name.clone(), member.method);
        return Err(RouterError::UnknownMethod { engine, method, n_methods });
    }
    let Some(guard) = spec.guard else { return Ok(()) };
    if !(0.0..1.0).contains(&guard.epsilon) {
        return Err(RouterError::Epsilon { policy: spec.name.clone(), epsilon: guard.epsilon });
    }
    if guard.risk == RiskKnowledge::Learned && !has_risks {
        return Err(RouterError::NoRisks(spec.name.clone()));
    }
    Ok(())
}
