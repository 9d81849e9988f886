//! What a run has told so far, as the live view shows it. Plain state: every time comes in as an argument, on the run's clock.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::{
    plan::{self, Cell, Task},
    record::{Row, TelemetryRow},
    scenario::{MetricName, Timing},
    units::{harmless, ns_to_s},
};

/// How far back rates look.
const WINDOW_S: i64 = 10;
const SECOND_NS: i64 = 1_000_000_000;

/// One thing that the run told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// A block began: its label.
    Block(String),
    /// Its cells: their ids, and whether they are launches of our own kernels.
    Cells { ids: Vec<String>, kernels: bool },
    /// So many of so many units of the block.
    Progress { done: u64, total: u64 },
    /// What is being waited for.
    Status(String),
    /// A measured request has ended; `tokens` is unknown where the server did not count.
    Request { cell: String, tokens: Option<i64>, failed: bool },
    /// A window of launches was timed, or a kernel could not be.
    Launches { cell: String, n: i64, failed: bool },
    /// A level that the engine told.
    Level { name: MetricName, labels: String, value: f64, t_ns: i64 },
    /// Cells are finished.
    Finished(Vec<String>),
    /// The block ended.
    BlockEnded,
    /// Something the user should know.
    Notice(String),
}

impl Told {
    /// What the view makes of a row; `None` for rows it does not show, such as warm-up requests.
    pub(super) fn of(row: &Row) -> Option<Self> {
        match row {
            Row::Request(row) if row.warmup => None,
            Row::Request(row) => Some(Told::Request {
                cell: row.cell_id.clone(),
                tokens: row.output_tokens,
                failed: row.err.is_some(),
            }),
            Row::Kernel(row) => Some(Told::Launches {
                cell: row.cell_id.clone(),
                n: row.launches.unwrap_or(0),
                failed: row.err.is_some(),
            }),
            Row::EngineMetric(row) => Some(Told::Level {
                name: MetricName::named(&row.name).filter(|name| LEVELS.contains(name))?,
                labels: row.labels.clone(),
                value: row.value?,
                t_ns: row.t_ns,
            }),
            Row::Telemetry(_) => None,
        }
    }
}

/// The levels that are shown.
const LEVELS: [MetricName; 5] = [
    MetricName::KvUsage,
    MetricName::KvUsedTokens,
    MetricName::KvCapacityTokens,
    MetricName::Running,
    MetricName::Waiting,
];

/// How a cell is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Running,
    Done,
}

/// One cell.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) id: String,
    pub(super) state: State,
    /// Samples or requests that succeeded.
    pub(super) n_good: u64,
    pub(super) n_failed: u64,
}

/// The last value of a level, with its labels told apart.
type Levels = BTreeMap<(MetricName, String), (f64, i64)>;

/// The state.
#[derive(Debug)]
pub(super) struct Board {
    /// Name of the scenario.
    pub(super) title: String,
    /// Folder of the run.
    pub(super) folder: String,
    pub(super) lines: Vec<Line>,
    index: HashMap<String, usize>,
    /// Label of the running block.
    pub(super) label: String,
    /// What is being waited for, until progress is told.
    pub(super) status: Option<String>,
    /// Units done and to do in the block.
    pub(super) progress: Option<(u64, u64)>,
    /// Whether the running block times our own kernels; `None` before the first block.
    pub(super) kernels: Option<bool>,
    /// Newest first.
    pub(super) notices: Vec<String>,
    /// Newest reading of the machine.
    pub(super) machine: Vec<TelemetryRow>,
    /// Whether the run was asked to stop.
    pub(super) stopping: bool,
    levels: Levels,
    rates: Rates,
    pace: Pace,
}

impl Board {
    /// A run of `cells`, of which those that `finished` names are done already, begun at `began_ns`.
    pub(super) fn new(
        (title, folder): (&str, &str),
        cells: &[Cell],
        finished: &HashSet<String>,
        timing: &Timing,
        began_ns: i64,
    ) -> Self {
        let state = |id: &str| if finished.contains(id) { State::Done } else { State::Waiting };
        let line = |cell: &Cell| Line {
            id: cell.id.clone(),
            state: state(&cell.id),
            n_good: 0,
            n_failed: 0,
        };
        let open: Vec<&Cell> = cells.iter().filter(|cell| !finished.contains(&cell.id)).collect();
        let estimates = open.chunk_by(|a, b| a.block == b.block);
        Self {
            title: harmless(title),
            folder: harmless(folder),
            lines: cells.iter().map(line).collect(),
            index: cells.iter().enumerate().map(|(at, cell)| (cell.id.clone(), at)).collect(),
            label: String::new(),
            status: None,
            progress: None,
            kernels: None,
            notices: Vec::new(),
            machine: Vec::new(),
            stopping: false,
            levels: Levels::new(),
            rates: Rates::new(began_ns),
            pace: Pace::new(
                estimates.map(|block| plan::block_seconds(block, timing)).collect(),
                began_ns,
            ),
        }
    }

    /// Takes in what was told at `now_ns`.
    pub(super) fn hear(&mut self, told: Told, now_ns: i64) {
        match told {
            Told::Block(label) => self.begin(&label, now_ns),
            Told::Cells { ids, kernels } => {
                self.kernels = Some(kernels);
                ids.iter().for_each(|id| self.set(id, State::Running));
            }
            Told::Progress { done, total } => {
                (self.progress, self.status) = (Some((done, total)), None);
            }
            Told::Status(text) => self.status = Some(harmless(&text)),
            Told::Request { cell, tokens, failed } => {
                self.count(&cell, failed);
                self.rates.request(now_ns, tokens, failed);
            }
            Told::Launches { cell, n, failed } => {
                self.count(&cell, failed);
                self.rates.launches(now_ns, n);
            }
            Told::Level { name, labels, value, t_ns } => {
                self.levels.insert((name, labels), (value, t_ns));
            }
            Told::Finished(ids) => ids.iter().for_each(|id| self.set(id, State::Done)),
            Told::BlockEnded => self.pace.block_ended(now_ns),
            Told::Notice(text) => self.notices.insert(0, harmless(&text)),
        }
    }

    /// What the last engine told and what the last cell reached is not about this block.
    fn begin(&mut self, label: &str, now_ns: i64) {
        self.label = harmless(label);
        (self.status, self.progress) = (None, None);
        self.levels.clear();
        self.rates = Rates::new(now_ns);
    }

    fn set(&mut self, id: &str, state: State) {
        if let Some(&at) = self.index.get(id) {
            self.lines[at].state = state;
        }
    }

    /// Probes of the bandwidth belong to no cell and are not counted.
    fn count(&mut self, id: &str, failed: bool) {
        if let Some(&at) = self.index.get(id) {
            let line = &mut self.lines[at];
            *(if failed { &mut line.n_failed } else { &mut line.n_good }) += 1;
        }
    }

    /// Cells that are done, and cells with an error.
    pub(super) fn n_done_failed(&self) -> (usize, usize) {
        let n = |what: &dyn Fn(&Line) -> bool| self.lines.iter().filter(|l| what(l)).count();
        (n(&|line| line.state == State::Done), n(&|line| line.n_failed > 0))
    }

    /// Rates of the running block now.
    pub(super) fn rates(&self, now_ns: i64) -> Option<Rate> {
        self.rates.now(now_ns)
    }

    /// Lowest and highest of the last values of a level (an engine may tell one for each of its parts), and when the oldest of
    /// them was told; `None` where the engine told none in this block.
    pub(super) fn level(&self, name: MetricName) -> Option<Level> {
        let mut level: Option<Level> = None;
        for ((_, _), &(value, t_ns)) in self.levels.iter().filter(|((key, _), _)| *key == name) {
            level = Some(level.map_or(Level { low: value, high: value, t_ns }, |level| Level {
                low: level.low.min(value),
                high: level.high.max(value),
                t_ns: level.t_ns.min(t_ns),
            }));
        }
        level
    }

    /// Nanoseconds since measuring began.
    pub(super) fn elapsed_ns(&self, now_ns: i64) -> i64 {
        now_ns - self.pace.began_ns
    }

    /// Seconds that the rest may take.
    pub(super) fn left_s(&self, now_ns: i64) -> Option<Left> {
        self.pace.left_s(now_ns)
    }
}

/// Whether the cells of a block are launches of our own kernels.
pub(super) fn are_kernels(cells: &[&Cell]) -> bool {
    cells.iter().any(|cell| !matches!(cell.task, Task::Serve { .. }))
}

/// The last values of one level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) t_ns: i64,
}

/// What was done in one second.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    second: i64,
    requests: u64,
    tokens: i64,
    /// Good answers whose tokens nobody counted.
    uncounted: u64,
    launches: i64,
}

/// Counts of the last seconds of a block.
#[derive(Debug)]
struct Rates {
    since_ns: i64,
    buckets: VecDeque<Bucket>,
}

/// Per second of wall time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    /// Requests that ended well.
    pub(super) requests: f64,
    /// Their output tokens; `None` where a server did not count those of every answer.
    pub(super) tokens: Option<f64>,
    /// Timed launches.
    pub(super) launches: f64,
}

impl Rates {
    fn new(since_ns: i64) -> Self {
        Self { since_ns, buckets: VecDeque::new() }
    }

    fn bucket(&mut self, now_ns: i64) -> &mut Bucket {
        let second = now_ns.div_euclid(SECOND_NS);
        while self.buckets.front().is_some_and(|first| first.second <= second - WINDOW_S) {
            self.buckets.pop_front();
        }
        if self.buckets.back().is_none_or(|last| last.second != second) {
            self.buckets.push_back(Bucket { second, ..Bucket::default() });
        }
        let last = self.buckets.len() - 1;
        &mut self.buckets[last]
    }

    fn request(&mut self, now_ns: i64, tokens: Option<i64>, failed: bool) {
        if failed {
            return;
        }
        let bucket = self.bucket(now_ns);
        bucket.requests += 1;
        bucket.tokens += tokens.unwrap_or(0);
        bucket.uncounted += u64::from(tokens.is_none());
    }

    fn launches(&mut self, now_ns: i64, n: i64) {
        self.bucket(now_ns).launches += n;
    }

    /// `None` in the first second: too short to divide by.
    fn now(&self, now_ns: i64) -> Option<Rate> {
        let first = now_ns.div_euclid(SECOND_NS) - (WINDOW_S - 1);
        let span_ns = now_ns - (first * SECOND_NS).max(self.since_ns);
        if span_ns < SECOND_NS {
            return None;
        }
        let (span_s, mut sum) = (ns_to_s(span_ns), Bucket::default());
        for bucket in self.buckets.iter().filter(|bucket| bucket.second >= first) {
            sum.requests += bucket.requests;
            sum.tokens += bucket.tokens;
            sum.uncounted += bucket.uncounted;
            sum.launches += bucket.launches;
        }
        Some(Rate {
            requests: sum.requests as f64 / span_s,
            tokens: (sum.uncounted == 0).then(|| sum.tokens as f64 / span_s),
            launches: sum.launches as f64 / span_s,
        })
    }
}

/// What an estimate of the remaining time rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Left {
    /// The plan alone: no block is finished yet.
    ByPlan(f64),
    /// What the finished blocks took.
    ByBlocks(f64),
}

/// How long blocks take.
#[derive(Debug)]
struct Pace {
    began_ns: i64,
    /// When the last finished block ended.
    last_ns: i64,
    n_done: usize,
    /// Seconds of each block by the plan, where it knows.
    planned_s: Vec<Option<f64>>,
}

impl Pace {
    fn new(planned_s: Vec<Option<f64>>, began_ns: i64) -> Self {
        Self { began_ns, last_ns: began_ns, n_done: 0, planned_s }
    }

    fn block_ended(&mut self, now_ns: i64) {
        self.n_done = (self.n_done + 1).min(self.planned_s.len());
        self.last_ns = now_ns;
    }

    /// `None` where nothing is known, or a block takes longer than all that was expected of it and the rest.
    fn left_s(&self, now_ns: i64) -> Option<Left> {
        let (done, rest) = self.planned_s.split_at(self.n_done);
        let inside_s = ns_to_s(now_ns - self.last_ns);
        let planned = |blocks: &[Option<f64>]| blocks.iter().copied().sum::<Option<f64>>();
        if done.is_empty() {
            let left = planned(rest)? - inside_s;
            return (left > 0.0).then_some(Left::ByPlan(left));
        }
        let took_s = ns_to_s(self.last_ns - self.began_ns);
        // The plan knows which blocks are long; where it knows nothing, each is as long as those before.
        let all = match (planned(done), planned(rest)) {
            (Some(before), Some(after)) if before > 0.0 => took_s / before * after,
            _ => took_s / done.len() as f64 * rest.len() as f64,
        };
        let left = all - inside_s;
        (left > 0.0 || rest.is_empty()).then_some(Left::ByBlocks(left.max(0.0)))
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
