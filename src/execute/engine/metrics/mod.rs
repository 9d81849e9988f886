//! Watches a server's own metrics while a cell runs.
//!
//! `prometheus` and `trtllm` read answers, `pick` finds our metrics in them, `watch` asks again and again on a thread of
//! its own, so that no load thread ever waits for it.

use std::borrow::Cow;

use crate::scenario::{MetricsFormat, MetricsSpec};

mod pick;
mod prometheus;
mod trtllm;
mod watch;

#[cfg(test)]
mod fixtures;

pub use pick::{Reading, pick};
pub use prometheus::{Bad, parse as parse_prometheus};
pub use trtllm::parse as parse_trtllm;
pub use watch::Watch;
pub(super) use watch::place;

/// One number as an engine gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// Name, or path of keys.
    pub name: Cow<'a, str>,
    /// Labels in the answer's order.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Value; may be NaN or infinite.
    pub value: f64,
}

impl Sample<'_> {
    /// Value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_ref())
    }
}

/// The samples of an answer, those of one moment together, oldest first.
///
/// # Errors
/// The answer is of another format, in words for a row.
pub fn parse<'a>(spec: &MetricsSpec, text: &'a str) -> Result<(Vec<Vec<Sample<'a>>>, Bad), String> {
    match spec.format {
        MetricsFormat::TrtllmJson => parse_trtllm(text),
        MetricsFormat::Prometheus => {
            let (samples, bad) = parse_prometheus(text);
            match (&bad.first, samples.is_empty()) {
                (Some(first), true) => {
                    Err(format!("expected Prometheus text, got something else ({first})"))
                }
                _ => Ok((vec![samples], bad)),
            }
        }
    }
}
