//! Row types of the router. Field order is column order. `None` means unknown.

use crate::record::parquet::table_row;

/// One request to a router, served or not. Table `route_requests`.
///
/// The first six columns say to which simulation it belongs; a live proxy has one of each. All `*_ns` lie on one clock: simulated
/// time, or the proxy's monotonic clock, whose origin is in the manifest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteRequestRow {
    /// Name of the pool.
    pub pool: String,
    /// Name of the trace.
    pub trace: String,
    /// Name of the load.
    pub load: String,
    /// Name of the predictors' skill; empty for a policy that asks no predictor, which is simulated once for all skills.
    pub skill: String,
    /// Name of the policy.
    pub policy: String,
    /// Number of the seed, from 0.
    pub seed: i64,
    /// Number of the request: in a simulation its place among the arrivals, the same under every policy.
    pub request_id: i64,
    /// When it came to the router.
    pub arrived_ns: i64,
    /// When its engine took it out of the queue for the first time; a proxy does not see it.
    pub admitted_ns: Option<i64>,
    /// When the first token was there.
    pub first_token_ns: Option<i64>,
    /// When the last token was there.
    pub finished_ns: Option<i64>,
    /// When one that got no last token was given up: its client went, its engine broke off, or nobody served it. A simulation knows it of
    /// those that an engine had taken.
    pub gone_ns: Option<i64>,
    /// Tokens of its prompt: true ones in a simulation, the engine's count of a live one, or the proxy's estimate where there is
    /// none.
    pub prompt_tokens: Option<i64>,
    /// Tokens of its answer.
    pub output_tokens: Option<i64>,
    /// Its task, where one is known.
    pub task: Option<String>,
    /// Name of the engine that served it, or was asked last; `None` where none was asked.
    pub engine: Option<String>,
    /// Name of that engine's method.
    pub method: Option<String>,
    /// Name of the reason of the decision.
    pub reason: String,
    /// Engines that the rule chose among.
    pub n_candidates: i64,
    /// Tokens of the answer that were expected.
    pub predicted_output_tokens: Option<f64>,
    /// Seconds to the first token that were expected.
    pub predicted_ttft_s: Option<f64>,
    /// Seconds to the last token that were expected.
    pub predicted_e2e_s: Option<f64>,
    /// Seconds of delay to others that were expected, summed.
    pub predicted_delay_s: Option<f64>,
    /// Upper confidence bound of the excess rate of negatives that the guard saw for the chosen method, of one.
    pub harm_upper: Option<f64>,
    /// Whether the method breaks this prompt beyond chance: the truth of a simulated world; `None` on a live row.
    pub breaks: Option<bool>,
    /// How often it lost its place in the cache; `None` where the engine does not tell.
    pub n_preempted: Option<i64>,
    /// HTTP status that the client got; `None` in a simulation.
    pub http_status: Option<i64>,
    /// Engines that were asked; 0 where none was.
    pub attempt: i64,
    /// What went wrong, `None` when nothing did.
    pub err: Option<String>,
}

table_row!(
    RouteRequestRow,
    "route_requests",
    pool,
    trace,
    load,
    skill,
    policy,
    seed,
    request_id,
    arrived_ns,
    admitted_ns,
    first_token_ns,
    finished_ns,
    gone_ns,
    prompt_tokens,
    output_tokens,
    task,
    engine,
    method,
    reason,
    n_candidates,
    predicted_output_tokens,
    predicted_ttft_s,
    predicted_e2e_s,
    predicted_delay_s,
    harm_upper,
    breaks,
    n_preempted,
    http_status,
    attempt,
    err,
);

/// What one engine did in one simulation, or in one of the stretches of time that a live run consists of: there the rows of an engine
/// follow each other without a gap. Table `route_engines`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteEngineRow {
    /// Name of the pool.
    pub pool: String,
    /// Name of the trace.
    pub trace: String,
    /// Name of the load.
    pub load: String,
    /// As [`RouteRequestRow::skill`].
    pub skill: String,
    /// Name of the policy.
    pub policy: String,
    /// Number of the seed, from 0.
    pub seed: i64,
    /// Name of the engine.
    pub engine: String,
    /// Name of its method.
    pub method: String,
    /// The first arrival at the router; of a live run where the stretch begins, which is 0 or the end of the one before.
    pub began_ns: i64,
    /// The last answer's end, of all engines; of a live run where the stretch ends.
    pub ended_ns: i64,
    /// Time in which a step ran; `None` where the engine does not tell.
    pub busy_ns: Option<i64>,
    /// Steps.
    pub n_steps: Option<i64>,
    /// Requests that it took; in a live run those that it began to answer in the stretch, whatever the status.
    pub n_requests: i64,
    /// Preemptions; `None` where the engine does not tell.
    pub n_preempted: Option<i64>,
    /// Most tokens that lay in its cache at a time, as far as the method keeps them; in a live run the most at the moments at which the
    /// engine was asked, `None` where it does not tell.
    pub kv_tokens_most: Option<i64>,
}

table_row!(
    RouteEngineRow,
    "route_engines",
    pool,
    trace,
    load,
    skill,
    policy,
    seed,
    engine,
    method,
    began_ns,
    ended_ns,
    busy_ns,
    n_steps,
    n_requests,
    n_preempted,
    kv_tokens_most,
);

/// What a simulated world was, whatever the policy. Table `route_worlds`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteWorldRow {
    /// Name of the pool.
    pub pool: String,
    /// Name of the trace.
    pub trace: String,
    /// Name of the load.
    pub load: String,
    /// Number of the seed, from 0.
    pub seed: i64,
    /// Requests.
    pub n_requests: i64,
    /// Arrivals a second, as they came; `None` of fewer than two moments.
    pub rate_per_s: Option<f64>,
    /// Requests a second that as many engines of the baseline keep up with at most (saturation throughput of one, times engines);
    /// `None` where they take none of these requests.
    pub capacity_per_s: Option<f64>,
    /// Lower bound of the mean seconds from arrival to last token, for any router.
    pub bound_e2e_mean_s: f64,
    /// Lower bound of the mean seconds to the first token, for any router.
    pub bound_ttft_mean_s: f64,
    /// Lower bound of the seconds of work an engine, each request by the method that takes least.
    pub bound_work_s: f64,
}

table_row!(
    RouteWorldRow,
    "route_worlds",
    pool,
    trace,
    load,
    seed,
    n_requests,
    rate_per_s,
    capacity_per_s,
    bound_e2e_mean_s,
    bound_ttft_mean_s,
    bound_work_s,
);
