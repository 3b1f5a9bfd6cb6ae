//! `cargo xtask bench`: what the program costs, as ratios measured in one run with their spread.
//!
//! Every line compares the same work without and with us, round by round in turn, so that a slow moment of the machine hits both.
//! Absolute figures are printed for orientation only.

mod cases;
mod cluster;
mod layers;
mod report;

use anyhow::Result;
use mirrord_tests::{User, World};

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let user = *User::all().last().unwrap_or(&User::Ordinary);
    let world = World::new(user);
    println!(
        "measured as {user}; ratio = with us / without, median of the rounds [min..max]; `must` is the goal\n"
    );
    let mut report = report::Report::default();
    for case in cases::all() {
        if wanted.is_empty() || wanted.iter().any(|name| case.name.contains(name.as_str())) {
            (case.run)(&world, &mut report)?;
        }
    }
    report.finish()
}
