//! Where a model has seen passes, and how far from there another one is.

use serde::{Deserialize, Serialize};

use super::{Phase, Work, curve::exact};
use crate::units::significant;

/// From this many times the fitted range on, along one axis, an answer is a guess.
pub const FAR: f64 = 4.0;
/// Rounding of a mean is no step out of the range.
const SLACK: f64 = 1.0 + 1e-9;

/// Ranges of what was fitted, in which a method's kept tokens count, not those it has evicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Decode: sequences. Prefill: new tokens of all sequences together.
    pub size: Range,
    /// Tokens that lie in the cache, mean over sequences; decode: as far as the method keeps them.
    pub kv_len: Range,
    /// What attention reads, of all sequences together, see [`Work::attended`]. Many short sequences and one long one do not show what
    /// many long ones take, though each axis alone was seen; nor do short prompts show one long prompt of as many tokens.
    pub attended: Range,
}

/// Smallest and largest value, both seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest.
    #[serde(deserialize_with = "exact")]
    pub low: f64,
    /// Largest.
    #[serde(deserialize_with = "exact")]
    pub high: f64,
}

/// Where a pass lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Whether every quantity is in its range.
    pub in_domain: bool,
    /// More than [`FAR`] times beyond a range, or beyond those of both `size` and `kv_len`, of which `attended` is made.
    pub far: bool,
    /// Times beyond a range, of the quantity that is farthest out; 1 inside.
    pub distance: f64,
    /// `kv_len 8192 is 2.0x the largest fitted, 4096`; `None` inside.
    pub reason: Option<String>,
}

impl Range {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        Self { low, high: values.fold(f64::NEG_INFINITY, f64::max) }
    }

    /// How many times beyond, and in words; `None` inside. `beside` is what else a sequence reads: 100 cached tokens more are little
    /// beside a chunk of 4,096 and much beside none. Words are made only where they are needed: this stands in the way of each prediction.
    fn beyond(self, name: &str, value: f64, beside: f64) -> Option<(f64, String)> {
        let times = |big: f64, small: f64| (big + beside).max(1.0) / (small + beside).max(1.0);
        if value > self.high * SLACK {
            let by = |times: f64| if times < 1.05 { 2 } else { 1 };
            let said = if self.high > 0.0 {
                format!("{:.*}x", by(value / self.high), value / self.high)
            } else {
                "above".to_owned()
            };
            let (shown, high) = (short(value), short(self.high));
            let said = format!("{name} {shown} is {said} the largest fitted, {high}");
            return Some((times(value, self.high), said));
        }
        (value * SLACK < self.low).then(|| {
            let (shown, low) = (short(value), short(self.low));
            let said = format!("{name} {shown} is below the smallest fitted, {low}");
            (times(self.low, value), said)
        })
    }
}

/// Counts are whole, means over sequences need not be.
fn short(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { significant(value, 4) }
}

/// Sequences or new tokens; cached tokens a sequence that are read.
pub(super) fn axes(work: &Work) -> (f64, f64) {
    let batch = work.batch.max(1.0);
    match work.phase {
        Phase::Decode => (work.batch, work.attended / batch),
        Phase::Prefill => (work.new_tokens, work.cached / batch),
    }
}

impl Domain {
    /// What these passes span; `None` of none.
    pub fn of(works: &[Work]) -> Option<Self> {
        if works.is_empty() {
            return None;
        }
        let places = works.iter().map(axes);
        Some(Self {
            size: Range::of(places.clone().map(|place| place.0)),
            kv_len: Range::of(places.map(|place| place.1)),
            attended: Range::of(works.iter().map(|work| work.attended)),
        })
    }

    /// Where a pass lies.
    pub fn place(&self, work: &Work) -> Place {
        let (size, kv_len) = axes(work);
        let (name, beside) = match work.phase {
            Phase::Decode => ("batch", 0.0),
            Phase::Prefill => ("new_tokens", work.new_tokens / work.batch.max(1.0)),
        };
        let out = [
            self.size.beyond(name, size, 0.0),
            self.kv_len.beyond("kv_len", kv_len, beside),
            self.attended.beyond("attended", work.attended, 0.0),
        ];
        let distance = out.iter().flatten().fold(1.0, |most: f64, (times, _)| most.max(*times));
        let is_beyond_both = out[..2].iter().all(Option::is_some);
        let reasons: Vec<String> = out.into_iter().flatten().map(|(_, said)| said).collect();
        Place {
            in_domain: reasons.is_empty(),
            far: is_beyond_both || distance > FAR,
            distance,
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(batch: u32, kv_len: f64) -> Work {
        Work::decode((0..batch).map(|_| kv_len), None)
    }

    fn domain() -> Domain {
        Domain::of(&[decode(1, 256.0), decode(16, 4096.0)]).unwrap()
    }

    #[test]
    fn inside_nothing_is_said() {
        let place = domain().place(&decode(3, 777.0));
        assert!(place.in_domain && !place.far && place.reason.is_none());
        assert!((place.distance - 1.0).abs() < 1e-12);
        assert!(domain().place(&decode(16, 4096.0)).in_domain);
    }

    #[test]
    fn outside_the_axis_and_the_factor_are_named() {
        let place = domain().place(&decode(4, 8192.0));
        assert!(!place.in_domain && !place.far);
        assert_eq!(place.reason.as_deref(), Some("kv_len 8192 is 2.0x the largest fitted, 4096"));
        let below = domain().place(&decode(4, 64.0));
        assert_eq!(below.reason.as_deref(), Some("kv_len 64 is below the smallest fitted, 256"));
        assert!((below.distance - 4.0).abs() < 1e-9 && !below.far);
    }

    #[test]
    fn beyond_four_times_or_two_axes_is_far() {
        assert!(domain().place(&decode(65, 1024.0)).far);
        assert!(!domain().place(&decode(64, 1024.0)).far);
        let both = domain().place(&decode(17, 5000.0));
        assert!(both.far && both.reason.is_some_and(|said| said.contains("; ")));
    }

    /// A budget ends the range: what a method does not keep it does not read.
    #[test]
    fn a_long_prompt_is_inside_for_a_method_that_keeps_little() {
        let kept = |kv_len: f64| Work::decode([kv_len], Some(512.0));
        let domain = Domain::of(&[kept(128.0), kept(2048.0)]).unwrap();
        assert!(domain.place(&kept(1e6)).in_domain);
    }

    #[test]
    fn a_corner_that_nothing_reached_is_outside() {
        let domain = Domain::of(&[decode(64, 512.0), decode(1, 32768.0)]).unwrap();
        let place = domain.place(&decode(64, 32768.0));
        assert!(!place.in_domain && place.far && (place.distance - 64.0).abs() < 1e-9);
        let said = "attended 2097152 is 64.0x the largest fitted, 32768";
        assert_eq!(place.reason.as_deref(), Some(said));
        assert!(domain.place(&decode(8, 4096.0)).in_domain);
        let prompts = Domain::of(&[Work::prefill([(512.0, 0.0); 8]), Work::prefill([(64.0, 0.0)])]);
        let long = prompts.unwrap().place(&Work::prefill([(4096.0, 0.0)]));
        assert!(!long.in_domain && (long.distance - 8.0).abs() < 1e-9, "{long:?}");
    }

    #[test]
    fn a_first_cached_prefix_is_outside_but_near() {
        let domain =
            Domain::of(&[Work::prefill([(256.0, 0.0)]), Work::prefill([(4096.0, 0.0)])]).unwrap();
        let place = domain.place(&Work::prefill([(1024.0, 512.0)]));
        assert!(!place.in_domain && !place.far && (place.distance - 1.5).abs() < 1e-9, "{place:?}");
        let doubled = domain.place(&Work::prefill([(8192.0, 0.0)]));
        assert!(!doubled.in_domain && !doubled.far, "{doubled:?}");
    }
}
