//! Quantiles, bootstrap intervals, tests. Pure: the random generator is an argument.

mod bootstrap;
mod proportion;
mod sample;
mod sign;

pub use bootstrap::{
    Components, Interval, RESAMPLES, bootstrap, bootstrap_ratio, components, paired_ratio, seeded,
};
pub use proportion::wilson;
pub use sample::{Sample, SampleError, mean, median, quantile_sorted};
pub use sign::sign_test;
