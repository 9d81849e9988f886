//! The rules, each a small thing of its own: a cost of every engine, and the lowest is taken.

use std::{cmp::Ordering, sync::Arc};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{
    Ask, EngineState, Pool, Predicted, Rule,
    estimate::{Estimate, Visit, full_batch_s},
    steps::Steps,
};
use crate::stats;

/// All that is known when a request is routed.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) ask: &'a Ask<'a>,
    pub(super) pool: &'a Pool,
    pub(super) states: &'a [EngineState],
    pub(super) steps: &'a [Arc<Steps>],
}

/// A rule at work.
pub(super) trait Choose: Send {
    /// One of the candidates, which are places of engines in ascending order; `None` of none.
    fn choose(&mut self, situation: &Situation<'_>, candidates: &[usize]) -> Option<usize>;

    /// What the rule believed of its choice.
    fn predicted(&self, _: &Situation<'_>, _: usize) -> Predicted {
        Predicted::default()
    }
}

/// A rule for a pool.
pub(super) fn of(rule: Rule, pool: &Pool, steps: &[Arc<Steps>], seed: u64) -> Box<dyn Choose> {
    let draws = Draws(stats::seeded(seed));
    let least = |cost: Cost, tells: Tells| -> Box<dyn Choose> {
        Box::new(Least { cost, tells, draws: draws.clone() })
    };
    match rule {
        Rule::RoundRobin => Box::new(InTurn { next: 0 }),
        Rule::Random => Box::new(Any(draws)),
        Rule::PowerOfTwo => Box::new(OfTwo(draws)),
        Rule::StaticBest => Box::new(OneMethod { order: by_capacity(pool, steps), draws }),
        Rule::JoinShortestQueue => least(queue, Tells::Nothing),
        Rule::LeastTokens => least(tokens, Tells::Tokens),
        Rule::LeastMemory => least(memory, Tells::Nothing),
        Rule::HighestThroughput => least(seconds_a_token, Tells::Nothing),
        Rule::ShortestAnswer => least(answer, Tells::Tokens),
        Rule::EarliestFinish => least(finish, Tells::All),
        Rule::MarginalCost => least(marginal, Tells::All),
    }
}

impl Situation<'_> {
    fn state(&self, engine: usize) -> EngineState {
        self.states.get(engine).copied().unwrap_or_default()
    }

    fn method(&self, engine: usize) -> usize {
        self.pool.engines[engine].method
    }

    /// Expected tokens of the answer there; without any the engine is the last that a rule of lengths would take.
    fn output_tokens(&self, engine: usize) -> f64 {
        let told = self.ask.output_tokens.get(self.method(engine)).copied();
        told.filter(|tokens| !tokens.is_nan()).map_or(f64::INFINITY, |tokens| tokens.max(1.0))
    }

    /// `None` where no length is expected.
    fn estimate(&self, engine: usize) -> Option<Estimate> {
        let state = self.state(engine);
        let visit = self.visit(engine, &state);
        visit.output_tokens.is_finite().then(|| visit.estimate())
    }

    /// Engines without an estimate are the last, the shorter queue first.
    fn cost(&self, engine: usize, of: impl Fn(&Estimate) -> f64) -> (f64, f64) {
        match self.estimate(engine) {
            Some(estimate) => (of(&estimate), 0.0),
            None => (f64::INFINITY, self.state(engine).outstanding() as f64),
        }
    }

    fn visit<'a>(&'a self, engine: usize, state: &'a EngineState) -> Visit<'a> {
        Visit {
            config: &self.pool.engines[engine].config,
            steps: &self.steps[engine],
            state,
            prompt_tokens: self.ask.prompt_tokens as f64,
            output_tokens: self.output_tokens(engine),
        }
    }
}

/// What a request costs at an engine; the second number is for those whose first is equal.
type Cost = fn(&Situation<'_>, usize) -> (f64, f64);

fn queue(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    (at.state(engine).outstanding() as f64, 0.0)
}

fn tokens(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    let state = at.state(engine);
    (state.prompt_tokens_left as f64 + state.output_tokens_left, 0.0)
}

fn memory(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    let state = at.state(engine);
    ((state.kv_tokens + state.prompt_tokens_left) as f64, 0.0)
}

fn seconds_a_token(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    (at.visit(engine, &at.state(engine)).seconds_a_token(), 0.0)
}

fn answer(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    (at.output_tokens(engine), at.state(engine).outstanding() as f64)
}

fn finish(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    at.cost(engine, |estimate| estimate.own_s)
}

fn marginal(at: &Situation<'_>, engine: usize) -> (f64, f64) {
    at.cost(engine, |estimate| estimate.own_s + estimate.delay_s)
}

/// What of its beliefs a rule tells.
#[derive(Debug, Clone, Copy)]
enum Tells {
    Nothing,
    Tokens,
    All,
}

/// Takes the engine of least cost; equals by lot, or the order of the pool would be part of the rule.
struct Least {
    cost: Cost,
    tells: Tells,
    draws: Draws,
}

impl Choose for Least {
    fn choose(&mut self, situation: &Situation<'_>, candidates: &[usize]) -> Option<usize> {
        self.draws.least(candidates.iter().copied(), |engine| (self.cost)(situation, engine))
    }

    fn predicted(&self, situation: &Situation<'_>, engine: usize) -> Predicted {
        let tokens = Some(situation.output_tokens(engine)).filter(|tokens| tokens.is_finite());
        let output_tokens = tokens.filter(|_| !matches!(self.tells, Tells::Nothing));
        let estimate = match self.tells {
            Tells::Nothing | Tells::Tokens => None,
            Tells::All => situation.estimate(engine),
        };
        Predicted {
            output_tokens,
            ttft_s: estimate.map(|estimate| estimate.ttft_s),
            e2e_s: estimate.map(|estimate| estimate.e2e_s),
            delay_s: estimate.map(|estimate| estimate.delay_s),
            harm_upper: None,
        }
    }
}

/// The candidate that stands next after the last one.
struct InTurn {
    next: usize,
}

impl Choose for InTurn {
    fn choose(&mut self, _: &Situation<'_>, candidates: &[usize]) -> Option<usize> {
        let next = candidates.iter().find(|engine| **engine >= self.next).or(candidates.first());
        let next = *next?;
        self.next = next + 1;
        Some(next)
    }
}

struct Any(Draws);

impl Choose for Any {
    fn choose(&mut self, _: &Situation<'_>, candidates: &[usize]) -> Option<usize> {
        (!candidates.is_empty()).then(|| candidates[self.0.below(candidates.len())])
    }
}

/// Two different candidates by lot, and of these the one with the shorter queue.
struct OfTwo(Draws);

impl Choose for OfTwo {
    fn choose(&mut self, situation: &Situation<'_>, candidates: &[usize]) -> Option<usize> {
        if candidates.len() < 2 {
            return candidates.first().copied();
        }
        let first = self.0.below(candidates.len());
        let second = (first + 1 + self.0.below(candidates.len() - 1)) % candidates.len();
        let two = [candidates[first], candidates[second]];
        self.0.least(two.into_iter(), |engine| queue(situation, engine))
    }
}

/// Join shortest queue among engines of the best method that has a candidate.
struct OneMethod {
    /// Places of methods, the best first.
    order: Vec<usize>,
    draws: Draws,
}

impl Choose for OneMethod {
    fn choose(&mut self, situation: &Situation<'_>, candidates: &[usize]) -> Option<usize> {
        let is_of = |method: usize| move |engine: &usize| situation.method(*engine) == method;
        let best = self.order.iter().find(|method| candidates.iter().any(is_of(**method)))?;
        let engines = candidates.iter().copied().filter(is_of(*best));
        self.draws.least(engines, |engine| queue(situation, engine))
    }
}

/// Prompt and answer of the request by which methods are compared for good, tokens.
const TYPICAL: (f64, f64) = (1024.0, 256.0);

/// Methods by the requests a second that their engines together serve with full batches.
fn by_capacity(pool: &Pool, steps: &[Arc<Steps>]) -> Vec<usize> {
    let mut rates = vec![0.0; pool.methods.len()];
    for (member, steps) in pool.engines.iter().zip(steps) {
        rates[member.method] += 1.0 / full_batch_s(&member.config, steps, TYPICAL);
    }
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|a, b| rates[*b].total_cmp(&rates[*a]));
    order
}

/// Draws of one generator.
#[derive(Clone)]
struct Draws(ChaCha8Rng);

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// The engine of least cost; of n equal ones each with chance 1 / n.
    fn least(
        &mut self,
        engines: impl Iterator<Item = usize>,
        cost: impl Fn(usize) -> (f64, f64),
    ) -> Option<usize> {
        let mut best: Option<(usize, (f64, f64))> = None;
        let mut n_equal = 1;
        for engine in engines {
            let cost = cost(engine);
            let order = best.map_or(Ordering::Less, |(_, least)| {
                cost.0.total_cmp(&least.0).then(cost.1.total_cmp(&least.1))
            });
            let takes = match order {
                Ordering::Less => true,
                Ordering::Equal => self.below(n_equal + 1) == 0,
                Ordering::Greater => continue,
            };
            n_equal = if order == Ordering::Less { 1 } else { n_equal + 1 };
            if takes {
                best = Some((engine, cost));
            }
        }
        best.map(|(engine, _)| engine)
    }
}
