//! The raw facts of a run, one struct a table. Field order is column order. All `*_ns` lie on one monotonic clock
//! whose wall-clock origin is in the manifest. `None` means unknown; nothing is derived and nothing is rounded.

/// One request to an engine, finished or not. Table `requests.parquet`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// Cell the row belongs to.
    pub cell_id: String,
    /// Name of the target in the scenario.
    pub target: String,
    /// Name of the method in the scenario.
    pub method: String,
    /// Name of the workload in the scenario.
    pub workload: String,
    /// Load with its parameter, such as `closed-8`.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: i64,
    /// Position in the workload, from 0: the same prompt has the same number under every method.
    pub request_id: i64,
    /// Id of the data set's row.
    pub sample_id: String,
    /// Turn of the conversation, from 0.
    pub turn: i64,
    /// Whether it was sent before measuring began: such a row is shown and never counted.
    pub warmup: bool,
    /// When it was due; closed loops: when its slot came free.
    pub due_ns: i64,
    /// When the request was first handed to the HTTP client, before any connect; `None` if it never was.
    pub sent_ns: Option<i64>,
    /// How long its connection took to open (name, TCP, TLS), which is part of TTFT; `None` if one was at hand.
    pub connect_ns: Option<i64>,
    /// Arrival of the first chunk that carried output.
    pub first_token_ns: Option<i64>,
    /// Arrival of the last chunk that carried output.
    pub last_token_ns: Option<i64>,
    /// End of the stream.
    pub done_ns: Option<i64>,
    /// Arrival of each chunk that carried output; a chunk is not a token.
    pub chunk_ns: Vec<i64>,
    /// Tokens in each chunk of `chunk_ns` where the server told (continuous usage or token ids), else empty.
    pub chunk_tokens: Vec<i64>,
    /// Prompt tokens as the server counted.
    pub prompt_tokens: Option<i64>,
    /// Prompt tokens as the workload's `tokenizer` counts what was sent; `None` without one, and where the server applies a
    /// chat template that the workload does not name.
    pub prompt_tokens_local: Option<i64>,
    /// Output tokens, counted by `token_source`.
    pub output_tokens: Option<i64>,
    /// `usage` or `token_ids`; `None` when the server did not count: chunks are never passed off as tokens.
    pub token_source: Option<String>,
    /// Prompt tokens served from the engine's prefix cache, where it tells.
    pub cached_tokens: Option<i64>,
    /// `max_tokens` of the request.
    pub max_tokens: i64,
    /// As the server said: `stop`, `length`, ...
    pub finish_reason: Option<String>,
    /// HTTP status of the last attempt.
    pub http_status: Option<i64>,
    /// What went wrong, `None` when nothing did.
    pub err: Option<String>,
    /// Attempts made; 0 if it was never sent.
    pub attempt: i64,
    /// The answer.
    pub output_text: String,
    /// sha256 of the prompt as sent, hex.
    pub prompt_sha256: String,
    /// Of a continued answer of another run: the share of it that was given, 0 to 1, the end of a word near by; else `None`.
    pub forced_at: Option<f64>,
    /// Log-probability of the stop token after the prompt, nats, as the server told; `None` if it did not list that token or was
    /// not asked.
    pub stop_logprob: Option<f64>,
    /// Lowest log-probability that the server listed there: a token that it did not list has at most this.
    pub logprob_floor: Option<f64>,
}

impl RequestRow {
    /// Whether it reached the HTTP client: a cell of rows that did not was never measured.
    pub fn was_sent(&self) -> bool {
        self.sent_ns.is_some() || self.attempt > 0
    }
}

/// One timed launch of a kernel, or one row with `err` where it could not be timed. Table `kernels.parquet`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KernelRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// Cell the row belongs to. Read-bandwidth probes carry the id of their block with the method `probe`.
    pub cell_id: String,
    /// Name of the target in the scenario.
    pub target: String,
    /// Name of the method in the scenario.
    pub method: String,
    /// Name of the workload in the scenario.
    pub workload: String,
    /// Load, `launch` for a grid of shapes.
    pub load: String,
    /// Repeat, from 0.
    pub repeat: i64,
    /// Device as the machine names it.
    pub device: String,
    /// Implementation: `cpu-avx512`, `cpu-avx2`, `cpu-portable`, `cuda-sm_90a`.
    pub backend: String,
    /// `prefill`, `decode`, `compress` or `read`.
    pub op: String,
    /// Name of the model shape; one attention layer of it is measured.
    pub model_shape: String,
    /// Sequences.
    pub batch: i64,
    /// Query tokens per sequence (decode 1); the longest of a ragged batch.
    pub q_len: i64,
    /// Cached tokens per sequence before compression; the longest of a ragged batch.
    pub kv_len: i64,
    /// Cached tokens of all sequences together.
    pub kv_tokens: i64,
    /// Query heads, of one rank.
    pub heads_q: i64,
    /// KV heads, of one rank.
    pub heads_kv: i64,
    /// Head dimension.
    pub head_dim: i64,
    /// Ranks that share the layer's heads; one of them was measured.
    pub tensor_parallel: i64,
    /// Storage type of the cache, such as `f16`, `kivi4-g32`.
    pub dtype: String,
    /// Number of the sample within the cell, from 0; `None` on a row that only carries `err`.
    pub sample: Option<i64>,
    /// When the sample started.
    pub t_ns: Option<i64>,
    /// Wall time of one launch; `None` where there was none. Launches below 20 us (200 us by a device's
    /// events) are timed as a batch of up to 64, and
    /// this is the batch divided by its size.
    pub duration_ns: Option<i64>,
    /// CPU time of all worker threads during the launch: preemption by other guests does not count here.
    pub thread_cpu_ns: Option<i64>,
    /// Bytes one launch must move, counted from the stored cache.
    pub bytes_moved: Option<i64>,
    /// Multiplications and additions of one launch.
    pub flops: Option<i64>,
    /// Relative L2 error against f64 over the stored cache.
    pub max_rel_err: Option<f64>,
    /// Whether the kernel passed its check; a kernel that did not has no times.
    pub verified: bool,
    /// Launches in the window that `duration_ns` is the mean of; `None` where nothing was timed.
    pub launches: Option<i64>,
    /// Whose clock: `host`, or `device` (CUDA events around a replayed graph); empty where nothing was timed.
    pub timer: String,
    /// Lane instructions of one launch's main loop, counted in its machine code.
    pub lane_instructions: Option<i64>,
    /// Streaming multiprocessors of the device, where it has such.
    pub n_sm: Option<i64>,
    /// Highest SM clock of the device, as its driver states it.
    pub sm_clock_max_mhz: Option<f64>,
    /// SM clock right after the sample, where NVML tells.
    pub sm_clock_mhz: Option<f64>,
    /// Board power right after the sample, where NVML tells.
    pub power_w: Option<f64>,
    /// Samples of this cell thrown away before this one, because the GPU was throttled.
    pub n_discarded: i64,
    /// What went wrong, `None` when nothing did.
    pub err: Option<String>,
}

/// One sample of the machine. Table `telemetry.parquet`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TelemetryRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// When it was read.
    pub t_ns: i64,
    /// Device as the driver names it, or `host`.
    pub device: String,
    /// Board power.
    pub power_w: Option<f64>,
    /// Energy since the driver was loaded.
    pub energy_j: Option<f64>,
    /// SM utilisation.
    pub sm_util_pct: Option<f64>,
    /// Memory-controller utilisation.
    pub mem_util_pct: Option<f64>,
    /// Memory in use on the device, or on the host.
    pub mem_used_bytes: Option<i64>,
    /// SM clock.
    pub sm_clock_mhz: Option<f64>,
    /// Temperature.
    pub temp_c: Option<f64>,
    /// Reasons for throttling, joined by `|`; empty when none, `None` when unknown.
    pub throttle: Option<String>,
    /// CPU utilisation of the host over the last interval, all cores = 100.
    pub host_cpu_pct: Option<f64>,
    /// `nvml` or `sysinfo`.
    pub source: String,
}

/// One value of one metric as a server told it. Table `engine_metrics.parquet`.
///
/// A metric that the server does not tell has one row a cell with `source` = [`EngineMetricRow::ABSENT`], one of which
/// nothing is known because no reading succeeded has [`EngineMetricRow::UNREAD`]: neither is 0. A reading that failed is a
/// row called [`EngineMetricRow::SCRAPE`] with `source` = [`EngineMetricRow::FAILED`] and the reason as the label `err`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EngineMetricRow {
    /// Run the row belongs to.
    pub run_id: String,
    /// Cell the row belongs to.
    pub cell_id: String,
    /// When the answer had arrived.
    pub t_ns: i64,
    /// Our name of the metric, such as `kv_usage`.
    pub name: String,
    /// Labels as the server gave them: a JSON object of texts with sorted keys.
    pub labels: String,
    /// The server's own name, with the filter and scale that made it ours.
    pub source: String,
    /// Value; `None` where the server said NaN or infinity, or nothing.
    pub value: Option<f64>,
    /// From asking until the answer had arrived; `None` on rows that no reading stands behind.
    pub scrape_ns: Option<i64>,
}

impl EngineMetricRow {
    /// `source` of a metric that no answer of the cell held.
    pub const ABSENT: &'static str = "absent";
    /// `source` of a metric of a cell without one good answer.
    pub const UNREAD: &'static str = "unread";
    /// `source` of a reading that failed.
    pub const FAILED: &'static str = "failed";
    /// `name` of a reading that failed.
    pub const SCRAPE: &'static str = "scrape";
}

/// Any row.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// To `requests.parquet`.
    Request(RequestRow),
    /// To `kernels.parquet`.
    Kernel(KernelRow),
    /// To `telemetry.parquet`.
    Telemetry(TelemetryRow),
    /// To `engine_metrics.parquet`.
    EngineMetric(EngineMetricRow),
}

/// Who receives rows while a run goes on.
pub trait Sink: Send {
    /// Takes one row. An error (disk full) ends the run; what was written before stays readable.
    fn row(&mut self, row: Row) -> anyhow::Result<()>;
    /// Declares cells finished, atomically and durably: `--resume` will not run them again.
    fn finished(&mut self, cell_ids: &[&str]) -> anyhow::Result<()>;
}
