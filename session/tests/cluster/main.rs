//! Targets in a real cluster: found, listed, watched and judged, as an administrator and as users with few rights.
//!
//! The cluster is the one-node Kubernetes of `tests/cluster`, started when it is not up; it stays up. Each test has a namespace of its own
//! and removes it. Where the cluster cannot run, `skipped: NAME: reason` is printed.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program"
)]

mod connection;
mod preflight;
mod resolve;
mod rights;
mod watch;
mod world;
