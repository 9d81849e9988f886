//! Quantiles, bootstrap intervals, tests. Pure: the random generator is an argument.
