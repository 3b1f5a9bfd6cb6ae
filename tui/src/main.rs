//! mirrord-tui: the command line.
#![forbid(unsafe_code)]

fn main() {}
