//! Columns of measurements, and how finely they are written.

use crate::predict::columns::Columns;

/// Units of the last digit below which rounding hides noise.
pub(super) const FINE_UNITS: f64 = 200.0;

/// Ends of names that carry a unit of time or rate.
const UNITS: [&str; 10] =
    ["_ms", "_us", "_ns", "_s", "thr", "time", "latency", "duration", "tokens_per_s", "gb_per_s"];

/// Columns that tell the phase of a row.
const PHASES: [&str; 3] = ["is_prefill", "stage", "phase"];

/// Whether a column is a measurement, by its name.
pub(super) fn is_measured(header: &str) -> bool {
    let header = header.to_lowercase();
    header.starts_with("time_stats.") || UNITS.iter().any(|unit| header.ends_with(unit))
}

/// Whether a column is a standard deviation.
pub(super) fn is_spread(header: &str) -> bool {
    header.ends_with(".std") || header.ends_with("_std")
}

/// A column as written.
pub(super) struct Series {
    /// `None`: empty. What is no number is NaN.
    pub(super) values: Vec<Option<f64>>,
    /// The usual size of the last digit.
    pub(super) unit: f64,
    /// The smallest size of the last digit.
    pub(super) finest: f64,
}

impl Series {
    /// `None` where there is no such column.
    pub(super) fn of(table: &Columns, column: &str) -> Option<Self> {
        let texts = table.texts(column).ok()?;
        let value =
            |text: &&str| (!text.is_empty()).then(|| text.parse::<f64>().unwrap_or(f64::NAN));
        let mut decimals: Vec<i32> =
            texts.iter().filter(|text| !text.is_empty()).map(|text| digits(text)).collect();
        decimals.sort_unstable();
        let usual = decimals.get(decimals.len() / 2).copied().unwrap_or(0);
        let most = decimals.last().copied().unwrap_or(0);
        Some(Self {
            values: texts.iter().map(value).collect(),
            unit: 10_f64.powi(-usual),
            finest: 10_f64.powi(-most),
        })
    }

    /// Values that are there.
    pub(super) fn known(&self) -> Vec<f64> {
        self.values.iter().flatten().copied().collect()
    }

    /// Whether a value is written finely enough for noise to show.
    pub(super) fn is_fine(&self, value: f64) -> bool {
        value.abs() >= FINE_UNITS * self.unit
    }
}

/// Places of a number behind the point; an exponent moves it.
fn digits(text: &str) -> i32 {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let places =
        mantissa.split_once('.').map_or(0, |(_, places)| places.trim_end_matches('0').len());
    let places = i32::try_from(places).unwrap_or(i32::MAX);
    (places - exponent.parse::<i32>().unwrap_or(0)).clamp(-30, 30)
}

/// The phase of each row, where the file tells.
pub(super) fn phases(table: &Columns) -> Vec<Option<String>> {
    let column = PHASES.iter().find(|name| table.has(name));
    let Some(texts) = column.and_then(|name| table.texts(name).ok()) else {
        return vec![None; table.len()];
    };
    let name = |text: &str| match text.to_lowercase().as_str() {
        "true" | "1" => "prefill".to_owned(),
        "false" | "0" | "decoding" => "decode".to_owned(),
        other => other.to_owned(),
    };
    texts.into_iter().map(|text| Some(name(text))).collect()
}

/// How many different values there are.
pub(super) fn distinct(values: &[f64]) -> usize {
    let mut bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    bits.len()
}

#[cfg(test)]
mod tests {
    use super::{digits, is_measured};

    #[test]
    fn digits_are_counted_behind_the_point() {
        for (text, places) in [("0.0078", 4), ("1", 0), ("1.50", 1), ("1.5e-3", 4), ("2e3", -3)] {
            assert_eq!(digits(text), places, "{text}");
        }
    }

    #[test]
    fn measurements_are_known_by_name() {
        assert!(["time_stats.add.min", "duration_ms", "thr"].iter().all(|name| is_measured(name)));
        assert!(
            !["batch_size", "num_tokens", "kv_cache_size"].iter().any(|name| is_measured(name))
        );
    }
}
