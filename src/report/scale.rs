//! Ranges, ticks and positions of an axis. Pure arithmetic, no drawing.

use super::figure::{Axis, Scale};
use crate::units::significant;

/// An axis with a range: maps values to [0, 1] and knows its ticks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ruler {
    scale: Scale,
    /// Range in scale units: the value, its log2 or its log10.
    low: f64,
    high: f64,
}

/// A place on an axis and what is written there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Position in [0, 1].
    pub(super) at: f64,
    /// Text.
    pub(super) label: String,
}

impl Ruler {
    /// Covers all values with a little air; equal values and no values get a range around them.
    pub(super) fn new(axis: &Axis, values: &[f64]) -> Self {
        let mut ruler = Self { scale: axis.scale.clone(), low: 0.0, high: 1.0 };
        if let Scale::Category(names) = &axis.scale {
            (ruler.low, ruler.high) = (-0.5, names.len().max(1) as f64 - 0.5);
            return ruler;
        }
        let zero = axis.from_zero.then_some(0.0).filter(|_| axis.scale == Scale::Linear);
        let raw = values.iter().map(|v| ruler.raw(*v)).chain(zero);
        let (low, high) = raw.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low <= high {
            (ruler.low, ruler.high) = ruler.with_air(low, high, zero.is_some());
        }
        ruler
    }

    fn with_air(&self, low: f64, high: f64, from_zero: bool) -> (f64, f64) {
        let span = high - low;
        if span <= f64::EPSILON * high.abs().max(1.0) {
            let around = if self.scale == Scale::Linear { (low.abs() / 2.0).max(0.5) } else { 1.0 };
            return if from_zero { (0.0, 1.0) } else { (low - around, high + around) };
        }
        let air = span * 0.05;
        (if from_zero && low >= 0.0 { low } else { low - air }, high + air)
    }

    fn raw(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear | Scale::Category(_) => value,
            Scale::Log2 => value.log2(),
            Scale::Log10 => value.log10(),
        }
    }

    /// Position of a value; within [0, 1] for every value the ruler was made for.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.at_raw(self.raw(value))
    }

    fn at_raw(&self, raw: f64) -> f64 {
        (raw - self.low) / (self.high - self.low)
    }

    fn sees(&self, raw: f64) -> bool {
        let slack = (self.high - self.low) * 1e-9;
        raw >= self.low - slack && raw <= self.high + slack
    }

    /// At most about `most` ticks.
    pub(super) fn ticks(&self, most: usize) -> Vec<Tick> {
        match &self.scale {
            Scale::Linear => self.linear_ticks(most),
            Scale::Log2 => self.log2_ticks(most),
            Scale::Log10 => self.log10_ticks(most),
            Scale::Category(names) => names
                .iter()
                .enumerate()
                .map(|(n, name)| Tick { at: self.at_raw(n as f64), label: name.clone() })
                .collect(),
        }
    }

    fn linear_ticks(&self, most: usize) -> Vec<Tick> {
        let step = nice_step((self.high - self.low) / most.max(1) as f64);
        let first = (self.low / step - 1e-9).ceil() as i64;
        let decimals = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
        (first..first + 2 * most as i64 + 2)
            .map(|n| n as f64 * step)
            .take_while(|value| self.sees(*value))
            .map(|value| Tick { at: self.at_raw(value), label: linear_label(value, decimals) })
            .collect()
    }

    fn log2_ticks(&self, most: usize) -> Vec<Tick> {
        let (first, last) = (self.low.ceil() as i32, self.high.floor() as i32);
        let stride = ((last - first) as usize / most.max(1) + 1) as i32;
        (first..=last)
            .filter(|power| power.rem_euclid(stride) == 0)
            .map(|power| Tick { at: self.at_raw(f64::from(power)), label: power_of_two(power) })
            .collect()
    }

    /// 1-2-5 steps, 1-3 steps or decades, the finest that fits; linear steps when not even two of those are in sight.
    fn log10_ticks(&self, most: usize) -> Vec<Tick> {
        for multiples in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
            let ticks = self.decade_ticks(multiples, 1);
            if ticks.len() < 3 {
                break;
            }
            if ticks.len() <= most {
                return ticks;
            }
        }
        let decades = (self.high - self.low).ceil() as usize;
        if decades > most {
            return self.decade_ticks(&[1.0], decades / most + 1);
        }
        if self.high - self.low > 1.0 {
            self.decade_ticks(&[1.0], 1)
        } else {
            self.ticks_within_a_decade(most)
        }
    }

    fn decade_ticks(&self, multiples: &[f64], stride: usize) -> Vec<Tick> {
        let decades = (self.low.floor() as i32..=self.high.ceil() as i32)
            .filter(|d| d.rem_euclid(stride as i32) == 0);
        let values =
            decades.flat_map(|decade| multiples.iter().map(move |m| m * 10_f64.powi(decade)));
        let seen = values.filter(|value| self.sees(value.log10()));
        seen.map(|value| Tick { at: self.at(value), label: short(value) }).collect()
    }

    fn ticks_within_a_decade(&self, most: usize) -> Vec<Tick> {
        let (low, high) = (10_f64.powf(self.low), 10_f64.powf(self.high));
        let step = nice_step((high - low) / most.max(1) as f64);
        let first = (low / step).ceil() as i64;
        let values = (first..first + 2 * most as i64 + 2)
            .map(|n| n as f64 * step)
            .take_while(|value| *value <= high);
        values.map(|value| Tick { at: self.at(value), label: short(value) }).collect()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `step`.
fn nice_step(step: f64) -> f64 {
    let decade = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|m| m * decade)
        .into_iter()
        .find(|s| *s >= step * (1.0 - 1e-9))
        .unwrap_or(decade * 10.0)
}

fn linear_label(value: f64, decimals: usize) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { value };
    if value.abs() >= 10_000.0 { short(value) } else { format!("{value:.decimals$}") }
}

/// `0.02`, `5`, `200`, `5k`, `12.5k`, `3M`.
pub(super) fn short(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = significant(scaled, 3);
    let trimmed = if digits.contains('.') && !digits.contains('e') {
        digits.trim_end_matches('0').trim_end_matches('.')
    } else {
        &digits
    };
    format!("{trimmed}{suffix}")
}

/// `0.25`, `1`, `512`, `1k` (1024), `4M`.
pub(super) fn power_of_two(power: i32) -> String {
    match power {
        i32::MIN..=-1 => short(f64::from(power).exp2()),
        0..=9 => (1_u32 << power).to_string(),
        10..=19 => format!("{}k", 1_u32 << (power - 10)),
        20..=29 => format!("{}M", 1_u32 << (power - 20)),
        30..=39 => format!("{}G", 1_u32 << (power - 30)),
        _ => format!("2^{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale, values: &[f64], most: usize) -> Vec<String> {
        let ruler = Ruler::new(&Axis::new("x", "", scale), values);
        ruler.ticks(most).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(
            labels(Scale::Linear, &[0.0, 1.0], 6),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(labels(Scale::Linear, &[0.0, 40_000.0], 4), ["0", "20k", "40k"]);
        assert_eq!(
            labels(Scale::Log2, &[512.0, 16_384.0], 8),
            ["512", "1k", "2k", "4k", "8k", "16k"]
        );
        assert_eq!(labels(Scale::Log2, &[0.5, 4.0], 8), ["0.5", "1", "2", "4"]);
        assert_eq!(labels(Scale::Log10, &[9.0, 300.0], 8), ["10", "20", "50", "100", "200"]);
        assert_eq!(
            labels(Scale::Log10, &[1.0, 1e6], 8),
            ["1", "10", "100", "1k", "10k", "100k", "1M"]
        );
        assert_eq!(labels(Scale::Log10, &[0.9, 1.4], 6), ["0.9", "1", "1.1", "1.2", "1.3", "1.4"]);
        assert_eq!(labels(Scale::Category(vec!["a".into(), "b".into()]), &[], 8), ["a", "b"]);
    }

    #[test]
    fn every_value_lies_in_sight() {
        for scale in [Scale::Linear, Scale::Log2, Scale::Log10] {
            for values in [&[3.0][..], &[3.0, 3.0], &[0.001, 5e9], &[7.0, 8.0]] {
                let ruler = Ruler::new(&Axis::new("x", "", scale.clone()), values);
                assert!(
                    values.iter().all(|v| (0.0..=1.0).contains(&ruler.at(*v))),
                    "{scale:?} {values:?}"
                );
                assert!(
                    ruler.ticks(8).iter().all(|t| (-1e-6..=1.000_001).contains(&t.at)),
                    "{scale:?} {values:?}"
                );
            }
        }
        assert!((Ruler::new(&Axis::from_zero("x", ""), &[5.0]).at(0.0)).abs() < 1e-12);
    }
}
