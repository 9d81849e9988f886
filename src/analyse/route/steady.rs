//! Whether the number of requests inside keeps growing while requests come.
//!
//! Each simulation gives one number, [`super::CellStats::growth`]: the least-squares slope of the number inside over the time of the arrivals
//! without its first quarter, as a part of its mean. Simulations of different seeds are independent, and the moments of one are not: so the
//! interval is one over seeds. A growth below a quarter of the mean is called none, since a run that is as long as a relaxation of its
//! queue has some.

use super::Estimate;

/// Growth of the number inside, as a part of its mean, that is too little to matter.
pub(super) const LITTLE: f64 = 0.25;

/// Whether requests pile up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Steadiness {
    /// The interval of the growth ends below a quarter: latencies are the policy's. Fewer and fewer inside counts as steady too.
    Steady,
    /// The interval lies above 0 and reaches a quarter, or the pool is the baseline's alone and is offered what it can serve at most:
    /// there is no steady state within the run, and latencies depend on how long it was.
    Growing,
    /// Neither: there are too few seeds, or they are too short, to say.
    CannotTell,
}

impl Steadiness {
    /// As it stands in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Steadiness::Steady => "steady",
            Steadiness::Growing => "growing",
            Steadiness::CannotTell => "cannot tell",
        }
    }

    /// What a growth over seeds says; without an interval nothing.
    pub(super) fn of(growth: Option<Estimate>) -> Self {
        match growth.and_then(|growth| growth.interval) {
            Some((_, high)) if high < LITTLE => Steadiness::Steady,
            Some((low, _)) if low > 0.0 => Steadiness::Growing,
            _ => Steadiness::CannotTell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_three_places() {
        let of = |low, high| {
            let value = f64::midpoint(low, high);
            Steadiness::of(Some(Estimate { value, interval: Some((low, high)), n: 5 }))
        };
        assert_eq!(of(-0.1, 0.2), Steadiness::Steady);
        assert_eq!(of(0.05, 0.2), Steadiness::Steady, "sure to be there, and sure to be little");
        assert_eq!(of(-0.9, -0.1), Steadiness::Steady);
        assert_eq!(of(0.05, 0.6), Steadiness::Growing);
        assert_eq!(of(-0.1, 0.6), Steadiness::CannotTell);
        assert_eq!(Steadiness::of(None), Steadiness::CannotTell);
        let one_seed = Estimate { value: 2.0, interval: None, n: 1 };
        assert_eq!(Steadiness::of(Some(one_seed)), Steadiness::CannotTell);
    }
}
