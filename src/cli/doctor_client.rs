//! `kvbench doctor --client`: how well this machine's client sees a server whose timing is known.
//!
//! The server runs in a process of its own, stamps every chunk when it makes it, and shares CLOCK_MONOTONIC with us. The
//! error of a time to first token is the delay between that stamp and ours; the error of a gap is the difference between
//! our gap and the server's. The client is the one that measures real engines, rows and all.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    cli::ui::Ui,
    execute::{
        Backend, Context, Silent, StopFlag,
        clock::Clock,
        engine::{ClientHealth, EngineBackend, Verdict, files},
    },
    method::Method,
    plan::{Arrival, Cell, Task},
    record::{RequestRow, Row, Sink},
    report::{Column, Table, Value, render},
    scenario::{Endpoint, EngineTarget, LengthDist, NamedMethod, Workload},
    serve::known::{self, Mode, Timing},
    units::{NS_PER_MS, NS_PER_S},
    workload::{Due, Request},
};

mod idle;
mod rate;

const ITL_MS: u64 = 50;
const TTFT_MS: u64 = 50;

/// Streams start over this time, as they would not all start at once in an engine either.
const START_OVER_S: f64 = 1.0;

/// What to try.
#[derive(Debug, Clone, clap::Args)]
pub struct ClientArgs {
    /// Concurrent streams of 20 tokens per second; one row each.
    #[arg(long, value_delimiter = ',', default_value = "16,100,500,1000", requires = "client")]
    pub streams: Vec<usize>,
    /// Seconds that each stream lasts.
    #[arg(long, default_value_t = 5, requires = "client")]
    pub seconds: u32,
    /// How the server releases tokens; both if not given.
    #[arg(long, requires = "client")]
    pub mode: Option<Mode>,
    /// Instead: short requests at this rate (1/s), open loop, and how late each was sent.
    #[arg(long, requires = "client", conflicts_with_all = ["idle", "mode"])]
    pub rate: Option<u32>,
    /// With `--rate`: Poisson arrivals in place of equal gaps; `dispersion` is 1 if they were sent as such.
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Receiving threads, all used alike, in place of as many as the load needs.
    #[arg(long, requires = "client", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Instead: memory of this many streams that are open and silent.
    #[arg(long, requires = "client", conflicts_with = "mode")]
    pub idle: Option<usize>,
    /// Blocks the client's receiving threads on purpose, for this many milliseconds again and again: it must be INVALID then.
    #[arg(long, requires = "client", conflicts_with = "idle")]
    pub starve_ms: Option<u64>,
}

/// What the second process is told.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// How tokens are released.
    #[arg(long)]
    pub mode: Mode,
    /// Time to the first token, in milliseconds.
    #[arg(long)]
    pub ttft_ms: u64,
    /// Time between tokens, in milliseconds.
    #[arg(long)]
    pub itl_ms: u64,
    /// Port; serves until it is killed. Without it: a free one, until standard input closes.
    #[arg(long)]
    pub port: Option<u16>,
}

/// `kvbench serve-known` (hidden): prints its address and serves until its standard input closes.
pub fn serve_known(args: &ServeArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let timing = Timing {
        ttft: Duration::from_millis(args.ttft_ms),
        itl: Duration::from_millis(args.itl_ms),
        mode: args.mode,
    };
    let address = runtime.block_on(known::start_at(timing, args.port.unwrap_or(0)))?;
    ui.out(&format!("{address}\n"))?;
    if args.port.is_some() {
        runtime.block_on(std::future::pending::<()>());
    }
    // The parent never writes: the end of the pipe is the end of the parent, however it came.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Runs the check and prints one row for each mode and number of streams. Exit code 1 if the client was starved.
pub fn run(args: &ClientArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.seconds > 0, "--seconds: expected at least 1, got 0");
    anyhow::ensure!(!args.streams.contains(&0), "--streams: expected at least 1 each, got 0");
    // Before the server is started, which inherits the limit.
    let room = files::streams_max();
    if let Some(rate) = args.rate {
        return rate::run(rate, args, ui);
    }
    if let Some(streams) = args.idle {
        return idle::run(streams, room, args, ui);
    }
    let modes = args.mode.map_or(vec![Mode::Independent, Mode::Tick], |mode| vec![mode]);
    let mut table = empty_table();
    let mut starved = Vec::new();
    for mode in modes {
        let server = Server::start(mode, TTFT_MS, ITL_MS)?;
        for &streams in &args.streams {
            ui.note(&format!("{streams} streams, {} ...", name(mode)));
            let trial = try_one(&server, streams, args)?;
            if trial.health.verdict != Verdict::Valid || trial.n_failed > 0 {
                starved.push(trial.complaint(mode, streams));
            }
            table.rows.push(trial.cells(mode, streams));
        }
    }
    ui.out(&render(&table, ui.format, ui.color))?;
    starved.iter().for_each(|text| ui.note(text));
    Ok(ExitCode::from(u8::from(!starved.is_empty())))
}

/// The second process; killed when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(mode: Mode, ttft_ms: u64, itl_ms: u64) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("own program: cannot be found")?;
        let mut command = Command::new(program);
        command.arg("serve-known").args(["--mode", name(mode)]);
        command.args(["--ttft-ms", &ttft_ms.to_string(), "--itl-ms", &itl_ms.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let child = child.context("server of known timing: cannot be started")?;
        let mut server = Self { child, url: String::new() };
        let mut line = String::new();
        let stdout =
            server.child.stdout.take().context("server of known timing: no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        anyhow::ensure!(
            !line.is_empty(),
            "server of known timing: expected its address, got nothing"
        );
        server.url = format!("http://{}", line.trim());
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error says that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A verdict as tables show it.
fn word(verdict: Verdict) -> String {
    format!("{verdict:?}").to_uppercase()
}

/// The value of `--mode`.
fn name(mode: Mode) -> &'static str {
    match mode {
        Mode::Independent => "independent",
        Mode::Tick => "tick",
    }
}

#[derive(Default)]
struct Rows(Vec<RequestRow>);

impl Sink for Rows {
    fn row(&mut self, row: Row) -> anyhow::Result<()> {
        if let Row::Request(row) = row {
            self.0.push(row);
        }
        Ok(())
    }

    fn finished(&mut self, _cell_ids: &[&str]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What one number of streams gave.
#[derive(Debug)]
struct Trial {
    ttft_ms: Vec<f64>,
    itl_ms: Vec<f64>,
    n_failed: usize,
    err: Option<String>,
    health: ClientHealth,
}

fn try_one(server: &Server, streams: usize, args: &ClientArgs) -> anyhow::Result<Trial> {
    let max_tokens =
        u32::try_from(u64::from(args.seconds) * 1000 / ITL_MS).context("--seconds: too long")?;
    let rate = streams as f64 / START_OVER_S;
    let patience_s = f64::from(args.seconds) * 10.0 + 60.0;
    let cell = cell(&server.url, streams, rate, patience_s);
    let driven = drive(&cell, requests(streams, rate, max_tokens), args, StopFlag::default())?;
    Ok(judge(&driven.rows, driven.offset_ns, driven.health))
}

/// `n` requests at equal gaps.
fn requests(n: usize, rate: f64, max_tokens: u32) -> Vec<Request> {
    let request = |i: usize| Request {
        id: i as u64,
        sample_id: String::new(),
        turn: 0,
        due: Due::AtNs((i as f64 / rate * NS_PER_S) as u64),
        prompt: "known".to_owned(),
        prompt_tokens_est: 1,
        counted: None,
        answer_tokens_est: None,
        max_tokens,
        forced: None,
    };
    (0..n).map(request).collect()
}

/// What the client made of a cell.
struct Driven {
    rows: Vec<RequestRow>,
    health: ClientHealth,
    /// See [`offset_ns`].
    offset_ns: i64,
}

fn drive(
    cell: &Cell,
    requests: Vec<Request>,
    args: &ClientArgs,
    stop: StopFlag,
) -> anyhow::Result<Driven> {
    let build = move |_: &Workload, _: &Arrival, _| Ok(requests.clone());
    let mut backend = EngineBackend::new(0, None, Box::new(build))?;
    if let Some(n) = args.threads {
        backend = backend.receiving_on(usize::from(n))?;
    }
    backend.starve = args.starve_ms.map(Duration::from_millis);
    let clock = Clock::start();
    let offset_ns = offset_ns(&clock);
    let mut sink = Rows::default();
    let mut context = Context { run_id: "doctor", sink: &mut sink, observer: &Silent, stop, clock };
    backend.run(&[cell], &mut context)?;
    let first = sink.0.first().and_then(|row| row.err.clone()).unwrap_or_default();
    let health = backend
        .health()
        .first()
        .with_context(|| format!("client check: nothing was measured: {first}"))?;
    Ok(Driven { health: health.clone(), rows: sink.0, offset_ns })
}

/// CLOCK_MONOTONIC minus the run's clock. Both tick alike (std's `Instant` is CLOCK_MONOTONIC); of several pairs of
/// readings the closest is taken, so that a preemption between the two does not enter.
fn offset_ns(clock: &Clock) -> i64 {
    let pair = |_| {
        let before = clock.now_ns();
        let monotonic = known::monotonic_ns();
        let after = clock.now_ns();
        (after - before, monotonic - before - (after - before) / 2)
    };
    (0..32).map(pair).min().map_or(0, |(_, offset)| offset)
}

fn cell(url: &str, streams: usize, rate: f64, patience_s: f64) -> Cell {
    let target = EngineTarget {
        idle_timeout_s: patience_s,
        request_timeout_s: patience_s,
        warmup_requests: 0,
        drain_s: 0.0,
        ..EngineTarget::running(url, Endpoint::Completions, "fp16")
    };
    let one = LengthDist::Fixed(1);
    Cell {
        id: format!("doctor/{streams}"),
        block: 0,
        target: "known".to_owned(),
        method: NamedMethod::new("fp16", Method::Fp16),
        workload: "known".to_owned(),
        load: format!("constant-{streams}"),
        repeat: 0,
        task: Task::Serve {
            target: Box::new(target),
            variant: String::new(),
            workload: Workload::Synthetic {
                n_requests: streams,
                prompt_tokens: one,
                output_tokens: one,
                tokens: None,
            },
            arrival: Arrival::Constant { rate },
        },
    }
}

fn judge(rows: &[RequestRow], offset_ns: i64, health: ClientHealth) -> Trial {
    let mut trial =
        Trial { ttft_ms: Vec::new(), itl_ms: Vec::new(), n_failed: 0, err: None, health };
    for row in rows {
        let stamps: Vec<i64> =
            row.output_text.split_whitespace().filter_map(|text| text.parse().ok()).collect();
        if row.err.is_some() || stamps.len() != row.chunk_ns.len() || stamps.is_empty() {
            trial.n_failed += 1;
            trial.err = trial.err.or(row.err.clone());
            continue;
        }
        trial.ttft_ms.push((row.chunk_ns[0] + offset_ns - stamps[0]) as f64 / NS_PER_MS);
        let gaps = row.chunk_ns.windows(2).zip(stamps.windows(2));
        let errors = gaps.map(|(ours, theirs)| {
            ((ours[1] - ours[0]) - (theirs[1] - theirs[0])).abs() as f64 / NS_PER_MS
        });
        trial.itl_ms.extend(errors);
    }
    trial.ttft_ms.sort_by(f64::total_cmp);
    trial.itl_ms.sort_by(f64::total_cmp);
    trial
}

/// Nearest rank of sorted values.
fn quantile(sorted: &[f64], q: f64) -> Value {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(Value::Missing, |value| Value::Float(*value))
}

fn empty_table() -> Table {
    let columns = [
        ("mode", ""),
        ("streams", ""),
        ("failed", ""),
        ("ttft_error_p50", "ms"),
        ("ttft_error_p99", "ms"),
        ("itl_error_p50", "ms"),
        ("itl_error_p99", "ms"),
        ("cpu_per_event", "us"),
        ("lag_p50", "ms"),
        ("lag_p99", "ms"),
        ("lag_max", "ms"),
        ("events_per_read", ""),
        ("connect_p99", "ms"),
        ("busiest_thread", ""),
        ("verdict", ""),
    ];
    let columns = columns.iter().map(|(name, unit)| Column::new(name, unit)).collect();
    Table::new("Client against a server of known timing, 20 tokens per second and stream", columns)
}

impl Trial {
    fn cells(&self, mode: Mode, streams: usize) -> Vec<Value> {
        let known = |value: Option<f64>| value.map_or(Value::Missing, Value::Float);
        let lag = self.health.watchdog_lag;
        vec![
            Value::Text(name(mode).to_owned()),
            Value::Int(streams as i64),
            Value::Int(self.n_failed as i64),
            quantile(&self.ttft_ms, 0.5),
            quantile(&self.ttft_ms, 0.99),
            quantile(&self.itl_ms, 0.5),
            quantile(&self.itl_ms, 0.99),
            known(self.health.cpu_us_per_event),
            known(lag.map(|lag| lag.p50_ms)),
            known(lag.map(|lag| lag.p99_ms)),
            known(lag.map(|lag| lag.max_ms)),
            known(self.health.events_per_read),
            known(self.health.connect_time.map(|time| time.p99_ms)),
            Value::Float(self.health.thread_share_max),
            Value::Text(word(self.health.verdict)),
        ]
    }

    fn complaint(&self, mode: Mode, streams: usize) -> String {
        let mut reasons = self.health.reasons.clone();
        if self.n_failed > 0 {
            let err = self.err.as_deref().unwrap_or("answers without their stamps");
            reasons.push(format!("{} of {streams} streams failed: {err}", self.n_failed));
        }
        format!(
            "{streams} streams, {}: the client was starved or failed: {}",
            name(mode),
            reasons.join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> ClientHealth {
        ClientHealth {
            cell_id: "c".to_owned(),
            verdict: Verdict::Suspect,
            reasons: vec!["late".to_owned()],
            watchdog_lag: None,
            load_lag: None,
            schedule_lag: None,
            n_connects: 0,
            connect_time: None,
            ttft_p50_ms: None,
            n_events: 0,
            events_per_read: None,
            cpu_s: 0.0,
            cpu_us_per_event: None,
            cpu_share: 0.0,
            thread_share_max: 0.0,
            chunk_gap_mean_ms: None,
            n_over_cap: 0,
        }
    }

    fn row(text: &str, chunk_ns: &[i64]) -> RequestRow {
        RequestRow {
            output_text: text.to_owned(),
            chunk_ns: chunk_ns.to_vec(),
            ..RequestRow::default()
        }
    }

    #[test]
    fn errors_are_differences_of_stamps() {
        let ms = 1_000_000;
        let text = format!(" {} {} {}", 100 * ms, 150 * ms, 200 * ms);
        let rows = [row(&text, &[2 * ms, 55 * ms, 102 * ms]), row(" 1", &[1, 2])];
        let trial = judge(&rows, 99 * ms, health());
        assert_eq!(trial.ttft_ms, [1.0]);
        assert_eq!(trial.itl_ms, [3.0, 3.0]);
        assert_eq!(trial.n_failed, 1, "a row whose chunks and stamps differ in number is not used");
        assert_eq!(trial.cells(Mode::Tick, 2).len(), empty_table().columns.len());
        assert_eq!(trial.cells(Mode::Tick, 2)[7], Value::Missing, "unknown is not zero");
        assert!(trial.complaint(Mode::Tick, 2).contains("late; 1 of 2 streams failed"));
    }

    #[test]
    fn quantiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), Value::Float(99.0));
        assert_eq!(quantile(&values, 0.5), Value::Float(50.0));
        assert_eq!(quantile(&[], 0.5), Value::Missing);
    }

    #[test]
    fn the_two_clocks_agree() {
        let clock = Clock::start_at(5);
        let offset = offset_ns(&clock);
        let low = known::monotonic_ns();
        let now = clock.now_ns() + offset;
        // Half of the closest pair of readings is the only error there can be; a second is far beyond it.
        assert!((now - low).abs() < 1_000_000_000, "{}", now - low);
    }
}
