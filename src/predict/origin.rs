//! Which rows something was made from, so that a number can be followed back to what was measured.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Rows of one run or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Id of the run, or path of the file.
    pub from: String,
    /// Which rows. Of a run they count from 0, in `kernels.parquet` or among the rows of `requests.parquet` that are no warm-up, as the
    /// source of the subject says; of a file they are its lines, from 1.
    pub rows: Numbers,
}

/// Whole numbers, each once, as text `0-41,57`: rows of a table mostly stand in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Numbers {
    /// First and last of each span, ascending, with a gap between any two.
    spans: Vec<(u64, u64)>,
}

impl Rows {
    /// The same rows of several lists, one entry a run or file, in the order of their names.
    pub fn merged<'a>(all: impl IntoIterator<Item = &'a Rows>) -> Vec<Rows> {
        let mut by_origin: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for one in all {
            by_origin.entry(&one.from).or_default().extend(&one.rows.spans);
        }
        let merged = |(from, spans): (&str, Vec<(u64, u64)>)| Rows {
            from: from.to_owned(),
            rows: Numbers::of_spans(spans),
        };
        by_origin.into_iter().map(merged).collect()
    }

    /// `run-1 (412 rows)`.
    pub fn words(&self) -> String {
        let n = self.rows.len();
        format!("{} ({n} row{})", self.from, if n == 1 { "" } else { "s" })
    }
}

impl Numbers {
    fn of_spans(mut spans: Vec<(u64, u64)>) -> Self {
        spans.sort_unstable();
        let mut out: Vec<(u64, u64)> = Vec::with_capacity(spans.len());
        for (first, last) in spans {
            match out.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => out.push((first, last)),
            }
        }
        Self { spans: out }
    }

    /// How many.
    pub fn len(&self) -> u64 {
        self.spans.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<T: IntoIterator<Item = u64>>(numbers: T) -> Self {
        Self::of_spans(numbers.into_iter().map(|number| (number, number)).collect())
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.spans.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl From<Numbers> for String {
    fn from(numbers: Numbers) -> Self {
        numbers.to_string()
    }
}

impl TryFrom<String> for Numbers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("expected ascending rows such as `0-41,57`, got `{text}`");
        let span = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some((first, last))
        };
        let spans: Vec<(u64, u64)> =
            text.split(',').map(span).collect::<Option<_>>().ok_or_else(bad)?;
        // What was written is the only way to write it.
        let found = Self::of_spans(spans);
        if found.to_string() == text { Ok(found) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_a_row_are_one_span() {
        let numbers: Numbers = [3, 1, 2, 7, 2, 9, 8].into_iter().collect();
        assert_eq!((numbers.to_string().as_str(), numbers.len()), ("1-3,7-9", 6));
        assert_eq!("1-3,7-9".parse(), Ok(numbers));
        assert!(Numbers::default().is_empty());
        for bad in ["", "1-", "a", "3-1", "2,1", "1,2", "1-3,3"] {
            let error = bad.parse::<Numbers>().unwrap_err();
            assert!(error.contains(&format!("got `{bad}`")), "{error}");
        }
    }

    #[test]
    fn a_row_that_serves_twice_is_one_row() {
        let of = |from: &str, rows: std::ops::Range<u64>| Rows {
            from: from.to_owned(),
            rows: rows.collect(),
        };
        let merged = Rows::merged(&[of("b", 0..3), of("a", 5..6), of("b", 2..5)]);
        assert_eq!(merged, [of("a", 5..6), of("b", 0..5)]);
        assert_eq!(merged[0].words(), "a (1 row)");
        assert_eq!(merged[1].words(), "b (5 rows)");
    }
}
