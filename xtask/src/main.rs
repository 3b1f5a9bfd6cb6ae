//! Tasks of the developers of mirrord-tui: `cargo xtask --help`. CI runs the same.
#![forbid(unsafe_code)]

mod bench;
mod cluster;
mod layering;
mod proto;
mod run;
mod test;

use anyhow::Result;
use clap::Parser;

/// Tasks of the developers of mirrord-tui.
#[derive(Parser, Debug)]
enum Task {
    /// Generate the Rust code of session/protocol from its .proto files.
    Proto {
        /// Compare with what is in git instead of writing; fails when it differs.
        #[arg(long)]
        check: bool,
    },
    /// Measure what the program costs, as ratios in one run.
    Bench {
        /// Groups to measure (mirror, steal, start, outgoing, dns, files, syscall, layers, ui; storm only when it is named); all when none is named.
        groups: Vec<String>,
    },
    /// The Kubernetes of the end-to-end tests.
    Cluster {
        /// What to do with it.
        #[arg(value_enum)]
        order: cluster::Order,
    },
    /// Run all checks and tests, or only some parts of them.
    Test {
        /// Parts to run; all when none is named.
        #[arg(value_enum)]
        parts: Vec<test::Part>,
    },
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Proto { check } => proto::run(check),
        Task::Bench { groups } => bench::run(&groups),
        Task::Cluster { order } => cluster::run(order),
        Task::Test { parts } => test::run(&parts),
    }
}
