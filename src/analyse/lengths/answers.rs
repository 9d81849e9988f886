//! Answers by prompt: who answered it, how long, and why the answer ended.

use polars::prelude::{DataFrame, GroupsIndicator, StringChunked};

use super::super::Point;

/// Columns that are read; nothing else of `requests.parquet` is needed.
pub const COLUMNS: [&str; 18] = [
    "target",
    "method",
    "workload",
    "load",
    "repeat",
    "request_id",
    "sample_id",
    "turn",
    "warmup",
    "sent_ns",
    "last_token_ns",
    "output_tokens",
    "max_tokens",
    "finish_reason",
    "err",
    "output_text",
    "prompt_sha256",
    "cell_id",
];

/// What makes two rows answers to one prompt.
const PROMPT: [&str; 5] = ["workload", "load", "sample_id", "turn", "prompt_sha256"];

/// Why an answer has no length that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unusable {
    /// The request failed.
    Failed,
    /// The server did not count its tokens.
    Uncounted,
    /// The context was full before `max_tokens`, so its own length is unknown.
    ContextFull,
    /// The baseline did not answer the very same prompt in the same repeat: a later turn of a conversation holds other answers.
    OtherPrompt,
    /// The baseline's answer has no length.
    BaselineUnusable,
}

impl Unusable {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Uncounted => "tokens not counted by the server",
            Self::ContextFull => "context full before max_tokens",
            Self::OtherPrompt => "the baseline was not sent the same prompt",
            Self::BaselineUnusable => "no length of the baseline's answer",
        }
    }
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The model said it is done.
    Eos,
    /// At `max_tokens`.
    Cap,
    /// Otherwise, or the server did not say.
    Other,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    /// Index into [`Answers::points`].
    pub(super) point: usize,
    pub(super) repeat: i64,
    pub(super) request: i64,
    pub(super) tokens: Result<i64, Unusable>,
    pub(super) end: End,
    pub(super) e2e_ns: Option<i64>,
    pub(super) text: &'a str,
}

/// All answers of a run by prompt.
pub(super) struct Answers<'a> {
    /// Points in order of first sight.
    pub(super) points: Vec<Point>,
    /// One entry a prompt of a workload under a load; each at least one answer.
    pub(super) prompts: Vec<Vec<Answer<'a>>>,
}

impl<'a> Answers<'a> {
    /// # Errors
    /// A column is missing or of another type.
    pub(super) fn of(frame: &'a DataFrame) -> anyhow::Result<Self> {
        let columns = Columns::of(frame)?;
        let (points, point_of) = columns.points();
        let grouped = frame.group_by_stable(PROMPT)?;
        let answer = |row: usize| columns.answer(row, point_of[row]);
        let prompts = grouped.get_groups().iter().map(|group| match group {
            GroupsIndicator::Idx((_, rows)) => {
                rows.iter().map(|row| answer(*row as usize)).collect()
            }
            GroupsIndicator::Slice([first, n]) => {
                (first..first + n).map(|row| answer(row as usize)).collect()
            }
        });
        Ok(Self { points, prompts: prompts.collect() })
    }
}

struct Columns<'a> {
    point: [&'a StringChunked; 4],
    repeat: Vec<Option<i64>>,
    request: Vec<Option<i64>>,
    sent: Vec<Option<i64>>,
    last: Vec<Option<i64>>,
    tokens: Vec<Option<i64>>,
    cap: Vec<Option<i64>>,
    finish: Vec<Option<&'a str>>,
    failed: Vec<bool>,
    text: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(frame: &'a DataFrame) -> anyhow::Result<Self> {
        let text = |name: &str| anyhow::Ok(frame.column(name)?.str()?);
        let whole = |name: &str| anyhow::Ok(frame.column(name)?.i64()?.iter().collect());
        Ok(Self {
            point: [text("target")?, text("method")?, text("workload")?, text("load")?],
            repeat: whole("repeat")?,
            request: whole("request_id")?,
            sent: whole("sent_ns")?,
            last: whole("last_token_ns")?,
            tokens: whole("output_tokens")?,
            cap: whole("max_tokens")?,
            finish: text("finish_reason")?.iter().collect(),
            failed: text("err")?.iter().map(|err| err.is_some()).collect(),
            text: text("output_text")?.iter().collect(),
        })
    }

    /// Points, and each row's index into them. Rows of one cell stand together, so the last point is looked at first.
    fn points(&self) -> (Vec<Point>, Vec<usize>) {
        let mut points: Vec<Point> = Vec::new();
        let mut last = 0;
        let [targets, methods, workloads, loads] = self.point.map(|column| column.iter());
        let rows = targets.zip(methods).zip(workloads.zip(loads));
        let point_of = rows.map(|((target, method), (workload, load))| {
            let [target, method, workload, load] =
                [target, method, workload, load].map(Option::unwrap_or_default);
            let is = |point: &Point| {
                point.method == method
                    && point.load == load
                    && point.workload == workload
                    && point.target == target
            };
            if !points.get(last).is_some_and(is) {
                last = points.iter().position(is).unwrap_or_else(|| {
                    let [target, method, workload, load] =
                        [target, method, workload, load].map(str::to_owned);
                    points.push(Point { target, workload, load, method });
                    points.len() - 1
                });
            }
            last
        });
        let point_of = point_of.collect();
        (points, point_of)
    }

    fn answer(&self, row: usize, point: usize) -> Answer<'a> {
        let end = match self.finish[row] {
            Some("stop") => End::Eos,
            Some("length") => End::Cap,
            _ => End::Other,
        };
        Answer {
            point,
            repeat: self.repeat[row].unwrap_or_default(),
            request: self.request[row].unwrap_or_default(),
            tokens: self.tokens(row, end),
            end,
            e2e_ns: self.sent[row].zip(self.last[row]).map(|(sent, last)| last - sent),
            text: self.text[row].unwrap_or_default(),
        }
    }

    fn tokens(&self, row: usize, end: End) -> Result<i64, Unusable> {
        if self.failed[row] {
            return Err(Unusable::Failed);
        }
        let tokens = self.tokens[row].ok_or(Unusable::Uncounted)?;
        let full = end == End::Cap && self.cap[row].is_some_and(|cap| tokens < cap);
        if full { Err(Unusable::ContextFull) } else { Ok(tokens) }
    }
}
