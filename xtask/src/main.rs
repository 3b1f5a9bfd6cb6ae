//! Tasks of the developers of mirrord-tui: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod proto;

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
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Proto { check } => proto::run(check),
    }
}
