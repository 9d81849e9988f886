//! What is true in a simulated world: how fast methods are, how long their answers get, which prompts they break.
//!
//! # What is drawn, and from what
//!
//! Every number is a function of `(seed, request)` or of `(seed, request, name of the method)` and of nothing else, by a generator that has
//! no state: so all policies, loads and pools of one seed see the same requests with the same answers, and another method in the
//! scenario, wherever it stands, changes nothing for those that are there.
//!
//! - True length of an answer: the baseline's tokens times `exp(N(mean_log, sigma_log))`, drawn for each prompt and method apart,
//!   rounded, at least 1 and at most the longest answer of the trace, which is taken for the limit that requests ask for. The mean of
//!   a log-normal lies above its median: with `mean_log` 0 the mean grows by a factor of up to `exp(sigma_log^2 / 2)`.
//! - Predicted length: the baseline's true tokens times `exp(N(0, length_sigma_log))`, one draw a prompt, as a predictor reads the
//!   prompt once; times the method's `exp(mean_log)` where it knows that. It knows nothing of a method's shift on this prompt. Of a
//!   recorded request nothing is drawn: it is what was said of it when it came.
//! - Broken prompts: each method breaks a prompt with the excess rate of its task, apart from the other methods. In the scores that
//!   arXiv 2503.24000 published a prompt that fails under one method fails under another only 1.1 to 1.6 times as often as its
//!   task makes it, so independence is the nearer of the two simple choices; under the other, one draw a prompt for all methods, a
//!   guard would lose less.
//! - A learned guard's counts: binomial draws from the true excess beyond [`NULL_RATE`], `guard_answers` a task, prompt length and
//!   method, and as many of the null; each count by `(seed, task, bin, name of the method)`.

use std::{collections::BTreeMap, sync::Arc};

use rand_distr::{Binomial, Distribution as _};

use super::{
    cluster::Arrival,
    experiment::{Arrivals, TracePlan},
    risk::{Cell, Counts, EDGES, Risks},
};
use crate::{
    predict::{
        StepTimes, Work,
        simulate::{EngineConfig, Times},
    },
    stats::{mixed, seeded},
    units::s_to_ns,
};

#[cfg(test)]
mod tests;

/// Share of answers that count as negative where nothing is wrong. Of 1,552 answers that a baseline does well, 5.6 % fell short by
/// more than a tenth under a 4-bit cache, and 6.1 % gained as much (scores of arXiv 2503.24000): so much is chance.
pub const NULL_RATE: f64 = 0.056;

/// A request of a trace, before a method has answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Traced {
    /// When it comes, nanoseconds from the start of the trace.
    pub at_ns: i64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens of its answer under the baseline.
    pub output_tokens: u64,
    /// Its task, where one is known.
    pub task: Option<String>,
    /// Tokens that a predictor said when it came, whatever the method; `None` where what is said has to be drawn.
    pub predicted_tokens: Option<f64>,
    /// How long after it came it was given up, nanoseconds; `None` of one that waited for its answer.
    pub patience_ns: Option<i64>,
}

/// How lengths of a method differ from the baseline's on the same prompt: `ln(tokens)` by a normal of this mean and deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthShift {
    /// Mean of the shift in `ln(tokens)`.
    pub mean_log: f64,
    /// Standard deviation of it from prompt to prompt.
    pub sigma_log: f64,
}

/// A method, as it is.
#[derive(Clone)]
pub struct MethodWorld {
    /// Its name.
    pub name: String,
    /// What steps take.
    pub times: Times,
    /// How its engines batch.
    pub config: EngineConfig,
    /// Its lengths. Of the baseline both are 0.
    pub shift: LengthShift,
    /// Share of prompts that it breaks beyond chance, by task; the key `""` is for tasks that are not listed.
    pub excess: BTreeMap<String, f64>,
}

/// How good the predictors of a simulated router are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Skill {
    /// Standard deviation of predicted against true `ln(tokens)` of the baseline's answer.
    pub length_sigma_log: f64,
    /// Whether the predictor knows each method's mean shift.
    pub knows_shift: bool,
    /// Factor on the believed step times of every method but the baseline: 1 for none, 0.8 for one that believes them 20 % faster.
    pub speed_factor: f64,
    /// Answers by which a learned guard has judged each task, length and method.
    pub guard_answers: u64,
}

impl std::fmt::Debug for MethodWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("MethodWorld");
        shown.field("name", &self.name).field("config", &self.config).field("shift", &self.shift);
        shown.field("excess", &self.excess).finish_non_exhaustive()
    }
}

impl MethodWorld {
    /// Share of prompts of a task that it breaks; `None` where the scenario says nothing of this task nor of others.
    pub fn excess_of(&self, task: Option<&str>) -> Option<f64> {
        let named = task.and_then(|task| self.excess.get(task));
        named.or_else(|| self.excess.get("")).copied()
    }
}

/// What each random quantity is called, so that none shares its draws with another.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Rows,
    Gaps,
    Lengths,
    Predictions,
    Breaks,
    Risks,
    Policies,
}

impl Stream {
    fn of(self, seed: u64) -> u64 {
        mixed(seed, self as u64)
    }
}

/// A seed of its own for each name.
fn named(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mixed(seed, name.len() as u64), |state, byte| mixed(state, u64::from(byte)))
}

/// In (0, 1), neither end included.
fn uniform(seed: u64) -> f64 {
    ((mixed(seed, 0) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Box and Muller (1958): one standard normal of two uniforms.
fn normal(seed: u64) -> f64 {
    let (radius, angle) = (uniform(mixed(seed, 1)), uniform(mixed(seed, 2)));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// The seed of a policy's own draws.
pub(super) fn policy_seed(seed: u64) -> u64 {
    Stream::Policies.of(seed)
}

/// The rows of one simulation. `number` is the simulation's place among its trace's, `seed` its seed.
///
/// Of a sample rows are drawn, without replacement where there are enough. Of a recording a window is taken, the next one for each
/// simulation and, where windows have run out, one that begins anywhere; a recording that is shorter than asked for is taken whole.
pub(super) fn rows(trace: &TracePlan, number: u32, seed: u64) -> Vec<&Traced> {
    let (n, all) = (trace.n_requests, &trace.rows);
    let seed = Stream::Rows.of(seed);
    if trace.is_sample {
        return if n <= all.len() {
            without_replacement(all, n, seed)
        } else {
            drawn(all, n, seed)
        };
    }
    if all.len() <= n {
        return all.iter().collect();
    }
    let in_turn = number as usize * n;
    let last = all.len() - n;
    let start = if in_turn <= last { in_turn } else { below(last + 1, seed) };
    all[start..start + n].iter().collect()
}

fn below(n: usize, seed: u64) -> usize {
    ((uniform(seed) * n as f64) as usize).min(n - 1)
}

fn drawn(all: &[Traced], n: usize, seed: u64) -> Vec<&Traced> {
    (0..n as u64).map(|i| &all[below(all.len(), mixed(seed, i))]).collect()
}

/// The first steps of a shuffle (Fisher and Yates).
fn without_replacement(all: &[Traced], n: usize, seed: u64) -> Vec<&Traced> {
    let mut rows: Vec<&Traced> = all.iter().collect();
    for i in 0..n {
        let other = i + below(all.len() - i, mixed(seed, i as u64));
        rows.swap(i, other);
    }
    rows.truncate(n);
    rows
}

/// When requests come, from 0. `capacity_per_s` is what the pool of the baseline keeps up with. The gaps of one seed are the same at
/// every rate, but for their length.
pub(super) fn times_ns(
    how: Arrivals,
    rows: &[&Traced],
    capacity_per_s: f64,
    seed: u64,
) -> Vec<i64> {
    let poisson = |rate: f64| -> Vec<i64> {
        let seed = Stream::Gaps.of(seed);
        let mut at_s = 0.0;
        let next = |i: usize| {
            at_s -= uniform(mixed(seed, i as u64)).ln() / rate;
            s_to_ns(at_s)
        };
        (0..rows.len()).map(next).collect()
    };
    match how {
        Arrivals::Poisson { rate } => poisson(rate),
        Arrivals::Utilisation { rho } => poisson(rho * capacity_per_s),
        Arrivals::Recorded { speed } => {
            let first = rows.first().map_or(0, |row| row.at_ns);
            rows.iter().map(|row| ((row.at_ns - first) as f64 / speed).round() as i64).collect()
        }
    }
}

/// Requests of one simulation with all that is true of them.
pub(super) struct Truth<'a> {
    pub(super) methods: &'a [MethodWorld],
    pub(super) baseline: usize,
    pub(super) skill: Skill,
    /// No answer gets longer.
    pub(super) tokens_most: u64,
    pub(super) seed: u64,
}

/// The longest answer of a trace.
pub(super) fn tokens_most(rows: &[Traced]) -> u64 {
    rows.iter().map(|row| row.output_tokens).max().unwrap_or(1)
}

impl Truth<'_> {
    pub(super) fn arrivals(&self, rows: &[&Traced], times_ns: &[i64]) -> Vec<Arrival> {
        let all = rows.iter().zip(times_ns).enumerate();
        all.map(|(place, (row, at_ns))| self.arrival(place as u64, row, *at_ns)).collect()
    }

    fn arrival(&self, id: u64, row: &Traced, at_ns: i64) -> Arrival {
        let methods = || 0..self.methods.len();
        Arrival {
            id,
            at_ns,
            prompt_tokens: row.prompt_tokens,
            task: row.task.clone(),
            output_tokens: methods().map(|m| self.tokens(id, row, m)).collect(),
            predicted_tokens: methods().map(|m| self.predicted(id, row, m)).collect(),
            breaks: methods().map(|m| self.breaks(id, row, m)).collect(),
            leaves_ns: row.patience_ns.map(|patience_ns| at_ns + patience_ns),
        }
    }

    fn draw(&self, stream: Stream, id: u64, method: usize) -> u64 {
        named(mixed(stream.of(self.seed), id), &self.methods[method].name)
    }

    pub(super) fn tokens(&self, id: u64, row: &Traced, method: usize) -> u64 {
        if method == self.baseline {
            return row.output_tokens;
        }
        let LengthShift { mean_log, sigma_log } = self.methods[method].shift;
        let shift = mean_log + sigma_log * normal(self.draw(Stream::Lengths, id, method));
        ((row.output_tokens as f64 * shift.exp()).round() as u64).clamp(1, self.tokens_most.max(1))
    }

    fn predicted(&self, id: u64, row: &Traced, method: usize) -> f64 {
        if let Some(said) = row.predicted_tokens {
            return said.max(1.0);
        }
        let draw = normal(mixed(Stream::Predictions.of(self.seed), id));
        let noise = self.skill.length_sigma_log * draw;
        let shift = if self.skill.knows_shift { self.methods[method].shift.mean_log } else { 0.0 };
        (row.output_tokens as f64 * (noise + shift).exp()).max(1.0)
    }

    fn breaks(&self, id: u64, row: &Traced, method: usize) -> bool {
        let excess = self.methods[method].excess_of(row.task.as_deref()).unwrap_or(0.0);
        method != self.baseline && uniform(self.draw(Stream::Breaks, id, method)) < excess
    }

    /// What a guard has learned: counts of every task of the trace, at every prompt length.
    ///
    /// # Errors
    /// None that a checked world can cause.
    pub(super) fn risks(&self, rows: &[Traced]) -> anyhow::Result<Arc<Risks>> {
        let tasks: std::collections::BTreeSet<&str> =
            rows.iter().filter_map(|row| row.task.as_deref()).collect();
        let mut cells = Vec::new();
        for task in tasks {
            for (_, method) in self.methods.iter().enumerate().filter(|(m, _)| *m != self.baseline)
            {
                for bin in 0..=EDGES.len() {
                    cells.push(self.learned(task, method, bin)?);
                }
            }
        }
        Ok(Arc::new(Risks::new("drawn from the simulated world", &EDGES, cells)?))
    }

    /// Counts of one task, method and length.
    fn learned(&self, task: &str, method: &MethodWorld, bin: usize) -> anyhow::Result<Cell> {
        let excess = method.excess_of(Some(task)).unwrap_or(0.0);
        let seed = named(named(Stream::Risks.of(self.seed), task), &method.name);
        let mut rng = seeded(mixed(seed, bin as u64));
        let n = self.skill.guard_answers;
        let mut count = |rate: f64| -> anyhow::Result<Counts> {
            Ok(Counts { n, negatives: Binomial::new(n, rate.min(1.0))?.sample(&mut rng) })
        };
        Ok(Cell {
            task: task.to_owned(),
            bin,
            method: method.name.clone(),
            own: count(NULL_RATE + excess)?,
            null: count(NULL_RATE)?,
        })
    }
}

/// Step times that are believed: the true ones times a factor.
struct Believed {
    times: Times,
    factor: f64,
}

impl StepTimes for Believed {
    fn step_s(&self, prefill: Option<&Work>, decode: Option<&Work>) -> f64 {
        self.factor * self.times.step_s(prefill, decode)
    }
}

/// The same step times, believed to be so many times as long.
pub(super) fn believed(times: &Times, factor: f64) -> Times {
    Arc::new(Believed { times: Arc::clone(times), factor })
}
