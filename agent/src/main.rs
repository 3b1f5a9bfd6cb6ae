//! The agent: one static executable beside the target.

fn main() {}
