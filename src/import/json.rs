//! Reaching into documents whose shape others decide.
//!
//! What is absent or `null` is `None`. What is there has to be what it stands for: a duration below zero, a time in another
//! millennium or a text in the place of a number is an error with its place, since every number computed from it would be
//! nonsense, and a sum of such nanoseconds would not even fit.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// Longest time within one file: a run of a year is a wrong unit.
const SPAN_S_MAX: f64 = 366.0 * 86_400.0;
/// Latest moment, seconds since whatever the tool counts from; the year 2286 since 1970.
const MOMENT_S_MAX: f64 = 1e10;
/// Largest count of tokens, requests or messages, and largest statistic.
const COUNT_MAX: f64 = 1e12;

/// The remedy for every number that cannot be.
const DAMAGED: &str = "\n  hint: the file is damaged, or times are in another unit: save the result again, or take the entry out";

/// Text below `pointer`.
pub(super) fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    document.pointer(pointer)?.as_str()
}

/// What is below `pointer` and is not `null`.
fn given<'a>(document: &'a Value, pointer: &str) -> Option<&'a Value> {
    document.pointer(pointer).filter(|value| !value.is_null())
}

/// As a reader of the file finds it.
fn place(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

fn within(value: f64, (low, high): (f64, f64), place: &str, unit: &str) -> anyhow::Result<f64> {
    ensure!(
        (low..=high).contains(&value),
        "{place}: expected a number from {low} to {high}{unit}, got {value:e}{DAMAGED}"
    );
    Ok(value)
}

fn ranged(
    document: &Value,
    pointer: &str,
    range: (f64, f64),
    unit: &str,
) -> anyhow::Result<Option<f64>> {
    let Some(value) = given(document, pointer) else { return Ok(None) };
    let Some(number) = value.as_f64() else {
        bail!("{}: expected a number, got {}{DAMAGED}", place(pointer), shape(value));
    };
    within(number, range, &place(pointer), unit).map(Some)
}

/// A statistic, rate or duration in any unit: from 0 to 10^12.
pub(super) fn amount(document: &Value, pointer: &str) -> anyhow::Result<Option<f64>> {
    ranged(document, pointer, (0.0, COUNT_MAX), "")
}

/// A count; tools write counts as floats.
pub(super) fn count(document: &Value, pointer: &str) -> anyhow::Result<Option<i64>> {
    Ok(amount(document, pointer)?.map(|n| n.round() as i64))
}

/// A point in time, seconds.
pub(super) fn moment_s(document: &Value, pointer: &str) -> anyhow::Result<Option<f64>> {
    ranged(document, pointer, (-MOMENT_S_MAX, MOMENT_S_MAX), " s")
}

/// A duration, milliseconds.
pub(super) fn duration_ms(document: &Value, pointer: &str) -> anyhow::Result<Option<f64>> {
    ranged(document, pointer, (0.0, SPAN_S_MAX * 1e3), " ms")
}

/// A point in time in whole nanoseconds since 1970, which need all 63 bits: a float would round them to 256 ns.
pub(super) fn moment_ns(document: &Value, pointer: &str) -> anyhow::Result<Option<i64>> {
    let Some(value) = given(document, pointer) else { return Ok(None) };
    match value.as_i64().filter(|ns| *ns >= 0) {
        Some(ns) => Ok(Some(ns)),
        None => {
            let place = place(pointer);
            bail!("{place}: expected whole nanoseconds since 1970, got {}{DAMAGED}", shape(value))
        }
    }
}

/// What the numbers of a list are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Points in time, seconds.
    Moments,
    /// Durations, seconds.
    Durations,
    /// Durations, milliseconds.
    DurationsMs,
    /// Counts.
    Counts,
}

/// A list of numbers below `pointer`.
pub(super) fn numbers(
    document: &Value,
    pointer: &str,
    kind: Kind,
) -> anyhow::Result<Option<Vec<f64>>> {
    given(document, pointer).map(|list| all(list, &place(pointer), kind)).transpose()
}

/// The numbers of a list that stands at `place`.
pub(super) fn all(list: &Value, place: &str, kind: Kind) -> anyhow::Result<Vec<f64>> {
    let (range, unit) = match kind {
        Kind::Moments => ((-MOMENT_S_MAX, MOMENT_S_MAX), " s"),
        Kind::Durations => ((0.0, SPAN_S_MAX), " s"),
        Kind::DurationsMs => ((0.0, SPAN_S_MAX * 1e3), " ms"),
        Kind::Counts => ((0.0, COUNT_MAX), ""),
    };
    let items = list.as_array().with_context(|| {
        format!("{place}: expected a list of numbers, got {}{DAMAGED}", shape(list))
    })?;
    let one = |(index, item): (usize, &Value)| {
        let place = || format!("{place}[{index}]");
        let number = item.as_f64().with_context(|| {
            format!("{}: expected a number, got {}{DAMAGED}", place(), shape(item))
        })?;
        within(number, range, &place(), unit)
    };
    items.iter().enumerate().map(one).collect()
}

/// Nanoseconds of a time within the run, seconds; an error where the run would be longer than a year.
pub(super) fn span_ns(s: f64, place: &dyn Fn() -> String) -> anyhow::Result<i64> {
    if !(-SPAN_S_MAX..=SPAN_S_MAX).contains(&s) {
        bail!(
            "{}: expected a time within {SPAN_S_MAX:.0} s of the first request, got {s:e} s{DAMAGED}",
            place()
        );
    }
    Ok(crate::units::s_to_ns(s))
}

/// The times of one request in the order in which they must be: each is at most `slack_ns` before the one in front of it.
///
/// # Errors
/// One comes before what it follows.
pub(super) fn in_order(
    times: &[(&str, Option<i64>)],
    slack_ns: i64,
    place: &dyn Fn() -> String,
) -> anyhow::Result<()> {
    let known: Vec<(&str, i64)> =
        times.iter().filter_map(|(name, at)| Some((*name, (*at)?))).collect();
    for pair in known.windows(2) {
        let ((before, first), (after, then)) = (pair[0], pair[1]);
        ensure!(
            then >= first.saturating_sub(slack_ns),
            "{}: expected {after} after {before}, got it {} s before{DAMAGED}",
            place(),
            crate::units::ns_to_s(first.saturating_sub(then))
        );
    }
    Ok(())
}

/// What a document looks like, for an error.
pub(super) fn shape(document: &Value) -> String {
    match document {
        Value::Object(map) => {
            let keys: Vec<&str> = map.keys().take(5).map(String::as_str).collect();
            format!(
                "an object with {}",
                if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") }
            )
        }
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::String(text) => format!("`{}`", text.chars().take(40).collect::<String>()),
        other => format!("`{other}`"),
    }
}
