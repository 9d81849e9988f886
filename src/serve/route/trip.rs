//! One request on its way: the decision, the attempts, and the row that says what became of it.

use std::sync::{Arc, atomic::Ordering};

use super::{
    app::App,
    ask::Asked,
    breaker::Verdict,
    desk::Place,
    upstream::{Answer, Failure},
    watch::Watch,
};
use crate::{
    record::RouteRequestRow,
    route::{Ask, Decision, Reason, lengths::Prompt, task},
};

/// How a trip ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The whole answer went through.
    Done,
    /// The engine broke its answer off, and so does the proxy.
    BrokenOff(&'static str),
    /// No engine answered.
    Failed(String),
    /// The client went away.
    ClientGone,
}

impl End {
    fn name(&self) -> &'static str {
        match self {
            End::Done => "done",
            End::BrokenOff(_) => "broken_off",
            End::Failed(_) => "failed",
            End::ClientGone => "client_gone",
        }
    }

    fn err(&self) -> Option<String> {
        match self {
            End::Done => None,
            End::BrokenOff(why) => Some((*why).to_owned()),
            End::Failed(why) => Some(why.clone()),
            End::ClientGone => Some("the client went away".to_owned()),
        }
    }
}

/// A request that is being routed or answered. However it ends, dropped by a client that goes away too, it leaves one row.
pub(super) struct Trip {
    app: Arc<App>,
    row: RouteRequestRow,
    /// Expected tokens under each method.
    expected: Vec<f64>,
    prompt_tokens: u64,
    decision: Option<Decision>,
    place: Option<Place>,
    tried: Vec<usize>,
    /// What the answer tells.
    pub(super) watch: Watch,
    closed: bool,
}

impl Trip {
    /// A request that has come; `named` is the task that its client names.
    ///
    /// # Errors
    /// The length model has no number for it.
    pub(super) fn new(
        app: &Arc<App>,
        asked: &Asked,
        named: Option<&str>,
        arrived_ns: i64,
    ) -> anyhow::Result<Self> {
        let knowledge = app.desk.knowledge();
        let signals = task::Signals { endpoint: None, header: named, prompt: Some(&asked.text) };
        let task = task::classify(&signals).map(|task| task.name);
        let prompt =
            Prompt { text: &asked.text, task: task.as_deref(), max_tokens: asked.max_tokens };
        let mut expected = Vec::new();
        knowledge.lengths.fill(&prompt, knowledge.pool.methods.len(), &mut expected)?;
        let id = app.next_id.fetch_add(1, Ordering::Relaxed);
        let row = RouteRequestRow {
            pool: app.proxy.name.clone(),
            trace: "live".to_owned(),
            load: "live".to_owned(),
            skill: String::new(),
            policy: app.proxy.policy.name.clone(),
            request_id: i64::try_from(id).unwrap_or(i64::MAX),
            arrived_ns,
            prompt_tokens: i64::try_from(asked.prompt_tokens).ok(),
            task,
            ..RouteRequestRow::default()
        };
        Ok(Self {
            app: app.clone(),
            row,
            expected,
            prompt_tokens: asked.prompt_tokens,
            decision: None,
            place: None,
            tried: Vec::new(),
            watch: Watch::default(),
            closed: false,
        })
    }

    /// Chooses an engine that was not tried. Where there is none left, one that was tried may be asked again, if it is up: what met a
    /// connection that was just closing may succeed on a new one. `None` where nobody can be asked.
    pub(super) fn next(&mut self) -> Option<usize> {
        if self.row.attempt >= i64::from(self.app.proxy.limits.attempts) {
            return None;
        }
        let place = self.decide().or_else(|| {
            if self.tried.is_empty() {
                return None;
            }
            self.tried.clear();
            self.decide()
        })?;
        Some(self.at(place))
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            id: self.row.request_id.unsigned_abs(),
            now_ns: self.app.clock.now_ns(),
            prompt_tokens: self.prompt_tokens,
            output_tokens: &self.expected,
            task: self.row.task.as_deref(),
            breaks: None,
        }
    }

    fn decide(&mut self) -> Option<Place> {
        let (decision, place) = self.app.desk.place(&self.ask(), &self.tried);
        // A decision that found nobody does not hide the one that was acted on.
        if place.is_some() || self.decision.is_none() {
            self.decision = Some(decision);
        }
        place
    }

    /// Waits until the engine at hand was given up and another takes the request, which is written down there already: whoever gets
    /// this hands it to [`Self::moved`] at once.
    pub(super) async fn given_up(&self) -> (Decision, Place) {
        let may_move = self.row.attempt < i64::from(self.app.proxy.limits.attempts);
        let (Some(place), true) = (&self.place, may_move) else {
            return std::future::pending().await;
        };
        // Asked for before the first look: a change between the two is seen by one of them.
        let mut changes = self.app.desk.changes();
        loop {
            if let Some(moved) = self.app.desk.move_on(&self.ask(), place, &self.tried) {
                return moved;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The request has left its engine for another; which.
    pub(super) fn moved(&mut self, (decision, place): (Decision, Place)) -> usize {
        self.failed(Failure::Left);
        self.decision = Some(decision);
        self.at(place)
    }

    fn at(&mut self, place: Place) -> usize {
        self.row.attempt += 1;
        let engine = place.engine;
        self.place = Some(place);
        engine
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, failure: Failure) {
        let Some(place) = self.place.take() else { return };
        let verdict = if failure == Failure::Left { Verdict::Unknown } else { Verdict::Bad };
        self.app.desk.leave(&place, verdict, self.app.clock.now_ns());
        self.app.counts.failed(&self.app.engines[place.engine].name, failure.name());
        self.tried.push(place.engine);
    }

    /// An engine has begun to answer. A 5xx is an answer, and a failure of the engine all the same.
    pub(super) fn begun(&mut self, answer: &Answer) {
        self.row.http_status = Some(i64::from(answer.status));
        self.watch = Watch::new(answer.is_stream);
        if let Some(place) = &self.place {
            self.app.desk.answered(place, answer.status < 500, self.app.clock.now_ns());
        }
    }

    /// Bytes of the answer pass.
    pub(super) fn see(&mut self, bytes: &[u8]) {
        let n = self.watch.see(bytes);
        if n == 0 {
            return;
        }
        self.row.first_token_ns.get_or_insert_with(|| self.app.clock.now_ns());
        if let Some(place) = &self.place {
            place.flight.came(n);
        }
    }

    /// What the client is told of the decision.
    pub(super) fn header(&self) -> String {
        let Some(decision) = &self.decision else { return String::new() };
        let mut text = match decision.engine {
            Some(at) => format!(
                "engine={}; method={}; reason={}; attempt={}",
                self.app.engines[at].name,
                self.method(at),
                decision.reason.name(),
                self.row.attempt
            ),
            None => format!("reason={}", decision.reason.name()),
        };
        if let Some(seconds) = decision.predicted.e2e_s {
            text += &format!("; predicted_e2e_s={seconds:.4}");
        }
        text
    }

    fn method(&self, engine: usize) -> &str {
        let proxy = &self.app.proxy;
        &proxy.methods[proxy.engines[engine].method]
    }

    /// Status of a client's answer where no engine gave one.
    pub(super) fn status(&mut self, status: u16) {
        self.row.http_status = Some(i64::from(status));
    }

    /// Ends it.
    pub(super) fn close(&mut self, end: &End) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let now_ns = self.app.clock.now_ns();
        if *end == End::Done {
            self.watch.end();
            self.row.finished_ns = Some(now_ns);
        } else {
            self.row.gone_ns = Some(now_ns);
        }
        if let Some(place) = self.place.take() {
            let is_error = self.row.http_status.is_some_and(|status| status >= 500);
            let verdict = match end {
                End::BrokenOff(_) => Verdict::Bad,
                _ if is_error => Verdict::Bad,
                End::Done => Verdict::Good,
                _ => Verdict::Unknown,
            };
            self.app.desk.leave(&place, verdict, now_ns);
        }
        self.fill();
        self.row.err = end.err();
        let (engine, reason) = (self.row.engine.as_deref().unwrap_or(""), self.row.reason.as_str());
        self.app.counts.decided(engine, reason, end.name());
        self.app.log.request(std::mem::take(&mut self.row));
    }

    /// What decision and answer say, into the row.
    fn fill(&mut self) {
        let reason = self.decision.as_ref().map_or(Reason::NoneSafe, |decision| decision.reason);
        reason.name().clone_into(&mut self.row.reason);
        if let Some(decision) = &self.decision {
            let predicted = decision.predicted;
            self.row.n_candidates = i64::try_from(decision.n_candidates).unwrap_or(i64::MAX);
            self.row.engine = decision.engine.map(|at| self.app.engines[at].name.clone());
            self.row.method = decision.engine.map(|at| self.method(at).to_owned());
            let expected =
                decision.engine.and_then(|at| self.expected.get(self.app.proxy.engines[at].method));
            self.row.predicted_output_tokens = predicted.output_tokens.or(expected.copied());
            self.row.predicted_ttft_s = predicted.ttft_s;
            self.row.predicted_e2e_s = predicted.e2e_s;
            self.row.predicted_delay_s = predicted.delay_s;
            self.row.harm_upper = predicted.harm_upper;
        }
        self.row.prompt_tokens = self.watch.prompt_tokens.or(self.row.prompt_tokens);
        let chunks = i64::try_from(self.watch.n_chunks).ok().filter(|n| *n > 0);
        self.row.output_tokens = self.watch.output_tokens.or(chunks);
        if self.row.output_tokens.is_some() {
            self.app.counts.counted(if self.watch.output_tokens.is_some() {
                "usage"
            } else {
                "chunks"
            });
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.close(&End::ClientGone);
    }
}
