//! A server of known timing to measure the client with.
