//! The one integration binary: what a user sees, from the outside, and the house rules.
#![expect(clippy::unwrap_used, reason = "a test panics when it fails")]

mod tidy;
//! One integration binary.
mod client;
