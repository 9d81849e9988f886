//! Quantiles, bootstrap intervals, tests. Pure: the random generator is an argument.

mod blocks;
mod bootstrap;
mod density;
mod difference;
mod ecdf;
mod exact;
mod flip;
mod kendall;
mod mix;
mod multiple;
mod normal;
mod proportion;
mod sample;
mod sign;
mod student;
mod wilcoxon;

pub use blocks::TimeOrdered;
pub use bootstrap::{
    Components, Interval, RESAMPLES, bootstrap, bootstrap_ratio, components, expanded,
    mean_interval, paired_ratio, seeded,
};
pub use density::{bandwidth, density};
pub use difference::{Difference, POWER, difference, repeats_needed, variance};
pub use ecdf::cdf_band;
pub use exact::{lower_bound, upper_bound};
pub use flip::{Flipped, sign_flip_test};
pub use kendall::{PairCounts, pair_counts, tau_b};
pub use mix::mixed;
pub use multiple::benjamini_hochberg;
pub use normal::{POWER_80, upper_tail as upper_tail_of_normal};
pub use proportion::{wilson, wilson_share};
pub use sample::{Sample, SampleError, mean, median, needed_for, quantile_sorted};
pub use sign::{mcnemar, sign_test, sign_test_two_sided};
pub use student::{binomial_at_least, student_above, student_quantile};
pub use wilcoxon::wilcoxon;
