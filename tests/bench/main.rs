//! `cargo xtask bench`: what the program costs, as ratios measured in one run with their spread.
//!
//! Every line compares the same work without and with us, round by round in turn, so that a slow moment of the machine hits both.
//! Absolute figures are printed for orientation only.

mod cases;
mod cluster;
mod layers;
mod report;

use anyhow::Result;
use mirrord_tests::{Cluster, User, World};

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let user = *User::all().last().unwrap_or(&User::Ordinary);
    let mut cases = Vec::from(cases::all());
    cases.retain(|case| wanted.is_empty() || wanted.iter().any(|name| case.name.contains(name.as_str())));
    // The cluster goes first: a world takes what comes after it for its own.
    let with_cluster = cases.iter().any(|case| case.name == "cluster");
    let _cluster = with_cluster.then(|| Cluster::get("bench cluster"));
    let world = World::new(user);
    println!(
        "measured as {user}; ratio = with us / without, median of the rounds [min..max]; `must` is the goal\n"
    );
    let mut report = report::Report::default();
    for case in cases {
        (case.run)(&world, &mut report)?;
    }
    report.finish()
}
