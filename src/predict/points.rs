//! Observations by what one model is made of.

use std::collections::BTreeMap;

use super::{Observation, Pass, Phase, Source, Subject, Work, curve::Row, origin::Rows};
use crate::stats;

/// Everything that was measured of one method on one subject in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// On what.
    pub subject: Subject,
    /// Which method.
    pub method: String,
    /// Whether it is the uncompressed baseline.
    pub is_baseline: bool,
    /// Tokens a sequence that it keeps at most; of decode only.
    pub budget: Option<f64>,
    /// Which half of serving.
    pub phase: Phase,
    /// One a shape.
    pub points: Vec<Point>,
    /// The rows that all of it rests on; empty where nobody told.
    pub rows: Vec<Rows>,
}

/// One shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The pass.
    pub work: Work,
    /// Median over repeats, seconds.
    pub time_s: f64,
    /// See [`Pass::noise`].
    pub noise: Option<f64>,
    /// Repeats.
    pub n_repeats: usize,
}

impl Point {
    /// What a curve is fitted to.
    pub fn row(&self) -> Row {
        Row { work: self.work, time_s: self.time_s }
    }
}

/// Borrowed: of ten thousand observations each would be a handful of strings to copy.
type Key<'a> = (&'a Subject, Phase, bool, &'a str, Option<u64>);
/// Passes by shape, and the rows of all of them.
type Seen<'a> = (BTreeMap<[u64; 4], Pass>, Vec<&'a Rows>);

/// Groups, the baseline of a subject and phase before its methods. Observations of one shape, such as those of two runs, are repeats
/// of it: held out apart, one would give away the other.
pub fn groups(observations: &[Observation]) -> Vec<Group> {
    let mut by_key: BTreeMap<Key<'_>, Seen<'_>> = BTreeMap::new();
    for seen in observations {
        let work = &seen.pass.work;
        let budget = seen.budget.filter(|_| work.phase == Phase::Decode).map(f64::to_bits);
        let key = (&seen.subject, work.phase, !seen.is_baseline, seen.method.as_str(), budget);
        let shape = [work.batch, work.new_tokens, work.cached, work.attended].map(f64::to_bits);
        let fresh = || Pass { work: *work, repeats_s: Vec::new() };
        let (passes, rows) = by_key.entry(key).or_default();
        let pass = passes.entry(shape).or_insert_with(fresh);
        pass.repeats_s.extend(&seen.pass.repeats_s);
        rows.extend(&seen.rows);
    }
    let one = |(key, (passes, rows)): (Key<'_>, Seen<'_>)| {
        group(key, passes.into_values(), Rows::merged(rows))
    };
    by_key.into_iter().map(one).collect()
}

fn group(key: Key<'_>, passes: impl Iterator<Item = Pass>, rows: Vec<Rows>) -> Group {
    let (subject, phase, is_method, method, budget) = key;
    let point = |pass: Pass| Point {
        work: pass.work,
        time_s: pass.duration_s(),
        noise: pass.noise(),
        n_repeats: pass.repeats_s.len(),
    };
    Group {
        subject: subject.clone(),
        method: method.to_owned(),
        is_baseline: !is_method,
        budget: budget.map(f64::from_bits),
        phase,
        points: passes.map(point).collect(),
        rows,
    }
}

/// Subjects and phases of which only methods were measured, in words: nothing stands for doing without one there.
pub fn without_baseline(observations: &[Observation]) -> Vec<String> {
    let mut seen: BTreeMap<(&Subject, Phase), bool> = BTreeMap::new();
    for one in observations {
        *seen.entry((&one.subject, one.pass.work.phase)).or_default() |= one.is_baseline;
    }
    let bare = seen.into_iter().filter(|(_, has_one)| !has_one);
    bare.map(|((subject, phase), _)| {
        format!(
            "{} of {}: no baseline (of a --measured file a method whose name starts with None), so no null to compare with",
            phase.name(),
            subject.words()
        )
    })
    .collect()
}

/// Mean noise of the points that have any; `None` where none has.
pub fn noise<'a>(points: impl IntoIterator<Item = &'a Point>) -> Option<f64> {
    let known: Vec<f64> = points.into_iter().filter_map(|point| point.noise).collect();
    stats::mean(&known)
}

impl Source {
    /// As written in files.
    pub fn name(self) -> &'static str {
        match self {
            Source::Kernel => "kernel",
            Source::Engine => "engine",
            Source::File => "file",
        }
    }
}

impl Subject {
    /// Whether its words, its target or its source contain `text`, in any case: what `--subject` asks for.
    pub fn is_called(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let own = [Some(self.words()), self.target.clone(), Some(self.source.name().to_owned())];
        own.into_iter().flatten().any(|words| words.to_lowercase().contains(&text))
    }

    /// Its words with its source, by which two of the same words differ.
    pub fn full(&self) -> String {
        format!("{} [{}]", self.words(), self.source.name())
    }

    /// One line: `llama-2-7b on A6000 (llamacpp b9917, target server-fast, -np 4)`.
    pub fn words(&self) -> String {
        // A server that told no name goes by that of its target already.
        let target = self.target.as_ref().filter(|target| **target != self.engine);
        let target = target.map_or(String::new(), |target| format!(", target {target}"));
        let ranks = match self.tensor_parallel {
            0 | 1 => String::new(),
            n => format!(", tp {n}"),
        };
        let with = self.started_with.as_ref().map_or(String::new(), |with| format!(", {with}"));
        format!("{} on {} ({}{target}{ranks}{with})", self.model, self.device, self.engine)
    }
}

impl Phase {
    /// As written in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        }
    }
}
