//! Servers to measure and to try the client with: one of known timing, and one that misbehaves byte by byte; and the live router.

pub mod faults;
pub mod known;
pub mod route;
