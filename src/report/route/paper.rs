//! What arXiv 2503.24000 reports of its router (Table 8): mean E2E in seconds on four A6000, 1000 requests of ShareGPT, Poisson at 10
//! requests a second. Of each method four engines, then one engine without compression and three with under its three policies.

use crate::route::Rule;

/// Requests a second of the table.
pub(super) const RATE_PER_S: f64 = 10.0;
/// Mean E2E of four engines without compression, seconds.
pub(super) const FP16_S: f64 = 11.4;

/// A column of the table, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    /// Of what the method's name begins with.
    pub(super) family: &'static str,
    /// Four engines of it, the least memory first.
    pub(super) own_s: f64,
    /// `w/ Thr`.
    pub(super) thr_s: f64,
    /// `w/ Len`.
    pub(super) len_s: f64,
    /// `w/ Both`.
    pub(super) both_s: f64,
}

const COLUMNS: [Column; 4] = [
    Column { family: "kivi", own_s: 9.1, thr_s: 7.7, len_s: 10.9, both_s: 6.3 },
    Column { family: "gear", own_s: 13.4, thr_s: 9.1, len_s: 13.0, both_s: 7.4 },
    Column { family: "h2o", own_s: 10.6, thr_s: 8.3, len_s: 11.2, both_s: 6.9 },
    Column { family: "stream", own_s: 10.3, thr_s: 8.2, len_s: 11.3, both_s: 6.6 },
];

/// The column of a method, by the first letters of its name.
pub(super) fn column(method: &str) -> Option<Column> {
    COLUMNS.into_iter().find(|column| method.starts_with(column.family))
}

impl Column {
    /// Seconds under the policy that has this rule; `None` where the paper has none.
    pub(super) fn of(&self, rule: Rule) -> Option<f64> {
        match rule {
            Rule::HighestThroughput => Some(self.thr_s),
            Rule::ShortestAnswer => Some(self.len_s),
            Rule::EarliestFinish => Some(self.both_s),
            _ => None,
        }
    }
}

/// How the paper calls a policy, by its rule.
pub(super) fn name(rule: Rule) -> Option<&'static str> {
    match rule {
        Rule::HighestThroughput => Some("w/ Thr"),
        Rule::ShortestAnswer => Some("w/ Len"),
        Rule::EarliestFinish => Some("w/ Both"),
        _ => None,
    }
}
