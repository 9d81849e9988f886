//! One engine, stepped from outside.

use std::{collections::VecDeque, sync::Arc};

use super::{super::StepTimes, ConfigError, EngineConfig};
use crate::units::s_to_ns;

/// Step times that engines share.
pub type Times = Arc<dyn StepTimes + Send + Sync>;

/// What is asked of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whatever the caller calls it.
    pub id: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Of these, tokens that a prefix cache serves; the last token of a prompt is computed in any case.
    pub cached_tokens: u64,
    /// Tokens of the answer: observed, or drawn by whoever predicts lengths.
    pub output_tokens: u64,
}

/// Something that happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at_ns: i64,
    /// To which.
    pub id: u64,
    /// What.
    pub what: Happening,
}

/// What can happen to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// It left the queue, and its prompt is computed from this step on.
    Admitted,
    /// The first token of its answer is there.
    FirstToken,
    /// A later token is there; told by [`Engine::with_tokens`] alone.
    Token,
    /// It lost its blocks to an older request and stands at the head of the queue again.
    Preempted,
    /// The last token of its answer is there.
    Finished,
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rejected {
    /// No prompt, or no answer.
    #[error("expected at least one token of prompt and one of answer")]
    Empty,
    /// The pool is too small for it alone.
    #[error("it needs {needs} blocks of KV cache and the engine has {has}")]
    NeverFits {
        /// Blocks at its longest.
        needs: u64,
        /// Blocks of the pool.
        has: u64,
    },
    /// A prompt that leaves no token of its context for an answer.
    #[error("its prompt of {prompt_tokens} tokens leaves no room in a context of {has}")]
    LongerThanItsContext {
        /// Tokens of the prompt.
        prompt_tokens: u64,
        /// Tokens of the context.
        has: u64,
    },
    /// Prompts are not cut, and its prompt (as long as it can get when it has to be computed anew) is longer than a step.
    #[error("{needs} tokens have to be computed at once and a step holds {has}")]
    LongerThanAStep {
        /// Tokens.
        needs: u64,
        /// Tokens of a step.
        has: u64,
    },
    /// First come, first served needs arrivals in order.
    #[error("it arrives before a request that was pushed already")]
    OutOfOrder,
}

/// Why an engine cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum StepError {
    /// Step times are at fault.
    #[error("expected a step to take more than 0 seconds, got {0}: the step times are at fault")]
    Duration(f64),
    /// Nothing could be scheduled: a bug of this simulator.
    #[error("no sequence of {running} running and {waiting} waiting ones could be scheduled")]
    Stuck {
        /// Running sequences.
        running: usize,
        /// Waiting ones.
        waiting: usize,
    },
}

/// What a router may see of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineState {
    /// Sequences that are computed.
    pub running: usize,
    /// Requests in the queue.
    pub waiting: usize,
    /// Tokens of prompts not computed yet, running and waiting.
    pub prompt_tokens_left: u64,
    /// Tokens in the KV cache, as far as the method keeps them.
    pub kv_tokens: u64,
    /// Blocks taken.
    pub kv_blocks_used: u64,
    /// Steps that ended.
    pub n_steps: u64,
    /// Preemptions so far.
    pub n_preempted: u64,
}

/// What a router may see of a request inside; not how long its answer will become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestState {
    /// The request.
    pub id: u64,
    /// Whether it is computed, or waits.
    pub is_running: bool,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens of its answer so far.
    pub generated_tokens: u64,
}

/// A request inside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sequence {
    pub(super) request: Request,
    pub(super) arrived_ns: i64,
    /// Tokens that have to be in the cache before it decodes.
    pub(super) target: u64,
    /// Tokens of `target` that are there.
    pub(super) computed: u64,
    /// Tokens of the answer.
    pub(super) generated: u64,
    pub(super) blocks: u64,
    /// Tokens of it in the step under way.
    pub(super) share: u64,
}

impl Sequence {
    fn new(request: Request, arrived_ns: i64) -> Self {
        let target = request.prompt_tokens;
        let computed = request.cached_tokens.min(target.saturating_sub(1));
        Self { request, arrived_ns, target, computed, generated: 0, blocks: 0, share: 0 }
    }

    pub(super) fn decodes(&self) -> bool {
        self.computed >= self.target
    }

    pub(super) fn left(&self) -> u64 {
        self.target.saturating_sub(self.computed)
    }

    /// Tokens that decoding its next token attends to.
    pub(super) fn attended(&self) -> u64 {
        self.request.prompt_tokens + self.generated
    }

    /// Tokens in the cache.
    fn cached(&self) -> u64 {
        if self.decodes() { self.attended().saturating_sub(1) } else { self.computed }
    }

    /// Tokens that the cache holds of so many of it.
    fn held(&self, config: &EngineConfig, tokens: u64) -> u64 {
        if self.decodes() { config.kept(tokens) } else { config.kept_of_prompt(tokens) }
    }
}

/// An engine under way.
///
/// The protocol: push what arrives up to `next_event_ns` (ties included, or a request misses the step that it could be in), then
/// `advance`. Requests may be pushed as early as one likes, in the order of their arrival; nobody sees them before.
#[derive(Clone)]
pub struct Engine {
    pub(super) config: EngineConfig,
    pub(super) times: Times,
    pub(super) now_ns: i64,
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) running: Vec<Sequence>,
    pub(super) blocks_used: u64,
    tells_tokens: bool,
    ends_ns: Option<i64>,
    pushed_ns: i64,
    n_steps: u64,
    pub(super) n_preempted: u64,
    kv_tokens_most: u64,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Engine");
        shown.field("config", &self.config).field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// As [`EngineConfig::check`].
    pub fn new(config: EngineConfig, times: Times) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            config,
            times,
            now_ns: i64::MIN,
            waiting: VecDeque::new(),
            running: Vec::new(),
            blocks_used: 0,
            tells_tokens: false,
            ends_ns: None,
            pushed_ns: i64::MIN,
            n_steps: 0,
            n_preempted: 0,
            kv_tokens_most: 0,
        })
    }

    /// The same engine, which tells of every token: as many events as tokens.
    #[must_use]
    pub fn with_tokens(mut self) -> Self {
        self.tells_tokens = true;
        self
    }

    /// The rules it follows.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Puts a request that arrives at `at_ns` into the queue.
    ///
    /// # Errors
    /// It can never be served, or arrives before one that was pushed.
    pub fn push(&mut self, at_ns: i64, request: Request) -> Result<(), Rejected> {
        self.accepts(&request)?;
        if at_ns < self.pushed_ns {
            return Err(Rejected::OutOfOrder);
        }
        self.pushed_ns = at_ns;
        let output_tokens = self.output_tokens(&request);
        self.waiting.push_back(Sequence::new(Request { output_tokens, ..request }, at_ns));
        Ok(())
    }

    /// Takes a request out, whether it waits or is computed: its client has gone, or it was given up. Its place and its blocks are free for
    /// the next step that is planned; the step under way takes as long as it was going to. Whether it was there.
    pub fn leave(&mut self, id: u64) -> bool {
        if let Some(place) = self.running.iter().position(|sequence| sequence.request.id == id) {
            self.blocks_used -= self.running.remove(place).blocks;
            return true;
        }
        let waiting = self.waiting.iter().position(|sequence| sequence.request.id == id);
        waiting.and_then(|place| self.waiting.remove(place)).is_some()
    }

    /// Tokens of its answer, which ends where its context does.
    pub fn output_tokens(&self, request: &Request) -> u64 {
        let room = self.config.context_tokens.map(|has| has.saturating_sub(request.prompt_tokens));
        room.map_or(request.output_tokens, |room| request.output_tokens.min(room))
    }

    /// Whether a request can be served at all, however empty the engine is.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self, request: &Request) -> Result<(), Rejected> {
        if request.prompt_tokens == 0 || request.output_tokens == 0 {
            return Err(Rejected::Empty);
        }
        let prompt_tokens = request.prompt_tokens;
        if let Some(has) = self.config.context_tokens.filter(|has| prompt_tokens >= *has) {
            return Err(Rejected::LongerThanItsContext { prompt_tokens, has });
        }
        // The last token of an answer never enters the cache.
        let longest = prompt_tokens + self.output_tokens(request) - 1;
        // Thrown out, it is computed anew as a prompt, with all of its answer so far.
        let needs = self.config.blocks_of_prompt(longest);
        if let Some(has) = self.config.kv_blocks.filter(|has| needs > *has) {
            return Err(Rejected::NeverFits { needs, has });
        }
        let whole = !self.config.chunked_prefill;
        // Where blocks can run out, a request may have to be computed anew with all of its answer so far.
        let can_return = self.config.kv_blocks.is_some();
        let needs = if can_return { longest } else { Sequence::new(*request, 0).left() };
        match self.config.max_batched_tokens.filter(|has| whole && needs > *has) {
            Some(has) => Err(Rejected::LongerThanAStep { needs, has }),
            None => Ok(()),
        }
    }

    /// When something happens next: a step ends, or one begins (which is when what has arrived by then is looked at). `None` where
    /// there is nothing to do.
    pub fn next_event_ns(&self) -> Option<i64> {
        if self.ends_ns.is_some() {
            return self.ends_ns;
        }
        if !self.running.is_empty() {
            return Some(self.now_ns);
        }
        self.waiting.front().map(|first| first.arrived_ns.max(self.now_ns))
    }

    /// The same in seconds.
    pub fn next_event_s(&self) -> Option<f64> {
        self.next_event_ns().map(crate::units::ns_to_s)
    }

    /// Goes on to the next event and appends what happened to requests; does nothing where there is nothing to do.
    ///
    /// # Errors
    /// Step times that are no times.
    pub fn advance(&mut self, events: &mut Vec<Event>) -> Result<(), StepError> {
        let Some(at_ns) = self.next_event_ns() else { return Ok(()) };
        self.now_ns = at_ns;
        if self.ends_ns.take().is_some() {
            self.end(events);
            return Ok(());
        }
        self.plan(events);
        if self.running.iter().all(|sequence| sequence.share == 0) {
            let (running, waiting) = (self.running.len(), self.waiting.len());
            return Err(StepError::Stuck { running, waiting });
        }
        let duration_s = self.duration_s();
        if !(duration_s.is_finite() && duration_s > 0.0) {
            return Err(StepError::Duration(duration_s));
        }
        self.kv_tokens_most = self.kv_tokens_most.max(self.kv_tokens_of_step());
        self.ends_ns = Some(at_ns + s_to_ns(duration_s).max(1));
        Ok(())
    }

    /// Tokens in the cache when the step that was planned has run, before any answer makes room.
    fn kv_tokens_of_step(&self) -> u64 {
        self.running.iter().map(|s| s.held(&self.config, s.cached() + s.share)).sum()
    }

    /// What lies behind the step: tokens are there, and answers end.
    fn end(&mut self, events: &mut Vec<Event>) {
        self.n_steps += 1;
        let (now_ns, blocks_used) = (self.now_ns, &mut self.blocks_used);
        let (tells_tokens, config) = (self.tells_tokens, self.config);
        self.running.retain_mut(|sequence| {
            let share = std::mem::take(&mut sequence.share);
            if share == 0 {
                return true;
            }
            let mut tell =
                |what| events.push(Event { at_ns: now_ns, id: sequence.request.id, what });
            let was_prompt = !sequence.decodes();
            sequence.computed += if was_prompt { share } else { 0 };
            if !sequence.decodes() {
                return true;
            }
            if was_prompt {
                let kept = config.blocks_of(sequence.target);
                *blocks_used -= sequence.blocks - kept;
                sequence.blocks = kept;
            }
            sequence.generated += 1;
            match sequence.generated {
                1 => tell(Happening::FirstToken),
                _ if tells_tokens => tell(Happening::Token),
                _ => {}
            }
            let more = sequence.generated < sequence.request.output_tokens;
            if !more {
                tell(Happening::Finished);
                *blocks_used -= sequence.blocks;
            }
            more
        });
    }

    /// The last moment that was looked at; `None` before the first.
    pub fn now_ns(&self) -> Option<i64> {
        (self.now_ns != i64::MIN).then_some(self.now_ns)
    }

    /// Most tokens that lay in the cache at a time so far, as far as the method keeps them.
    pub fn kv_tokens_most(&self) -> u64 {
        self.kv_tokens_most
    }

    /// What a router may see.
    pub fn state(&self) -> EngineState {
        let all = || self.running.iter().chain(&self.waiting);
        EngineState {
            running: self.running.len(),
            waiting: self.waiting.len(),
            prompt_tokens_left: all().map(Sequence::left).sum(),
            kv_tokens: self.running.iter().map(|s| s.held(&self.config, s.cached())).sum(),
            kv_blocks_used: self.blocks_used,
            n_steps: self.n_steps,
            n_preempted: self.n_preempted,
        }
    }

    /// Requests inside, running ones first, each in the order of arrival.
    pub fn requests(&self) -> impl Iterator<Item = RequestState> + '_ {
        let state = |is_running: bool| {
            move |s: &Sequence| RequestState {
                id: s.request.id,
                is_running,
                prompt_tokens: s.request.prompt_tokens,
                generated_tokens: s.generated,
            }
        };
        self.running.iter().map(state(true)).chain(self.waiting.iter().map(state(false)))
    }
}
