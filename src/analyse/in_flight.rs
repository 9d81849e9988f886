//! How many requests were under way when, for a picture over time.

use std::collections::BTreeMap;

use super::RunData;
use crate::units::ns_to_s;

/// Slices of the run in which the largest number is kept: more cannot be seen.
const SLICES: usize = 300;

/// Requests of one method under way.
#[derive(Debug, Clone, PartialEq)]
pub struct InFlight {
    /// The method.
    pub method: String,
    /// Seconds since the run began, and the most requests between then and the next entry. The last entry is 0.
    pub steps: Vec<(f64, usize)>,
    /// Requests counted.
    pub n: usize,
    /// Requests that were never sent, or whose end is not known: they are not in here.
    pub n_left_out: usize,
}

/// Requests of one method.
#[derive(Default)]
struct Spans {
    /// When each was sent and when it ended.
    known: Vec<(i64, i64)>,
    n_unknown: usize,
}

/// One entry a method, methods in plan order; empty for a run without requests. Warm-ups are not counted.
///
/// # Errors
/// A column that is missing or of another type.
pub fn in_flight(data: &RunData) -> anyhow::Result<Vec<InFlight>> {
    let methods = data.requests.column("method")?.str()?;
    let sent = data.requests.column("sent_ns")?.i64()?;
    let done = data.requests.column("done_ns")?.i64()?;
    let mut spans: BTreeMap<&str, Spans> = BTreeMap::new();
    for ((method, sent), done) in methods.iter().zip(sent.iter()).zip(done.iter()) {
        let of_method = spans.entry(method.unwrap_or_default()).or_default();
        match (sent, done) {
            (Some(sent), Some(done)) => of_method.known.push((sent, done)),
            _ => of_method.n_unknown += 1,
        }
    }
    let all = spans.values().flat_map(|spans| &spans.known);
    let (first, last) =
        all.fold((i64::MAX, i64::MIN), |(a, b), (sent, done)| (a.min(*sent), b.max(*done)));
    let one = |(method, spans): (&str, Spans)| InFlight {
        method: method.to_owned(),
        n: spans.known.len(),
        steps: steps(&spans.known, first, last),
        n_left_out: spans.n_unknown,
    };
    let mut out: Vec<InFlight> = spans.into_iter().map(one).collect();
    let rank = |method: &str| data.manifest.cells.iter().position(|cell| cell.method == method);
    out.sort_by_key(|curve| rank(&curve.method).unwrap_or(usize::MAX));
    Ok(out)
}

/// The most spans at once in each slice from `first` to `last`; slices that say what the one before says are left out.
fn steps(spans: &[(i64, i64)], first: i64, last: i64) -> Vec<(f64, usize)> {
    if spans.is_empty() {
        return Vec::new();
    }
    // An end comes before a start at the same moment: a closed loop never has one more than its slots.
    let mut changes: Vec<(i64, i64)> =
        spans.iter().flat_map(|(sent, done)| [(*sent, 1), (*done, -1)]).collect();
    changes.sort_unstable();
    let slice = (last - first) / SLICES as i64 + 1;
    let mut out: Vec<(f64, usize)> = Vec::new();
    let (mut now, mut next) = (0_i64, 0);
    for start in (0..=SLICES as i64).map(|n| first + n * slice) {
        let mut most = now;
        while let Some((at, by)) = changes.get(next).filter(|(at, _)| *at < start + slice) {
            now += by;
            // What ends where the slice starts was under way only before it.
            most = if *at == start && *by < 0 { now } else { most.max(now) };
            next += 1;
        }
        let most = usize::try_from(most).unwrap_or(0);
        if out.last().is_none_or(|(_, before)| *before != most) {
            out.push((ns_to_s(start), most));
        }
        if start > last {
            break;
        }
    }
    if out.last().is_some_and(|(_, count)| *count > 0) {
        out.push((ns_to_s(last), 0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(steps: &[(f64, usize)], s: f64) -> usize {
        steps.iter().take_while(|(start, _)| *start <= s).last().map_or(0, |(_, n)| *n)
    }

    #[test]
    fn requests_under_way_are_counted_at_every_moment() {
        let s = 1_000_000_000;
        let spans = [(0, 10 * s), (2 * s, 4 * s), (4 * s, 6 * s)];
        let steps = steps(&spans, 0, 10 * s);
        assert_eq!([1.0, 3.0, 5.0, 8.0].map(|x| at(&steps, x)), [1, 2, 2, 1]);
        assert_eq!(steps.last().map(|(_, n)| *n), Some(0));
        assert!(steps.iter().all(|(_, n)| *n <= 2), "{steps:?}");
    }

    #[test]
    fn a_million_requests_make_few_steps() {
        let spans: Vec<(i64, i64)> = (0..100_000).map(|n| (n * 1000, n * 1000 + 5500)).collect();
        let steps = steps(&spans, 0, 100_000 * 1000 + 5500);
        assert!(steps.len() <= SLICES + 2 && at(&steps, 0.05) == 6, "{} {:?}", steps.len(), steps);
    }
}
