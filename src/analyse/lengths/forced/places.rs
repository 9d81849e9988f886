//! What servers told of the stop token, by prompt and place.

use std::collections::{BTreeMap, BTreeSet};

use polars::prelude::DataFrame;

use crate::{analyse::Point, stats};

/// Log-probabilities below this are servers' stand-ins for minus infinity (vLLM: -9999; llama.cpp: the lowest f32), and mean no number.
const LOGPROB_MIN: f64 = -100.0;

/// What is known of ln p(stop) at a place, nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Seen {
    /// The server listed it.
    Listed(f64),
    /// It is not listed: the lowest that is.
    AtMost(f64),
    /// The request failed.
    Failed,
}

impl Seen {
    fn of(logprob: Option<f64>, floor: Option<f64>, failed: bool) -> Self {
        match (logprob, floor) {
            _ if failed => Self::Failed,
            (Some(logprob), _) if logprob >= LOGPROB_MIN => Self::Listed(logprob),
            (Some(_), _) => Self::AtMost(LOGPROB_MIN),
            (None, Some(floor)) => Self::AtMost(floor.max(LOGPROB_MIN)),
            (None, None) => Self::Failed,
        }
    }

    /// The most that ln p can be, and whether that is only a bound.
    pub(super) fn most(&self) -> Option<(f64, bool)> {
        match *self {
            Self::Listed(logprob) => Some((logprob, false)),
            Self::AtMost(floor) => Some((floor, true)),
            Self::Failed => None,
        }
    }
}

/// One place of one answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// Share of the answer before it.
    pub(super) at: f64,
    repeat: i64,
    /// By point.
    pub(super) seen: BTreeMap<usize, Seen>,
    /// Tokens of the text as the server counted, by point.
    tokens: BTreeMap<usize, i64>,
}

impl Place {
    /// Whether the whole answer stands before it.
    pub(super) fn is_end(&self) -> bool {
        self.at >= 1.0
    }
}

/// Places of one answer in one repeat, rising.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Prompt {
    pub(super) places: Vec<Place>,
}

/// Probabilities of stopping along an answer, added up as if every token ended a word, and how much of the sum is only a bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sum {
    pub(super) all: f64,
    pub(super) bounded: f64,
}

impl Prompt {
    pub(super) fn has(&self, point: usize) -> bool {
        self.places.iter().any(|place| place.seen.contains_key(&point))
    }

    /// The sum along the answer, mean over repeats; `None` unless one of them has all that is needed.
    pub(super) fn stops(&self, point: usize) -> Option<Sum> {
        let repeats: BTreeSet<i64> = self.places.iter().map(|place| place.repeat).collect();
        let one = |repeat: &i64| {
            let places: Vec<&Place> =
                self.places.iter().filter(|place| place.repeat == *repeat).collect();
            stops_along(&places, point)
        };
        let sums: Vec<Sum> = repeats.iter().filter_map(one).collect();
        let mean = |of: &dyn Fn(&Sum) -> f64| stats::mean(&sums.iter().map(of).collect::<Vec<_>>());
        Some(Sum { all: mean(&|sum| sum.all)?, bounded: mean(&|sum| sum.bounded)? })
    }
}

/// The mean probability at the places before the end times the tokens of the answer, and the probability at the end. As places are ends
/// of words and tokens need not be, this is more than the stops that are expected; only ratios of it mean something. `None` unless
/// every place was answered, and there are two before the end, which tell how many tokens lie between places.
fn stops_along(places: &[&Place], point: usize) -> Option<Sum> {
    let (end, before) = places.split_last().filter(|(end, _)| end.is_end())?;
    let first = before.first().filter(|_| before.len() >= 2)?;
    let tokens = |place: &Place| place.tokens.get(&point).map(|n| *n as f64);
    let between = tokens(end)? - tokens(first)?;
    // As many tokens a share before the first place as after it.
    let all_tokens = between / (end.at - first.at);
    let weight = all_tokens / before.len() as f64;
    let mut sum = Sum { all: 0.0, bounded: 0.0 };
    let weighted = before.iter().map(|place| (*place, weight)).chain([(*end, 1.0)]);
    for (place, weight) in weighted {
        let (logprob, bounded) = place.seen.get(&point)?.most()?;
        let stops = weight * logprob.exp();
        sum.all += stops;
        sum.bounded += if bounded { stops } else { 0.0 };
    }
    Some(sum)
}

/// Everything that a run tells of forced answers.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Places {
    /// Points in order of first sight.
    pub(super) points: Vec<Point>,
    /// Prompts of every workload and load. A prompt that was asked about in several repeats is one.
    pub(super) prompts: Vec<Prompt>,
}

/// What makes rows belong to one prompt: workload, load, sample.
type Key<'a> = (&'a str, &'a str, &'a str);

/// What makes rows belong to one place: its share's bits, the repeat and the text.
type At<'a> = (u64, i64, &'a str);

impl Places {
    /// # Errors
    /// A column is missing or of another type.
    pub(super) fn of(frame: &DataFrame) -> anyhow::Result<Self> {
        let text = |name: &str| anyhow::Ok(frame.column(name)?.str()?);
        let real = |name: &str| anyhow::Ok(frame.column(name)?.f64()?);
        let whole = |name: &str| anyhow::Ok(frame.column(name)?.i64()?);
        let names = [text("target")?, text("workload")?, text("load")?, text("method")?];
        let (sample, hash, err) = (text("sample_id")?, text("prompt_sha256")?, text("err")?);
        let (at, logprob, floor) =
            (real("forced_at")?, real("stop_logprob")?, real("logprob_floor")?);
        let (repeat, tokens) = (whole("repeat")?, whole("prompt_tokens")?);
        let mut points: Vec<Point> = Vec::new();
        let mut prompts: BTreeMap<Key<'_>, BTreeMap<At<'_>, Place>> = BTreeMap::new();
        for row in 0..frame.height() {
            let Some(share) = at.get(row) else { continue };
            let [target, workload, load, method] =
                names.map(|column| column.get(row).unwrap_or_default());
            let point = index_of(&mut points, [target, workload, load, method]);
            let key = (workload, load, sample.get(row).unwrap_or_default());
            let place_key = (
                share.to_bits(),
                repeat.get(row).unwrap_or_default(),
                hash.get(row).unwrap_or_default(),
            );
            let place = prompts.entry(key).or_default().entry(place_key).or_insert_with(|| Place {
                at: share,
                repeat: place_key.1,
                seen: BTreeMap::new(),
                tokens: BTreeMap::new(),
            });
            let seen = Seen::of(logprob.get(row), floor.get(row), err.get(row).is_some());
            place.seen.insert(point, seen);
            if let Some(tokens) = tokens.get(row) {
                place.tokens.insert(point, tokens);
            }
        }
        let prompt =
            |places: BTreeMap<At<'_>, Place>| Prompt { places: places.into_values().collect() };
        Ok(Self { points, prompts: prompts.into_values().map(prompt).collect() })
    }

    /// Whether a point repeats another's probabilities exactly.
    pub(super) fn is_copy(&self, own: usize, theirs: usize) -> bool {
        let mut places = self.prompts.iter().flat_map(|prompt| &prompt.places);
        places.all(|place| place.seen.get(&own) == place.seen.get(&theirs))
    }
}

fn index_of(points: &mut Vec<Point>, [target, workload, load, method]: [&str; 4]) -> usize {
    let is = |point: &Point| {
        point.method == method
            && point.load == load
            && point.workload == workload
            && point.target == target
    };
    points.iter().rposition(is).unwrap_or_else(|| {
        let [target, workload, load, method] = [target, workload, load, method].map(str::to_owned);
        points.push(Point { target, workload, load, method });
        points.len() - 1
    })
}
